"""Where a flow keeps what it knows of buses: in blocks of the tree, copies last, so that a sweep is a few large calls.

Data flow: `Network` -> `Layout` -> `flow.py`, `sweep.py`. Regulators stand between blocks: within a block all branches
begin behind the same taps. Dims: C copies, N buses, K blocks of n places, R regulators.
"""

import torch
from torch import Tensor

from envs.power.blocks import Blocks, best_size
from envs.power.network import Network
from envs.power.tree_sums import tree_sums


class Layout:
    """Places of one network's buses, and what a sweep multiplies by, on one device and dtype."""

    def __init__(self, net: Network, fixed_tau2: Tensor, device: torch.device, dtype: torch.dtype) -> None:
        """`fixed_tau2` (N,): squared product of the ratios on each bus's path that do not move; float64."""
        parent, regulated = net.parent.tolist(), {regulator.bus for regulator in net.regulators}
        blocks = Blocks(parent, best_size(parent, regulated), ends=regulated)
        self.shape = (blocks.count, blocks.size)  # K, n
        both = torch.tensor([0, blocks.size])  # a block holds its real parts, then its imaginary parts

        def rows(place: Tensor) -> Tensor:
            return place + place // blocks.size * blocks.size

        self._real = rows(blocks.place).to(device)  # (N,) row of (2 K n) of each bus's real part
        self._imag = self._real + blocks.size
        leaves = sorted(set(range(net.num_buses)) - set(parent[1:]))
        self.ends = self._real[leaves]  # rows of the real parts of buses that have none behind them
        self.all_rows = torch.cat([self._real, self._imag])  # of all buses
        self._place = blocks.place.to(device)
        node = torch.where(blocks.filled, blocks.node, blocks.above.repeat_interleave(blocks.size))
        self.bus = node.to(device)  # (K n,) bus at each place; at empty ones the one that their block hangs on
        node = node.view(blocks.count, 1, blocks.size)
        self._row = (node + torch.tensor([0, net.num_buses])[:, None]).flatten().to(device)  # (2 K n,) of (2 N)
        self.is_real = torch.tensor([1.0, 0.0]).repeat_interleave(blocks.size).repeat(blocks.count).to(device, dtype)
        self._filled = blocks.filled.view(blocks.count, 1, blocks.size, 1).to(device, dtype)
        self.ports = (rows(blocks.ports)[:, None] + both).flatten().to(device)  # (2 (K - 1),) of blocks 1, 2, ...
        self.block_above = torch.tensor(blocks.parent, device=device)  # (K,) that each block hangs on
        self.bus_above = blocks.above.to(device)  # (K,) of it
        self.sums = tree_sums(blocks.parent, device, dtype)
        self.below = blocks.inside.repeat_interleave(2, 0).to(device, dtype)  # (2K, n, n)
        self.minus_z = -_path_impedance(net, fixed_tau2, blocks).to(device, dtype)  # (K, 2n, 2n)

    def spread(self, values: Tensor) -> Tensor:
        """(2, N, C) -> (K, 2, n, C); empty places repeat the bus that their block hangs on, as a sweep gives them."""
        count, size = self.shape
        return values.flatten(0, 1).index_select(0, self._row).view(count, 2, size, values.shape[-1])

    def spread_drawn(self, values: Tensor, factor: float = 1.0) -> Tensor:
        """As `spread`, times a factor, with 0 at empty places, which count in the sums."""
        return self.spread(values).mul_(self._filled * factor)

    def rows(self, buses: Tensor) -> Tensor:
        """(2 m,) where `at` finds m buses."""
        return torch.cat([self._real[buses], self._imag[buses]])

    @staticmethod
    def at(values: Tensor, rows: Tensor) -> Tensor:
        """(K, 2, n, C) -> (2, m, C) at `rows`."""
        return values.flatten(0, 2).index_select(0, rows).unflatten(0, (2, len(rows) // 2))

    def at_buses(self, values: Tensor) -> Tensor:
        """Real values (K, 1, n, C) -> (N, C)."""
        return values.flatten(0, 2).index_select(0, self._place)


def _path_impedance(net: Network, fixed_tau2: Tensor, blocks: Blocks) -> Tensor:
    """(K, 2n, 2n) float64: the drop at each place of a block for 1 pu drawn at another, as a real product.

    Referred to the voltage behind the ratios that do not move: z / |tau_parent|^2.
    """
    z = (net.z_pu / fixed_tau2[net.parent])[blocks.node].view(blocks.count, blocks.size, 1)
    real, imag = (blocks.inside.mT @ (part * blocks.inside) for part in (z.real, z.imag))
    return torch.cat([torch.cat([real, -imag], -1), torch.cat([imag, real], -1)], -2)
