"""A scenario's network as constant matrices for optimisation.

Data flow: `Scenario` -> `Tree` -> `distflow.py`. Per unit on 1 MVA; buses without the slack bus (n = N - 1), in the
network's order; branch j is the one above bus j. Dims: A microgrids, N buses.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from envs.composition import build_network, feeder_banks
from envs.grid import connections
from envs.power.network import BASE_MVA, Network
from envs.power.sweep import LOW_VOLTAGE_PU
from envs.scenario import Scenario

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Tree:
    """The network as matrices over its n buses (and the branches above them)."""

    r_pu: Array  # (n,)
    x_pu: Array
    g_pu: Array  # (n,) shunts: charging and capacitors
    b_pu: Array
    ratio2_min: Array  # (n,) squared ratio of the branch above; both ends equal without a tap changer
    ratio2_max: Array
    rating2_pu: Array  # (n,) inf where unknown
    from_parent: sp.csr_matrix  # (n, n): v_parent = from_parent v + at_slack v_slack
    at_slack: Array  # (n,) 1 where the parent is the slack bus
    slack_v2_pu: float
    slack_shunt_pu: complex
    load_pu: Array  # (1 + A, N) nominal complex load of each area at every bus, the slack bus first
    devices: dict[str, sp.csr_matrix]  # kind -> (A, N) 0/1: where each microgrid's device stands
    pcc: NDArray[np.int64]  # (A,) branch of each microgrid's connection

    @classmethod
    def of(cls, scenario: Scenario) -> "Tree":
        """Matrices of a scenario's network.

        Raises:
            ValueError: a network for which the bound's proof does not hold (docs/bound.md).
        """
        net = build_network(scenario)
        check_network(scenario, net)
        below = slice(1, None)
        parent = net.parent.numpy()[below]
        n = len(parent)
        inner = np.flatnonzero(parent > 0)
        ratio_min, ratio_max = _ratio_range(net)
        names = [scenario.feeder.name, *scenario.microgrids]
        member = np.array([[area == name for area in net.areas] for name in names], dtype=float)
        place = {
            kind: [net.position(f"{name}.{getattr(grid, kind).bus}") for name, grid in scenario.microgrids.items()]
            for kind in ("battery", "generator", "pv", "wind")
        }
        return cls(
            r_pu=net.z_pu.real.numpy()[below],
            x_pu=net.z_pu.imag.numpy()[below],
            g_pu=net.y_pu.real.numpy()[below],
            b_pu=net.y_pu.imag.numpy()[below],
            ratio2_min=ratio_min[below] ** 2,
            ratio2_max=ratio_max[below] ** 2,
            rating2_pu=net.rating_pu.numpy()[below] ** 2,
            from_parent=sp.csr_matrix((np.ones(len(inner)), (inner, parent[inner] - 1)), shape=(n, n)),
            at_slack=(parent == 0).astype(float),
            slack_v2_pu=abs(net.slack_v_pu) ** 2,
            slack_shunt_pu=complex(net.y_pu[0]),
            load_pu=member * (net.load_p_mw + 1j * net.load_q_mvar).numpy() / BASE_MVA,
            devices={kind: _placement(buses, n + 1) for kind, buses in place.items()},
            pcc=np.array(connections(net, names[1:])) - 1,
        )

    def largest_draw(self, scenario: Scenario, load: Array) -> tuple[Array, Array]:
        """Largest |P| and |Q| in pu that each bus can draw or feed in, (h, n) each.

        Args:
            scenario: of the devices.
            load: (h, 1 + A) multipliers of each area's nominal load.
        """
        grids = scenario.microgrids.values()
        p = load @ np.abs(self.load_pu.real[:, 1:])
        q = load @ np.abs(self.load_pu.imag[:, 1:])
        for kind, place in self.devices.items():
            p = p + np.array([getattr(grid, kind).p_max_mw for grid in grids]) / BASE_MVA @ place[:, 1:]
        q = q + np.array([grid.battery.s_max_mva for grid in grids]) / BASE_MVA @ self.devices["battery"][:, 1:]
        return p, q


def check_provable(scenario: Scenario, net: Network) -> None:
    """Refuse what no bound covers: the program would leave out what the env allows, or account for it otherwise.

    Raises:
        ValueError: names the key.
    """
    if scenario.events:
        raise ValueError(
            "bounds are not claimed under faults: the bound's program knows no outage, island or lost load; remove the "
            "key events for a bound"
        )
    for name, grid in scenario.microgrids.items():
        for key, option in (
            ("pv.inverter", grid.pv.inverter),
            ("wind.inverter", grid.wind.inverter),
            ("load_shedding", grid.load_shedding),
            ("shiftable", grid.shiftable),
        ):
            if option is not None:
                raise ValueError(
                    f"a bound does not cover microgrids.{name}.{key}: its program knows no such freedom, so a policy "
                    "could undercut it; remove the key for a bound"
                )
    settings = scenario.dso_agent
    if settings is not None and settings.capacitors != () and feeder_banks(scenario.feeder):
        raise ValueError(
            "a bound does not cover dso_agent.capacitors: its program holds them at the scenario's steps, so a policy "
            "could undercut it; set dso_agent.capacitors: [] for a bound (regulators may be controlled: taps are free)"
        )
    check_network(scenario, net)


def check_network(scenario: Scenario, net: Network) -> None:
    """Refuse a network that the program would account for otherwise than the env does.

    Raises:
        ValueError: names the key.
    """
    draws_at_source = bool(net.load_p_mw[0]) or bool(net.load_q_mvar[0])
    if abs(net.slack_v_pu) < LOW_VOLTAGE_PU and draws_at_source:
        raise ValueError(
            f"a bound needs feeder.slack_v_pu of at least {LOW_VOLTAGE_PU} where loads stand at the source, as they "
            f"shrink below it; got {abs(net.slack_v_pu):g}"
        )
    for name, grid in scenario.microgrids.items():
        for kind in ("battery", "generator", "pv", "wind"):
            bus = f"{name}.{getattr(grid, kind).bus}"
            if net.areas[net.position(bus)] != name:
                raise ValueError(
                    f"a bound needs every device inside its microgrid, but {name}'s {kind}.bus {bus} is one with a bus "
                    "of the feeder; choose another bus"
                )


def _ratio_range(net: Network) -> tuple[Array, Array]:
    low = net.ratio.abs().numpy().copy()
    high = low.copy()
    for regulator in net.regulators:
        low[regulator.bus] *= 1 + regulator.step_pu * regulator.tap_min
        high[regulator.bus] *= 1 + regulator.step_pu * regulator.tap_max
    return low, high


def _placement(buses: list[int], size: int) -> sp.csr_matrix:
    rows = np.arange(len(buses))
    return sp.csr_matrix((np.ones(len(buses)), (rows, buses)), shape=(len(buses), size))
