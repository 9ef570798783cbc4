"""The sweeps of a batch of flows: the hot loop, in memory and views that are made once.

Data flow: `FlowSolver`, `Load` -> `Sweep`, which `Solving` advances; formulas in flow.py.
Dims: C copies, K blocks of n places (layout.py).
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from envs.power.layout import Layout

if TYPE_CHECKING:
    from envs.power.flow import FlowSolver

LOW_VOLTAGE_PU = 0.8  # below, injections turn into constant impedances (as in OpenDSS): the sweep keeps converging
STRETCH, MOST_STRETCH = 0.6, 0.2  # of the largest drop, in pu, and at most: `Sweep._lengths`


class Pair(NamedTuple):
    """A complex quantity (K, 2, n, C) with its views."""

    both: Tensor
    real: Tensor  # (K, 1, n, C)
    imag: Tensor  # (K, 1, n, C)

    @classmethod
    def of(cls, both: Tensor) -> "Pair":
        """With its views."""
        return cls(both, both.narrow(1, 0, 1), both.narrow(1, 1, 1))

    @classmethod
    def room(cls, count: int, like: Tensor) -> "list[Pair]":
        """Memory for so many, in few calls."""
        room = like.new_empty(count, *like.shape)
        views = (room, room.narrow(2, 0, 1), room.narrow(2, 1, 1))
        return [cls(*parts) for parts in zip(*(view.unbind(0) for view in views), strict=True)]

    @property
    def rows(self) -> Tensor:
        """(2 K n, C)."""
        return self.both.flatten(0, 2)

    def squared(self, out: Tensor) -> Tensor:
        """Write the squared magnitudes to `out`, (K, 1, n, C), and return it."""
        return torch.mul(self.real, self.real, out=out).addcmul_(self.imag, self.imag)


class Load(NamedTuple):
    """What the buses of C copies draw, P and Q in pu, consumption positive, in the solver's layout."""

    power: Tensor  # (K, 2, n, C) constant power
    shunt: Tensor  # (K, 2, n, C), or (K, 2, n, 1) for all: what it draws at 1 pu, conductance and minus susceptance


class Drawn(NamedTuple):
    """What the buses of C copies draw, referred as `U`: constant power, and constant impedance at low voltage.

    Shunts and limits are (..., 1) where all copies have the same taps and shunts, and so is what the sweep scales by.
    """

    power: Tensor  # (K, 2, n, C)
    shunt: Tensor  # (K, 2, n, C) P and Q of shunts at |U| = 1
    limit: Tensor  # (K, 1, n, C) largest 1 / |U|^2 at which a load draws constant power

    @classmethod
    def of(cls, load: Load, tau2: Tensor) -> "Drawn":
        """Of a load behind the ratios `tau2`, (K, 1, n, C), or (K, 1, n, 1) for all."""
        return cls(load.power, load.shunt * tau2, tau2 / LOW_VOLTAGE_PU**2)

    def select(self, keep: Tensor) -> "Drawn":
        """Of some copies."""
        return Drawn(*(of_copies(part, keep) for part in self))

    def currents(self, u: Pair, out: Pair, work: Pair, weight: Tensor) -> None:
        """Write conj((P + jQ) / U) at each bus to `out`; `work` and `weight` (K, 1, n, C) are overwritten."""
        u.squared(weight).reciprocal_()
        torch.minimum(weight, self.limit, out=weight)
        torch.addcmul(self.shunt, self.power, weight, out=work.both)  # P and Q at |U| = 1
        torch.mul(work.real, u.both, out=out.both)
        out.real.addcmul_(work.imag, u.imag)
        out.imag.addcmul_(work.imag, u.real, value=-1.0)


class Between:
    """What passes between the blocks of C copies: currents to the source, voltages from it."""

    def __init__(self, layout: Layout, like: Tensor, slack: Tensor) -> None:
        """`like`: a value (K, 2, n, C); `slack` (2, 1) the voltage of the source."""
        count, _, _, copies = like.shape
        self._sums, self._ports = layout.sums, layout.ports
        passed = like.new_empty(3, count, 2, copies)  # currents of each block, sums over blocks, what comes from ports
        self._own, self._total, self._at_port = passed.unbind(0)
        self._at_port[0] = slack  # where the first block hangs
        self._own_columns, self._total_columns, self._port_columns = passed.flatten(2).unbind(0)
        _, self._total_rows, self._port_rows = passed.flatten(1, 2)[:, 2:].unbind(0)
        self._above = self._total[:, :, None]

    def join(self, current: Tensor, rows: Tensor) -> None:
        """Add to each bus what the blocks that hang on it draw, in `current` (K, 2, n, C), whose rows are `rows`."""
        torch.sum(current, 2, out=self._own)
        self._sums.downstream(self._own_columns, out=self._total_columns)
        rows.index_add_(0, self._ports, self._total_rows)

    def above(self, rows: Tensor, scale: Tensor) -> Tensor:
        """(K, 2, 1, C): the voltage above each block, from the rises within all of them.

        Args:
            rows: (2 K n, C) of the rises within each block, before they are multiplied by the block's `scale`.
            scale: (K, 1, C) of the block that each block hangs on; 1 for the first.
        """
        torch.index_select(rows, 0, self._ports, out=self._port_rows)
        self._at_port.mul_(scale)
        self._sums.path(self._port_columns, out=self._total_columns)
        return self._above


