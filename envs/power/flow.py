r"""Batched radial power flow: B operating points of one network at once.

Data flow: `Network`, injections, taps -> `FlowSolver` -> `FlowState` -> regulators, billing, safety. With tau_j the
product of the ratios on the path to bus j, U = V / tau and J = I conj(tau), the tap positions leave the tree and
every copy may have its own:

    J = downstream_sum(conj(S / U) + y |tau|^2 U),    U <- V_0 - path_sum(z / |tau_parent|^2 J)

S is consumption here, the API's injections are generation positive. Complex numbers are stored as a leading axis of
two (real, imaginary), because the hot loop is a real matrix product.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from envs.power.network import BASE_MVA, Network
from envs.power.sweep import Drawn, Pair, Sweep
from envs.power.tap_paths import TapPaths
from envs.power.tree_sums import tree_sums

LEAST_SWEEPS, MAX_SWEEPS = 2, 60  # hardly any copy is done after one, so that none is asked then
COMPACT_BELOW = 0.7  # drop finished copies from the work arrays when fewer than this share still run
DEFAULT_TOLERANCE_PU = {torch.float64: 1e-10, torch.float32: 1e-6}


class FlowState(NamedTuple):
    """Raw solution: what the env carries from hour to hour. C copies."""

    u: Tensor  # (2, C, N) voltage divided by the ratios on its path
    tau2: Tensor  # (C, N) |product of the ratios on the path|^2
    converged: Tensor  # (C,) bool
    sweeps: Tensor  # (C,) int64


class Load(NamedTuple):
    """What the buses of C copies draw, P and Q in pu, consumption positive. A single row is for all copies."""

    power: Tensor  # (2, C, N) constant power
    shunt: Tensor  # (2, C, N) constant impedance: what it draws at 1 pu, conductance and minus susceptance

    def of(self, rows: Tensor) -> "Load":
        """Of some copies."""
        return Load(*(part if part.shape[1] == 1 else part.index_select(1, rows) for part in self))


class PowerFlow(NamedTuple):
    """Solution of `solve_power_flow`. L lines and X transformers in the order of `net.branch_names`."""

    v_pu: Tensor  # (B, N) complex
    converged: Tensor  # (B,) bool
    iterations: Tensor  # (B,) sweeps used
    line_loading: Tensor  # (B, L) series current at the parent side / ampacity
    trafo_loading: Tensor  # (B, X) current at the parent side / rated current at nominal voltage
    source_p_mw: Tensor  # (B,) power from the slack bus into the network
    source_q_mvar: Tensor  # (B,)
    losses_mw: Tensor  # (B,) series and shunt losses


def solve_power_flow(
    net: Network,
    p_mw: Tensor,
    q_mvar: Tensor,
    tap: Tensor | None = None,
    *,
    tolerance_pu: float | None = None,
    v_init: Tensor | None = None,
) -> PowerFlow:
    """Solve B operating points; dtype and device are those of `p_mw`.

    Args:
        net: the network, N buses and R regulators.
        p_mw: (B, N) real injections, generation positive. Here and below one row, (N,) or (1, N), is for all copies.
        q_mvar: like `p_mw`, reactive.
        tap: (B, R) tap positions of `net.regulators`; None: neutral.
        tolerance_pu: largest change of a voltage in the last sweep; default 1e-10 in float64, 1e-6 in float32.
        v_init: (B, N) complex start, such as an earlier solution; default: no load.

    Returns:
        A `PowerFlow`. A copy that does not converge in 60 sweeps has `converged` False; nothing is raised.

    Raises:
        ValueError: wrong shapes or dtypes, or a tolerance that is not positive.
    """
    p_mw, q_mvar, tap, v_init = _checked_points(net, p_mw, q_mvar, tap, v_init)
    tolerance_pu = DEFAULT_TOLERANCE_PU[p_mw.dtype] if tolerance_pu is None else tolerance_pu
    if not tolerance_pu > 0:
        raise ValueError(f"tolerance_pu must be positive, got {tolerance_pu}")
    solver = _solver(net, p_mw.device, p_mw.dtype)
    tau2 = solver.tau_squared(tap)
    u_init = None if v_init is None else solver.referred(v_init, tau2)
    load = solver.load(-p_mw / BASE_MVA, -q_mvar / BASE_MVA)
    state = solver.solve(load, tau2, tolerance_pu, u_init)
    currents = solver.currents(state, load)
    loading = currents.i_squared_pu.sqrt() / solver.rating_pu
    source_p, source_q = currents.power(slice(0, 1))
    return PowerFlow(
        v_pu=solver.voltage(state),
        converged=state.converged,
        iterations=state.sweeps,
        line_loading=loading[:, solver.line_columns],
        trafo_loading=loading[:, solver.trafo_columns],
        source_p_mw=source_p[:, 0] * BASE_MVA,
        source_q_mvar=source_q[:, 0] * BASE_MVA,
        losses_mw=solver.losses(state, currents, load) * BASE_MVA,
    )


def _checked_points(
    net: Network, p_mw: Tensor, q_mvar: Tensor, tap: Tensor | None, v_init: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The inputs of `solve_power_flow`, each with a row for every copy."""
    if p_mw.dtype not in DEFAULT_TOLERANCE_PU:
        raise ValueError(f"p_mw must be float32 or float64, got {p_mw.dtype}")
    if q_mvar.dtype != p_mw.dtype:
        raise ValueError(f"q_mvar must have the dtype of p_mw, {p_mw.dtype}, got {q_mvar.dtype}")
    buses, regulators = net.num_buses, len(net.regulators)
    tap = p_mw.new_zeros(1, regulators) if tap is None else tap.to(p_mw)
    given = {"p_mw": (p_mw, buses), "q_mvar": (q_mvar, buses), "tap": (tap, regulators)}
    if v_init is not None:
        given["v_init"] = (v_init, buses)
    rows = {name: torch.atleast_2d(value) for name, (value, _) in given.items()}
    copies = max(len(value) for value in rows.values())
    for name, value in rows.items():
        width = given[name][1]
        if value.shape not in ((copies, width), (1, width)):
            raise ValueError(f"{name} must have shape ({copies}, {width}), got {tuple(value.shape)}")
    full = {name: value.expand(copies, -1) for name, value in rows.items()}
    return full["p_mw"], full["q_mvar"], full["tap"], full.get("v_init")


