"""Storage of one rollout, and its minibatches. It only stores: no formula, no network.

Data flow: rollout -> RolloutBuffer -> advantages -> Batch -> minibatches -> update.
Dims: T steps, B envs, A agents, I network input, O own obs, S state, U action, K action mask, V value columns,
M memory, R rows of the critic, L steps of a chunk, N = T * B / L chunks.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mappo.distributed import WHOLE, Share
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


def minibatches(batch: Batch, rows: Tensor, sizes: list[int]) -> Iterator[Batch]:
    """The minibatches that `minibatch_rows` tells of."""
    for part in rows.split(sizes):  # gathered one by one: a shuffled copy of the batch would be another buffer
        yield Batch(*(field.index_select(1, part) for field in batch))


def minibatch_rows(
    batch: Batch, count: int, generator: torch.Generator, share: Share = WHOLE, num_envs: int = 1
) -> tuple[Tensor, list[int]]:
    """A fresh order of all chunks, and the sizes of the `count` parts of it that are minibatches.

    Where the batch is one rank's share, of `num_envs` copies, the order is that of the chunks of all ranks, and of each
    part the rank gets those that it holds: more or fewer than its share, but together all ranks have the whole part.
    """
    size = batch.obs.shape[1] * share.count
    assert size % count == 0, "TrainConfig.minibatch_count checks this"
    order, sizes = torch.randperm(size, generator=generator, device=batch.obs.device), [size // count] * count
    if share.count > 1:
        order, sizes = own_rows(order, count, share, num_envs)
    return order, sizes


def own_rows(order: Tensor, count: int, share: Share, num_envs: int) -> tuple[Tensor, list[int]]:
    """What one rank holds of an order (N,) of all ranks' chunks: its rows, and how many are in each of `count` parts.

    Chunks are numbered as `Batch` has them: by time, and at each time the copies of all ranks side by side.
    """
    time, copy = order // (num_envs * share.count), order % (num_envs * share.count)
    mine = copy // num_envs == share.index
    rows = time * num_envs + copy % num_envs
    return rows[mine], mine.view(count, -1).sum(1).tolist()


def split(batch: Batch, count: int) -> Iterator[Batch]:
    """At most `count` parts of equal size, views of the batch."""
    if count == 1:
        yield batch
        return
    for parts in zip(*(field.chunk(count, dim=1) for field in batch), strict=True):
        yield Batch(*parts)