class Sweep:
    """The copies that still iterate, the constants of their solve, and the space they work in.

    Its memory and views are made once: with few copies, calls that make them would take longer than the arithmetic.
    """

    _length: Tensor  # (2, 1, C) how far each copy goes along the changes of a sweep; 0 for those that stay

    def __init__(self, solver: "FlowSolver", load: Load, tau2: Tensor, u: Tensor) -> None:
        """`u` (K, 2, n, C) is where it starts; it is left as it is. `tau2` (C, R + 1), or (1, R + 1) for all."""
        self._solver = solver
        self._make_room(u)
        self._own_length: Tensor | None = None  # of copies that move, known from the first sweep on
        self.restart(load, tau2)

    def restart(self, load: Load, tau2: Tensor, moving: Tensor | None = None) -> None:
        """Go on with other loads or taps; `moving` (C,) is 1 for copies that do, 0 for those that stay; None: all.

        Lengths stay those of the first load.
        """
        solver = self._solver
        if self._own_length is not None:
            self._length = self._own_length.clone() if moving is None else self._own_length * moving
        self._hold(Drawn.of(load, solver.tau2_at_places(tau2)), solver.tau2_above(tau2).reciprocal_())

    def _hold(self, drawn: Drawn, scale: Tensor) -> None:
        self._drawn, self._scale = drawn, scale
        # 1 / |tau|^2 above each block (K, 1, 1, C), and above the one that it hangs on (K, 1, C)
        self._scale_above = scale[:, 0].index_select(0, self._solver.layout.block_above)

    def _make_room(self, u: Tensor) -> None:
        self._before, self._u = Pair.of(u), Pair.of(torch.empty_like(u))  # the latter outlives the solve
        self._current, self._work = Pair.room(2, u)
        self._weight = torch.empty_like(self._work.real)
        self._between = Between(self._solver.layout, u, self._solver.slack)
        self._current_rows, self._current_blocks = self._current.rows, self._current.both.flatten(1, 2)
        self._rise_rows, self._rise_blocks = self._work.rows, self._work.both.flatten(1, 2)

    @property
    def u(self) -> Tensor:
        """(K, 2, n, C) voltages after the last sweep; those of stopped copies after theirs."""
        return self._u.both

    def advance(self) -> None:
        """One sweep."""
        before, current, change = self._before, self._current, self._work
        self._drawn.currents(before, out=current, work=change, weight=self._weight)
        self._between.join(current.both, self._current_rows)
        torch.bmm(self._solver.layout.minus_z, self._current_blocks, out=self._rise_blocks)
        above = self._between.above(self._rise_rows, self._scale_above)
        torch.addcmul(above, self._scale, change.both, out=change.both)
        if self._own_length is None:
            self._own_length = self._lengths(change)
            self._length = self._own_length.clone()
        change.both.sub_(before.both)
        torch.addcmul(before.both, change.both, self._length, out=self._u.both)
        self._before = self._u

    def _lengths(self, u: Pair) -> Tensor:
        """(2, 1, C): 1 + k for real parts and 1 - k for imaginary ones, where k is a share of the drop in `u`.

        What a sweep changes, dU, makes the next one change Z conj(S / U^2) conj(dU), and that product of impedances and
        loads is about the drop of the voltages from the source, D pu: D dU is still to come of real parts, -D dU of
        imaginary ones. To go there at once leaves about two fifths of the error that a plain sweep leaves. Copies whose
        ends stand at low voltage, where loads draw constant impedance, go as far as the sweep does.
        """
        ends, source = u.rows.index_select(0, self._solver.layout.ends), self._solver.slack[0]
        low, high = ends.amin(0), ends.amax(0)
        drop = (source - low).clamp_(min=0.0).sub_((high - source).clamp_(min=0.0))
        k = drop.mul_(STRETCH).clamp_(-MOST_STRETCH, MOST_STRETCH).mul_(low > LOW_VOLTAGE_PU)
        return torch.stack([1.0 + k, 1.0 - k])[:, None]

    def unstretch(self) -> None:
        """Let copies that move go as far as the sweep does, until a restart."""
        self._length = (self._length != 0.0).to(self._length)

    def stop(self, copies: Tensor) -> None:
        """Leave copies where they are, (C,) bool."""
        self._length.masked_fill_(copies, 0.0)

    def take(self, copies: Tensor, other: "Sweep") -> None:
        """Voltages of copies (c,) from a solve of these alone."""
        rows = self._u.rows
        rows.scatter_(1, copies.expand(len(rows), -1), other._u.rows)

    def change(self) -> Tensor:
        """Largest squared change by the last sweep, unstretched and also where a copy stays, (C,); right after it."""
        return self._work.squared(self._weight).flatten(0, 2).amax(0)

    def select(self, keep: Tensor) -> "Sweep":
        """The same solve for fewer copies."""
        other = object.__new__(Sweep)
        other._solver = self._solver
        other._make_room(of_copies(self.u, keep))
        other._hold(self._drawn.select(keep), of_copies(self._scale, keep))
        other._own_length = other._length = of_copies(self._length, keep)  # the part is not restarted
        return other


def of_copies(values: Tensor, copies: Tensor) -> Tensor:
    """(..., C) -> (..., c): as a matrix, which is several times as fast as along the last of more dimensions.

    What all copies share, (..., 1), stays as it is; `copies` is not empty.
    """
    if values.shape[-1] == 1:
        return values
    rows = values.flatten(0, -2).index_select(1, copies)
    return rows.view(*values.shape[:-1], len(copies))
