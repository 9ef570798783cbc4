"""Automatic voltage regulators: settle the taps of every copy around the power flow.

Data flow: injections and last taps -> `TapSettler` (calls `FlowSolver`) -> taps and flow that belong together.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from envs.power.flow import FlowSolver, FlowState, Load
from envs.power.network import Network

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
        bus = torch.tensor([regulator.bus for regulator in regulators], dtype=torch.int64)
        between = net.below(bus)[:, bus].to(torch.float64)  # [i, k]: regulator i lies on the path to regulator k
        between.fill_diagonal_(0.0)
        depth = between.sum(0)
        like = solver.rating_pu

        def column(name: str) -> Tensor:
            values = [float(getattr(regulator, name)) for regulator in regulators]
            return torch.tensor(values, dtype=torch.float64).to(like)

        self._bus = bus.to(like.device)
        self._levels = [torch.nonzero(depth == level).flatten().to(like.device) for level in depth.unique()]
        self._upstream = between.to(like)
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
        target_pu = self.target_pu if target_pu is None else target_pu
        moves = torch.zeros_like(tap)
        for level in self._levels:
            upstream = (moves * self._step) @ self._upstream[:, level]
            error = target_pu[:, level] - v_pu[:, level] - upstream
            wish = torch.where(error.abs() > self._half_band[level], torch.round(error / self._step[level]), 0.0)
            reached = torch.clamp(tap[:, level] + wish, self._tap_min[level], self._tap_max[level])
            moves[:, level] = reached - tap[:, level]
        return tap + moves

    def settle(
        self,
        load: Load,
        tap: Tensor,
        tolerance_pu: float,
        u_init: Tensor | None = None,
        target_pu: Tensor | None = None,
        frozen: Tensor | None = None,
    ) -> Settled:
        """Repeat {solve, move taps} until nothing moves; only copies whose taps moved are solved again.

        A copy whose flow fails keeps the taps it failed with. After 10 rounds the last solved taps stand.

        Args:
            load: of C copies.
            tap: (C, R) start, such as the previous hour's taps.
            tolerance_pu: of the power flow.
            u_init: (2, C, N) start of the power flow; default no load.
            target_pu: (C, R) to hold in each copy; default the network's.
            frozen: (C, R) bool: regulators that keep their taps, such as those without voltage; default none.
        """
        solver = self._solver
        target_pu = self.target_pu.expand_as(tap) if target_pu is None else target_pu
        flow = solver.solve(load, solver.tau_squared(tap), tolerance_pu, u_init)
        rounds = torch.ones_like(flow.sweeps)
        rows = torch.arange(len(tap), device=tap.device)
        part, taps = flow, tap
        for _ in range(MAX_ROUNDS - 1):
            old = taps[rows]
            v_pu = solver.v_squared(part)[:, self._bus].sqrt()
            new = torch.where(part.converged[:, None], self.moved(old, v_pu, target_pu[rows]), old)
            if frozen is not None:
                new = torch.where(frozen[rows], old, new)
            changed = (new != old).any(-1)
            rows, new = rows[changed], new[changed]
            if len(rows) == 0:
                break
            part = solver.solve(load.of(rows), solver.tau_squared(new), tolerance_pu, part.u[:, changed])
            taps = taps.index_copy(0, rows, new)
            flow = FlowState(
                flow.u.index_copy(1, rows, part.u),
                flow.tau2.index_copy(0, rows, part.tau2),
                flow.converged.index_copy(0, rows, part.converged),
                flow.sweeps.index_add(0, rows, part.sweeps),
            )
            rounds[rows] += 1
        return Settled(taps, flow, rounds)
