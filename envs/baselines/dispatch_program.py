"""The convex QP behind `dispatch.py`, compiled once for a number of copies and steps, and what its duals prove.

Data flow: `DispatchData` -> `DispatchProgram.solve` -> `DispatchAnswer`.
Dims: B copies, A microgrids, P parties that are billed, K peaks that are charged, h steps left.
"""

import warnings
from typing import NamedTuple

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from envs.scenario import Scenario

Array = NDArray[np.float64]

TOLERANCE = 1e-7


class Netting(NamedTuple):
    """Who is billed and whose peaks are charged, as 0/1 matrices."""

    parties: Array  # (P, 1 + A) the areas whose powers each party nets; the feeder first
    peaks: Array  # (K, P) the parties whose sum each peak is of
    meters_apart: bool = False  # areas of one party have meters of their own that count where nothing can be traded


class Fleet(NamedTuple):
    """Limits and costs of the devices, each (A, 1)."""

    energy_min_mwh: Array
    energy_max_mwh: Array
    p_max_mw: Array
    efficiency: Array
    generator_max_mw: Array
    quadratic: Array
    linear: Array
    constant: Array

    @classmethod
    def of(cls, scenario: Scenario) -> "Fleet":
        """The devices of a scenario."""
        keys = [("battery", name) for name in ("energy_min_mwh", "energy_max_mwh", "p_max_mw", "efficiency")]
        costs = ("cost_quadratic_usd_per_mw2h", "cost_linear_usd_per_mwh", "certain_cost_usd_per_h")
        keys += [("generator", name) for name in ("p_max_mw", *costs)]
        grids = scenario.microgrids.values()
        return cls(*(np.array([[getattr(getattr(grid, part), name)] for grid in grids]) for part, name in keys))


class DispatchData(NamedTuple):
    """What changes from one solution to the next. An hour costs a party slope P + kink max(P, 0) + intercept."""

    net_mw: Array  # (B, P, h) loads less PV and wind
    low_mw: Array  # (B, P, h) least and highest power that the devices allow
    high_mw: Array  # (B, P, h)
    slope: Array  # (B, P, h) $/MWh
    kink: Array  # (B, P, h) $/MWh, not negative
    intercept: Array  # (B, P, h) $/h
    energy_mwh: Array  # (B, A)
    initial_energy_mwh: Array  # (B, A)
    shortfall_usd_per_mwh: Array  # (B, 1)
    peak_mw: Array  # (B, K)

    def rows(self, rows: NDArray[np.int64]) -> "DispatchData":
        """The data of some copies."""
        return DispatchData(*(values[rows] for values in self))


class DispatchAnswer(NamedTuple):
    """Arrays of B copies."""

    lower_usd: Array  # (B,) no schedule costs less
    battery_p_mw: Array  # (B, A, h)
    generator_p_mw: Array  # (B, A, h)


class Multipliers(NamedTuple):
    """Dual values of the constraints that couple variables."""

    balance: Array  # (B, P, h)
    storage: Array  # (B, A, h)
    import_: Array  # (B, P, h) of import >= power
    shortfall: Array  # (B, A, 1)
    peak: Array  # (B, K, h)


