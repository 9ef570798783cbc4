"""Rewards, values and flags -> advantages and returns, as pure functions.

Data flow: buffer and values -> advantages -> update. Dims: T steps, B envs, A agents, V value columns: 1 for a critic
that values the team's reward once per copy, else A.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mappo.distributed import Add, alone

ADVANTAGE_EPS = 1e-5


class Flags(NamedTuple):
    """How steps ended, bool, never both."""

    terminated: Tensor
    truncated: Tensor


def episodes_ended(terminated: Tensor, truncated: Tensor, acted: Tensor) -> Tensor:
    """Flags (..., A) -> (...): nobody who acted goes on, so the episode is over unless the env knows better."""
    return (terminated | truncated | ~acted).all(-1)


def team_flags(terminated: Tensor, truncated: Tensor, acted: Tensor, ended: Tensor) -> Flags:
    """Per-agent flags (..., A) and ended episodes (...) -> flags of the whole episode (..., 1).

    It ends by a time limit, to be bootstrapped, if any of the last agents was cut by one.
    """
    cut = (truncated & ~terminated & acted).any(-1, keepdim=True)
    return Flags(ended.unsqueeze(-1) & ~cut, ended.unsqueeze(-1) & cut)


def agent_flags(terminated: Tensor, truncated: Tensor) -> Flags:
    """Flags (..., A) of agents with rewards of their own; terminal wins where an env sets both."""
    return Flags(terminated, truncated & ~terminated)


def shape_rewards(rewards: Tensor, mode: str) -> Tensor:
    """(..., A) -> (..., A) for `individual`, (..., 1) for the team's `mean` or `sum` over all A agents."""
    if mode == "individual":
        return rewards
    return rewards.sum(-1, keepdim=True) if mode == "sum" else rewards.mean(-1, keepdim=True)


def next_values(values: Tensor, truncated: Tensor, rows: tuple[Tensor, Tensor], final_values: Tensor) -> Tensor:
    """Values (T + 1, B, V) of consecutive rows -> (T, B, V) values of what each step led to, before any auto-reset.

    Args:
        values: of every row; the one after a terminal step is the next episode's, which `gae` ignores.
        truncated: (T, B, V), or broadcast to it: which values a time limit cut. Others in its row may go on.
        rows: the (t, b) indices of rows with any such value.
        final_values: (rows, V), of what these steps led to.
    """
    following = values[1:].clone()
    following[rows] = torch.where(truncated[rows], final_values, following[rows])
    return following


def gae(
    rewards: Tensor, values: Tensor, next_values: Tensor, flags: Flags, *, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al., arXiv:1506.02438).

    All (T, B, V), or broadcast to it. `next_values[t]` values the state reached by step t before any auto-reset, so a
    time limit bootstraps and a terminal state does not. Values are in reward units (denormalised).
    Returns advantages and returns, both (T, B, V).
    """
    delta = rewards + gamma * next_values * ~flags.terminated - values
    goes_on = ~(flags.terminated | flags.truncated)
    decay = gamma * gae_lambda * goes_on.expand_as(delta).to(delta.dtype)
    advantages, running = torch.empty_like(delta), torch.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        running = delta[t] + decay[t] * running
        advantages[t] = running
    return advantages, advantages + values


def centre_groups(advantages: Tensor, alive: Tensor, group_size: int) -> Tensor:
    """(T, B, A) minus the mean over the living entries of each group of neighbouring copies, for each step and agent.

    The copies of a group play the same episode, so whatever it brings to all of them, and the critic's error about
    it, cancels; what is left is what the sampled actions made of it (GRPO's baseline, arXiv:2402.03300, in every step).
    Gradients stay unbiased: with G copies, A_i - mean A = (G - 1)/G (A_i - mean of the others), whose baseline does not
    depend on copy i's action.
    """
    if group_size == 1:
        return advantages
    groups = advantages.unflatten(1, (-1, group_size))
    weight = alive.to(advantages.dtype).unflatten(1, (-1, group_size))
    mean = (groups * weight).sum(2, keepdim=True) / weight.sum(2, keepdim=True).clamp(min=1)
    return (groups - mean).flatten(1, 2)


def normalize_advantages(advantages: Tensor, alive: Tensor, mode: str, add: Add = alone) -> Tensor:
    """(T, B, A) to mean 0 and population std 1 over living entries: of the `batch`, of each `agent`, or `none`.

    `add` sums over the ranks that hold the other copies.
    """
    if mode == "none":
        return advantages
    dims = (0, 1, 2) if mode == "batch" else (0, 1)
    weight = alive.to(advantages.dtype)
    count = add(weight.sum(dims, keepdim=True)).clamp(min=1)
    mean = add((advantages * weight).sum(dims, keepdim=True)) / count
    variance = add(((advantages - mean).square() * weight).sum(dims, keepdim=True)) / count
    return (advantages - mean) / (variance.sqrt() + ADVANTAGE_EPS)
