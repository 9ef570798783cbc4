"""One rollout -> the batch that the update trains on: values, advantages, returns, all in the critic's units.

Data flow: RolloutBuffer, Critic -> make_batch -> Batch -> Updater. This file calls the networks and the pure functions
of advantages.py in order. Dims as in buffer.py.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mappo.advantages import (
    Flags,
    agent_flags,
    centre_groups,
    gae,
    next_values,
    normalize_advantages,
    shape_rewards,
    team_flags,
)
from mappo.buffer import Batch, RolloutBuffer
from mappo.distributed import Add, alone
from mappo.losses import explained_variance
from mappo.memory import CRITIC_COPIES
from mappo.networks import Critic
from mappo.normalization import RunningMeanStd, ValueNorm
from mappo.policy import Policy


class Networks(NamedTuple):
    """What turns raw observations into values."""

    policy: Policy
    critic: Critic
    state_norm: RunningMeanStd
    value_norm: ValueNorm


@dataclass(frozen=True, kw_only=True)
class TargetSettings:
    """The numbers of the estimator; `TrainConfig` documents them."""

    gamma: float
    gae_lambda: float
    reward_mode: str
    advantage_norm: str
    group_size: int


class Targets(NamedTuple):
    """What one rollout gives."""

    batch: Batch
    critic_memory: Tensor  # (B, R, M) before the next rollout
    metrics: dict[str, Tensor]


@torch.no_grad()
def make_batch(buffer: RolloutBuffer, nets: Networks, settings: TargetSettings, add: Add = alone) -> Targets:
    """Estimate advantages and returns, update ValueNorm, and cut (T, B) into chunks.

    `add` sums over the ranks that hold the other copies.
    """
    values, memories = _values(buffer, nets.critic)
    values = nets.value_norm.denormalize(values)  # (T + 1, B, V)
    flags = _flags(buffer, settings.reward_mode)
    following = next_values(values, flags.truncated, *_final_values(buffer, flags, memories, nets))
    rewards = shape_rewards(buffer.rewards, settings.reward_mode)
    advantages, returns = gae(
        rewards, values[:-1], following, flags, gamma=settings.gamma, gae_lambda=settings.gae_lambda
    )
    alive = buffer.alive
    advantages = centre_groups(advantages.expand_as(alive), alive, settings.group_size)
    value_alive = _value_alive(alive, values.shape[-1], settings.reward_mode)
    nets.value_norm.update(returns, value_alive, add)
    mu, sigma = nets.value_norm.stats()
    chunk = len(alive) // len(buffer.memory)
    batch = Batch(
        obs=buffer.obs[:-1],
        state=buffer.state[:-1],
        actions=buffer.actions,
        log_prob=buffer.log_prob,
        action_mask=buffer.action_mask,
        alive=alive,
        starts=buffer.starts[:-1],
        memory=buffer.memory,
        critic_memory=torch.cat([buffer.critic_memory.unsqueeze(0), memories])[:-2:chunk],  # before each chunk
        advantages=normalize_advantages(advantages, alive, settings.advantage_norm, add),
        # V_old in the new statistics, which the update compares V with.
        values=nets.value_norm.normalize(values[:-1]),
        returns=nets.value_norm.normalize(returns),
        value_alive=value_alive,
    )
    metrics = {
        "value/explained_variance": explained_variance(values[:-1], returns, value_alive, add),
        "value/mean": mu.mean(),
        "value/std": sigma.mean(),
    }
    return Targets(_chunks(batch, len(buffer.memory)), memories[-2], metrics)


def _values(buffer: RolloutBuffer, critic: Critic) -> tuple[Tensor, Tensor]:
    """Normalised values (T + 1, B, V) and memories (T + 1, B, R, M), some copies at a time: activations take memory."""
    parts = [
        critic(*part)
        for part in zip(
            buffer.obs.split(CRITIC_COPIES, 1),
            buffer.state.split(CRITIC_COPIES, 1),
            buffer.critic_memory.split(CRITIC_COPIES),
            buffer.starts.split(CRITIC_COPIES, 1),
            strict=True,
        )
    ]
    values, memories = zip(*parts, strict=True)
    return torch.cat(values, 1), torch.cat(memories, 1)


def _chunks(batch: Batch, count: int) -> Batch:
    """Fields (T, B, ...) -> (L, N, ...) with T = count x L and N = count x B; those of a memory have L = 1."""
    return Batch(*(field.unflatten(0, (count, -1)).transpose(0, 1).flatten(1, 2) for field in batch))


def _value_alive(alive: Tensor, num_values: int, reward_mode: str) -> Tensor:
    """(T, B, V): which values count: those of living agents, or with a team's reward all while the team lives.

    The team's rewards go on after an agent's death, so what it did before is judged through its values there too.
    """
    if reward_mode == "individual":
        return alive
    return alive.any(-1, keepdim=True).expand(*alive.shape[:-1], num_values)


def _flags(buffer: RolloutBuffer, reward_mode: str) -> Flags:
    if reward_mode == "individual":
        return agent_flags(buffer.terminated, buffer.truncated)
    return team_flags(buffer.terminated, buffer.truncated, buffer.alive, buffer.ended)


def _final_values(
    buffer: RolloutBuffer, flags: Flags, memories: Tensor, nets: Networks
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Indices (t, b) of truncated rows and the values (rows, V) of what they led to: one extra call, on those only.

    `memories` (T + 1, B, R, M) are the critic's after each step, before any reset.
    """
    rows = flags.truncated.any(-1).nonzero()  # (rows, 2)
    where = (rows[:, 0], rows[:, 1])
    obs = nets.policy.observe(buffer.final_obs[where])  # (rows, A, I)
    state = nets.state_norm(buffer.final_state[where].unsqueeze(-2)).squeeze(-2)  # (rows, S)
    goes_on = torch.zeros(obs.shape[:-1], dtype=torch.bool, device=obs.device)
    values, _ = nets.critic(obs, state, memories[where], goes_on)
    return where, nets.value_norm.denormalize(values)
