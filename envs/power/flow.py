r"""Batched radial power flow: B operating points of one network at once.

Data flow: `Network`, injections, taps -> `FlowSolver`, `Solving` -> `FlowState` -> regulators, billing, safety.
With tau_j the product of the ratios on the path to bus j, U = V / tau and J = I conj(tau), the tap positions leave the
tree and every copy may have its own:

    J = downstream_sum(conj(S / U) + y |tau|^2 U),    U <- V_0 - path_sum(z / |tau_parent|^2 J)

V_0 is real: tau has the source's angle too. Steps are stretched (`Sweep._lengths`). S is consumption here, the API's
injections are generation positive. Complex numbers are stored as an axis of two (real, imaginary), because the hot loop
is real. Inside, copies come last: what a sweep does to all of them at once lies side by side (layout.py).
Dims: C copies, N buses, R regulators, K blocks of n places.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from envs.power.countdown import runs_behind
from envs.power.layout import Layout
from envs.power.network import BASE_MVA, Network
from envs.power.solving import FlowState, Solving
from envs.power.sweep import Between, Drawn, Load, Pair
from envs.power.tap_paths import TapPaths

TYPICAL_SHARE, ROUGH_PU = 0.5, 1e-3  # of the nominal load, and how well it is solved, for the shape of voltage drops
LEAST_NET_SHARE = 0.1  # of apparent power: where real powers cancel, their sum tells nothing
DEFAULT_TOLERANCE_PU = {torch.float64: 1e-10, torch.float32: 1e-6}


class PowerFlow:
    """Solution of `solve_power_flow`. L lines and X transformers in the order of `net.branch_names`.

    What follows from the voltages is computed when it is first asked for, branch currents once for all of it. Loads and
    state stay in memory with it: keep the tensors alone where that counts.

    Attributes:
        v_pu: (B, N) complex.
        converged: (B,) bool.
        iterations: (B,) sweeps used.
    """

    def __init__(self, solver: "FlowSolver", load: Load, state: FlowState) -> None:
        self._solver, self._load, self._state = solver, load, state
        self.v_pu, self.converged, self.iterations = solver.voltage(state), state.converged, state.sweeps

    @cached_property
    def line_loading(self) -> Tensor:
        """(B, L) series current at the parent side / ampacity."""
        return self._loading.index_select(0, self._solver.line_buses).T

    @cached_property
    def trafo_loading(self) -> Tensor:
        """(B, X) current at the parent side / rated current at nominal voltage."""
        return self._loading.index_select(0, self._solver.trafo_buses).T

    @cached_property
    def source_p_mw(self) -> Tensor:
        """(B,) power from the slack bus into the network."""
        return self._source[0][:, 0] * BASE_MVA

    @cached_property
    def source_q_mvar(self) -> Tensor:
        """(B,) likewise."""
        return self._source[1][:, 0] * BASE_MVA

    @cached_property
    def losses_mw(self) -> Tensor:
        """(B,) series and shunt losses."""
        return (self._measured.i_squared_pu @ self._solver.resistance + self._measured.shunt_p_pu) * BASE_MVA

    @cached_property
    def _measured(self) -> "Measured":
        return self._solver.measured(self._state, self._load)

    @cached_property
    def _source(self) -> tuple[Tensor, Tensor]:
        return self._measured.power(self._solver.source)

    @cached_property
    def _loading(self) -> Tensor:  # (N, B)
        return self._measured.i_squared_pu.T.sqrt().mul_(self._solver.per_rating)


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
        tolerance_pu: largest change of a voltage by the last sweep, before it is stretched; default 1e-10 in float64,
            1e-6 in float32.
        v_init: (B, N) complex start, such as an earlier solution; default: each copy's load spread like the nominal.

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
    tau2 = solver.neutral_tau2 if tap is None else solver.tau_squared(tap)
    load = solver.load(p_mw, q_mvar, unit_pu=-1 / BASE_MVA)
    u_init = None if v_init is None else solver.referred(v_init, tau2).expand_as(load.power)
    return PowerFlow(solver, load, solver.solve(load, tau2, tolerance_pu, u_init))


def _checked_points(
    net: Network, p_mw: Tensor, q_mvar: Tensor, tap: Tensor | None, v_init: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """The inputs of `solve_power_flow`, powers with a row for every copy; one row of taps or voltages stays one."""
    if p_mw.dtype not in DEFAULT_TOLERANCE_PU:
        raise ValueError(f"p_mw must be float32 or float64, got {p_mw.dtype}")
    if q_mvar.dtype != p_mw.dtype:
        raise ValueError(f"q_mvar must have the dtype of p_mw, {p_mw.dtype}, got {q_mvar.dtype}")
    buses, regulators = net.num_buses, len(net.regulators)
    given = {"p_mw": (p_mw, buses), "q_mvar": (q_mvar, buses)}
    if tap is not None:
        given["tap"] = (tap.to(p_mw), regulators)
    if v_init is not None:
        given["v_init"] = (v_init, buses)
    rows = {name: torch.atleast_2d(value) for name, (value, _) in given.items()}
    copies = max(len(value) for value in rows.values())
    for name, value in rows.items():
        width = given[name][1]
        if value.shape not in ((copies, width), (1, width)):
            raise ValueError(f"{name} must have shape ({copies}, {width}), got {tuple(value.shape)}")
    return rows["p_mw"].expand(copies, -1), rows["q_mvar"].expand(copies, -1), rows.get("tap"), rows.get("v_init")


@lru_cache(maxsize=8)
def _solver(net: Network, device: torch.device, dtype: torch.dtype) -> "FlowSolver":
    return FlowSolver(net, device, dtype)


class Meters(NamedTuple):
    """Where the power into m branches is read (`FlowSolver.meters`)."""

    parents: Tensor  # (2 m,) rows of their parent buses in the solver's layout
    branches: Tensor  # (2 m,)


@dataclass(frozen=True)
class Measured:
    """What a solution implies for buses and branches."""

    v_squared_pu: Tensor  # (C, N) squared voltage magnitudes
    i_squared_pu: Tensor  # (C, N) |series current|^2 at the parent side of each branch; 0 at the slack bus
    shunt_p_pu: Tensor  # (C,) what all shunts draw
    u: Tensor  # (K, 2, n, C) referred voltages
    j: Tensor  # (K, 2, n, C) referred series current above each bus; at the slack bus the whole injection

    def power(self, where: Meters) -> tuple[Tensor, Tensor]:
        """Real and reactive power into m branches, at their parent buses, (C, m) pu each."""
        u, j = Layout.at(self.u, where.parents), Layout.at(self.j, where.branches)
        return (u[0] * j[0] + u[1] * j[1]).T, (u[1] * j[0] - u[0] * j[1]).T


class FlowSolver:
    """The constants of one network on one device and dtype, and the sweeps over them."""

    def __init__(self, net: Network, device: torch.device, dtype: torch.dtype) -> None:
        def real(values: Tensor) -> Tensor:
            return values.to(device, dtype)

        self.dtype, self.behind = dtype, runs_behind(device)  # of the host
        self.parent = net.parent.to(device)
        self.rating_pu = real(net.rating_pu)
        self.per_rating = self.rating_pu.reciprocal()[:, None]
        self.line_buses = torch.nonzero(~net.is_trafo).flatten()[1:].to(device)  # [0] is the slack bus
        self.trafo_buses = torch.nonzero(net.is_trafo).flatten().to(device)
        fixed_tau = torch.exp(net.path_sums(torch.log(net.ratio)))
        fixed_tau2 = fixed_tau.abs().square()
        self._fixed_tau2 = real(fixed_tau2)[:, None]  # (N, 1)
        slack_v_pu = torch.tensor(complex(net.slack_v_pu), dtype=torch.complex128)
        self.slack = real(torch.stack([slack_v_pu.abs(), torch.zeros_like(slack_v_pu.real)]))[:, None]  # (2, 1)
        angle = fixed_tau.angle() + slack_v_pu.angle()
        self._rotation = torch.polar(torch.ones_like(angle), angle)[:, None].to(
            device, torch.complex128 if dtype == torch.float64 else torch.complex64
        )
        self._rotation_back = self._rotation.conj_physical().T  # (1, N)
        self._rotates = bool((angle != 0).any())
        per_parent = 1 / fixed_tau2[net.parent]
        per_parent[0] = 0.0  # no branch above the slack bus
        self._i_squared_per_parent = real(per_parent)[:, None]
        self.tap_paths = TapPaths(net, device)
        self._step_pu = real(torch.tensor([regulator.step_pu for regulator in net.regulators], dtype=torch.float64))
        self.neutral_tau2 = self.tau_squared(self._step_pu.new_zeros(1, len(self._step_pu)))
        self.resistance = real(net.z_pu.real)  # (N,)
        self.shunt = real(torch.stack([net.y_pu.real, -net.y_pu.imag]))[..., None]  # (2, N, 1)
        self.layout = layout = Layout(net, fixed_tau2, device, dtype)
        self.source = self.meters(self.parent[:1])
        nearest = self.tap_paths.nearest
        self._nearest_at_places, self._nearest_above = nearest[layout.bus], nearest[layout.bus_above]
        self._fixed_tau2_at_places = self._fixed_tau2[layout.bus]
        regulated = torch.tensor([regulator.bus for regulator in net.regulators], dtype=torch.int64, device=device)
        self._regulated_rows, self._regulated_fixed_tau2 = layout.rows(regulated), self._fixed_tau2[regulated]
        self._shunt_at_places = self.layout.spread_drawn(self.shunt)
        self._drop_per_p = self._drop_of(real(net.load_p_mw), real(net.load_q_mvar))

    def _drop_of(self, p_mw: Tensor, q_mvar: Tensor) -> Tensor:
        """(K, 2, n, 1) how far voltages drop for each pu that loads in these proportions, (N,) each, draw together."""
        share = TYPICAL_SHARE / BASE_MVA
        load, start = self.load(p_mw[None], q_mvar[None], unit_pu=share), self.flat_start(1)
        flow, total = self.solve(load, self.neutral_tau2, ROUGH_PU, start), share * p_mw.sum()
        usable = flow.converged & (total > LEAST_NET_SHARE * share * torch.hypot(p_mw, q_mvar).sum())
        return torch.where(usable, (start - flow.u) / torch.where(usable, total, 1.0), 0.0)

    def load(self, p: Tensor, q: Tensor, shunt: Tensor | None = None, unit_pu: float = 1.0) -> Load:
        """Powers (C, N) in units of `unit_pu`, and shunts (2, N, C), P and Q at 1 pu; default the network's."""
        power = self.layout.spread_drawn(torch.stack([p.T, q.T]), unit_pu)
        return Load(power, self._shunt_at_places if shunt is None else self.layout.spread_drawn(shunt))

    def tau_squared(self, tap: Tensor) -> Tensor:
        """(C, R) tap positions -> (C, R + 1) squared product of the ratios on the path behind each regulator, and 1."""
        return self.tap_paths.products(1 + self._step_pu * tap).square_()

    def tau2_at_places(self, tau2: Tensor) -> Tensor:
        """(C, R + 1) -> (K, 1, n, C) of all ratios on the path to each bus."""
        count, size = self.layout.shape
        behind = tau2.T.index_select(0, self._nearest_at_places).mul_(self._fixed_tau2_at_places)
        return behind.view(count, 1, size, len(tau2))  # here and below C is 1 for one row of `tau2`

    def tau2_above(self, tau2: Tensor) -> Tensor:
        """(C, R + 1) -> (K, 1, 1, C) of the regulators on the path to the bus that each block hangs on."""
        return tau2.T.index_select(0, self._nearest_above)[:, None, None]

    def tau2_at_buses(self, tau2: Tensor) -> Tensor:
        """(C, R + 1) -> (N, C) of all ratios on the path to each bus."""
        return tau2.T.index_select(0, self.tap_paths.nearest).mul_(self._fixed_tau2)

    def flat_start(self, copies: int) -> Tensor:
        """(K, 2, n, C) voltages at no load."""
        count, size = self.layout.shape
        return self.slack[:, None].expand(count, 2, size, copies).contiguous()

    def likely_start(self, load: Load) -> Tensor:
        """(K, 2, n, C) voltages as if what each copy draws were spread like the network's nominal load."""
        total = self.layout.is_real @ load.power.flatten(0, 2)
        return torch.addcmul(self.slack[:, None], self._drop_per_p, total, value=-1.0)

    def referred(self, v_pu: Tensor, tau2: Tensor) -> Tensor:
        """(C, N) complex voltages -> (K, 2, n, C)."""
        parts = torch.view_as_real(v_pu * self._rotation_back).permute(2, 1, 0).to(self.dtype)
        return self.layout.spread(parts / self.tau2_at_buses(tau2).sqrt_())

    def voltage(self, state: FlowState) -> Tensor:
        """(C, N) complex voltages."""
        parts = self.layout.at(state.u, self.layout.all_rows).mul_(self.tau2_at_buses(state.tau2).sqrt_())
        v = torch.complex(parts[0], parts[1])
        return (v.mul_(self._rotation) if self._rotates else v).T

    def regulated_v_pu(self, state: FlowState) -> Tensor:
        """(C, R) voltage magnitudes at the regulators' buses."""
        squared = self.layout.at(state.u, self._regulated_rows).square_().sum(0).mul_(self._regulated_fixed_tau2)
        return (squared.T * state.tau2[:, :-1]).sqrt_()

    def meters(self, buses: Tensor) -> Meters:
        """To read the power into the branches above some buses (m,); the slack bus (0) stands for the source."""
        return Meters(self.layout.rows(self.parent[buses]), self.layout.rows(buses))

    def solve(self, load: Load, tau2: Tensor, tolerance_pu: float, u_init: Tensor | None = None) -> FlowState:
        """Sweep until every copy has converged or 60 sweeps are over; arguments as `Solving`."""
        return Solving(self, load, tau2, tolerance_pu, u_init).flow

    def measured(self, state: FlowState, load: Load) -> Measured:
        """Voltages and branch currents of a solution of `solve` for this load."""
        layout, u, tau2 = self.layout, Pair.of(state.u), self.tau2_at_places(state.tau2)
        drawn_current, j = Pair.room(2, state.u)
        squared = torch.empty_like(u.real)
        drawn = Drawn.of(load, tau2)
        drawn.currents(u, out=drawn_current, work=j, weight=squared)
        Between(layout, state.u, self.slack).join(drawn_current.both, drawn_current.rows)
        torch.bmm(layout.below, drawn_current.both.flatten(0, 1), out=j.both.flatten(0, 1))
        per_above = j.squared(squared).div_(self.tau2_above(state.tau2))
        i_squared = layout.at_buses(per_above).mul_(self._i_squared_per_parent)
        u_squared = u.squared(squared)
        return Measured(
            v_squared_pu=layout.at_buses(tau2 * u_squared).T,
            i_squared_pu=i_squared.T,
            shunt_p_pu=u_squared.mul_(drawn.shunt[:, :1]).sum((0, 1, 2)),
            u=state.u,
            j=j.both,
        )
