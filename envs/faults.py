"""Faults in a step: what outages and islanding separate, who lives as an island, and what devices still deliver.

Data flow: the day's `EventDraw` -> `Faults.meet` (with `islands.py`) -> `Used` as delivered and an `Interruption` ->
`Grid.settle`, settlement, metrics. A step in which no copy has a fault passes through. docs/faults.md has the rules.
Dims: B copies, A microgrids, N buses, H steps of a day.
"""

import torch
from torch import Tensor

from envs.devices import Devices, Used
from envs.events import EventDraw, EventPlan
from envs.grid import Grid, GridState, Interruption, connections
from envs.islands import PLANT_KINDS, Demand, Island, forming
from envs.power.network import BASE_MVA, Network
from envs.rewards import Ledger
from envs.scenario import Scenario
from mappo.vec_env import MetricSpec

_METRICS = (
    MetricSpec(name="lost_load_usd", unit="$", reduce="sum", group="faults"),
    MetricSpec(name="unserved_mwh", unit="MWh", reduce="sum", group="faults"),
    MetricSpec(name="de_energised", unit="share of buses", reduce="mean", group="faults"),
    MetricSpec(name="islanded", unit="microgrids", reduce="mean", group="faults"),
)


def fault_metrics(scenario: Scenario) -> tuple[MetricSpec, ...]:
    """The metrics of a scenario's events."""
    return _METRICS if scenario.events else ()


def event_plan(scenario: Scenario, net: Network) -> EventPlan | None:
    """The scenario's events on its network; None without any.

    Raises:
        ValueError: a target that does not exist, hours that are no whole steps.
    """
    if not scenario.events:
        return None
    return EventPlan(
        scenario.events,
        agents=tuple(scenario.microgrids),
        branches=net.branch_names[1:],  # the slack bus has none
        steps_per_hour=scenario.steps_per_hour,
    )


