"""Storage of one rollout, and its minibatches. It only stores: no formula, no network.

Data flow: rollout -> RolloutBuffer -> advantages -> Batch -> minibatches -> update.
Dims: T steps, B envs, A agents, I network input, O own obs, S state, U action, K action mask, V value columns,
N = T * B env steps.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class RolloutBuffer(NamedTuple):
    """Preallocated tensors, overwritten each iteration. Row T of obs and state is what the next rollout starts from."""

    obs: Tensor  # (T + 1, B, A, I) as the networks saw it: normalised, agent id appended
    state: Tensor  # (T + 1, B, S) normalised
    actions: Tensor  # (T, B, A, U) raw samples, before clipping or tanh
    log_prob: Tensor  # (T, B, A) joint, of the policy that acted
    action_mask: Tensor  # (T, B, A, K) bool, valid on obs
    alive: Tensor  # (T, B, A) bool: who acted on obs
    rewards: Tensor  # (T, B, A) each agent's own
    terminated: Tensor  # (T, B, A) bool
    truncated: Tensor  # (T, B, A) bool
    final_obs: Tensor  # (T, B, A, O) raw, before auto-reset; read only where an episode was truncated
    final_state: Tensor  # (T, B, S) raw, before auto-reset


class Batch(NamedTuple):
    """One row for each env step, all agents together; the first dim of every field is N, or M in a minibatch."""

    obs: Tensor  # (N, A, I)
    state: Tensor  # (N, S)
    actions: Tensor  # (N, A, U)
    log_prob: Tensor  # (N, A)
    action_mask: Tensor  # (N, A, K)
    alive: Tensor  # (N, A)
    advantages: Tensor  # (N, A)
    values: Tensor  # (N, V) normalised, of the critic before the update
    returns: Tensor  # (N, V) normalised
    value_alive: Tensor  # (N, V) which values count


class Widths(NamedTuple):
    """The last dims of a buffer."""

    agents: int
    obs: int
    inputs: int
    state: int
    actions: int
    mask: int


def allocate(num_steps: int, num_envs: int, widths: Widths, device: torch.device) -> RolloutBuffer:
    """Zeros of the right shapes."""
    A, O, I, S, U, K = widths  # noqa: E741

    def floats(*shape: int, extra: int = 0) -> Tensor:
        return torch.zeros(num_steps + extra, num_envs, *shape, device=device)

    def bools(*shape: int) -> Tensor:
        return torch.zeros(num_steps, num_envs, *shape, dtype=torch.bool, device=device)

    return RolloutBuffer(
        obs=floats(A, I, extra=1),
        state=floats(S, extra=1),
        actions=floats(A, U),
        log_prob=floats(A),
        action_mask=bools(A, K),
        alive=bools(A),
        rewards=floats(A),
        terminated=bools(A),
        truncated=bools(A),
        final_obs=floats(A, O),
        final_state=floats(S),
    )


def minibatches(batch: Batch, count: int, generator: torch.Generator) -> Iterator[Batch]:
    """One epoch: every row exactly once, in a fresh order, in `count` equal parts."""
    size = len(batch.obs)
    assert size % count == 0, "TrainConfig.minibatch_count checks this"
    order = torch.randperm(size, generator=generator, device=batch.obs.device)
    # Gather once and slice: one pass over memory, and minibatches are views.
    shuffled = [field[order].split(size // count) for field in batch]
    for parts in zip(*shuffled, strict=True):
        yield Batch(*parts)
