"""Storage of one rollout, and its minibatches. It only stores: no formula, no network.

Data flow: rollout -> RolloutBuffer -> advantages -> Batch -> minibatches -> update.
Dims: T steps, B envs, A agents, I network input, O own obs, S state, U action, K action mask, V value columns,
M memory, R rows of the critic, L steps of a chunk, N = T * B / L chunks.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mappo.memory import Widths


class RolloutBuffer(NamedTuple):
    """Preallocated tensors, overwritten each iteration. Row T of obs and state is what the next rollout starts from."""

    obs: Tensor  # (T + 1, B, A, I) as the networks saw it: normalised, one-hot agent id appended
    state: Tensor  # (T + 1, B, S) normalised
    actions: Tensor  # (T, B, A, U) raw samples, before clipping or tanh
    log_prob: Tensor  # (T, B, A) joint, of the policy that acted
    action_mask: Tensor  # (T, B, A, K) bool, valid on obs
    alive: Tensor  # (T, B, A) bool: who acted on obs
    rewards: Tensor  # (T, B, A) each agent's own
    terminated: Tensor  # (T, B, A) bool
    truncated: Tensor  # (T, B, A) bool
    ended: Tensor  # (T, B) bool: the episode is over
    starts: Tensor  # (T + 1, B, A) bool: the agent begins at this row; a memory is blank there
    memory: Tensor  # (T / L, B, A, M) the actor's memory before each chunk of L steps
    critic_memory: Tensor  # (B, R, M) the critic's memory before row 0
    final_obs: Tensor  # (T, B, A, O) raw, before auto-reset; read only where an episode was truncated
    final_state: Tensor  # (T, B, S) raw, before auto-reset


class Batch(NamedTuple):
    """N chunks of L consecutive steps of one copy, all agents together; N is smaller in a minibatch.

    Without a memory every env step is a chunk of its own, L = 1.
    """

    obs: Tensor  # (L, N, A, I)
    state: Tensor  # (L, N, S)
    actions: Tensor  # (L, N, A, U)
    log_prob: Tensor  # (L, N, A)
    action_mask: Tensor  # (L, N, A, K)
    alive: Tensor  # (L, N, A)
    starts: Tensor  # (L, N, A)
    memory: Tensor  # (1, N, A, M) of the actor, before each chunk
    critic_memory: Tensor  # (1, N, R, M)
    advantages: Tensor  # (L, N, A)
    values: Tensor  # (L, N, V) normalised, of the critic before the update
    returns: Tensor  # (L, N, V) normalised
    value_alive: Tensor  # (L, N, V) which values count


def allocate(num_steps: int, num_envs: int, chunk: int, widths: Widths, device: torch.device) -> RolloutBuffer:
    """Zeros of the right shapes; `memory.buffer_bytes` is their size."""
    A, O, I, S, U, K, M, R = widths  # noqa: E741

    def floats(*shape: int, extra: int = 0) -> Tensor:
        return torch.zeros(num_steps + extra, num_envs, *shape, device=device)

    def bools(*shape: int, extra: int = 0) -> Tensor:
        return torch.zeros(num_steps + extra, num_envs, *shape, dtype=torch.bool, device=device)

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
        ended=bools(),
        starts=bools(A, extra=1),
        memory=torch.zeros(num_steps // chunk, num_envs, A, M, device=device),
        critic_memory=torch.zeros(num_envs, R, M, device=device),
        final_obs=floats(A, O),
        final_state=floats(S),
    )


def minibatches(batch: Batch, count: int, generator: torch.Generator) -> Iterator[Batch]:
    """One epoch: every chunk exactly once, in a fresh order, in `count` equal parts."""
    size = batch.obs.shape[1]
    assert size % count == 0, "TrainConfig.minibatch_count checks this"
    order = torch.randperm(size, generator=generator, device=batch.obs.device)
    for rows in order.split(size // count):  # gathered one by one: a shuffled copy of the batch would be another buffer
        yield Batch(*(field.index_select(1, rows) for field in batch))


def split(batch: Batch, count: int) -> Iterator[Batch]:
    """At most `count` parts of equal size, views of the batch."""
    for parts in zip(*(field.chunk(count, dim=1) for field in batch), strict=True):
        yield Batch(*parts)
