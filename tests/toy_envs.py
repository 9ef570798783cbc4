"""Small batched environments, each made to show one behaviour of the trainer."""

from collections.abc import Mapping
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from mappo.vec_env import MetricSpec, Step


class TargetEnv:
    """Cooperative: agent a sees a target; its action should match it. Ends after `horizon` steps.

    `limit` chooses whether the end is a time limit (truncated) or terminal. Widths may differ between agents:
    `action_widths` gives each agent's Box, and observations are zero-padded by `obs_padding` columns.
    """

    metric_specs = (
        MetricSpec(name="cost", unit="1", reduce="sum", column="Cost"),
        MetricSpec(name="worst", unit="1", reduce="max", group="grid"),
    )

    def __init__(
        self,
        num_envs: int = 16,
        action_widths: tuple[int, ...] = (1, 1, 1),
        *,
        horizon: int = 8,
        limit: bool = False,
        obs_padding: tuple[int, ...] = (),
        seed: int = 0,
        same_episodes: bool = False,
    ) -> None:
        """Every copy draws new targets at each step; `same_episodes` draws the same ones after every reset."""
        self.seed, self.same_episodes = seed, same_episodes
        self.num_envs, self.horizon, self.limit = num_envs, horizon, limit
        self.device = torch.device("cpu")
        self.agents = [f"agent_{a}" for a in range(len(action_widths))]
        self.action_widths = action_widths
        self.width = max(action_widths)
        padding = obs_padding or (0,) * len(self.agents)
        self.obs_dim = self.width + 1 + max(padding)
        self.observation_spaces = {
            name: spaces.Box(-1, 1, (self.width + 1 + extra,)) for name, extra in zip(self.agents, padding, strict=True)
        }
        self.action_spaces = {
            name: spaces.Box(-1, 1, (width,)) for name, width in zip(self.agents, action_widths, strict=True)
        }
        self.real = torch.arange(self.width) < torch.tensor(action_widths).unsqueeze(-1)  # (A, U)
        self.state_dim = len(self.agents) * self.width + 1
        self.spec: dict[str, Any] = {"num_envs": num_envs}
        self.generator = torch.Generator().manual_seed(seed)
        self.time = torch.zeros(num_envs, dtype=torch.long)
        self.targets = torch.zeros(num_envs, len(self.agents), self.width)
        self.seen_actions: list[Tensor] = []

    def reset(self) -> tuple[Tensor, Tensor]:
        """New targets in every copy."""
        self.time = torch.zeros_like(self.time)
        if self.same_episodes:
            self.generator.manual_seed(self.seed)
        self._draw()
        return self._observe()

    def step(self, actions: Tensor) -> Step:
        """Reward: minus the squared distance to the target."""
        self.seen_actions.append(actions)
        error = ((actions.clamp(-1, 1) - self.targets).square() * self.real).sum(-1)  # (B, A)
        self.time = self.time + 1
        self._draw()
        final_obs, final_state = self._observe()
        ended = self.time >= self.horizon
        self.time = torch.where(ended, 0, self.time)
        obs, state = self._observe()
        over = ended.unsqueeze(-1).expand(-1, len(self.agents))
        no = torch.zeros_like(over)
        return Step(
            obs=obs,
            state=state,
            final_obs=final_obs,
            final_state=final_state,
            rewards=-error,
            terminated=no if self.limit else over,
            truncated=over if self.limit else no,
            alive=torch.ones_like(over),
            action_mask=torch.ones(*over.shape, 0, dtype=torch.bool),
            metrics={"cost": error.mean(-1), "worst": error.amax(-1)},
        )

    def close(self) -> None:
        """Nothing to release."""

    def idle_action(self) -> Tensor:
        """A recognisable start."""
        return 0.25 * self.real

    def state_dict(self) -> dict[str, Any]:
        """For an exact resume."""
        return {"time": self.time, "targets": self.targets, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of state_dict."""
        self.time, self.targets = state["time"].clone(), state["targets"].clone()
        self.generator.set_state(state["generator"])

    def _draw(self) -> None:
        self.targets = (torch.rand(self.targets.shape, generator=self.generator) * 1.6 - 0.8) * self.real

    def _observe(self) -> tuple[Tensor, Tensor]:
        clock = (self.time / self.horizon).view(-1, 1, 1)
        own = torch.cat([self.targets, clock.expand(-1, len(self.agents), 1)], dim=-1)
        obs = torch.nn.functional.pad(own, (0, self.obs_dim - own.shape[-1]))
        return obs, torch.cat([self.targets.flatten(1), clock.view(-1, 1)], dim=-1)


class MortalEnv(TargetEnv):
    """As TargetEnv, but agent a dies after `lifetimes[a]` steps; the rest go on to the horizon."""

    def __init__(self, num_envs: int = 8, lifetimes: tuple[int, ...] = (3, 8, 8), **kwargs: Any) -> None:
        """Lifetimes at or above the horizon mean that the agent lives to the end."""
        super().__init__(num_envs, (1,) * len(lifetimes), **kwargs)
        self.lifetimes = torch.tensor(lifetimes)

    def step(self, actions: Tensor) -> Step:
        """Dead agents earn nothing."""
        acted = self.time.unsqueeze(-1) < self.lifetimes
        before = self.time.unsqueeze(-1)
        step = super().step(actions)
        dies = before + 1 == self.lifetimes
        ended = step.terminated | step.truncated
        return step._replace(
            rewards=torch.where(acted, step.rewards, 0.0),
            terminated=(step.terminated | dies) & acted & ~(step.truncated & ~dies),
            truncated=step.truncated & acted & ~dies,
            alive=torch.where(ended, True, self.time.unsqueeze(-1) < self.lifetimes),
        )


class ConstantEnv(TargetEnv):
    """Reward 1 at every step, nothing to see, cut by a time limit: the value is 1 / (1 - gamma)."""

    def step(self, actions: Tensor) -> Step:
        """Always 1."""
        step = super().step(actions)
        return step._replace(rewards=torch.ones_like(step.rewards))

    def _observe(self) -> tuple[Tensor, Tensor]:
        obs, state = super()._observe()
        return torch.zeros_like(obs), torch.zeros_like(state)


class ScoredEnv(TargetEnv):
    """Episodes of copy b last `b + 1` steps and end by a limit; every step earns 1. It scores itself."""

    def step(self, actions: Tensor) -> Step:
        """Ends early in low copies."""
        before = self.time.clone()
        step = super().step(actions)
        ended = before + 1 >= torch.arange(1, self.num_envs + 1)
        self.time = torch.where(ended, 0, before + 1)
        over = ended.unsqueeze(-1).expand_as(step.terminated)
        ones = torch.ones_like(step.rewards)
        return step._replace(
            rewards=ones,
            terminated=over,
            truncated=torch.zeros_like(over),
            metrics={"cost": ones[:, 0], "worst": before.float()},
        )

    def episode_score(self, totals: Mapping[str, Tensor]) -> dict[str, float]:
        """Known numbers."""
        return {"score": 42.0, "cost_total": float(totals["cost"].sum())}