class DispatchProgram:
    """The problem of a fixed number of copies and steps. Rows of its matrices: copies x microgrids, or x parties.

    Args:
        fleet: devices.
        netting: who is billed.
        peak_usd_per_mw: demand charge.
        dt_h: length of a step.
        copies: B.
        steps: h.
    """

    def __init__(
        self, fleet: Fleet, netting: Netting, *, peak_usd_per_mw: float, dt_h: float, copies: int, steps: int
    ) -> None:
        self._fleet, self._netting = fleet, netting
        self._peak_usd_per_mw, self._dt_h, self._copies = peak_usd_per_mw, dt_h, copies
        agents, parties, peaks = (
            copies * len(fleet.p_max_mw),
            copies * len(netting.parties),
            copies * len(netting.peaks),
        )
        self._charge, self._discharge = cp.Variable((agents, steps)), cp.Variable((agents, steps))
        self._generator, self._energy = cp.Variable((agents, steps)), cp.Variable((agents, steps))
        self._power, self._import = cp.Variable((parties, steps)), cp.Variable((parties, steps))
        self._shortfall, self._peak = cp.Variable((agents, 1)), cp.Variable((peaks, 1))
        self._net_mw, self._slope = cp.Parameter((parties, steps)), cp.Parameter((parties, steps))
        self._kink = cp.Parameter((parties, steps), nonneg=True)
        self._energy_mwh, self._initial_mwh = cp.Parameter((agents, 1)), cp.Parameter((agents, 1))
        self._shortfall_usd = cp.Parameter((agents, 1), nonneg=True)
        self._peak_mw = cp.Parameter((peaks, 1))
        self._coupled = self._coupling()
        self._problem = cp.Problem(cp.Minimize(self._cost()), [*self._coupled, *self._boxes()])

    def solve(self, data: DispatchData) -> DispatchAnswer:
        """Optimal powers and the bound that the multipliers prove; NaN where the solver found nothing."""
        agents = len(self._fleet.p_max_mw)
        for parameter, values in (
            (self._net_mw, data.net_mw),
            (self._slope, data.slope),
            (self._kink, data.kink),
            (self._energy_mwh, data.energy_mwh),
            (self._initial_mwh, data.initial_energy_mwh),
            (self._shortfall_usd, data.shortfall_usd_per_mwh.repeat(agents, 1)),
            (self._peak_mw, data.peak_mw),
        ):
            parameter.value = values.reshape(parameter.shape)
        with warnings.catch_warnings():
            # an inexact answer is good enough for set-points, and `lower_usd` holds for any multipliers
            warnings.filterwarnings("ignore", message="Solution may be inaccurate")
            self._problem.solve(
                solver=cp.CLARABEL,
                tol_gap_abs=TOLERANCE,
                tol_gap_rel=TOLERANCE,
                tol_feas=TOLERANCE,
            )
        if self._problem.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
            nothing = np.full((self._copies, agents, data.net_mw.shape[-1]), np.nan)
            return DispatchAnswer(np.full(self._copies, np.nan), nothing, nothing)
        multipliers = Multipliers(*(self._by_copy(np.asarray(one.dual_value)) for one in self._coupled))
        return DispatchAnswer(
            lower_bound(
                data,
                multipliers,
                self._fleet,
                self._netting,
                peak_usd_per_mw=self._peak_usd_per_mw,
                dt_h=self._dt_h,
            ),
            self._by_copy(self._charge.value) - self._by_copy(self._discharge.value),
            self._by_copy(self._generator.value),
        )

    def _coupling(self) -> list[cp.Constraint]:
        """Constraints that have multipliers, in the order of `Multipliers`."""
        eta = self._per_row("efficiency")
        devices = self._charge - self._discharge - self._generator
        stored = self._dt_h * (cp.multiply(eta, self._charge) - cp.multiply(1 / eta, self._discharge))
        before = self._energy_mwh
        if self._energy.shape[1] > 1:
            before = cp.hstack([before, self._energy[:, :-1]])
        peak_powers = self._all_copies(self._netting.peaks) @ self._power
        return [
            self._power == self._net_mw + self._all_copies(self._netting.parties[:, 1:]) @ devices,
            self._energy == before + stored,
            self._import >= self._power,
            self._shortfall >= self._initial_mwh - self._energy[:, -1:],
            self._peak @ np.ones((1, self._power.shape[1])) >= peak_powers,
        ]

    def _boxes(self) -> list[cp.Constraint]:
        at_least_0 = (self._charge, self._discharge, self._generator, self._import, self._shortfall)
        return [
            *(variable >= 0 for variable in at_least_0),
            self._charge <= self._per_row("p_max_mw"),
            self._discharge <= self._per_row("p_max_mw"),
            self._generator <= self._per_row("generator_max_mw"),
            self._energy >= self._per_row("energy_min_mwh"),
            self._energy <= self._per_row("energy_max_mwh"),
            self._peak >= self._peak_mw,
        ]

    def _cost(self) -> cp.Expression | float:
        """$ without what no decision changes."""
        bill = cp.sum(cp.multiply(self._slope, self._power) + cp.multiply(self._kink, self._import))
        quadratic = cp.multiply(self._per_row("quadratic"), cp.square(self._generator))
        fuel = cp.sum(quadratic + cp.multiply(self._per_row("linear"), self._generator))
        shortfall = cp.sum(cp.multiply(self._shortfall_usd, self._shortfall))
        return self._dt_h * (bill + fuel) + shortfall + self._peak_usd_per_mw * cp.sum(self._peak)

    def _per_row(self, name: str) -> Array:
        """(copies x microgrids, 1) a property of the devices."""
        return np.tile(getattr(self._fleet, name), (self._copies, 1))

    def _all_copies(self, matrix: Array) -> sp.csr_matrix:
        """The matrix of one copy repeated along the diagonal."""
        return sp.csr_matrix(sp.kron(sp.eye_array(self._copies), matrix))

    def _by_copy(self, rows: Array | None) -> Array:
        assert rows is not None, "a solved problem has values"
        return rows.reshape(self._copies, -1, rows.shape[-1])


