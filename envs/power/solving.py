"""Solving a batch of flows: copies stop one by one, and go on from where they are when taps or loads change.

Data flow: `FlowSolver`, `Load`, taps -> `Solving` (calls `Sweep`) -> `FlowState`.
Dims: C copies, R regulators, K blocks of n places (layout.py).
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from envs.power.sweep import Load, Sweep, of_copies

if TYPE_CHECKING:
    from envs.power.flow import FlowSolver

LEAST_SWEEPS, MAX_SWEEPS = 3, 60  # hardly any copy is done earlier, so that none is asked then
COMPACT_BELOW = 0.5  # drop finished copies from the work arrays when fewer than this share still run,
COMPACT_FROM = 256  # and so many or more can be dropped, as sweeps of a few copies cost their calls,
LATE_SWEEPS = 10  # or those that are left take long


class FlowState(NamedTuple):
    """Raw solution: what the env carries from hour to hour."""

    u: Tensor  # (K, 2, n, C) voltage divided by the ratios on its path, in the solver's layout
    tau2: Tensor
    """(C, R + 1) |product of the regulators' ratios|^2 on the path to and behind each; the last is 1. One row: all."""
    converged: Tensor  # (C,) bool
    sweeps: Tensor  # (C,) int64


class Solving:
    """A batch of flows; `flow` is the solution so far."""

    def __init__(
        self, solver: "FlowSolver", load: Load, tau2: Tensor, tolerance_pu: float, u_init: Tensor | None = None
    ) -> None:
        """Sweep until every copy has converged or 60 sweeps are over.

        Args:
            solver: of the network.
            load: of C copies.
            tau2: (C, R + 1) from `FlowSolver.tau_squared`, or a row for all copies, which `again` does not take; it
                changes the rows in place, and the voltages in `flow`.
            tolerance_pu: largest |dU| of the last sweep.
            u_init: (K, 2, n, C) start; default `FlowSolver.likely_start`.
        """
        start = solver.likely_start(load) if u_init is None else u_init
        self._solver, self._load, self._tolerance = solver, load, tolerance_pu**2
        self._work = Sweep(solver, load, tau2, start)
        copies = load.power.shape[-1]
        sweeps = _run(self._work, tau2.new_full((copies,), self._tolerance), copies)
        self.flow = FlowState(u=self._work.u, tau2=tau2, converged=sweeps > 0, sweeps=sweeps.abs_())

    def again(self, copies: Tensor, tau2: Tensor, load: Load | None = None) -> None:
        """Solve some copies (c,) once more, from where they are, with other taps, or with another load.

        Args:
            copies: (c,) positions, at least one.
            tau2: (c, R + 1) of these.
            load: of all copies, of which the others are as before; default the same.
        """
        flow, work, self._load = self.flow, self._work, self._load if load is None else load
        assert len(flow.tau2) == len(flow.converged), "taps of each copy are needed to move some"
        flow.tau2.index_copy_(0, copies, tau2)
        if len(copies) > COMPACT_BELOW * len(flow.tau2):  # in the memory of all, which the others sit out
            tolerance = torch.full_like(flow.tau2[:, 0], -1.0).index_fill_(0, copies, self._tolerance)
            moving = None if len(copies) == len(tolerance) else (tolerance >= 0).to(tolerance)
            work.restart(self._load, flow.tau2, moving)
            sweeps = _run(work, tolerance, len(copies)).index_select(0, copies)
        else:
            part = Sweep(self._solver, self._load.of(copies), tau2, of_copies(work.u, copies))
            sweeps = _run(part, torch.full_like(tau2[:, 0], self._tolerance), len(copies))
            work.take(copies, part)
        flow.converged.index_copy_(0, copies, sweeps > 0)
        flow.sweeps.index_add_(0, copies, sweeps.abs_())
        self.flow = flow._replace(u=work.u)


def _run(work: Sweep, tolerance: Tensor, left: int, swept: int = 0) -> Tensor:
    """Sweep until every copy has converged or 60 sweeps are over, and return the sweeps of each (c,).

    A copy stops at its own last sweep, so that its result does not depend on the others. The number is negative where
    it has not converged, 0 where it was not asked.

    Args:
        work: to sweep.
        tolerance: (c,) what the square of a copy's change must fall below, -1 for those that are not asked, or not any
            more; it is overwritten.
        left: how many are asked.
        swept: how often the copies have been swept before.
    """
    sweeps = torch.zeros_like(tolerance, dtype=torch.int64)
    for sweep in range(swept + 1, MAX_SWEEPS + 1):
        work.advance()
        if sweep < LEAST_SWEEPS:
            continue
        finished = (work.change() < tolerance).nonzero().view(-1)
        if len(finished):
            sweeps.index_fill_(0, finished, sweep)
            left -= len(finished)
            if left == 0:
                return sweeps
            tolerance.index_fill_(0, finished, -1.0)
            work.stop(finished)
        many = len(sweeps) - left >= COMPACT_FROM or sweep >= LATE_SWEEPS
        if left < COMPACT_BELOW * len(sweeps) and many:
            keep = (tolerance >= 0).nonzero().view(-1)
            part = work.select(keep)
            sweeps.index_copy_(0, keep, _run(part, tolerance.index_select(0, keep), left, sweep))
            work.take(keep, part)
            return sweeps
    return torch.where(tolerance >= 0, -MAX_SWEEPS, sweeps)
