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


class Drawn(NamedTuple):
    """What the buses of C copies draw, referred as `U`: constant power, and constant impedance at low voltage."""

    power: Tensor  # (2, C, N)
    shunt: Tensor  # (2, C, N) P and Q of shunts at |U| = 1
    limit: Tensor  # (C, N) largest 1 / |U|^2 at which a load draws constant power

    @classmethod
    def of(cls, load: "Load", tau2: Tensor) -> "Drawn":
        """Of a load at taps."""
        copies, buses = tau2.shape
        return cls(load.power.expand(2, copies, buses), load.shunt * tau2, tau2 / LOW_VOLTAGE_PU**2)

    def select(self, keep: Tensor) -> "Drawn":
        """Of some copies."""
        power, shunt = (part.index_select(1, keep) for part in (self.power, self.shunt))
        return Drawn(power, shunt, self.limit.index_select(0, keep))

    def currents(self, u: Pair, out: Pair, work: Pair, weight: Tensor) -> None:
        """Write conj((P + jQ) / U) at each bus to `out`; `work` and `weight` (C, N) are overwritten."""
        u.squared(weight).reciprocal_()
        torch.minimum(weight, self.limit, out=weight)
        torch.addcmul(self.shunt, self.power, weight, out=work.both)  # P and Q at |U| = 1
        torch.mul(work.real, u.both, out=out.both)
        out.real.addcmul_(work.imag, u.imag)
        out.imag.addcmul_(work.imag, u.real, value=-1.0)


class Sweep:
    """The copies that still iterate, the constants of their solve, and the space they work in.

    Memory and views are made once: with few copies, calls that make them would take longer than the arithmetic.
    """

    def __init__(self, solver: "FlowSolver", load: "Load", tau2: Tensor, u: Tensor) -> None:
        """`u` (2, C, N) is where it starts; it is left as it is."""
        self._sums, self._slack = solver.sums, solver.slack
        self._hold(Drawn.of(load, tau2), solver.z / -tau2.index_select(1, solver.parent), u)

    def _hold(self, drawn: Drawn, z: Tensor, u: Tensor) -> None:
        self._drawn, self._z = drawn, Pair.of(z)
        self._u = self._before = Pair.of(u)
        self._next, self._after_next, self._work = (Pair.of(torch.empty_like(u)) for _ in range(3))
        self._slack_rise = self._work.both[..., 0]
        self._weight = torch.empty_like(drawn.limit)

    @property
    def u(self) -> Tensor:
        """(2, C, N) voltages after the last sweep."""
        return self._u.both

    def advance(self) -> None:
        """One sweep."""
        z, current, rise = self._z, self._next, self._work
        self._drawn.currents(self._u, out=rise, work=current, weight=self._weight)
        self._sums.downstream(rise.both, out=current.both)
        torch.mul(z.real, current.both, out=rise.both)
        rise.real.addcmul_(z.imag, current.imag, value=-1.0)
        rise.imag.addcmul_(z.imag, current.real)
        self._slack_rise.copy_(self._slack)  # the slack bus is the first of every path
        self._sums.path(rise.both, out=current.both)
        self._before, self._u = self._u, current
        self._next, self._after_next = self._after_next, current

    def change(self) -> Tensor:
        """Largest squared change of each copy in the last sweep, (C,)."""
        torch.sub(self._u.both, self._before.both, out=self._work.both)
        return self._work.squared(self._weight).amax(-1)

    def select(self, keep: Tensor) -> "Sweep":
        """The same solve for fewer copies."""
        other = object.__new__(Sweep)
        other._sums, other._slack = self._sums, self._slack
        other._hold(self._drawn.select(keep), self._z.both.index_select(1, keep), self.u.index_select(1, keep))
        return other
