"""Sums and extremes over areas, against loops."""

import pytest
import torch
from torch import Tensor

from envs.areas import Areas

LIKE = torch.zeros(0, dtype=torch.float64)


@pytest.mark.parametrize(
    "area",
    [[0], [0, 0, 1, 1], [2, 0, 1, 2, 2, 2, 0, 2], [-1, 0, 0, 0, 1, 0, 0, 2, -1], [3, 0, 0, 3]],
    ids=["one bus", "equal sizes", "scattered", "some count nowhere", "areas without buses"],
)
def test_areas_give_what_a_loop_gives(area: list[int]) -> None:
    of_bus, count = torch.tensor(area), 4
    values = torch.randn(2, 3, len(area), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    areas = Areas(of_bus, count, LIKE)

    def by_loop(reduce: str, otherwise: float) -> Tensor:
        columns = []
        for k in range(count):
            own = values[..., of_bus == k]
            columns.append(getattr(own, reduce)(-1) if own.numel() else torch.full(own.shape[:-1], otherwise).double())
        return torch.stack(columns, -1)

    torch.testing.assert_close(areas.sum(values), by_loop("sum", 0.0))
    assert torch.equal(areas.least(values), by_loop("amin", torch.inf))
    assert torch.equal(areas.most(values), by_loop("amax", -torch.inf))
    assert areas.sizes.tolist() == [int((of_bus == k).sum()) for k in range(count)]


def test_one_large_area_does_not_pad_the_small_ones() -> None:
    of_bus = torch.tensor([0] * 1000 + [k for k in range(1, 301) for _ in range(3 + k % 5)])
    areas = Areas(of_bus, 301, LIKE)
    gathered = sum(len(group.buses) for group in areas._groups)
    assert gathered <= 2 * len(of_bus)
