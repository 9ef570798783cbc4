"""The sweeps of a batch of flows: the hot loop, in memory and views that are made once.

Data flow: `FlowSolver`, `Load` -> `Sweep`, which `FlowSolver.solve` advances; formulas in flow.py.
Dims: C copies, N buses.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from envs.power.flow import FlowSolver, Load

LOW_VOLTAGE_PU = 0.8  # below, injections turn into constant impedances (as in OpenDSS): the sweep keeps converging


class Pair(NamedTuple):
    """A complex quantity (2, C, N) with its views."""

    both: Tensor
    real: Tensor  # (C, N)
    imag: Tensor  # (C, N)

    @classmethod
    def of(cls, both: Tensor) -> "Pair":
        """With its views."""
        return cls(both, *both.unbind(0))

    def squared(self, out: Tensor) -> Tensor:
        """Write the squared magnitudes to `out`, (C, N), and return it."""
        return torch.mul(self.real, self.real, out=out).addcmul_(self.imag, self.imag)


class Sweep:
    """The copies that still iterate, the constants of their solve, and the space they work in.

    Memory and views are made once: with few copies, calls that make them would take longer than the arithmetic.
    """

    def __init__(self, solver: "FlowSolver", load: "Load", tau2: Tensor, u: Tensor) -> None:
        """`u` (2, C, N) is where it starts; it is left as it is."""
        z = solver.z / -tau2.index_select(1, solver.parent)
        self._sums, self._slack = solver.sums, solver.slack
        limit = tau2 / LOW_VOLTAGE_PU**2  # (C, N) largest 1 / |U|^2 at which a load draws constant power
        self._hold(load.power.expand_as(u), load.shunt * tau2, z, limit, u)

    def _hold(self, power: Tensor, shunt: Tensor, z: Tensor, limit: Tensor, u: Tensor) -> None:
        self._power, self._shunt, self._z, self._limit = power, shunt, Pair.of(z), limit
        self._u = Pair.of(u)
        self._next, self._after_next, self._work = (Pair.of(torch.empty_like(u)) for _ in range(3))
        self._slack_rise = self._work.both[..., 0]
        self._weight = torch.empty_like(limit)

    @property
    def u(self) -> Tensor:
        """(2, C, N) voltages after the last sweep."""
        return self._u.both

    def advance(self) -> Tensor:
        """One sweep; returns the largest squared change of each copy, (C,)."""
        u, z, rise, after = self._u, self._z, self._work, self._next
        current = self.currents()
        torch.mul(z.real, current.both, out=rise.both)
        rise.real.addcmul_(z.imag, current.imag, value=-1.0)
        rise.imag.addcmul_(z.imag, current.real)
        self._slack_rise.copy_(self._slack)  # the slack bus is the first of every path
        self._sums.path(rise.both, out=after.both)
        change = rise
        torch.sub(after.both, u.both, out=change.both)
        self._u, self._next, self._after_next = after, self._after_next, after
        return change.squared(self._weight).amax(-1)

    def currents(self) -> Pair:
        """J above each bus; overwritten by the next call."""
        u, weight, drawn, current = self._u, self._weight, self._next, self._work
        u.squared(weight).reciprocal_()
        torch.minimum(weight, self._limit, out=weight)
        torch.addcmul(self._shunt, self._power, weight, out=drawn.both)  # P and Q at |U| = 1
        torch.mul(drawn.real, u.both, out=current.both)
        current.real.addcmul_(drawn.imag, u.imag)
        current.imag.addcmul_(drawn.imag, u.real, value=-1.0)
        self._sums.downstream(current.both, out=drawn.both)
        return drawn

    def select(self, keep: Tensor) -> "Sweep":
        """The same solve for fewer copies."""
        other = object.__new__(Sweep)
        other._sums, other._slack = self._sums, self._slack
        power, shunt, z, u = (part.index_select(1, keep) for part in (self._power, self._shunt, self._z.both, self.u))
        other._hold(power, shunt, z, self._limit.index_select(0, keep), u)
        return other
