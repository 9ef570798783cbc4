"""Envs of others through the adapter, against a plain loop over the raw env: same actions, same everything."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from mpe2 import simple_spread_v3
from pettingzoo.utils import aec_to_parallel, wrappers
from torch import Tensor

import envs
from mappo.adapters.parallel_batch import episode_seed
from mappo.adapters.parallel_layout import without_guards
from mappo.adapters.pettingzoo import PettingZooVecEnv, parallel_factory
from mappo.spaces import EnvSpec
from mappo.vec_env import Step
from tests.mappo.adapters.test_pettingzoo import random_actions

Env = Any
SEED = 11


def plain_action(space: spaces.Space[Any], columns: Tensor) -> Any:
    """What the env gets: an index, or the bounds' range from [-1, 1]."""
    if isinstance(space, spaces.Discrete):
        return int(columns[-1])
    assert isinstance(space, spaces.Box)
    unit = columns[: space.shape[0]].double().clamp(-1, 1).numpy()
    return (space.low + (unit + 1) / 2 * (space.high.astype(np.float64) - space.low)).astype(space.dtype)


class PlainLoop:
    """One copy, stepped the way a user would."""

    def __init__(self, env: Env, copy: int) -> None:
        self.env, self.copy, self.episode = env, copy, 0
        self.obs, _ = env.reset(seed=episode_seed(SEED, copy, 0))

    def check(self, step: Step, actions: Tensor) -> None:
        """Step once and compare with row `copy` of the Step."""
        env, copy = self.env, self.copy
        acted = list(env.agents)
        chosen = {a: plain_action(env.action_space(a), actions[copy, env.possible_agents.index(a)]) for a in acted}
        self.obs, rewards, terminated, truncated, _ = env.step(chosen)
        for i, agent in enumerate(env.possible_agents):
            assert step.rewards[copy, i].item() == pytest.approx(rewards.get(agent, 0), rel=1e-6)
            assert step.terminated[copy, i].item() == (agent in acted and terminated[agent])
            assert step.truncated[copy, i].item() == (agent in acted and truncated[agent])
            self.check_obs(step.final_obs[copy, i], agent if agent in acted else None)
        np.testing.assert_allclose(step.final_state[copy], np.ravel(env.state()), rtol=1e-6)
        if not env.agents:
            self.episode += 1
            self.obs, _ = env.reset(seed=episode_seed(SEED, copy, self.episode))
        assert step.alive[copy].tolist() == [agent in env.agents for agent in env.possible_agents]
        for i, agent in enumerate(env.possible_agents):
            self.check_obs(step.obs[copy, i], agent if agent in env.agents else None)
        np.testing.assert_allclose(step.state[copy], np.ravel(env.state()), rtol=1e-6)

    def check_obs(self, row: Tensor, agent: str | None) -> None:
        expected = np.zeros(0) if agent is None else np.ravel(self.obs[agent])
        np.testing.assert_allclose(row, np.pad(expected, (0, len(row) - len(expected))), rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "num_steps"),
    [
        ("pettingzoo:mpe2.simple_spread_v3:N=3,local_ratio=0.5", 60),
        ("pettingzoo:mpe2.simple_spread_v3:N=2,continuous_actions=True,max_cycles=10", 25),
        ("pettingzoo:mpe2.simple_speaker_listener_v4", 60),
        ("pettingzoo:butterfly.knights_archers_zombies_v11:spawn_delay=1,max_cycles=140", 150),
    ],
)
def test_steps_equal_a_plain_loop(text: str, num_steps: int) -> None:
    ends, deaths = check_steps(parallel_factory(text), num_steps)
    assert ends >= 2
    assert (deaths > 0) == ("knights" in text)


def test_our_own_env_works_through_the_adapter() -> None:
    make: Callable[[], Env] = lambda: envs.parallel_env("ieee34_ieee13", split="train")  # noqa: E731
    ends, _ = check_steps(make, 26)
    assert ends > 0


def test_only_the_guards_of_pettingzoo_are_taken_off() -> None:
    parallel = simple_spread_v3.parallel_env()
    assert isinstance(without_guards(parallel).aec_env, simple_spread_v3.raw_env)
    kept = aec_to_parallel(wrappers.BaseWrapper(wrappers.OrderEnforcingWrapper(simple_spread_v3.raw_env())))
    assert without_guards(kept) is kept
    assert without_guards(parallel.aec_env) is parallel.aec_env


def check_steps(factory: Callable[[], Env], num_steps: int) -> tuple[int, int]:
    """Numbers of episodes that ended and of agents that terminated while others went on."""
    env = PettingZooVecEnv(factory, 2, seed=SEED)
    EnvSpec.of(env)
    obs, _ = env.reset()
    loops = [PlainLoop(factory(), copy) for copy in range(2)]
    for loop in loops:
        for i, agent in enumerate(loop.env.possible_agents):
            loop.check_obs(obs[loop.copy, i], agent)
    generator = torch.Generator().manual_seed(0)
    deaths = 0
    for _ in range(num_steps):
        actions = random_actions(env, generator)
        step = env.step(actions)
        for loop in loops:
            loop.check(step, actions)
        deaths += int((step.terminated & ~step.alive).sum())
    for loop in loops:
        loop.env.close()
    env.close()
    return sum(loop.episode for loop in loops), deaths
