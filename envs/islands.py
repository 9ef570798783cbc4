"""Microgrids that live on without the feeder: networks of their own around a grid-forming battery (docs/faults.md).

Data flow: microgrids without supply, loads, device powers, energies -> `Island.settle` -> who survives, what the
battery delivers, how much generation is curtailed, voltages and loadings. Dims: C copies of the batch that need it,
n buses of the island.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from envs.power.builder import Branch, NetworkBuilder
from envs.power.flow import FlowSolver, Measured
from envs.power.network import BASE_MVA, Network
from envs.power.outage import Outages
from envs.power.solving import Solving
from envs.power.sweep import Load
from envs.scenario import Scenario

FORMING_V_PU = 1.0  # what a grid-forming battery holds at its bus
MARGIN_MW = 1e-5  # what rounding may exceed a limit of the battery by
CURTAIL_ROUNDS = 12  # each leaves a few percent of the surplus that the one before left
PLANT_KINDS = ("generator", "pv", "wind")


class Demand(NamedTuple):
    """What an island of C copies has to live on and with."""

    p: Tensor  # (C, n) load in pu
    q: Tensor  # (C, n) load less the Q of PV and wind
    plants: Tensor  # (C, 3) power of generator, PV and wind in pu, before any is curtailed
    is_open: Tensor  # (C, n) bool, of the island's own branches
    energy_mwh: Tensor  # (C,) at the start of the step


class Living(NamedTuple):
    """What became of an island in C copies."""

    alive: Tensor  # (C,) bool
    dead: Tensor  # (C, n) bool: cut off inside the island; all buses of one that did not survive
    battery_p_mw: Tensor  # (C,) charging positive; 0 where it did not survive, as what follows
    battery_q_mvar: Tensor  # (C,)
    plants: Tensor  # (C, 3) delivered, pu
    v_pu: Tensor  # (C, n)
    loading_squared: Tensor  # (C, n) of the branch above each bus in the island's own tree


@dataclass(frozen=True)
class Limits:
    """Of a grid-forming battery; the powers are those of the AC side."""

    p_max_mw: float
    s_max_mva: float
    energy_min_mwh: float
    energy_max_mwh: float
    efficiency: float
    dt_h: float

    def discharge_mw(self, energy_mwh: Tensor) -> Tensor:
        """(C,) largest power over the whole step."""
        stored = (energy_mwh - self.energy_min_mwh).clamp(min=0.0) * self.efficiency / self.dt_h
        return stored.clamp(max=self.p_max_mw)

    def charge_mw(self, energy_mwh: Tensor, q_mvar: Tensor) -> Tensor:
        """(C,) largest power over the whole step beside Q."""
        room = (self.energy_max_mwh - energy_mwh).clamp(min=0.0) / (self.efficiency * self.dt_h)
        left = (self.s_max_mva**2 - q_mvar.square()).clamp(min=0.0).sqrt()
        return torch.minimum(room.clamp(max=self.p_max_mw), left)

    def cover(self, p_mw: Tensor, q_mvar: Tensor, energy_mwh: Tensor) -> Tensor:
        """(C,) bool: the battery can take p_mw (charging positive) and q_mvar for the step."""
        apparent = (p_mw.square() + q_mvar.square()).sqrt() <= self.s_max_mva + MARGIN_MW
        charges = p_mw <= self.charge_mw(energy_mwh, torch.zeros_like(q_mvar)) + MARGIN_MW
        return apparent & charges & (-p_mw <= self.discharge_mw(energy_mwh) + MARGIN_MW)


class Island:
    """One microgrid as a tree of its own, rooted at its battery.

    Raises:
        ValueError: a device outside the microgrid's own network, or tap changers inside it.
    """

    def __init__(self, scenario: Scenario, net: Network, name: str, device: torch.device, dtype: torch.dtype) -> None:
        self.name, grid = name, scenario.microgrids[name]
        head = net.area_starts[name]
        _check(scenario, net, name, head)
        own = island_network(net, head, net.position(f"{name}.{grid.battery.bus}"))
        self.net = own
        self.buses = torch.tensor([int(bus) for bus in own.bus_index], device=device)  # (n,) positions in `net`
        # the branch above each bus as `net` counts it; the root has none, and 0 is never open
        self.branches = torch.tensor([0, *(int(branch) for branch in own.branch_names[1:])], device=device)
        self._solver = FlowSolver(own, device, dtype)
        self._outages = Outages(own, device, dtype)
        # a rating holds at the end towards the feeder, where a branch that is turned round has |k| times the current
        ratio = net.ratio.abs()[self.branches.cpu()]
        is_turned = self.buses.cpu() != self.branches.cpu()
        seen = torch.where(is_turned, ratio, 1.0).square() / own.rating_pu.square()
        self._loading_per_i2 = seen.to(device, dtype)  # (n,)
        places = [own.position(str(net.position(f"{name}.{getattr(grid, kind).bus}"))) for kind in PLANT_KINDS]
        self._plant_buses = torch.tensor(places, device=device)
        self._place = torch.nn.functional.one_hot(self._plant_buses, own.num_buses).to(dtype)  # (3, n)
        battery = grid.battery
        self.limits = Limits(
            p_max_mw=battery.p_max_mw,
            s_max_mva=battery.s_max_mva,
            energy_min_mwh=battery.energy_min_mwh,
            energy_max_mwh=battery.energy_max_mwh,
            efficiency=battery.efficiency,
            dt_h=scenario.dt_h,
        )

    def settle(self, demand: Demand, tolerance_pu: float) -> Living:
        """The battery balances the island; plants give way by one common share where it cannot absorb them."""
        dead = self._outages.unfed(demand.is_open)
        plants = demand.plants * ~dead[:, self._plant_buses]
        cut = torch.zeros_like(demand.energy_mwh)  # (C,) curtailed share
        load = self._load(demand, dead, plants)
        tau2 = self._solver.tau_squared(plants.new_zeros(len(plants), 0))
        solving = Solving(self._solver, load, tau2, tolerance_pu)
        measured = self._solver.measured(solving.flow, load)
        p_mw, q_mvar = self._battery(measured)
        for _ in range(CURTAIL_ROUNDS):
            surplus = p_mw - self.limits.charge_mw(demand.energy_mwh, q_mvar)
            produced = plants.sum(-1) * BASE_MVA
            active = ((surplus > 0) | (cut > 0)) & (surplus.abs() > MARGIN_MW / 4) & (produced > 0)
            active &= solving.flow.converged
            active &= (cut < 1) | (surplus < 0)
            cut = torch.where(active, (cut + surplus / produced).clamp(0.0, 1.0), cut)
            load = self._load(demand, dead, plants * (1 - cut[:, None]))
            if not solving.again(active, tau2, load):
                break
            measured = self._solver.measured(solving.flow, load)
            p_mw, q_mvar = self._battery(measured)
        alive = solving.flow.converged & self.limits.cover(p_mw, q_mvar, demand.energy_mwh)
        lives = alive[:, None] & ~dead
        return Living(
            alive=alive,
            dead=~lives,
            battery_p_mw=torch.where(alive, p_mw, 0.0),
            battery_q_mvar=torch.where(alive, q_mvar, 0.0),
            plants=torch.where(alive[:, None], plants * (1 - cut[:, None]), 0.0),
            v_pu=torch.where(lives, measured.v_squared_pu.sqrt(), 0.0),
            loading_squared=torch.where(lives, measured.i_squared_pu * self._loading_per_i2, 0.0),
        )

    def _load(self, demand: Demand, dead: Tensor, plants: Tensor) -> Load:
        return self._solver.load(*self._outages.drawn(demand.p - plants @ self._place, demand.q, demand.is_open, dead))

    def _battery(self, measured: Measured) -> tuple[Tensor, Tensor]:
        """(C,) P and Q of the battery, charging and consuming positive: what comes back from the network."""
        p, q = measured.power(self._solver.source)
        return -p[:, 0] * BASE_MVA, -q[:, 0] * BASE_MVA


def forming(scenario: Scenario) -> list[str]:
    """Microgrids that can live as islands."""
    return [name for name, grid in scenario.microgrids.items() if grid.battery.grid_forming]


def island_network(net: Network, head: int, root: int) -> Network:
    """The subtree of bus `head` without the branch above it, rooted at bus `root`.

    Buses and branches are named by their positions in `net`.
    """
    builder = NetworkBuilder(str(root), FORMING_V_PU)
    inside = range(head, int(net.subtree_end[head]))
    for j in inside:
        builder.add_bus(str(j), float(net.base_kv[j]))
        builder.add_shunt(str(j), complex(net.y_pu[j]))
    builder.add_shunt(str(head), -complex(net.y_child_pu[head]))
    for j in inside[1:]:
        branch = Branch.of(net, j, name=str(j), a=str(int(net.parent[j])), b=str(j))
        builder.add_branch(branch, shunts_counted=True)
    return builder.build()


def _check(scenario: Scenario, net: Network, name: str, head: int) -> None:
    grid, end = scenario.microgrids[name], int(net.subtree_end[head])
    for kind in ("battery", *PLANT_KINDS):
        bus = getattr(grid, kind).bus
        if not head <= net.position(f"{name}.{bus}") < end:
            raise ValueError(
                f"microgrids.{name}.battery.grid_forming needs every device inside the microgrid, but {kind}.bus {bus} "
                "is one with a bus of the feeder; choose another bus"
            )
    inner = [regulator.name for regulator in net.regulators if head < regulator.bus < end]
    if inner:
        raise ValueError(
            f"microgrids.{name}.battery.grid_forming does not model tap changers inside an island: {', '.join(inner)}; "
            "use tables without them, or leave grid_forming off"
        )