def lower_bound(
    data: DispatchData, dual: Multipliers, fleet: Fleet, netting: Netting, *, peak_usd_per_mw: float, dt_h: float
) -> Array:
    """(B,) Lagrangian dual function: the least cost over the variables' boxes with the coupling priced by `dual`.

    Every variable has a box, so this is a lower bound for any multipliers, exact but for rounding: an inexact solution
    only makes it lower. Weak duality, Boyd and Vandenberghe, Convex Optimization (2004), 5.1.3.
    """
    balance, storage = dual.balance, dual.storage
    import_, shortfall, peak = (np.maximum(value, 0.0) for value in (dual.import_, dual.shortfall, dual.peak))
    device_price = netting.parties[:, 1:].T @ balance  # (B, A, h) what a MW of consumption pays
    energy_price = storage - np.concatenate([storage[..., 1:], shortfall], -1)
    head_max_mw = (netting.peaks @ data.high_mw).max(-1)
    parts = (
        _least(dt_h * data.slope + balance + import_ + netting.peaks.T @ peak, data.low_mw, data.high_mw),
        _least(dt_h * data.kink - import_, 0.0, data.high_mw.clip(min=0.0)),
        _least(-device_price - dt_h * fleet.efficiency * storage, 0.0, fleet.p_max_mw),
        _least(device_price + dt_h * storage / fleet.efficiency, 0.0, fleet.p_max_mw),
        _least_quadratic(dt_h * fleet.quadratic, dt_h * fleet.linear + device_price, fleet.generator_max_mw),
        _least(energy_price, fleet.energy_min_mwh, fleet.energy_max_mwh),
        _least(data.shortfall_usd_per_mwh[..., None] - shortfall, 0.0, data.initial_energy_mwh[..., None]),
        _least(peak_usd_per_mw - peak.sum(-1), data.peak_mw, np.maximum(data.peak_mw, head_max_mw)),
        # what no variable changes
        dt_h * data.intercept - balance * data.net_mw,
        np.broadcast_to(dt_h * fleet.constant, storage.shape),
        shortfall[..., 0] * data.initial_energy_mwh - storage[..., 0] * data.energy_mwh,
        -peak_usd_per_mw * data.peak_mw,
    )
    return np.sum([part.reshape(len(part), -1).sum(-1) for part in parts], axis=0)


def _least(price: Array, low: Array | float, high: Array | float) -> Array:
    """Minimum of price x over low <= x <= high."""
    return np.minimum(price * low, price * high)


def _least_quadratic(quadratic: Array, linear: Array, high: Array) -> Array:
    """Minimum of quadratic x^2 + linear x over 0 <= x <= high, quadratic >= 0."""
    curved = quadratic > 0
    best = np.where(curved, -linear / np.where(curved, 2 * quadratic, 1.0), np.where(linear < 0, high, 0.0))
    best = np.clip(best, 0.0, high)
    return (quadratic * best + linear) * best
