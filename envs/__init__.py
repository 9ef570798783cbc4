"""Networked microgrids under AC power flow: a batched torch env and its PettingZoo view."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from envs.microgrid import MicrogridEnv
from envs.parallel_env import MicrogridParallelEnv
from envs.scenario import load_scenario, scenario_names
from envs.settings import EnvSettings

__all__ = ["EnvSettings", "MicrogridEnv", "MicrogridParallelEnv", "make", "parallel_env", "scenarios"]


def make(scenario: str | Path = "ieee34_ieee13", **settings: Any) -> MicrogridEnv:
    """Build a batched microgrid env.

    Args:
        scenario: name of a packaged scenario or path of a YAML file.
        settings: fields of `EnvSettings` (`num_envs`, `device`, `seed`, `split`, `evaluation`, `critic_state`,
            `penalty`, `dtype`); every other name is a key of the scenario file, nested keys as dicts:
            `horizon="week"`, `safety={"v_min_pu": 0.96}`.

    Raises:
        ValueError: an unknown scenario or key, a value that breaks its rule, missing or damaged data.
    """
    spec = {"scenario": str(scenario), **settings}
    ours = {field.name: settings.pop(field.name) for field in fields(EnvSettings) if field.name in settings}
    return MicrogridEnv(load_scenario(scenario, settings), EnvSettings(**ours), spec)


def parallel_env(
    scenario: str | Path = "ieee34_ieee13", *, share_reward: bool = False, **settings: Any
) -> MicrogridParallelEnv:
    """Build the PettingZoo view of one env; arguments as `make`, without `num_envs`.

    Args:
        scenario: name or path.
        share_reward: every agent gets the mean of the individual rewards.
        settings: as in `make`.
    """
    if "num_envs" in settings:
        raise ValueError("num_envs does not exist for a PettingZoo env, which is one copy; use envs.make")
    return MicrogridParallelEnv(make(scenario, num_envs=1, **settings), share_reward=share_reward)


def scenarios() -> list[str]:
    """Names of the packaged scenarios."""
    return scenario_names()
