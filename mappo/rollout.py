"""Plays the policy in the env for T steps and fills the buffer; no host sync on the way.

Data flow: env -> Step -> RolloutBuffer. The normalisers' statistics do not change while it runs, so that the buffer
holds exactly what the policy saw. Dims as in buffer.py.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from mappo.advantages import episodes_ended
from mappo.buffer import RolloutBuffer
from mappo.distributed import WHOLE, Share
from mappo.episodes import CompletedEpisodes, EpisodeTotals, metric_specs, surely_none
from mappo.networks import Critic
from mappo.normalization import RunningMeanStd
from mappo.policy import Policy
from mappo.spaces import EnvSpec, check_reset, check_step
from mappo.vec_env import MetricSpec, Step, VecEnv


class Pending(NamedTuple):
    """What the policy acts on next, raw."""

    obs: Tensor  # (B, A, O)
    state: Tensor  # (B, S)
    alive: Tensor  # (B, A) bool
    action_mask: Tensor  # (B, A, K) bool


class Memory(NamedTuple):
    """What recurrent networks remember before the next step; without columns for others."""

    starts: Tensor  # (B, A) bool: the agent begins at the next step
    actor: Tensor  # (B, A, M)
    critic: Tensor  # (B, R, M)


def blank_memory(num_envs: int, policy: Policy, critic: Critic) -> Memory:
    """Everyone begins."""
    actor = policy.blank_memory(num_envs)
    starts = torch.ones(actor.shape[:2], dtype=torch.bool, device=actor.device)
    return Memory(starts, actor, actor.new_zeros(num_envs, critic.num_rows, critic.body.memory_width))


def reset_env(env: VecEnv, spec: EnvSpec, device: torch.device) -> Pending:
    """Reset the env and check what it returns."""
    obs, state = env.reset()
    check_reset(obs, state, env, spec)
    if initial_masks := getattr(env, "initial_masks", None):
        alive, action_mask = initial_masks()
    else:
        shape = (env.num_envs, len(spec.agents))
        alive = torch.ones(shape, dtype=torch.bool)
        action_mask = torch.ones(*shape, spec.action_spec.mask_columns, dtype=torch.bool)
    return Pending(obs.to(device).float(), state.to(device).float(), alive.to(device), action_mask.to(device))


def step_env(env: VecEnv, actions: Tensor) -> Step:
    """Step with actions on the learner's device; the Step comes back on it, floats as float32."""
    device = actions.device
    step = env.step(actions.to(env.device))
    metrics = {name: value.to(device) for name, value in step.metrics.items()}
    moved = {name: value.to(device) for name, value in step._asdict().items() if name != "metrics"}
    floats = {name: value.float() for name, value in moved.items() if value.is_floating_point()}
    return Step(**{**moved, **floats, "metrics": metrics})


def ended_episodes(env: VecEnv, step: Step, acted: Tensor) -> Tensor:
    """(B,): which copies' episodes this step ended, as the env tells or as its flags say."""
    told: Tensor | None = getattr(env, "ended", None)
    return episodes_ended(step.terminated, step.truncated, acted) if told is None else told.to(acted.device)


def next_starts(step: Step, acted: Tensor) -> Tensor:
    """Which agents begin at the next step, (B, A): all after an episode, who ended their own, and who did not act."""
    return step.terminated | step.truncated | ~acted


