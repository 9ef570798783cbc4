"""The rest of a day as a convex program: a branch-flow relaxation of the scenario's physics and money.

Data flow: `Scenario`, `Tree` -> `DistFlow` (cvxpy; whatever changes from day to day is a parameter, so that it is
compiled once) -> `certificate.py` (solve, dual bound) -> `bound.py`, `mpc.py`.

DistFlow in v = |V|^2 and l = |I|^2 (Baran and Wu 1989) with P^2 + Q^2 <= v_parent l instead of equality (Farivar and
Low 2013, IEEE Trans. Power Systems 28(3)). Every step relaxes the env: ratios of tap changers are continuous and free
each hour, currents may exceed what power needs, charge and discharge may overlap. So the optimum is a lower bound.
Grid quantities are per unit on 1 MVA. Dims: h steps left, A microgrids, n buses below the slack bus.
"""

from dataclasses import dataclass

import cvxpy as cp
import numpy as np
import torch

from envs.baselines.parties import billed_parties, lowest_billed_mw
from envs.baselines.tree import Array, Tree
from envs.power.network import BASE_MVA
from envs.scenario import Scenario
from envs.tariff import shortfall_price


@dataclass(frozen=True)
class DayData:
    """What changes from day to day, float64."""

    price: Array  # (h,) $/MWh
    load: Array  # (h, 1 + A) multipliers of each area's nominal load
    pv_mw: Array  # (h, A) available
    wind_mw: Array  # (h, A)
    energy_mwh: Array  # (A,) now
    initial_energy_mwh: Array  # (A,) what the terminal rule refers to
    peak_mw: float  # highest head power so far
    highest_price: float  # of the whole day, for the terminal rule


