"""Solving a batch of flows: copies stop one by one, and go on from where they are when taps or loads change.

Data flow: `FlowSolver`, `Load`, taps -> `Solving` (calls `Sweep`) -> `FlowState`.
Dims: C copies, R regulators, K blocks of n places (layout.py).
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from envs.power.countdown import Countdown
from envs.power.sweep import Load, Sweep

if TYPE_CHECKING:
    from envs.power.flow import FlowSolver

LEAST_SWEEPS, MAX_SWEEPS = 3, 60  # hardly any copy is done earlier, so that none is asked then
STRETCHED_SWEEPS = 8  # whoever takes longer may be one that stretching does not suit
COMPACT_BELOW = 0.5  # drop finished copies from the work arrays when fewer than this share still run,
COMPACT_FROM = 200_000  # and it saves sweeping so many voltage parts or more, as sweeps of few cost their calls,
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
            tau2: (C, R + 1) from `FlowSolver.tau_squared`, or a row for all copies.
            tolerance_pu: largest |dU| by the last sweep, before it is stretched.
            u_init: (K, 2, n, C) start; default `FlowSolver.likely_start`.
        """
        start = solver.likely_start(load) if u_init is None else u_init
        self._load, self._tolerance = load, tolerance_pu**2
        copies = load.power.shape[-1]
        self._work, self._countdown = Sweep(solver, load, tau2, start), Countdown(copies, behind=solver.behind)
        sweeps = _run(self._work, tau2.new_full((copies,), self._tolerance), self._countdown)
        self.flow = FlowState(u=self._work.u, tau2=tau2, converged=sweeps > 0, sweeps=sweeps.abs_())

    def again(self, asked: Tensor, tau2: Tensor, load: Load | None = None) -> bool:
        """Solve some copies once more, from where they are, with other taps or another load; the others stay.

        The voltages of the former `flow` are written over.

        Args:
            asked: (C,) bool: which.
            tau2: (C, R + 1) of all copies, of which the others' are as before.
            load: of all copies, likewise; default the same.

        Returns:
            Whether any was asked.
        """
        flow, work, countdown = self.flow, self._work, self._countdown
        load = self._load if load is None else load
        countdown.start(len(asked))
        countdown.post(~asked)
        if countdown.learn() == 0:
            return False
        all_asked = countdown.left == len(asked) and not countdown.behind
        work.restart(load, tau2, None if all_asked else asked.to(tau2))
        if countdown.learn() == 0:  # a device that runs behind has told it by now
            return False
        sweeps = _run(work, tau2.new_full((len(asked),), -1.0).masked_fill_(asked, self._tolerance), countdown)
        self._load = load
        self.flow = FlowState(
            u=work.u,
            tau2=tau2,
            converged=torch.where(asked, sweeps > 0, flow.converged),
            sweeps=flow.sweeps + sweeps.abs(),
        )
        return True


def _run_left(work: Sweep, tolerance: Tensor, sweeps: Tensor, countdown: Countdown, swept: int) -> Tensor:
    """Gather those that are left and go on with them alone; arguments as of `_run`, and its result so far."""
    asked, left = tolerance >= 0, countdown.left
    keep = asked.byte().argsort(descending=True, stable=True)[:left]  # and others, where fewer are left by now
    part, own_tolerance = work.select(keep), tolerance.index_select(0, keep)
    countdown.start(left)
    if countdown.behind:
        countdown.post(own_tolerance < 0)
    own = _run(part, own_tolerance, countdown, swept)
    work.take(keep, part)
    own = torch.where(asked.index_select(0, keep), own, sweeps.index_select(0, keep))
    return sweeps.index_copy_(0, keep, own)


def _run(work: Sweep, tolerance: Tensor, countdown: Countdown, swept: int = 0) -> Tensor:
    """Sweep until every copy has converged or 60 sweeps are over, and return the sweeps of each (c,).

    A copy stops at its own last sweep, so that its result does not depend on the others. The number is negative where
    it has not converged, 0 where it was not asked.

    Args:
        work: to sweep.
        tolerance: (c,) what the square of a copy's change must fall below, -1 for those that are not asked, or not any
            more; it is overwritten.
        countdown: of those that are asked, as far as the host knows; it has begun.
        swept: how often the copies have been swept before.
    """
    sweeps = torch.zeros_like(tolerance, dtype=torch.int64)
    left, parts = countdown.left, work.u.shape[:-1].numel()
    for sweep in range(swept + 1, MAX_SWEEPS + 1):
        saved = (len(sweeps) - left) * parts * max(LEAST_SWEEPS + 1 - sweep, 1)  # at least
        if left < COMPACT_BELOW * len(sweeps) and (saved >= COMPACT_FROM or sweep > LATE_SWEEPS):
            return _run_left(work, tolerance, sweeps, countdown, sweep - 1)
        if sweep == STRETCHED_SWEEPS + 1:
            work.unstretch()
        work.advance()
        if sweep < LEAST_SWEEPS:
            continue
        finished = work.change() < tolerance
        countdown.post(finished)
        before, left = left, countdown.learn()
        if left < before or countdown.behind:
            sweeps.masked_fill_(finished, sweep)
            if left == 0:
                return sweeps
            tolerance.masked_fill_(finished, -1.0)
            work.stop(finished)
    return sweeps.masked_fill_(tolerance >= 0, -MAX_SWEEPS)