class Rollout:
    """Owns the running episodes of one env: what the policy acts on next, and the totals so far."""

    copy_dims: ClassVar[Mapping[str, int]] = {"metrics": 1}
    """Of the tensors in `state_dict`, as `VecEnvExtras.copy_dims`."""

    def __init__(self, env: VecEnv, spec: EnvSpec, policy: Policy, critic: Critic, state_norm: RunningMeanStd) -> None:
        """Nothing is stepped yet; `start` or `load_state_dict` comes first. The critic tells its memory's shape."""
        self.env = env
        self.spec = spec
        self.policy = policy
        self.state_norm = state_norm
        self.pending = Pending(*(torch.zeros(0) for _ in Pending._fields))
        self.memory = blank_memory(env.num_envs, policy, critic)
        self.completed: CompletedEpisodes | None = None

    def start(self) -> None:
        """Reset the env, unless its episodes are running already."""
        if self.pending.obs.numel() == 0:
            self.pending = reset_env(self.env, self.spec, self.policy.device)

    @torch.no_grad()
    def collect(self, buffer: RolloutBuffer, generator: torch.Generator, share: Share = WHOLE) -> CompletedEpisodes:
        """Fill the buffer; returns the statistics of the episodes that ended. `share`: which of all copies are ours."""
        num_steps, chunk = len(buffer.actions), len(buffer.actions) // len(buffer.memory)
        buffer.critic_memory.copy_(self.memory.critic)
        for t in range(num_steps):
            self._observe(buffer, t)
            if t % chunk == 0:
                buffer.memory[t // chunk] = self.memory.actor
            distribution, memory = self.policy.actor(
                buffer.obs[t], self.pending.action_mask, self.memory.actor, self.memory.starts
            )
            actions = distribution.sample(generator, share)
            step = step_env(self.env, distribution.to_env(actions))
            if t == 0:
                check_step(step, self.env, self.spec)
            self._store(buffer, t, step, actions, distribution.log_prob(actions))
            self.memory = self.memory._replace(starts=next_starts(step, self.pending.alive), actor=memory)
            self.pending = Pending(step.obs, step.state, step.alive, step.action_mask)
        buffer.obs[num_steps] = self.policy.observe(self.pending.obs)
        buffer.state[num_steps] = self._normalise_state(self.pending.state)
        buffer.starts[num_steps] = self.memory.starts
        assert self.completed is not None
        return self.completed

    def episodes(self, step: Step) -> CompletedEpisodes:
        """The totals, made when the first step tells which metrics there are."""
        if self.completed is None:
            specs = metric_specs(self.env, step.metrics)
            shape = (self.env.num_envs, len(self.spec.agents))
            self.completed = CompletedEpisodes(EpisodeTotals(specs, shape, step.rewards.device))
        return self.completed

    def state_dict(self) -> dict[str, Any]:
        """What acts next and the running totals, for an exact resume."""
        assert self.completed is not None, "a checkpoint is written after a rollout"
        totals = self.completed.totals
        specs = [asdict(spec) for spec in totals.specs]
        tensors = {"pending": self.pending._asdict(), "memory": self.memory._asdict()}
        return {**tensors, "specs": specs, "totals": totals.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Inverse of `state_dict`, for an env whose own state was restored too."""
        self.pending = Pending(**{name: value.to(device) for name, value in state["pending"].items()})
        self.memory = Memory(**{name: value.to(device) for name, value in state["memory"].items()})
        specs = [MetricSpec(**spec) for spec in state["specs"]]
        totals = EpisodeTotals(specs, (self.env.num_envs, len(self.spec.agents)), device)
        totals.load_state_dict(state["totals"])
        self.completed = CompletedEpisodes(totals)

    def _observe(self, buffer: RolloutBuffer, t: int) -> None:
        obs, state, alive, action_mask = self.pending
        buffer.obs[t] = self.policy.observe(obs)
        buffer.state[t] = self._normalise_state(state)
        buffer.alive[t] = alive
        buffer.action_mask[t] = action_mask
        buffer.starts[t] = self.memory.starts
        self.policy.obs_norm.gather(obs, alive.unsqueeze(-1) & self.policy.obs_valid)
        self.state_norm.gather(state.unsqueeze(-2))

    def _normalise_state(self, state: Tensor) -> Tensor:
        return self.state_norm(state.unsqueeze(-2)).squeeze(-2)

    def _store(self, buffer: RolloutBuffer, t: int, step: Step, actions: Tensor, log_prob: Tensor) -> None:
        buffer.actions[t] = actions
        buffer.log_prob[t] = log_prob
        names = ["rewards", "terminated", "truncated"]
        if not surely_none(step.truncated):  # else nobody reads them
            names += ["final_obs", "final_state"]
        for name in names:
            getattr(buffer, name)[t] = getattr(step, name)
        buffer.ended[t] = ended_episodes(self.env, step, buffer.alive[t])
        self.episodes(step).add(step, buffer.ended[t])
