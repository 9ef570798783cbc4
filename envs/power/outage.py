"""Branches out of service: which buses lose their supply, and what the others still draw (docs/faults.md).

Data flow: open branches (C, N) -> `Outages` -> dead buses and the draw that is left -> `FlowSolver.load`. In a radial
network nothing else changes: a subtree that draws nothing carries no current. Dims: C copies, N buses.
"""

import torch
from torch import Tensor

from envs.power.network import Network


class Outages:
    """The parts of one network that open branches touch, on one device and dtype."""

    def __init__(self, net: Network, device: torch.device, dtype: torch.dtype) -> None:
        self._parent, self._end = net.parent.to(device), net.subtree_end.to(device)
        self._shunt, self._own_shunt = (  # (2, N, 1) P and Q at 1 pu
            torch.stack([y.real, -y.imag])[..., None].to(device, dtype) for y in (net.y_pu, net.y_parent_pu)
        )

    def unfed(self, is_open: Tensor) -> Tensor:
        """(C, N) bool: an open branch lies on the path from the root.

        Args:
            is_open: (C, N) bool, of the branch above each bus.
        """
        # a subtree is a range of the depth-first order: count the open ranges that hold each bus
        begins = torch.nn.functional.pad(is_open.int(), (0, 1))
        begins.index_add_(1, self._end, -is_open.int())
        return begins.cumsum(1)[:, :-1] > 0

    def drawn(self, p: Tensor, q: Tensor, is_open: Tensor, unfed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Powers (C, N) in pu without those of dead buses, and the shunts that are left, (2, N, C).

        An open branch takes its own share of charging and magnetisation at its live end with it.
        """
        alive = (~unfed).to(p)
        own = is_open.T * self._own_shunt
        gone = torch.zeros_like(own).index_add_(1, self._parent, own)
        return p * alive, q * alive, (self._shunt - gone) * alive.T
