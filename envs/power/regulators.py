"""Automatic voltage regulators: settle the taps of every copy around the power flow.

Data flow: injections and last taps -> `TapSettler` (calls `Solving`) -> taps and flow that belong together.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from envs.power.flow import FlowSolver
from envs.power.network import Network
from envs.power.solving import FlowState, Solving
from envs.power.sweep import Load

MAX_ROUNDS = 10


class Settled(NamedTuple):
    """Taps and the power flow solved at exactly these taps."""

    tap: Tensor  # (C, R)
    flow: FlowState
    rounds: Tensor  # (C,) int64 power flows solved


class TapSettler:
    """The regulators of one network, on the solver's device and dtype."""

    def __init__(self, net: Network, solver: FlowSolver) -> None:
        self._solver = solver
        regulators = net.regulators
        like = solver.rating_pu

        def column(name: str) -> Tensor:
            values = [float(getattr(regulator, name)) for regulator in regulators]
            return torch.tensor(values, dtype=torch.float64).to(like)

        self._paths = solver.tap_paths
        self._target, self._half_band = column("target_pu"), column("half_band_pu")
        self._step, self._tap_min, self._tap_max = column("step_pu"), column("tap_min"), column("tap_max")

    @property
    def target_pu(self) -> Tensor:
        """(1, R) voltages that the regulators hold."""
        return self._target[None]

    def moved(self, tap: Tensor, v_pu: Tensor, target_pu: Tensor | None = None) -> Tensor:
        """New taps after one round.

        From head to leaf, error e = target - |V| - step * (moves of this round upstream); beyond half the
        deadband the tap moves by round(e / step), clipped to its range.

        Args:
            tap: (C, R) present taps.
            v_pu: (C, R) voltage magnitudes at the regulated buses.
            target_pu: (C, R) or (1, R) to hold; default the network's.
        """
        error = (self.target_pu if target_pu is None else target_pu) - v_pu
        reached = self._reached(tap, error)
        for _ in range(self._paths.depth - 1):  # each pass settles the regulators one level further from the head
            reached = self._reached(tap, error - self._paths.upstream((reached - tap) * self._step))
        return reached

    def _reached(self, tap: Tensor, error: Tensor) -> Tensor:
        wish = torch.round(error / self._step).mul_(error.abs() > self._half_band)
        return wish.add_(tap).clamp_(self._tap_min, self._tap_max)

    def settle(
        self,
        load: Load,
        tap: Tensor,
        tolerance_pu: float,
        start: FlowState | None = None,
        target_pu: Tensor | None = None,
        frozen: Tensor | None = None,
    ) -> Settled:
        """Repeat {solve, move taps} until nothing moves; only copies whose taps moved are solved again.

        A copy whose flow fails keeps the taps it failed with. After 10 rounds the last solved taps stand.

        Args:
            load: of C copies.
            tap: (C, R) start, such as the previous hour's taps.
            tolerance_pu: of the power flow.
            start: a solution at these taps, with a row of ratios for each copy, where the power flow starts; default
                as a `Solving`.
            target_pu: (C, R) to hold in each copy; default the network's.
            frozen: (C, R) bool: regulators that keep their taps, such as those without voltage; default none.
        """
        solver = self._solver
        tau2 = solver.tau_squared(tap) if start is None else start.tau2
        solving = Solving(solver, load, tau2, tolerance_pu, None if start is None else start.u)
        rounds = torch.ones_like(solving.flow.sweeps)
        for _ in range(MAX_ROUNDS - 1):
            moves = solving.flow.converged[:, None]
            if frozen is not None:
                moves = moves & ~frozen
            new = torch.where(moves, self.moved(tap, solver.regulated_v_pu(solving.flow), target_pu), tap)
            changed = (new != tap).any(-1)
            if not solving.again(changed, solver.tau_squared(new)):
                break
            tap = new
            rounds += changed
        return Settled(tap, solving.flow, rounds)
