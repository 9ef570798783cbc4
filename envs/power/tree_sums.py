"""Sums over the subtrees and the paths of a radial network, for all copies at once: what a sweep consists of.

Data flow: `subtree_end` -> `tree_sums` -> `TreeSums`. Buses stand in depth-first order: the subtree of bus j is
j .. subtree_end[j] - 1. Values are (2, C, N), or any (..., N); dims: C copies, N buses.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

DENSE_BUSES = 128
"""Up to so many buses one dense product is fastest; it costs N^2."""
BLOCK_BUSES = 96
"""Largest subtree that larger networks take as one dense product."""
LEAST_MEAN_BLOCK = 16
"""Smaller blocks on average cost more in calls than in arithmetic."""
FOLDED_ROWS = 128
"""With up to so many rows the calls of many small products cost more than copying equal blocks together."""
FOLDED_BLOCKS = 8
"""So many equal blocks side by side are worth the copy."""


class TreeSums(Protocol):
    """Both sums of one network."""

    def downstream(self, values: Tensor, out: Tensor | None = None) -> Tensor:
        """(..., N): each bus gets the sum over its subtree; written to `out`, contiguous, if given."""
        ...

    def path(self, values: Tensor, out: Tensor | None = None) -> Tensor:
        """(..., N): each bus gets the sum over its path to the slack; `out` likewise."""
        ...


def tree_sums(subtree_end: Tensor, device: torch.device, dtype: torch.dtype) -> TreeSums:
    """The fastest of the three for a network of this size and shape.

    Args:
        subtree_end: (N,) int64.
        device: of the sums.
        dtype: of the values.
    """
    if len(subtree_end) <= DENSE_BUSES:
        return DenseSums(subtree_end, device, dtype)
    sizes = subtree_end - torch.arange(len(subtree_end))
    trunk = int((sizes > BLOCK_BUSES).sum())
    blocks = len(_maximal_subtrees(subtree_end))
    # a trunk as long as a chain, or blocks of a few buses each, gain nothing from products
    worth = trunk <= DENSE_BUSES and blocks * LEAST_MEAN_BLOCK <= len(subtree_end)
    return BlockSums(subtree_end, device, dtype) if worth else PrefixSums(subtree_end, device)


def path_matrix(subtree_end: Tensor) -> Tensor:
    """(N, N) float64: [i, j] is 1 where branch i lies on the path from the slack bus to bus j, j = i included."""
    return in_subtrees(subtree_end, torch.arange(len(subtree_end))).to(torch.float64)


def in_subtrees(subtree_end: Tensor, buses: Tensor) -> Tensor:
    """(n, N) bool: whether each bus lies in the subtree of each of `buses` (n,), itself included."""
    position = torch.arange(len(subtree_end))
    return (position >= buses[:, None]) & (position < subtree_end[buses][:, None])


class DenseSums:
    """Products with one 0/1 matrix and its transpose."""

    def __init__(self, subtree_end: Tensor, device: torch.device, dtype: torch.dtype) -> None:
        self._path = path_matrix(subtree_end).to(device, dtype)
        self._path_t = self._path.T.contiguous()

    def downstream(self, values: Tensor, out: Tensor | None = None) -> Tensor:
        """As `TreeSums.downstream`."""
        return _product(values, self._path_t, out)

    def path(self, values: Tensor, out: Tensor | None = None) -> Tensor:
        """As `TreeSums.path`."""
        return _product(values, self._path, out)


class _Run(NamedTuple):
    """Equal blocks side by side, such as the feeders of one substation."""

    start: int
    blocks: int
    path: Tensor  # (m, m) of each

    @property
    def columns(self) -> slice:
        """All of its buses."""
        return slice(self.start, self.start + self.blocks * len(self.path))

    def product(self, values: Tensor, factor: Tensor, above: Tensor | None, out: Tensor) -> None:
        """Write values @ factor into `out`, (rows, N), in each block's columns, plus `above` (rows, blocks)."""
        size = len(factor)
        if self.blocks >= FOLDED_BLOCKS and len(values) <= FOLDED_ROWS:
            folded = values[:, self.columns].reshape(-1, size) @ factor
            products = folded.view(len(values), self.blocks, size)
            out[:, self.columns] = (products if above is None else products.add_(above[..., None])).flatten(1)
            return
        for k in range(self.blocks):
            own = slice(self.start + k * size, self.start + (k + 1) * size)
            if above is None:
                torch.mm(values[:, own], factor, out=out[:, own])
            else:
                torch.addmm(above[:, k, None], values[:, own], factor, out=out[:, own])


