"""Branches out of service: which buses lose their supply, and what the others still draw (docs/faults.md).

Data flow: open branches (C, N) -> `Outages` -> dead buses and the `Load` that is left -> `FlowSolver`. In a radial
network nothing else changes: a subtree that draws nothing carries no current. Dims: C copies, N buses.
"""

import torch
from torch import Tensor

from envs.power.flow import Load
from envs.power.network import Network


class Outages:
    """The parts of one network that open branches touch, on one device and dtype."""

    def __init__(self, net: Network, device: torch.device, dtype: torch.dtype) -> None:
        self._parent, self._end = net.parent.to(device), net.subtree_end.to(device)
        y = net.y_pu.to(device)
        self._g, self._b = y.real.to(dtype), y.imag.to(dtype)
        own = net.y_parent_pu.to(device)
        self._own_g, self._own_b = own.real.to(dtype), own.imag.to(dtype)

    def unfed(self, is_open: Tensor) -> Tensor:
        """(C, N) bool: an open branch lies on the path from the root.

        Args:
            is_open: (C, N) bool, of the branch above each bus.
        """
        # a subtree is a range of the depth-first order: count the open ranges that hold each bus
        begins = torch.nn.functional.pad(is_open.int(), (0, 1))
        begins.index_add_(1, self._end, -is_open.int())
        return begins.cumsum(1)[:, :-1] > 0

    def load(self, p: Tensor, q: Tensor, is_open: Tensor, unfed: Tensor) -> Load:
        """Powers (C, N) in pu without those of dead buses, and the shunts that are left.

        An open branch takes its own share of charging and magnetisation at its live end with it.
        """
        alive = (~unfed).to(p)

        def left(total: Tensor, own: Tensor) -> Tensor:
            gone = torch.zeros_like(p).index_add_(1, self._parent, is_open * own)
            return (total - gone) * alive

        return Load(p * alive, q * alive, left(self._g, self._own_g), left(self._b, self._own_b))
