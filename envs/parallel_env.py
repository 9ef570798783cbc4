"""One env as a PettingZoo ParallelEnv: dicts, spaces and `state()`. No physics.

Data flow: dict of actions -> one batched copy of `MicrogridEnv` -> dicts.
"""

from typing import Any

import gymnasium
import numpy as np
import torch
from pettingzoo import ParallelEnv
from torch import Tensor

from envs.microgrid import MicrogridEnv

Array = np.ndarray[Any, np.dtype[Any]]


class MicrogridParallelEnv(ParallelEnv[str, Array, Array]):
    """PettingZoo view of a `MicrogridEnv` with one copy; build it with `envs.parallel_env`.

    Args:
        env: the batched env, `num_envs` 1.
        share_reward: every agent gets the mean of the individual rewards.
    """

    def __init__(self, env: MicrogridEnv, *, share_reward: bool = False) -> None:
        if env.num_envs != 1:
            raise ValueError(f"a PettingZoo view needs num_envs=1, got {env.num_envs}")
        self.unwrapped_env = env
        self.metadata = {"name": f"{env.scenario.name}_v1", "render_modes": [], "is_parallelizable": True}
        self.render_mode = None
        self.possible_agents = list(env.agents)
        self.agents: list[str] = []
        self.observation_spaces = dict(env.observation_spaces)
        self.action_spaces = dict(env.action_spaces)
        self.state_space = gymnasium.spaces.Box(-np.inf, np.inf, (env.state_dim,), np.float32)
        self._share_reward = share_reward
        self._state = np.zeros(env.state_dim, np.float32)
        self._next_episode: tuple[Tensor, Tensor] | None = None

    def observation_space(self, agent: str) -> gymnasium.Space[Any]:
        """Space of one agent's observation."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gymnasium.Space[Any]:
        """Space of one agent's action."""
        return self.action_spaces[agent]

    def state(self) -> Array:
        """The global state (S,), float32."""
        return self._state

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, dict[str, Any]]]:
        """Start the next episode; a seed restarts the random stream. `options` are not used."""
        del options
        pending, self._next_episode = self._next_episode, None
        if seed is not None or pending is None:  # the batched env has already begun the episode after a finished one
            pending = self.unwrapped_env.reset(seed)
        obs, state = pending
        self.agents = list(self.possible_agents)
        self._state = _array(state[0])
        return self._by_agent(obs), {agent: {} for agent in self.agents}

    def step(
        self, actions: dict[str, Array]
    ) -> tuple[dict[str, Array], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Advance by one step.

        Raises:
            ValueError: no episode is running, an agent's action is missing, has a wrong shape or is not finite.
        """
        if not self.agents:
            raise ValueError("the episode is over: call reset()")
        if set(actions) != set(self.agents):
            raise ValueError(f"actions must be given for exactly {self.agents}, got {sorted(actions)}")
        layout = self.unwrapped_env.action_layout
        stacked = torch.as_tensor(np.stack([layout.flat(agent, actions[agent]) for agent in self.agents]))
        step = self.unwrapped_env.step(stacked[None])
        over = bool((step.terminated | step.truncated).any())
        self._next_episode = (step.obs, step.state) if over else None
        self._state = _array(step.final_state[0])
        rewards = step.rewards[0].mean().expand(len(self.agents)) if self._share_reward else step.rewards[0]
        observations, infos = self._by_agent(step.final_obs), self._infos(step.metrics)
        flags = [dict(zip(self.agents, f[0].tolist(), strict=True)) for f in (step.terminated, step.truncated)]
        reward_by_agent = dict(zip(self.agents, rewards.tolist(), strict=True))
        if over:
            self.agents = []
        return observations, reward_by_agent, flags[0], flags[1], infos

    def render(self) -> None:
        """No rendering; see `MicrogridEnv.figures`."""

    def close(self) -> None:
        """Close the env behind the view."""
        self.unwrapped_env.close()

    def _by_agent(self, obs: Tensor) -> dict[str, Array]:
        widths = [len(self.unwrapped_env.obs_names_of(agent)) for agent in self.possible_agents]
        return {agent: _array(obs[0, i, : widths[i]]) for i, agent in enumerate(self.possible_agents)}

    def _infos(self, metrics: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
        """Powers and protocols of each microgrid, the DSO's settings, and the community's metrics."""
        env = self.unwrapped_env
        community = {name: float(value[0]) for name, value in metrics.items()}
        infos: dict[str, dict[str, Any]] = {}
        for agent in set(self.possible_agents) - set(env.scenario.microgrids):
            infos[agent] = {**env.dso_settings(), "metrics": community}
        for i, agent in enumerate(env.scenario.microgrids):
            requested = {name: float(value[0, i]) for name, value in env.requested.items()}
            applied = {name: float(value[0, i]) for name, value in env.applied.items()}
            clipped = {name: requested[name] - applied[name] for name in applied}
            protocols = {name: float(value[0, i]) for name, value in env.coordinated.items()}
            powers = {"requested": requested, "applied": applied, "clipped": clipped}
            infos[agent] = {**powers, "protocols": protocols, "metrics": community}
        return infos


def _array(row: Tensor) -> Array:
    return row.cpu().numpy().copy()
