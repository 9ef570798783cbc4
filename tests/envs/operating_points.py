"""Operating points of the power-flow tests, and pandapower as their judge."""

from typing import Any, NamedTuple

import numpy as np
import pandapower as pp
import torch
from torch import Tensor

from envs.power import Network, PowerFlow
from envs.power.tables import Tables
from envs.power.to_pandapower import to_pandapower
from envs.scenario import Scenario
from tests.envs.pandapower_reference import solve, voltages


class Points(NamedTuple):
    """B operating points, injections generation positive."""

    p_mw: Tensor  # (B, N) float64
    q_mvar: Tensor  # (B, N)
    tap: Tensor  # (B, R)

    def row(self, b: int) -> "Points":
        return Points(self.p_mw[b : b + 1], self.q_mvar[b : b + 1], self.tap[b : b + 1])


def scenario_points(scenario: Scenario, net: Network, count: int, *, seed: int, taps: int = 8) -> Points:
    """Random load multipliers by bus, random device powers, random taps in +-`taps`."""
    rng = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=rng, dtype=torch.float64)

    p_mw, q_mvar = net.nominal_injections()
    multiplier = 0.9 * uniform(count, net.num_buses)
    p_mw, q_mvar = p_mw * multiplier, q_mvar * multiplier
    for name, grid in scenario.microgrids.items():
        battery = net.position(f"{name}.{grid.battery.bus}")
        p_mw[:, battery] += (2 * uniform(count) - 1) * grid.battery.p_max_mw
        q_mvar[:, battery] += (2 * uniform(count) - 1) * 0.3
        for plant in (grid.generator, grid.pv, grid.wind):
            p_mw[:, net.position(f"{name}.{plant.bus}")] += uniform(count) * plant.p_max_mw
    tap = torch.randint(-taps, taps + 1, (count, len(net.regulators)), generator=rng).double()
    return Points(p_mw, q_mvar, tap)


class Judge:
    """One pandapower net that takes the points of a `Network` built from the same tables."""

    def __init__(self, tables: Tables, net: Network) -> None:
        self.pandapower: Any = to_pandapower(tables)
        self.position = [net.position(name) for name in self.pandapower.bus.name]
        # one load at every bus of the network, so that a point is two columns
        self.pandapower.load.drop(self.pandapower.load.index, inplace=True)
        names = list(self.pandapower.bus.name)
        for bus in net.bus_index:
            pp.create_load(self.pandapower, self.pandapower.bus.index[names.index(bus)], 0.0, 0.0)
        trafos = list(self.pandapower.trafo.name)
        self._trafos = [self.pandapower.trafo.index[trafos.index(regulator.name)] for regulator in net.regulators]

    def solve(self, point: Points, start: PowerFlow, row: int) -> np.ndarray:
        """Complex voltages (N of pandapower) of a point; our solution is only Newton's start."""
        self.pandapower.load["p_mw"] = -point.p_mw[0].numpy()
        self.pandapower.load["q_mvar"] = -point.q_mvar[0].numpy()
        self.pandapower.trafo.loc[self._trafos, "tap_pos"] = point.tap[0].numpy()
        solve(self.pandapower, start.v_pu[row, self.position].numpy())
        return voltages(self.pandapower)


def largest_difference(judge: Judge, points: Points, flow: PowerFlow) -> float:
    """max |dV| in pu over points and buses."""
    worst = 0.0
    for b in range(len(points.p_mw)):
        expected = judge.solve(points.row(b), flow, b)
        worst = max(worst, float(np.abs(expected - flow.v_pu[b, judge.position].numpy()).max()))
    return worst


def admittance(net: Network, tap: Tensor) -> Tensor:
    """(N, N) bus admittance of one copy, written from the branch model V_j = k (V_p - z I) alone."""
    y = torch.diag(net.y_pu).clone()
    k = net.ratio.clone()
    for regulator, position in zip(net.regulators, tap.tolist(), strict=True):
        k[regulator.bus] *= 1 + regulator.step_pu * position
    for child in range(1, net.num_buses):
        parent, z = int(net.parent[child]), net.z_pu[child]
        y[parent, parent] += 1 / z
        y[parent, child] -= 1 / (z * k[child])
        y[child, parent] -= 1 / (z * k[child].conj())
        y[child, child] += 1 / (z * k[child].abs() ** 2)
    return y


def mismatch_mva(net: Network, points: Points, flow: PowerFlow) -> Tensor:
    """(B, N - 1) |V conj(Y V) - S| at every bus below the slack."""
    rows = []
    for b, v in enumerate(flow.v_pu):
        injected = v * (admittance(net, points.tap[b]) @ v).conj()
        rows.append((injected - torch.complex(points.p_mw[b], points.q_mvar[b])).abs()[1:])
    return torch.stack(rows)
