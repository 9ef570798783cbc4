"""The grid of a scenario: device powers in, settled power flow and what is measured on it out.

Data flow: load multipliers, `Applied` -> `Grid.settle` (taps and flow) -> `GridState` -> tariff, safety, observations.
A copy whose flow fails keeps its last taps and voltages and is billed for the plain sum of its injections.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from envs.areas import Areas
from envs.devices import Applied
from envs.power.flow import FlowSolver
from envs.power.network import BASE_MVA, Network
from envs.power.outage import Outages
from envs.power.regulators import TapSettler
from envs.power.solving import FlowState
from envs.power.sweep import Load
from envs.scenario import Safety, Scenario

VOLTAGE_MARGIN_PU, CURRENT_MARGIN = 1e-4, 1e-4  # a violation counts from here on


class GridState(NamedTuple):
    """One settled hour. Areas: the feeder, then the A microgrids."""

    tap: Tensor  # (B, R)
    flow: FlowState
    converged: Tensor  # (B,) bool
    v_pu: Tensor  # (B, N) magnitudes
    loading_squared: Tensor  # (B, N) (I / I_max)^2 of the branch above each bus; 0 at the slack bus
    party_p_mw: Tensor  # (B, 1 + A) feeder load and losses, then each microgrid's connection; import positive
    pcc_q_mvar: Tensor  # (B, A)
    head_p_mw: Tensor  # (B,)
    branch_p_mw: Tensor  # (B, N) into the branch above each bus; (B, 0) unless the scenario's price signal needs it
    dead: Tensor  # (B, N) bool: no voltage; (B, 0) in a step without faults


class Interruption(NamedTuple):
    """What the faults of one step separate (faults.py)."""

    is_open: Tensor  # (B, N) bool: the branch above the bus is out of service
    unfed: Tensor  # (B, N) bool: no way to the source
    dead: Tensor  # (B, N) bool: unfed, and not in an island that lives
    islanded: Tensor  # (B, A) bool: lives as an island
    v_pu: Tensor  # (B, N) in living islands, 0 elsewhere
    loading_squared: Tensor  # (B, N) likewise


class Control(NamedTuple):
    """What an operator sets in each copy, for one step."""

    b_pu: Tensor  # (B, N) susceptance of capacitors besides the network's own
    target_pu: Tensor  # (B, R) voltages that the regulators hold


class Extremes(NamedTuple):
    """What is nearest to its limits in each copy."""

    v_min_pu: Tensor  # (B,) of live buses; neutral where none lives
    v_max_pu: Tensor  # (B,)
    loading: Tensor  # (B,) I / I_max; 0 where the flow failed

    @property
    def overloaded(self) -> Tensor:
        """(B,) bool: a branch above its rating by more than the margin; never where the flow failed."""
        return self.loading > 1 + CURRENT_MARGIN


class Grid:
    """Network, solver and tap settler of a scenario on one device."""

    def __init__(self, scenario: Scenario, net: Network, device: torch.device, dtype: torch.dtype) -> None:
        self.net = net
        self.area_names = (scenario.feeder.name, *scenario.microgrids)
        self._safety = scenario.safety
        self._solver = FlowSolver(net, device, dtype)
        self._settler = TapSettler(net, self._solver)
        self._loading_per_i2 = self._solver.rating_pu.square().reciprocal_()
        self.outages = Outages(net, device, dtype)
        self._regulated = torch.tensor([r.bus for r in net.regulators], dtype=torch.int64, device=device)
        self._neutral_v_pu = min(max(1.0, scenario.safety.v_min_pu), scenario.safety.v_max_pu)
        self.area_load_mw = area_load_mw(net, self.area_names)
        area = area_of_buses(net, self.area_names)
        self._area = area.to(device)
        nominal_mva = torch.stack([net.load_p_mw, net.load_q_mvar])
        self._nominal = (nominal_mva.to(device, dtype) / BASE_MVA)[..., None]  # (2, N, 1)
        area = area.clone()
        area[0] = -1  # the slack bus has no voltage to keep and no branch above it
        self._areas = Areas(area, len(self.area_names), self._solver.rating_pu)
        batteries, generators, pv, wind = device_buses(scenario, net).to(device)
        self._battery_buses = batteries
        self._device_buses = torch.cat([batteries, generators, pv, wind])
        self._plant_buses = torch.cat([pv, wind])
        heads = connections(net, self.area_names[1:])
        pcc = torch.tensor(heads, device=device)  # the branch above is the substation transformer
        self.pcc_buses = self._solver.parent[pcc]  # (A,) of the feeder, which the microgrids hang on
        self._meters = self._solver.meters(torch.cat([pcc.new_zeros(1), pcc]))  # the source's, then these
        self.tap_paths = [self._solver.tap_paths.to_bus(head) for head in heads]
        # which branches' power is measured besides
        every = scenario.protocols.vertical == "price_signal"
        self._branches = self._solver.meters(torch.arange(net.num_buses, device=device)) if every else None
        self._tap_max = torch.tensor([max(r.tap_max, 1) for r in net.regulators], device=device, dtype=dtype)

    def settle(
        self,
        load: Tensor,
        applied: Applied,
        last: GridState | None,
        tolerance_pu: float,
        plant_q_mvar: Tensor | None = None,
        control: Control | None = None,
        cut: Interruption | None = None,
    ) -> GridState:
        """Settle taps and flow for one step.

        Args:
            load: (B, 1 + A) multipliers of the areas' nominal loads.
            applied: device powers.
            last: the previous step's state (start of taps and voltages); None: taps 0, the likely voltages.
            tolerance_pu: of the power flow.
            plant_q_mvar: (B, 2A) that PV and wind inject; None: nothing.
            control: capacitors and targets of each copy; None: those of the scenario.
            cut: what faults separate; None: nothing.
        """
        p, q = self.drawn(load, applied, plant_q_mvar)
        if last is None:
            tap, before = p.new_zeros(len(p), len(self.net.regulators)), None
        else:
            tap, before = last.tap, last.flow
        shunt = frozen = target_pu = None
        if cut is not None:
            p, q, shunt = self.outages.drawn(p, q, cut.is_open, cut.unfed)
            frozen = cut.unfed[:, self._regulated]
        if control is not None:
            b_pu = control.b_pu if cut is None else torch.where(cut.unfed, 0.0, control.b_pu)
            capacitors = torch.stack([torch.zeros_like(b_pu), b_pu]).mT
            shunt, target_pu = (self._solver.shunt if shunt is None else shunt) - capacitors, control.target_pu
        drawn = self._solver.load(p, q, shunt)
        settled = self._settler.settle(drawn, tap, tolerance_pu, before, target_pu, frozen)
        flow, new_tap, converged = settled.flow, settled.tap, settled.flow.converged
        if not self._solver.behind and converged.all():
            return self._measure(drawn, new_tap, flow, cut)
        if before is None:
            before = flow._replace(u=self._solver.flat_start(len(p)), tau2=self._solver.tau_squared(tap))
        flow = _where(converged, flow, before)
        new_tap = torch.where(converged[:, None], new_tap, tap)
        return self._billed_as_drawn(self._measure(drawn, new_tap, flow, cut), p, q)

    def stored(self, state: GridState) -> dict[str, Any]:
        """What a checkpoint keeps of a state, with voltages by bus."""
        flow, layout = state.flow._asdict(), self._solver.layout
        del flow["tau2"]  # it follows from the taps
        flow["u"] = layout.at(flow["u"], layout.all_rows).mT  # (2, B, N)
        return state._asdict() | {"flow": flow}

    def restored(self, stored: Mapping[str, Any]) -> GridState:
        """The state that `stored` kept."""
        values = {name: value.to(self.pcc_buses.device) for name, value in stored.items() if name != "flow"}
        flow = {name: value.to(self.pcc_buses.device) for name, value in stored["flow"].items()}
        flow["u"] = self._solver.layout.spread(flow["u"].mT)
        flow["tau2"] = self._solver.tau_squared(values["tap"])
        return GridState(**values, flow=FlowState(**flow))

    def _measure(self, load: Load, tap: Tensor, flow: FlowState, cut: Interruption | None) -> GridState:
        measured = self._solver.measured(flow, load)
        p, q = measured.power(self._meters)
        head_p, pcc_p, pcc_q = p[:, :1], p[:, 1:], q[:, 1:]
        v_pu = measured.v_squared_pu.sqrt().contiguous()
        loading_squared = (measured.i_squared_pu * self._loading_per_i2).contiguous()
        if cut is not None:
            v_pu = torch.where(cut.unfed, cut.v_pu, v_pu)
            loading_squared = torch.where(cut.unfed, cut.loading_squared, loading_squared)
        return GridState(
            tap=tap,
            flow=flow,
            converged=flow.converged,
            v_pu=v_pu,
            loading_squared=loading_squared,
            party_p_mw=torch.cat([head_p - pcc_p.sum(-1, keepdim=True), pcc_p], -1) * BASE_MVA,
            pcc_q_mvar=pcc_q * BASE_MVA,
            head_p_mw=head_p[:, 0] * BASE_MVA,
            branch_p_mw=v_pu[:, :0] if self._branches is None else measured.power(self._branches)[0] * BASE_MVA,
            dead=v_pu[:, :0].bool() if cut is None else cut.dead,
        )

    def _billed_as_drawn(self, state: GridState, p: Tensor, q: Tensor) -> GridState:
        """Copies whose flow failed pay for the plain sum of what is drawn, and no branch of theirs is loaded."""
        converged = state.converged[:, None]
        pcc_p_mw, pcc_q_mvar = BASE_MVA * self._areas.sum(torch.stack([p, q]))[..., 1:]
        head_p_mw = BASE_MVA * p.sum(-1)
        party_p_mw = torch.cat([(head_p_mw - pcc_p_mw.sum(-1))[:, None], pcc_p_mw], -1)
        return state._replace(
            loading_squared=torch.where(converged, state.loading_squared, 0.0),
            party_p_mw=torch.where(converged, state.party_p_mw, party_p_mw),
            pcc_q_mvar=torch.where(converged, state.pcc_q_mvar, pcc_q_mvar),
            head_p_mw=torch.where(state.converged, state.head_p_mw, head_p_mw),
        )

    def safety_penalty(self, state: GridState, dt_h: float) -> Tensor:
        """(B, 1 + A) $ of each area for leaving voltage and current limits.

        Squared quantities: dt [w_v sum 0.5 (v_min^2 - v^2)+ + (v^2 - v_max^2)+  +  w_l sum 0.5 ((I/I_max)^2 - 1)+].
        A failed flow has no voltages to judge; it pays `failed_flow_usd_per_h` instead.
        """
        limits: Safety = self._safety
        v2 = self.live_v_pu(state).square()
        beyond = v2.sub_(v2.clamp(limits.v_min_pu**2, limits.v_max_pu**2)).abs_().mul_(limits.voltage_usd_per_h)
        beyond.add_((state.loading_squared - 1.0).clamp_(min=0.0), alpha=limits.current_usd_per_h)
        penalty = 0.5 * dt_h * self._areas.sum(beyond)
        return torch.where(state.converged[:, None], penalty, 0.0)

    def extremes(self, state: GridState) -> Extremes:
        """Over all buses below the slack bus, which has no limits, and over all branches."""
        v_pu = state.v_pu[:, 1:]
        if not state.dead.shape[1]:
            low, high = v_pu.amin(-1), v_pu.amax(-1)
        else:
            dead = state.dead[:, 1:]
            low = self._or_neutral(torch.where(dead, torch.inf, v_pu).amin(-1))
            high = self._or_neutral(torch.where(dead, -torch.inf, v_pu).amax(-1))
        return Extremes(low, high, state.loading_squared.amax(-1).sqrt())

    def violating(self, state: GridState, extremes: Extremes | None = None) -> Tensor:
        """(B,) bool: a voltage or loading beyond its limit by more than the margin, or a failed flow."""
        limits, most = self._safety, extremes or self.extremes(state)
        low, high = limits.v_min_pu - VOLTAGE_MARGIN_PU, limits.v_max_pu + VOLTAGE_MARGIN_PU
        return (most.v_min_pu < low) | (most.v_max_pu > high) | most.overloaded | ~state.converged

    def voltage_range(self, state: GridState) -> tuple[Tensor, Tensor]:
        """Lowest and highest voltage of each area's live buses, (B, 1 + A) each; neutral where none lives."""
        if not state.dead.shape[1]:
            return self._areas.least(state.v_pu), self._areas.most(state.v_pu)
        low = self._areas.least(torch.where(state.dead, torch.inf, state.v_pu))
        high = self._areas.most(torch.where(state.dead, -torch.inf, state.v_pu))
        return self._or_neutral(low), self._or_neutral(high)

    def _or_neutral(self, v_pu: Tensor) -> Tensor:
        """An extreme over live buses, neutral where it is infinite: none lives."""
        return torch.where(v_pu.isinf(), self._neutral_v_pu, v_pu)

    def live_v_pu(self, state: GridState) -> Tensor:
        """(B, N) voltages; a dead bus has 1 pu (or the limit next to it), which nobody judges or reacts to."""
        return torch.where(state.dead, self._neutral_v_pu, state.v_pu) if state.dead.shape[1] else state.v_pu

    def live_share(self, state: GridState) -> Tensor:
        """(B, 1 + A) share of each area's buses that have voltage."""
        if not state.dead.shape[1]:
            return torch.ones_like(state.party_p_mw)
        return self._areas.sum((~state.dead).to(state.v_pu)) / self._areas.sizes

    def unserved_mw(self, load: Tensor, state: GridState) -> Tensor:
        """(B, 1 + A) load of each area at dead buses, from the multipliers (B, 1 + A)."""
        if not state.dead.shape[1]:
            return torch.zeros_like(load)
        return load * self._areas.sum(state.dead * self._nominal[0].T) * BASE_MVA

    def draw(self, load: Tensor, buses: Tensor | None = None) -> Tensor:
        """P and Q of the loads, (2, N, B) pu, from the multipliers (B, 1 + A); of some buses only (2, n, B)."""
        area, nominal = (self._area, self._nominal) if buses is None else (self._area[buses], self._nominal[:, buses])
        return load.T.index_select(0, area) * nominal

    def drawn(self, load: Tensor, applied: Applied, plant_q_mvar: Tensor | None) -> tuple[Tensor, Tensor]:
        """P and Q that loads and devices together draw, (B, N) pu each; arguments as `settle`."""
        p, q = self.draw(load)
        p_mw = torch.cat([applied.battery_p_mw, -applied.generator_p_mw, -applied.pv_p_mw, -applied.wind_p_mw], -1)
        p.index_add_(0, self._device_buses, p_mw.T / BASE_MVA)
        q.index_add_(0, self._battery_buses, applied.battery_q_mvar.T / BASE_MVA)
        if plant_q_mvar is not None:
            q.index_add_(0, self._plant_buses, -plant_q_mvar.T / BASE_MVA)
        return p.T, q.T

    def plant_voltage(self, state: GridState) -> Tensor:
        """(B, 2A) pu at each PV plant's bus, then each wind plant's."""
        return self.live_v_pu(state)[:, self._plant_buses]

    def tap_position(self, state: GridState) -> Tensor:
        """(B, R) taps as a share of their range, in [-1, 1]."""
        return state.tap / self._tap_max


