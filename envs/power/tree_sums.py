"""Sums over the subtrees and the paths of a tree, for many columns at once: O(N), by one product where that is faster.

Data flow: parents -> `tree_sums` -> `TreeSums`. Dims: N nodes, M columns; K blocks of n places (blocks.py).
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from envs.power.blocks import Blocks

DENSE_NODES = 128
"""Up to so many nodes one dense product is fastest; it costs N^2."""
BLOCK_NODES = 16
"""Nodes in a block of a larger tree."""


class TreeSums(Protocol):
    """Both sums of one tree."""

    def downstream(self, values: Tensor, out: Tensor) -> None:
        """(N, M): write the sum over each node's subtree, itself included, to `out`."""
        ...

    def path(self, values: Tensor, out: Tensor) -> None:
        """(N, M): write the sum over each node's path to the root, both included, to `out`."""
        ...


def tree_sums(parent: Sequence[int], device: torch.device, dtype: torch.dtype) -> TreeSums:
    """The faster of the two for a tree of this size.

    Args:
        parent: (N,) of each node, which comes before it; the root is the first and its own parent.
        device: of the sums.
        dtype: of the values.
    """
    kind = DenseSums if len(parent) <= DENSE_NODES else BlockSums
    return kind(parent, device, dtype)


class DenseSums:
    """Products with one 0/1 matrix and its transpose."""

    def __init__(self, parent: Sequence[int], device: torch.device, dtype: torch.dtype) -> None:
        below = Blocks(parent, len(parent)).inside[0]  # (N, N)
        self._below = below.to(device, dtype)
        self._path = below.T.contiguous().to(device, dtype)

    def downstream(self, values: Tensor, out: Tensor) -> None:
        """As `TreeSums.downstream`."""
        torch.mm(self._below, values, out=out)

    def path(self, values: Tensor, out: Tensor) -> None:
        """As `TreeSums.path`."""
        torch.mm(self._path, values, out=out)


class BlockSums:
    """Products within blocks, and sums over the tree of the blocks by the same means."""

    def __init__(self, parent: Sequence[int], device: torch.device, dtype: torch.dtype) -> None:
        blocks = Blocks(parent, BLOCK_NODES)
        self._shape = (blocks.count, blocks.size)
        self._node, self._place, self._ports = (t.to(device) for t in (blocks.node, blocks.place, blocks.ports))
        self._filled = blocks.filled[:, None].to(device, dtype)
        self._below = blocks.inside.to(device, dtype)
        self._path = blocks.inside.mT.contiguous().to(device, dtype)
        self._sums = tree_sums(blocks.parent, device, dtype)

    def downstream(self, values: Tensor, out: Tensor) -> None:
        """As `TreeSums.downstream`."""
        placed = values.index_select(0, self._node).mul_(self._filled)
        totals = placed.unflatten(0, self._shape).sum(1)
        sums = torch.empty_like(totals)
        self._sums.downstream(totals, out=sums)
        placed.index_add_(0, self._ports, sums[1:])
        within = torch.bmm(self._below, placed.unflatten(0, self._shape))
        torch.index_select(within.flatten(0, 1), 0, self._place, out=out)

    def path(self, values: Tensor, out: Tensor) -> None:
        """As `TreeSums.path`."""
        within = torch.bmm(self._path, values.index_select(0, self._node).unflatten(0, self._shape))
        ports = torch.zeros_like(within[:, 0])
        ports[1:] = within.flatten(0, 1).index_select(0, self._ports)
        above = torch.empty_like(ports)
        self._sums.path(ports, out=above)
        torch.index_select(within.add_(above[:, None]).flatten(0, 1), 0, self._place, out=out)