class Faults:
    """The faults of one scenario; without events it does nothing."""

    def __init__(self, scenario: Scenario, grid: Grid, devices: Devices, plan: EventPlan | None) -> None:
        self._grid, self._devices, self._dt_h = grid, devices, scenario.dt_h
        kinds = {event.kind for event in plan.events} if plan else set()
        self._watched = plan is not None
        self._separates = bool(kinds & {"outage", "islanding"})
        self.obs_names: tuple[str, ...] = ("area_live_share",) if self._separates else ()
        names, like, net = tuple(scenario.microgrids), devices.efficiency, grid.net
        heads = connections(net, names)
        self._heads, self._device = torch.tensor(heads), like.device  # (A,), of the draws on the CPU
        self._buses = {
            kind: torch.tensor([net.position(f"{n}.{getattr(scenario.microgrids[n], kind).bus}") for n in names]).to(
                like.device
            )
            for kind in ("battery", *PLANT_KINDS)
        }  # (A,) each
        living = forming(scenario) if self._separates else []
        self._islands = {names.index(n): Island(scenario, net, n, like.device, like.dtype) for n in living}
        # (n,) of each of them: the branches on its way to the source, as the buses below them
        self._supply = {a: (net.subtree_end > heads[a])[: heads[a] + 1].nonzero().view(-1) for a in self._islands}
        self._any: list[bool] = []
        self._unfed_copies: dict[int, list[Tensor]] = {}

    def start_day(self, draw: EventDraw | None) -> None:
        """Take the masks of a day."""
        self._any = []
        if draw is None or not self._separates:
            return
        is_open = torch.nn.functional.pad(draw.outage, (1, 0))
        is_open[..., self._heads] |= draw.islanded
        self._any = is_open.any(-1).any(0).tolist()
        self._is_open = is_open.transpose(0, 1).to(self._device, non_blocking=True)  # (H, B, N)
        # the draw lies on the CPU, so that no step asks a GPU which copies have lost their supply
        unfed = {agent: is_open[..., supply].any(-1) for agent, supply in self._supply.items()}
        self._unfed_copies = {agent: [copy.nonzero().view(-1) for copy in lost.T] for agent, lost in unfed.items()}

    def meet(self, step: int, used: Used, energy_mwh: Tensor, tolerance_pu: float) -> tuple[Used, Interruption | None]:
        """What a step's faults leave of it; None: no copy has one.

        Args:
            step: of the day.
            used: what the devices would do.
            energy_mwh: (B, A) at the start of the step.
            tolerance_pu: of the islands' power flows.
        """
        if not self._any or not self._any[step]:
            return used, None
        is_open = self._is_open[step]
        unfed = self._grid.outages.unfed(is_open)
        cut = Interruption(
            is_open=is_open,
            unfed=unfed,
            dead=unfed.clone(),
            islanded=torch.zeros_like(energy_mwh, dtype=torch.bool),
            v_pu=energy_mwh.new_zeros(unfed.shape),
            loading_squared=energy_mwh.new_zeros(unfed.shape),
        )
        applied = used.applied
        powers = {
            "battery_p_mw": applied.battery_p_mw.clone(),
            "battery_q_mvar": applied.battery_q_mvar.clone(),
            **{f"{kind}_p_mw": getattr(applied, f"{kind}_p_mw").clone() for kind in PLANT_KINDS},
        }
        for agent, island in self._islands.items():
            rows = self._unfed_copies[agent][step]
            if len(rows):
                rows = rows.to(unfed.device, non_blocking=True)
                self._live(agent, island, rows, used, energy_mwh, tolerance_pu, cut, powers)
        on = {kind: ~cut.dead[:, buses] for kind, buses in self._buses.items()}  # (B, A) each
        powers = {name: torch.where(on[name.split("_")[0]], value, 0.0) for name, value in powers.items()}
        plant_q_mvar = used.plant_q_mvar
        if plant_q_mvar is not None:
            plant_q_mvar = torch.where(torch.cat([on["pv"], on["wind"]], -1), plant_q_mvar, 0.0)
        return self._devices.deliver(used, applied._replace(**powers), plant_q_mvar), cut

    def _live(
        self,
        agent: int,
        island: Island,
        rows: Tensor,
        used: Used,
        energy_mwh: Tensor,
        tolerance_pu: float,
        cut: Interruption,
        powers: dict[str, Tensor],
    ) -> None:
        """Try to keep one microgrid alive in some copies; writes into `cut` and `powers`."""
        p, q = self._grid.draw(used.load[rows], island.buses).mT
        if used.plant_q_mvar is not None:
            for own, kind in zip(used.plant_q_mvar.chunk(2, -1), ("pv", "wind"), strict=True):
                at = (island.buses == self._buses[kind][agent]).to(q)  # (n,)
                q = q - own[rows, agent, None] / BASE_MVA * at
        demand = Demand(
            p=p,
            q=q,
            plants=torch.stack([powers[f"{kind}_p_mw"][rows, agent] for kind in PLANT_KINDS], -1) / BASE_MVA,
            is_open=cut.is_open[rows[:, None], island.branches],
            energy_mwh=energy_mwh[rows, agent],
        )
        living = island.settle(demand, tolerance_pu)
        cut.islanded[rows, agent] = living.alive
        cut.dead[rows[:, None], island.buses] = living.dead
        cut.v_pu[rows[:, None], island.buses] = living.v_pu
        below = slice(1, None)  # the root has no branch in the island
        cut.loading_squared[rows[:, None], island.branches[below]] = living.loading_squared[:, below]
        powers["battery_p_mw"][rows, agent] = living.battery_p_mw
        powers["battery_q_mvar"][rows, agent] = living.battery_q_mvar
        for k, kind in enumerate(PLANT_KINDS):
            powers[f"{kind}_p_mw"][rows, agent] = living.plants[:, k] * BASE_MVA

    def observed(self, state: GridState) -> Tensor:
        """(B, A, 1) share of each microgrid's buses that had voltage in the last step."""
        return self._grid.live_share(state)[:, 1:, None]

    def metrics(self, load: Tensor, state: GridState, ledger: Ledger, cut: Interruption | None) -> dict[str, Tensor]:
        """Each (B,), in the order of `fault_metrics`; `load` are the multipliers asked for."""
        if not self._watched:
            return {}
        none = torch.zeros_like(state.head_p_mw)
        unserved_mwh = self._dt_h * self._grid.unserved_mw(load, state).sum(-1)
        return {
            "lost_load_usd": ledger.lost_load_usd.sum(-1),
            "unserved_mwh": unserved_mwh,
            "de_energised": none if cut is None else cut.dead[:, 1:].to(none).mean(-1),
            "islanded": none if cut is None else cut.islanded.to(none).sum(-1),
        }
