"""Minibatches cover every row once an epoch, in a new order."""

import torch

from mappo.buffer import Batch, minibatches


def numbered(size: int) -> Batch:
    rows = torch.arange(size)
    return Batch(*(rows for _ in Batch._fields))


def test_every_row_comes_once_an_epoch_and_in_a_new_order() -> None:
    rng = torch.Generator().manual_seed(0)
    epochs = [torch.cat([part.obs for part in minibatches(numbered(24), 4, rng)]) for _ in range(3)]
    for order in epochs:
        assert sorted(order.tolist()) == list(range(24))
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])


def test_fields_stay_together_and_parts_are_equal() -> None:
    for part in minibatches(numbered(24), 4, torch.Generator().manual_seed(0)):
        assert len(part.obs) == 6
        assert all(torch.equal(field, part.obs) for field in part)
