"""A tree in blocks of a few nodes: a sum over the tree becomes small products side by side and a sum over the blocks.

Data flow: parents -> `Blocks` -> `tree_sums.py`, `layout.py`. A block's nodes hang together, or side by side, below one
node of another block. Dims: N nodes, K blocks, n places in each, some of them empty.
"""

from collections.abc import Collection, Sequence

import torch


class Blocks:
    """The nodes of one tree in blocks; its tensors are on the CPU.

    Block 0 holds the root. A block comes after the one that it hangs on, so that blocks form a tree as nodes do.

    Args:
        parent: (N,) of each node, which comes before it; the root is the first and its own parent.
        most: nodes in a block.
        ends: nodes whose children start blocks of their own.
    """

    def __init__(self, parent: Sequence[int], most: int, ends: Collection[int] = ()) -> None:
        members = sorted(_partition(parent, most, ends))
        self.count, self.size = len(members), max(map(len, members))  # K, n
        place = [0] * len(parent)
        for k, own in enumerate(members):
            for i, node in enumerate(own):
                place[node] = k * self.size + i
        self.place = torch.tensor(place)  # (N,) k n + i of each node
        self.node = torch.zeros(self.count * self.size, dtype=torch.int64)  # (K n,) at each place; 0 at empty ones
        self.node[self.place] = torch.arange(len(parent))
        self.filled = torch.zeros(self.count * self.size, dtype=torch.bool)
        self.filled[self.place] = True
        self.above = torch.tensor([parent[own[0]] for own in members])  # (K,) node that each block hangs on
        self.parent = (self.place[self.above] // self.size).tolist()  # (K,) the block of that node
        self.inside = torch.zeros(self.count, self.size, self.size, dtype=torch.float64)
        """(K, n, n): [k, i, j] is 1 where the node at j is in the subtree of the one at i, both in block k."""
        flat = self.inside.view(-1, self.size)
        for node in range(len(parent)):
            block, over = place[node] // self.size, node
            while True:
                flat[place[over], place[node] % self.size] = 1.0
                above = parent[over]
                if above == over or place[above] // self.size != block:
                    break
                over = above

    @property
    def ports(self) -> torch.Tensor:
        """(K - 1,) places that blocks 1, 2, ... hang on."""
        return self.place[self.above[1:]]


SIZES = (5, 6, 7, 9, 11, 14, 17)
"""Largest numbers of nodes in a block that `best_size` tries."""


def best_size(parent: Sequence[int], ends: Collection[int]) -> int:
    """The size of blocks with the least work: what a call does at each place, and products of n^2.

    On a core of an AMD EPYC a sweep's elementwise calls take as long for a place as its product takes for some 130
    entries of a block's matrix.
    """

    def work(most: int) -> int:
        members = _partition(parent, most, ends)
        size = max(map(len, members))
        return len(members) * size * (130 + 4 * size)

    return min(SIZES, key=work)


def _partition(parent: Sequence[int], most: int, ends: Collection[int]) -> list[list[int]]:
    """Nodes of each block in order, from the leaves up: a node takes its children's open blocks while they fit."""
    waiting: list[list[list[int]]] = [[] for _ in parent]  # open blocks of each node's children
    closed = []
    for node in range(len(parent) - 1, -1, -1):
        own, rest = [node], []
        for part in sorted(waiting[node], key=len):
            if node not in ends and len(own) + len(part) <= most:
                own += part
            else:
                rest.append(part)
        closed += _side_by_side(rest, most)
        if node:
            waiting[parent[node]].append(own)
        else:
            closed.append(own)
    return [sorted(block) for block in closed]


def _side_by_side(parts: list[list[int]], most: int) -> list[list[int]]:
    """Parts below one node together in as few blocks as they fit in, the longest first."""
    blocks: list[list[int]] = []
    for part in sorted(parts, key=len, reverse=True):
        roomy = next((block for block in blocks if len(block) + len(part) <= most), None)
        if roomy is None:
            blocks.append(part)
        else:
            roomy += part
    return blocks
