"""Networked microgrids under AC power flow: a batched torch env and its PettingZoo view."""

# `mappo` sets GOMP_SPINCOUNT, which is read when torch loads: it must come before every import that loads torch
import mappo.vec_env  # noqa: F401

# isort: split
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from envs.microgrid import MicrogridEnv
from envs.parallel_env import MicrogridParallelEnv
from envs.scenario import build_scenario, read_scenario, scenario_names
from envs.scenario_file import located, scenario_key
from envs.settings import EnvSettings

__all__ = ["EnvSettings", "MicrogridEnv", "MicrogridParallelEnv", "make", "parallel_env", "scenarios"]


def make(
    scenario: str | Path = "ieee34_ieee13",
    *,
    scenario_content: Mapping[str, Mapping[str, Any]] | None = None,
    **settings: Any,
) -> MicrogridEnv:
    """Build a batched microgrid env.

    Args:
        scenario: name of a packaged scenario or path of a YAML file.
        scenario_content: absolute path -> content of YAML files, used instead of the file; `env.spec` holds it, so
            that a checkpoint's env can be rebuilt after its file changed or moved.
        settings: fields of `EnvSettings` (`num_envs`, `first_copy`, `group_size`, `device`, `seed`, `split`,
            `evaluation`, `critic_state`, `penalty`, `dtype`); every other name is a key of the scenario file, nested
            keys as dicts: `horizon="week"`, `safety={"v_min_pu": 0.96}`.

    Raises:
        ValueError: an unknown scenario or key, a value that breaks its rule, missing or damaged data.
    """
    ours = {field.name: settings.pop(field.name) for field in fields(EnvSettings) if field.name in settings}
    chosen = EnvSettings(**ours)
    key, overrides = scenario_key(scenario), located(settings, Path.cwd())
    content = (scenario_content or {}).get(key) or read_scenario(scenario)
    built = build_scenario(content, overrides, scenario)
    spec = {"scenario": key, **{name: getattr(chosen, name) for name in ours}, **overrides}
    if key not in scenario_names():
        spec["scenario_content"] = {key: built.model_dump(mode="json")}
    return MicrogridEnv(built, chosen, spec)


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
