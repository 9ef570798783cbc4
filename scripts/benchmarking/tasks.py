"""Stages on other tasks: a particle world stepped in Python, and what independent policies cost."""

import tempfile
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from benchmarking.rates import Rate, Settings, measured, single
from mappo import PRESETS, TrainConfig, Trainer
from mappo.adapters.pettingzoo import PettingZooVecEnv, parallel_factory
from mappo.vec_env import Step

SPREAD = "pettingzoo:mpe2.simple_spread_v3:N=3,local_ratio=0.5,max_cycles=25"
PARTICLE_ENVS = 32


def particle(settings: Settings) -> list[Rate]:
    """32 copies of simple_spread: random actions, and training end to end with 10 epochs, in process and in workers."""
    rates = []
    for workers in (0, 1, 2):
        where = "in process" if workers == 0 else f"{workers} worker{'s' * (workers > 1)}"
        env = PettingZooVecEnv(parallel_factory(SPREAD), PARTICLE_ENVS, num_workers=workers, seed=1)
        env.reset()
        actions = torch.randint(5, (100, PARTICLE_ENVS, 3, 1), generator=torch.Generator().manual_seed(0)).float()

        def play(env: PettingZooVecEnv = env, actions: torch.Tensor = actions) -> None:
            for action in actions:
                env.step(action)

        what = f"random actions, {where}"
        rates.append(measured(settings, "particle", what, "env steps/s", 100 * PARTICLE_ENVS, play))
        env.close()
        with tempfile.TemporaryDirectory() as folder:
            config = replace(PRESETS["spread"], num_workers=workers, iterations=10_000, runs_dir=folder)
            trainer = Trainer(parallel_factory(SPREAD), config)
            steps = trainer.env.num_envs * len(trainer.buffer.actions)
            trainer.rollout.start()

            def iterate(trainer: Trainer = trainer) -> None:
                trainer.rollout.collect(trainer.buffer, trainer.generator)
                trainer.learn()

            what = f"training, preset spread, {where}"
            rates.append(measured(settings, "particle", what, "env steps/s", steps, iterate))
            trainer.close()
    return rates


def sharing(settings: Settings) -> list[Rate]:
    """Rollout and update of 16 agents with one policy, and with one each; observations of 24 numbers, no physics."""
    rates = []
    for policy_sharing in ("shared", "independent"):
        sizes = {"num_steps": 25, "num_minibatches": 4, "num_epochs": 10, "gamma": 0.99}
        # with rewards of their own the critics are stacked too
        config = TrainConfig(policy_sharing=policy_sharing, reward_mode="individual", **sizes)
        trainer = Trainer(_Noise(num_envs=64, num_agents=16, obs_width=24), config)
        trainer.rollout.start()

        def iterate(trainer: Trainer = trainer) -> None:
            trainer.rollout.collect(trainer.buffer, trainer.generator)
            trainer.learn()

        rates.append(measured(settings, "sharing", f"16 agents, {policy_sharing}", "env steps/s", 64 * 25, iterate))
    return [*rates, single("sharing", "cost, independent / shared", "times", rates[0].median / rates[1].median)]


class _Noise:
    """A VecEnv of random numbers that costs nothing, so that only the trainer is measured."""

    def __init__(self, *, num_envs: int, num_agents: int, obs_width: int) -> None:
        self.num_envs, self.device = num_envs, torch.device("cpu")
        self.agents = [f"agent_{i}" for i in range(num_agents)]
        self.observation_spaces: dict[str, spaces.Space[Any]] = {
            agent: spaces.Box(-np.inf, np.inf, (obs_width,)) for agent in self.agents
        }
        self.action_spaces: dict[str, spaces.Space[Any]] = {agent: spaces.Box(-1, 1, (2,)) for agent in self.agents}
        self.state_dim = num_agents * 4
        self._generator = torch.Generator().manual_seed(0)
        self._shape = (num_envs, num_agents, obs_width)

    def reset(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise."""
        obs = torch.randn(self._shape, generator=self._generator)
        return obs, obs[:, :, :4].flatten(1)

    def step(self, actions: torch.Tensor) -> Step:
        """Noise, of an episode that never ends."""
        obs, state = self.reset()
        no = torch.zeros(self._shape[:2], dtype=torch.bool)
        mask = torch.ones(*self._shape[:2], 0, dtype=torch.bool)
        return Step(obs, state, obs, state, obs[..., 0], no, no, ~no, mask, {})

    def close(self) -> None:
        """Nothing to release."""
