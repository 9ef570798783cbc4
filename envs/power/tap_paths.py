"""Which tap changers lie on the way to each bus, as chains towards the slack: O(N + R) memory and work.

Data flow: `Network` -> `TapPaths` -> `flow.py` (ratios of all buses), `regulators.py` (what was moved upstream).
Dims: C copies, N buses, R regulators, D regulators on the longest path.
"""

import torch
from torch import Tensor

from envs.power.network import Network

DENSE_REGULATORS = 64
"""Up to so many regulators one product sums over those above each; it costs R^2."""


class TapPaths:
    """The chains of one network; its tensors are on `device`."""

    def __init__(self, net: Network, device: torch.device) -> None:
        own = {regulator.bus: k for k, regulator in enumerate(net.regulators)}
        none = len(own)
        nearest: list[int] = []
        for bus, parent in enumerate(net.parent.tolist()):
            above = nearest[parent] if bus else none
            nearest.append(own.get(bus, above))
        parents = [int(net.parent[regulator.bus]) for regulator in net.regulators]
        self._above = [nearest[parent] for parent in parents]  # of each regulator the next one towards the slack
        self._nearest = nearest
        self.nearest = torch.tensor(nearest, device=device)  # (N,) last regulator on the way to each bus; R: none
        upstream, rows = list[Tensor](), self._above
        while any(k < none for k in rows):  # the first, second, ... regulator above each
            upstream.append(torch.tensor(rows, device=device))
            rows = [none if k == none else self._above[k] for k in rows]
        self._upstream = upstream
        self._upstream_or_none = [torch.nn.functional.pad(rows, (0, 1), value=none) for rows in upstream]  # (R + 1,)
        self._dense: Tensor | None = None
        if none <= DENSE_REGULATORS:  # (R, R): [i, k] is 1 where i is above k
            self._dense = torch.zeros(none + 1, none, device=device)
            for rows in upstream:
                self._dense[rows, torch.arange(none, device=device)] = 1.0
            self._dense = self._dense[:none]

    @property
    def depth(self) -> int:
        """D; 0 without regulators."""
        return len(self._upstream) + 1 if self._above else 0

    def to_bus(self, bus: int) -> list[int]:
        """The regulators on the path to a bus, its own included, from the slack on."""
        chain, k = [], self._nearest[bus]
        while k < len(self._above):
            chain.append(k)
            k = self._above[k]
        return chain[::-1]

    def upstream(self, values: Tensor) -> Tensor:
        """(C, R): each regulator gets the sum over those on its path, itself left out."""
        if self._dense is not None:
            return values @ self._dense.to(values.dtype)
        padded = torch.nn.functional.pad(values, (0, 1))
        total = torch.zeros_like(values)
        for rows in self._upstream:
            total += padded.index_select(-1, rows)
        return total

    def products(self, values: Tensor) -> Tensor:
        """(C, R) -> (C, R + 1): each regulator gets the product over those on its path, its own included; then 1.

        Products of few factors, so that a copy's ratios are the same bit for bit in any batch.
        """
        total = padded = torch.nn.functional.pad(values, (0, 1), value=1.0)
        for rows in self._upstream_or_none:
            total = total * padded.index_select(-1, rows)
        return total
