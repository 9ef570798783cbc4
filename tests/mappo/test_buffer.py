"""Minibatches cover every chunk once an epoch, in a new order; splits keep what belongs together."""

from collections.abc import Iterator

import torch

from mappo.buffer import Batch, allocate, minibatch_rows, minibatches, split
from mappo.memory import Widths

LENGTH = 3


def numbered(size: int) -> Batch:
    """Entry (l, n) is 100 n + l; memories have a row for each chunk only, 100 n."""
    rows = 100 * torch.arange(size) + torch.arange(LENGTH).unsqueeze(-1)
    short = {"memory": rows[:1], "critic_memory": rows[:1]}
    return Batch(**{name: short.get(name, rows) for name in Batch._fields})


def shuffled(batch: Batch, count: int, generator: torch.Generator) -> Iterator[Batch]:
    return minibatches(batch, *minibatch_rows(batch, count, generator))


def test_every_chunk_comes_once_an_epoch_and_in_a_new_order() -> None:
    rng = torch.Generator().manual_seed(0)
    epochs = [torch.cat([part.memory[0] for part in shuffled(numbered(24), 4, rng)]) for _ in range(3)]
    for order in epochs:
        assert sorted(order.tolist()) == list(range(0, 2400, 100))
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])


def test_fields_stay_together_and_parts_are_equal() -> None:
    for part in shuffled(numbered(24), 4, torch.Generator().manual_seed(0)):
        assert part.obs.shape == (LENGTH, 6)
        for name, field in part._asdict().items():
            want = (
                part.memory if name in ("memory", "critic_memory") else part.memory + torch.arange(LENGTH).view(-1, 1)
            )
            assert torch.equal(field, want), "a chunk stays in order, and its memory with it"


def test_a_split_has_every_chunk_once_in_order_and_is_a_view() -> None:
    batch = numbered(7)
    for count, sizes in ((1, [7]), (3, [3, 3, 1]), (7, [1] * 7), (99, [1] * 7)):
        parts = list(split(batch, count))
        assert [part.obs.shape[1] for part in parts] == sizes
        for name in Batch._fields:
            assert torch.equal(torch.cat([getattr(part, name) for part in parts], dim=1), getattr(batch, name))
        assert parts[0].obs.data_ptr() == batch.obs.data_ptr()


def test_memories_are_kept_where_chunks_begin() -> None:
    widths = Widths(agents=2, obs=3, inputs=5, state=4, actions=1, mask=6, memory=8, critic_rows=1)
    buffer = allocate(12, 7, 4, widths, torch.device("cpu"))
    assert buffer.memory.shape == (3, 7, 2, 8)
    assert buffer.critic_memory.shape == (7, 1, 8)
    assert buffer.obs.shape == (13, 7, 2, 5)
    assert buffer.final_obs.shape == (12, 7, 2, 3)
    assert buffer.starts.shape == (13, 7, 2)
    assert buffer.action_mask.shape == (12, 7, 2, 6)
