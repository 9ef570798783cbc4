"""Sums and extremes over the buses of each area, for all copies at once: O(N), however many areas there are.

Data flow: area of each bus -> `Areas` -> what `grid.py` measures on each area. Areas of similar size are gathered
together, so that rows padded to the longest of them are at most twice as long as the shortest.
Dims: N buses, K areas.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class _Group(NamedTuple):
    """Areas of similar size, k of them, each padded to m buses. Columns are areas: a reduction over rows is fast."""

    buses: Tensor  # (m k,) int64; a padded place repeats the area's first bus, which changes no extreme
    shape: tuple[int, int]  # (m, k)
    real: Tensor | None  # (m, k) 0 at padded places; None without any


class Areas:
    """The buses of K areas.

    Args:
        area: (N,) int64, 0 .. K - 1; -1 for a bus that counts nowhere.
        count: K; an area without buses sums to 0 and has no extremes.
        like: device and dtype of the values.
    """

    def __init__(self, area: Tensor, count: int, like: Tensor) -> None:
        order = torch.argsort(area, stable=True)
        sizes = torch.bincount(area[area >= 0], minlength=count)
        ends = sizes.cumsum(0) + (area < 0).sum()
        members = [order[end - size : end] for size, end in zip(sizes.tolist(), ends.tolist(), strict=True)]
        classes: dict[int, list[int]] = {}
        for k, own in enumerate(members):
            classes.setdefault(len(own).bit_length(), []).append(k)
        self._empty = len(classes.pop(0, []))
        self._groups = [self._group([members[k] for k in of_class], like) for of_class in classes.values()]
        in_order = torch.tensor([k for of_class in classes.values() for k in of_class], dtype=torch.int64)
        places = torch.full((count,), len(in_order))  # empty areas take what stands behind the others
        places[in_order] = torch.arange(len(in_order))
        self._places = places.to(like.device)
        self.sizes = sizes.to(like)  # (K,)

    @staticmethod
    def _group(members: list[Tensor], like: Tensor) -> _Group:
        longest = max(map(len, members))
        buses = torch.stack([torch.cat([own, own[:1].expand(longest - len(own))]) for own in members], -1).flatten()
        lengths = torch.tensor([len(own) for own in members])
        real = None
        if bool((lengths < longest).any()):
            real = (torch.arange(longest)[:, None] < lengths).to(like)
        return _Group(buses.to(like.device), (longest, len(members)), real)

    def sum(self, values: Tensor) -> Tensor:
        """(..., N) -> (..., K)."""
        parts = []
        for group in self._groups:
            part = self._rows(values, group)
            parts.append((part if group.real is None else part * group.real).sum(-2))
        return self._in_order(parts, 0.0)

    def least(self, values: Tensor) -> Tensor:
        """(..., N) -> (..., K) smallest of each area; infinite where there is no bus."""
        return self._in_order([self._rows(values, group).amin(-2) for group in self._groups], torch.inf)

    def most(self, values: Tensor) -> Tensor:
        """(..., N) -> (..., K) largest of each area; minus infinity where there is no bus."""
        return self._in_order([self._rows(values, group).amax(-2) for group in self._groups], -torch.inf)

    @staticmethod
    def _rows(values: Tensor, group: _Group) -> Tensor:
        return values.index_select(-1, group.buses).unflatten(-1, group.shape)  # (..., m, k)

    def _in_order(self, parts: list[Tensor], otherwise: float) -> Tensor:
        if self._empty:
            parts.append(parts[0].new_full((*parts[0].shape[:-1], 1), otherwise))
        return torch.cat(parts, -1).index_select(-1, self._places)