def area_load_mw(net: Network, areas: Sequence[str]) -> Tensor:
    """(1 + A,) nominal load of each area in MW, the feeder first; float64 on the CPU."""
    return torch.zeros(len(areas), dtype=torch.float64).index_add_(0, area_of_buses(net, areas), net.load_p_mw)


def area_of_buses(net: Network, areas: Sequence[str]) -> Tensor:
    """(N,) int64 place of each bus's area in `areas`."""
    places = {name: k for k, name in enumerate(areas)}
    return torch.tensor([places[name] for name in net.areas])


def connections(net: Network, microgrids: Sequence[str]) -> list[int]:
    """Position of each microgrid's first bus; the branch above it is its connection to the feeder."""
    return [net.area_starts[name] for name in microgrids]


def _where(keep: Tensor, new: FlowState, old: FlowState) -> FlowState:
    return new._replace(u=torch.where(keep, new.u, old.u), tau2=torch.where(keep[:, None], new.tau2, old.tau2))


def device_buses(scenario: Scenario, net: Network) -> Tensor:
    """(4, A) int64 positions of each microgrid's battery, generator, PV and wind."""
    kinds = ("battery", "generator", "pv", "wind")
    grids = scenario.microgrids.items()
    return torch.tensor([[net.position(f"{name}.{getattr(grid, kind).bus}") for name, grid in grids] for kind in kinds])