@lru_cache(maxsize=8)
def _solver(net: Network, device: torch.device, dtype: torch.dtype) -> "FlowSolver":
    return FlowSolver(net, device, dtype)


@dataclass(frozen=True)
class Currents:
    """What a solution implies for the branches."""

    u: Tensor  # (2, C, N) referred voltages
    j: Tensor  # (2, C, N) referred series current above each bus; at the slack bus the whole injection
    i_squared_pu: Tensor  # (C, N) |series current|^2 at the parent side of each branch; 0 at the slack bus
    parent: Tensor  # (N,)

    def power(self, columns: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Real and reactive power into the branches above some buses, at their parent buses, (C, n) pu each.

        The slack bus (column 0) stands for the source.
        """
        parents = self.parent[columns]
        u = self.u.index_select(2, parents)
        j = self.j.index_select(2, columns) if isinstance(columns, Tensor) else self.j[:, :, columns]
        return u[0] * j[0] + u[1] * j[1], u[1] * j[0] - u[0] * j[1]


class FlowSolver:
    """The constants of one network on one device and dtype, and the sweeps over them."""

    def __init__(self, net: Network, device: torch.device, dtype: torch.dtype) -> None:
        def real(values: Tensor) -> Tensor:
            return values.to(device, dtype)

        self.dtype = dtype
        self.parent = net.parent.to(device)
        self.rating_pu = real(net.rating_pu)
        self.line_columns = torch.nonzero(~net.is_trafo).flatten()[1:].to(device)  # [0] is the slack bus
        self.trafo_columns = torch.nonzero(net.is_trafo).flatten().to(device)
        fixed_tau = torch.exp(net.path_sums(torch.log(net.ratio)))
        self._fixed_tau2 = real(fixed_tau.abs().square())
        self._rotation = torch.polar(torch.ones_like(fixed_tau.real), fixed_tau.angle()).to(
            device, torch.complex128 if dtype == torch.float64 else torch.complex64
        )
        self.tap_paths = TapPaths(net, device)
        self._step_pu = real(torch.tensor([regulator.step_pu for regulator in net.regulators], dtype=torch.float64))
        self.z = real(torch.stack([net.z_pu.real, net.z_pu.imag]))[:, None]  # (2, 1, N)
        self.shunt = real(torch.stack([net.y_pu.real, -net.y_pu.imag]))[:, None]  # (2, 1, N)
        slack_v_pu = torch.tensor(complex(net.slack_v_pu), dtype=torch.complex128)
        self.slack = real(torch.view_as_real(slack_v_pu)).view(2, 1)
        self.sums = tree_sums(net.subtree_end, device, dtype)

    def load(self, p: Tensor, q: Tensor) -> Load:
        """Powers (C, N) in pu with the network's own shunts."""
        return Load(torch.stack([p, q]), self.shunt)

    def tau_squared(self, tap: Tensor) -> Tensor:
        """(C, R) tap positions -> (C, N) squared product of all ratios on the path to each bus."""
        log_ratio = torch.log1p(self._step_pu * tap)
        tau2 = torch.exp(2 * (log_ratio + self.tap_paths.upstream(log_ratio)))  # (C, R)
        return self.tap_paths.spread(tau2, otherwise=1.0).mul_(self._fixed_tau2)

    def flat_start(self, copies: int) -> Tensor:
        """(2, C, N) voltages at no load."""
        return self.slack[..., None].expand(2, copies, len(self.parent)).contiguous()

    def referred(self, v_pu: Tensor, tau2: Tensor) -> Tensor:
        """(C, N) complex voltages -> (2, C, N)."""
        u = v_pu / (self._rotation * tau2.sqrt())
        return torch.stack([u.real, u.imag]).to(self.dtype)

    def voltage(self, state: FlowState) -> Tensor:
        """(C, N) complex voltages."""
        return torch.complex(state.u[0], state.u[1]) * state.tau2.sqrt() * self._rotation

    def v_squared(self, state: FlowState, buses: Tensor | slice = slice(None)) -> Tensor:
        """(C, n) squared voltage magnitudes of some buses, or of all."""
        if isinstance(buses, Tensor):
            u, tau2 = state.u.index_select(2, buses), state.tau2.index_select(1, buses)
        else:
            u, tau2 = state.u[:, :, buses], state.tau2[:, buses]
        return torch.addcmul(u[0] * u[0], u[1], u[1]).mul_(tau2)

    def solve(self, load: Load, tau2: Tensor, tolerance_pu: float, u_init: Tensor | None = None) -> FlowState:
        """Sweep until every copy has converged or 60 sweeps are over.

        Args:
            load: of C copies.
            tau2: (C, N) from `tau_squared`.
            tolerance_pu: largest |dU| of the last sweep.
            u_init: (2, C, N) start; default no load.
        """
        copies, device = len(tau2), tau2.device
        start = self.flat_start(copies) if u_init is None else u_init
        flow = FlowState(
            u=torch.empty_like(start),
            tau2=tau2,
            converged=torch.zeros(copies, dtype=torch.bool, device=device),
            sweeps=torch.zeros(copies, dtype=torch.int64, device=device),
        )
        self._sweep(flow, torch.arange(copies, device=device), Sweep(self, load, tau2, start), tolerance_pu)
        return flow

    def solve_again(self, flow: FlowState, rows: Tensor, load: Load, tau2: Tensor, tolerance_pu: float) -> None:
        """Solve copies `rows` of `flow` once more in place, from where they are, with other taps or loads.

        `load` and `tau2` hold these copies only; their sweeps add up.
        """
        work = Sweep(self, load, tau2, flow.u.index_select(1, rows))
        flow.tau2.index_copy_(0, rows, tau2)
        flow.converged.index_fill_(0, rows, False)
        self._sweep(flow, rows, work, tolerance_pu)

    def _sweep(self, flow: FlowState, rows: Tensor, work: Sweep, tolerance_pu: float) -> None:
        """Sweep `work`, the copies `rows` of `flow`; each is written there when it finishes.

        A copy stops at its own last sweep, so that its result does not depend on the others.
        """
        running, left = torch.ones_like(rows, dtype=torch.bool), len(rows)
        for sweep in range(1, MAX_SWEEPS + 1):
            work.advance()
            if sweep < LEAST_SWEEPS:
                continue
            done = work.change() < tolerance_pu**2
            (finished,) = (done & running).nonzero(as_tuple=True)
            if len(finished) == 0:
                continue
            places = self._write(flow, rows, work, finished, sweep)
            flow.converged.index_fill_(0, places, True)
            left -= len(finished)
            if left == 0:
                return
            running &= ~done
            if left < COMPACT_BELOW * len(rows):
                (keep,) = running.nonzero(as_tuple=True)
                work, rows, running = (
                    work.select(keep),
                    rows.index_select(0, keep),
                    torch.ones_like(keep, dtype=torch.bool),
                )
        self._write(flow, rows, work, running.nonzero(as_tuple=True)[0], MAX_SWEEPS)

    @staticmethod
    def _write(flow: FlowState, rows: Tensor, work: Sweep, which: Tensor, sweeps: int) -> Tensor:
        places = rows.index_select(0, which)
        flow.u.index_copy_(1, places, work.u.index_select(1, which))
        flow.sweeps.index_add_(0, places, torch.ones_like(places), alpha=sweeps)
        return places

    def currents(self, state: FlowState, load: Load) -> Currents:
        """Branch currents of a solution of `solve` for this load."""
        at_buses, j = (Pair.of(torch.empty_like(state.u)) for _ in range(2))
        i_squared = torch.empty_like(state.tau2)
        Drawn.of(load, state.tau2).currents(Pair.of(state.u), at_buses, work=j, weight=i_squared)
        self.sums.downstream(at_buses.both, out=j.both)
        j.squared(i_squared).div_(state.tau2.index_select(1, self.parent))
        i_squared[:, 0] = 0.0  # no branch above the slack bus
        return Currents(state.u, j.both, i_squared, self.parent)

    def losses(self, state: FlowState, currents: Currents, load: Load) -> Tensor:
        """(C,) series and shunt losses in pu."""
        return (currents.i_squared_pu * self.z[0] + self.v_squared(state) * load.shunt[0]).sum(-1)