class BlockSums:
    """One product for each subtree of at most `BLOCK_BUSES`, one for the trunk that joins them: O(N).

    The trunk are the slack bus and the buses whose subtrees are larger; each block hangs on one of them.
    """

    def __init__(self, subtree_end: Tensor, device: torch.device, dtype: torch.dtype) -> None:
        starts = _maximal_subtrees(subtree_end)
        ends = subtree_end[starts]
        blocks = list(zip(starts.tolist(), ends.tolist(), strict=True))
        self._starts = starts.to(device)
        inside = torch.zeros(len(subtree_end), dtype=torch.long)
        for start, end in blocks:
            inside[start:end] = 1
        trunk = torch.nonzero(inside == 0).flatten()
        self._trunk = trunk.to(device)
        trunk_end = torch.searchsorted(trunk, subtree_end[trunk])  # the trunk's own depth-first order
        self._trunk_sums = DenseSums(trunk_end, device, dtype)
        # the block's parent is the last trunk bus before it whose subtree holds it
        holds = (trunk[:, None] < starts) & (subtree_end[trunk][:, None] > starts)
        self._parent = (holds * torch.arange(1, len(trunk) + 1)[:, None]).amax(0).sub(1).to(device)
        paths: dict[tuple[int, ...], Tensor] = {}  # equal feeders share their matrices
        self._runs: list[_Run] = []
        for start, end in blocks:
            own = subtree_end[start:end] - start
            key = tuple(own.tolist())
            if key not in paths:
                paths[key] = path_matrix(own).to(device, dtype)
            last = self._runs[-1] if self._runs else None
            if last is not None and last.path is paths[key] and last.columns.stop == start:
                self._runs[-1] = last._replace(blocks=last.blocks + 1)
            else:
                self._runs.append(_Run(start, 1, paths[key]))

    def downstream(self, values: Tensor, out: Tensor | None = None) -> Tensor:
        """As `TreeSums.downstream`."""
        flat = values.flatten(0, -2)
        sums = torch.empty_like(flat) if out is None else out.view_as(flat)
        for run in self._runs:
            run.product(flat, run.path.T, None, sums)
        trunk = flat[:, self._trunk].index_add_(1, self._parent, sums[:, self._starts])
        sums[:, self._trunk] = self._trunk_sums.downstream(trunk)
        return sums.view_as(values)

    def path(self, values: Tensor, out: Tensor | None = None) -> Tensor:
        """As `TreeSums.path`."""
        flat = values.flatten(0, -2)
        sums = torch.empty_like(flat) if out is None else out.view_as(flat)
        trunk = self._trunk_sums.path(flat[:, self._trunk])
        sums[:, self._trunk] = trunk
        above = trunk[:, self._parent].split([run.blocks for run in self._runs], dim=-1)
        for run, own in zip(self._runs, above, strict=True):
            run.product(flat, run.path, own, sums)
        return sums.view_as(values)


class PrefixSums:
    """Running sums along the depth-first order, where a subtree is a range: O(N) for any tree.

    They are float64: a difference of two of them must keep float32 precision.
    """

    def __init__(self, subtree_end: Tensor, device: torch.device) -> None:
        self._end = subtree_end.to(device)

    def downstream(self, values: Tensor, out: Tensor | None = None) -> Tensor:
        """As `TreeSums.downstream`."""
        running = torch.nn.functional.pad(values.double().cumsum(-1), (1, 0))
        sums = torch.empty_like(values) if out is None else out
        return sums.copy_(running[..., self._end].sub_(running[..., :-1]))

    def path(self, values: Tensor, out: Tensor | None = None) -> Tensor:
        """As `TreeSums.path`."""
        steps = torch.nn.functional.pad(values.double(), (0, 1))
        steps.index_add_(-1, self._end, -values.double())
        sums = torch.empty_like(values) if out is None else out
        return sums.copy_(steps.cumsum_(-1)[..., :-1])


def _product(values: Tensor, matrix: Tensor, out: Tensor | None) -> Tensor:
    """(..., N) times (N, N)."""
    rows = (-1, values.shape[-1])
    return torch.mm(values.reshape(rows), matrix, out=None if out is None else out.view(rows)).view_as(values)


def _maximal_subtrees(subtree_end: Tensor) -> Tensor:
    """First buses of the largest subtrees of at most `BLOCK_BUSES`, without the slack bus."""
    starts, bus, ends = [], 1, subtree_end.tolist()
    while bus < len(ends):
        if ends[bus] - bus <= BLOCK_BUSES:
            starts.append(bus)
            bus = ends[bus]
        else:
            bus += 1
    return torch.tensor(starts, dtype=torch.long)