class DistFlow:
    """One compiled problem for h steps of a scenario. Its variables hold the last solution."""

    def __init__(self, scenario: Scenario, steps: int) -> None:
        self.scenario, self.steps, self.tree = scenario, steps, Tree.of(scenario)
        shape, agents = (steps, len(self.tree.r_pu)), len(scenario.microgrids)
        self.p, self.q = cp.Variable(shape), cp.Variable(shape)  # into the branch, at its parent
        self.l, self.v = cp.Variable(shape), cp.Variable(shape)
        self.under, self.over, self.overload = (cp.Variable(shape) for _ in range(3))
        per_device = (steps, agents)
        self.charge, self.discharge = cp.Variable(per_device), cp.Variable(per_device)
        self.battery_q, self.generator_p = cp.Variable(per_device), cp.Variable(per_device)
        self.pv, self.wind, self.energy = (cp.Variable(per_device) for _ in range(3))
        self.shortfall = cp.Variable(agents)
        self.peak = cp.Variable()
        parties = len(billed_parties(scenario))
        self.bill = cp.Variable((steps, parties))
        self._make_parameters(parties)
        self.head_p = cp.Variable(steps)  # MW from the source
        balance, grid = self._grid_constraints()
        self.p_balance, self.q_balance, self.lower_limit = balance
        # not `nonneg=True`, which hides the variables from the certificate behind others
        at_least_0 = (self.l, self.v, self.under, self.over, self.overload, self.shortfall)
        at_least_0 += (self.charge, self.discharge, self.generator_p, self.pv, self.wind)
        constraints = [*balance, *grid, *self._device_constraints(), *self._money_constraints()]
        constraints += [variable >= 0 for variable in at_least_0]
        self.problem = cp.Problem(cp.Minimize(self._cost()), constraints)

    def _make_parameters(self, parties: int) -> None:
        steps, agents = self.steps, len(self.scenario.microgrids)
        self._load = cp.Parameter((steps, 1 + agents), nonneg=True)
        self._pv, self._wind = (cp.Parameter((steps, agents), nonneg=True) for _ in range(2))
        self._energy, self._initial = cp.Parameter(agents), cp.Parameter(agents)
        self._peak = cp.Parameter()
        self._shortfall_price = cp.Parameter(nonneg=True)
        # the bill of one party is the larger of two affine pieces: slope * power + offset
        self._slopes = [cp.Parameter((steps, parties)) for _ in range(2)]
        self._offsets = [cp.Parameter((steps, parties)) for _ in range(2)]

    def set_day(self, day: DayData) -> None:
        """Fill in the numbers of one day."""
        self.day = day
        rule = self.scenario.tariff
        self._load.value, self._pv.value, self._wind.value = day.load, day.pv_mw, day.wind_mw
        self._energy.value, self._initial.value, self._peak.value = day.energy_mwh, day.initial_energy_mwh, day.peak_mw
        highest = torch.tensor(day.highest_price, dtype=torch.float64)
        factor, adder = rule.terminal_price_factor, rule.terminal_price_adder_usd_per_mwh
        self._shortfall_price.value = float(shortfall_price(highest, factor=factor, adder_usd_per_mwh=adder))
        pieces = bill_pieces(day.price[:, None], self._lowest_power(day), rule.export_share)
        for slope, offset, (new_slope, new_offset) in zip(self._slopes, self._offsets, pieces, strict=True):
            slope.value, offset.value = self.scenario.dt_h * new_slope, self.scenario.dt_h * new_offset

    def _lowest_power(self, day: DayData) -> Array:
        """(h, parties) MW that no party's meters can fall below: everything produces, nothing is lost."""
        grids = self.scenario.microgrids.values()
        production = day.pv_mw + day.wind_mw + [grid.battery.p_max_mw + grid.generator.p_max_mw for grid in grids]
        load = day.load * (self.tree.load_pu.real.sum(1) * BASE_MVA)
        return lowest_billed_mw(self.scenario, load - np.hstack([np.zeros((self.steps, 1)), production]))

    def _grid_constraints(self) -> tuple[list[cp.Constraint], list[cp.Constraint]]:
        """Balances and the lower voltage limit (whose duals are needed later), and all others."""
        tree, limits = self.tree, self.scenario.safety
        place = {kind: matrix[:, 1:] / BASE_MVA for kind, matrix in tree.devices.items()}
        battery_p = (self.charge - self.discharge) @ place["battery"]
        produced = self.generator_p @ place["generator"] + self.pv @ place["pv"] + self.wind @ place["wind"]
        p_bus = self._load @ tree.load_pu.real[:, 1:] + battery_p - produced
        q_bus = self._load @ tree.load_pu.imag[:, 1:] + self.battery_q @ place["battery"]
        to_children = tree.from_parent  # (n, n): row c picks the parent of c, so P @ it adds up the children of j

        def columns(values: Array) -> Array:
            return np.broadcast_to(values, (self.steps, len(values)))

        def scaled(variable: cp.Expression, values: Array) -> cp.Expression:
            return cp.multiply(variable, columns(values))

        v_parent = self.v @ tree.from_parent.T + columns(tree.at_slack * tree.slack_v2_pu)
        p_balance = self.p - scaled(self.l, tree.r_pu) - scaled(self.v, tree.g_pu) - self.p @ to_children == p_bus
        q_balance = self.q - scaled(self.l, tree.x_pu) + scaled(self.v, tree.b_pu) - self.q @ to_children == q_bus
        drop = 2 * (scaled(self.p, tree.r_pu) + scaled(self.q, tree.x_pu))
        behind = v_parent - drop + scaled(self.l, tree.r_pu**2 + tree.x_pu**2)  # squared voltage before the ratio
        fixed = tree.ratio2_min == tree.ratio2_max
        changer = np.flatnonzero(~fixed)
        rated = np.flatnonzero(np.isfinite(tree.rating2_pu))
        cone = cp.SOC(
            _flat(v_parent + self.l), cp.vstack([_flat(2 * self.p), _flat(2 * self.q), _flat(v_parent - self.l)])
        )
        lower_limit = self.under >= limits.v_min_pu**2 - self.v
        # at the slack bus stand the branches below it, its own load, devices and shunt
        source = {kind: np.asarray(matrix[:, :1].todense())[:, 0] / BASE_MVA for kind, matrix in tree.devices.items()}
        at_source = self._load @ tree.load_pu.real[:, 0] + tree.slack_v2_pu * tree.slack_shunt_pu.real
        at_source += (self.charge - self.discharge) @ source["battery"] - self.generator_p @ source["generator"]
        at_source -= self.pv @ source["pv"] + self.wind @ source["wind"]
        others = [
            self.head_p == BASE_MVA * (self.p @ tree.at_slack + at_source),
            self.v[:, fixed] == scaled(behind, tree.ratio2_min)[:, fixed],
            self.v[:, changer] >= scaled(behind, tree.ratio2_min)[:, changer],
            self.v[:, changer] <= scaled(behind, tree.ratio2_max)[:, changer],
            cone,
            self.over >= self.v - limits.v_max_pu**2,
            self.overload[:, rated] >= scaled(self.l, 1 / tree.rating2_pu)[:, rated] - 1,
        ]
        return [p_balance, q_balance, lower_limit], others

    def _device_constraints(self) -> list[cp.Constraint]:
        """Energies, apparent power and ranges."""
        grids, dt_h = list(self.scenario.microgrids.values()), self.scenario.dt_h

        def column(part: str, name: str) -> Array:
            return np.broadcast_to([getattr(getattr(grid, part), name) for grid in grids], (self.steps, len(grids)))

        eta, p_max = column("battery", "efficiency"), column("battery", "p_max_mw")
        stored = cp.multiply(self.charge, dt_h * eta) - cp.multiply(self.discharge, dt_h / eta)
        before = cp.vstack([cp.reshape(self._energy, (1, len(grids)), order="C"), self.energy[:-1]])
        s_max = column("battery", "s_max_mva").ravel(order="F")
        apparent = cp.vstack([_flat(self.charge - self.discharge), _flat(self.battery_q)])
        exact = (lambda a, b: a <= b) if self.scenario.curtailment else (lambda a, b: a == b)
        return [
            self.energy == before + stored,
            self.energy >= column("battery", "energy_min_mwh"),
            self.energy <= column("battery", "energy_max_mwh"),
            self.charge <= p_max,
            self.discharge <= p_max,
            cp.SOC(cp.Constant(s_max), apparent),
            self.generator_p <= column("generator", "p_max_mw"),
            exact(self.pv, self._pv),
            exact(self.wind, self._wind),
        ]

    def _money_constraints(self) -> list[cp.Constraint]:
        power = cp.reshape(self.head_p, (self.steps, 1), order="C")
        if self.scenario.settlement == "individual":
            connections = BASE_MVA * self.p[:, self.tree.pcc]
            areas = cp.hstack([power - cp.sum(connections, axis=1, keepdims=True), connections])
            power = areas @ billed_parties(self.scenario).T
        pieces = zip(self._slopes, self._offsets, strict=True)
        return [
            *(self.bill >= cp.multiply(slope, power) + offset for slope, offset in pieces),
            self.peak >= self.head_p,
            self.peak >= self._peak,
            self.shortfall >= self._initial - self.energy[-1],
        ]

    def _cost(self) -> cp.Expression:
        """$ of the rest of the day: J without what is spent already."""
        grids, limits, dt_h = self.scenario.microgrids.values(), self.scenario.safety, self.scenario.dt_h
        rate = self.scenario.tariff.demand_charge_usd_per_mw
        cost = cp.sum(self.bill) + rate * (self.peak - self._peak) + self._shortfall_price * cp.sum(self.shortfall)
        for i, generator in enumerate(grid.generator for grid in grids):
            p = self.generator_p[:, i]
            cost += dt_h * generator.cost_quadratic_usd_per_mw2h * cp.sum_squares(p)
            cost += dt_h * generator.cost_linear_usd_per_mwh * cp.sum(p)
            cost += dt_h * self.steps * generator.certain_cost_usd_per_h
        cost += 0.5 * dt_h * limits.voltage_usd_per_h * cp.sum(self.under + self.over)
        return cost + 0.5 * dt_h * limits.current_usd_per_h * cp.sum(self.overload)


def bill_pieces(price: Array, lowest_mw: Array, export_share: float) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Two affine pieces (slope, offset) in $/h whose larger one never exceeds lambda P+ - export_share lambda P-.

    For prices >= 0 they are the bill itself. With a negative price the bill is concave; both pieces are then the line
    of slope lambda through the bill at the lowest power, which lies below the bill at every higher power.

    Args:
        price: (h, 1) $/MWh.
        lowest_mw: (h, parties), at most 0.
        export_share: export price / lambda.
    """
    import_slope, export_slope = price + 0 * lowest_mw, export_share * price + 0 * lowest_mw
    offset = np.where(import_slope < 0, (export_share - 1) * price * lowest_mw, 0.0)
    return (import_slope, offset), (np.where(import_slope < 0, import_slope, export_slope), offset)


def _flat(expression: cp.Expression) -> cp.Expression:
    return cp.vec(expression, order="F")
