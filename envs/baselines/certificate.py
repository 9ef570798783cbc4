"""Solve one day and prove what it says: the dual bound, what it forgives, and how tight the relaxation is.

Data flow: `DistFlow`, `DayData` -> `solve_day` -> `DaySolution` -> `bound.py` (certificate), `mpc.py` (set-points).

The solver minimises x'Px/2 + c'x subject to b - Ax in a cone K. For its answer x* and any z in the dual cone, every
feasible x costs at least -x*'Px*/2 - b'z + r'x with r = Px* + c + A'z. r is rounding, not 0; x is boxed by what a
schedule can reach without paying more in penalties than a day is worth. The least r'x over that box is the allowance.
"""

from typing import Any, NamedTuple

import clarabel
import cvxpy as cp
import numpy as np
import scipy.sparse as sp
import torch
from cvxpy.reductions.solvers.conic_solvers.clarabel_conif import dims_to_solver_cones

from envs.baselines.distflow import DayData, DistFlow
from envs.baselines.tree import Array
from envs.devices import Applied
from envs.power.flow import LOW_VOLTAGE_PU
from envs.power.network import BASE_MVA

TOLERANCE = 1e-7  # Clarabel's default of 1e-8 ends without the accuracy it asks for on one day in ten
UNKNOWN_RANGE = 100.0  # of a quantity that has no limit of its own, in multiples of everything installed


class DaySolution(NamedTuple):
    """One solved day; $ without what was spent before its first step."""

    certified_usd: float
    """No schedule costs less: the dual objective less both allowances. NaN where the solver found none."""
    primal_usd: float
    residual_allowance_usd: float
    """For the dual solution's rounding."""
    low_voltage_allowance_usd: float
    """For loads that shrink below 0.8 pu, 0 where the voltage penalty outweighs whatever they save."""
    cone_residual_pu2: float
    """Largest v l - P^2 - Q^2: 0 where the relaxation is exact."""
    phantom_loss_mwh: float
    """Losses of currents that no power needs."""
    set_points: Applied
    """Each (h, A) float64."""
    status: str


class _Answer(NamedTuple):
    """What the solver was given and what it found; the model's variables hold the solution too."""

    quadratic: sp.csc_matrix  # P
    linear: Array  # c
    matrix: sp.csc_matrix  # A
    right: Array  # b
    column: dict[int, int]  # id of a cvxpy variable -> its first column
    x: Array
    z: Array
    value_usd: float  # of x
    constant_usd: float  # what cvxpy keeps out of the solver's objective


def set_points(model: DistFlow, day: DayData) -> tuple[Applied | None, str]:
    """The optimal set-points of a day, each (h, A), and the solver's status; None where it failed."""
    answer, status = _solve(model, day)
    return (None if answer is None else _set_points(model)), status


def solve_day(model: DistFlow, day: DayData, floor_usd: float | None = None) -> DaySolution:
    """Solve a compiled problem for one day and certify the result.

    Args:
        model: compiled for as many steps as the day has left.
        day: the numbers of the day.
        floor_usd: what every schedule pays at least, penalties apart, if known: it makes the allowance small.
    """
    answer, status = _solve(model, day)
    if answer is None:
        nan = float("nan")
        nothing = torch.full((model.steps, len(model.scenario.microgrids)), nan, dtype=torch.float64)
        return DaySolution(nan, nan, nan, nan, nan, nan, Applied(*[nothing] * 5), status)
    residual = answer.quadratic @ answer.x + answer.linear + answer.matrix.T @ answer.z
    low, high = _box(model, answer.column, len(residual), _penalty_limit(model, answer.value_usd, floor_usd))
    allowance = -float(np.where(residual > 0, residual * low, residual * high).sum())
    dual_usd = -0.5 * float(answer.x @ (answer.quadratic @ answer.x)) - float(answer.right @ answer.z)
    low_voltage = low_voltage_allowance(model)
    cone, phantom_mwh = _relaxation_gap(model)
    return DaySolution(
        certified_usd=dual_usd + answer.constant_usd - allowance - low_voltage,
        primal_usd=answer.value_usd,
        residual_allowance_usd=allowance,
        low_voltage_allowance_usd=low_voltage,
        cone_residual_pu2=cone,
        phantom_loss_mwh=phantom_mwh,
        set_points=_set_points(model),
        status=status,
    )


def _solve(model: DistFlow, day: DayData) -> tuple[_Answer | None, str]:
    model.set_day(day)
    # the options are Clarabel's own below; cvxpy wants to see some all the same
    data, chain, inverse = model.problem.get_problem_data(cp.CLARABEL, solver_opts={})
    assert chain is not None  # None only for other kinds of solver
    solver: Any = clarabel  # compiled, without type stubs
    settings = solver.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = TOLERANCE
    size = len(data["c"])
    quadratic = sp.csc_matrix(data["P"]) if "P" in data else sp.csc_matrix((size, size))
    matrix, right, linear = sp.csc_matrix(data["A"]), data["b"], data["c"]
    cones = dims_to_solver_cones(data["dims"])
    found = solver.DefaultSolver(sp.csc_matrix(sp.triu(quadratic)), linear, matrix, right, cones, settings).solve()
    status = str(found.status)
    if status not in ("Solved", "AlmostSolved"):
        return None, status
    model.problem.unpack_results(found, chain, inverse)
    value_usd = float(_array(model.problem.value))
    column = data["param_prob"].var_id_to_col
    x, z = np.array(found.x), np.array(found.z)
    return _Answer(quadratic, linear, matrix, right, column, x, z, value_usd, value_usd - found.obj_val), status


def low_voltage_allowance(model: DistFlow) -> float:
    """$ by which loads that shrink below 0.8 pu could undercut the dual objective; 0 is the normal case.

    Below 0.8 pu the env scales what a bus draws by V^2 / 0.64, so it draws a share s less, with s <= 1 - V^2 / v_min^2
    where v_min >= 0.8. At the optimum's prices (duals of the balances) that saves at most s times the bus's largest
    power; the voltage penalty charges for v_min^2 - V^2 = s v_min^2 at least, of which the dual solution has spent the
    dual of the limit. What is left over must pay for the saving, bus by bus and hour by hour.
    """
    safety = model.scenario.safety
    p_max, q_max = model.tree.largest_draw(model.scenario, model.day.load)
    price_p, price_q = (np.abs(_array(balance.dual_value)) for balance in (model.p_balance, model.q_balance))
    saving = price_p * p_max + price_q * q_max
    if safety.v_min_pu < LOW_VOLTAGE_PU:
        return float(saving.sum())
    spare = 0.5 * model.scenario.dt_h * safety.voltage_usd_per_h - _array(model.lower_limit.dual_value)
    return float((saving - spare * safety.v_min_pu**2).clip(min=0.0).sum())


def _penalty_limit(model: DistFlow, value_usd: float, floor_usd: float | None) -> float:
    """$ of penalties that no schedule cheaper than `value_usd` can pay."""
    if floor_usd is not None:
        return 2 * max(value_usd - floor_usd, 0.0) + 1.0
    turnover = model.scenario.dt_h * np.abs(model.day.price).sum() * _installed(model)
    return abs(value_usd) + float(turnover)


def _installed(model: DistFlow) -> float:
    """MVA of everything that stands in the network, each load at its highest of the day."""
    devices = sum(
        g.battery.s_max_mva + g.generator.p_max_mw + g.pv.p_max_mw + g.wind.p_max_mw
        for g in model.scenario.microgrids.values()
    )
    return devices + BASE_MVA * float((model.day.load.max(0) @ np.abs(model.tree.load_pu)).sum())


def _box(model: DistFlow, column: dict[int, int], size: int, penalty_usd: float) -> tuple[Array, Array]:
    """Lowest and highest value of each of the solver's variables in any schedule whose penalties stay below a limit."""
    tree, scenario, day = model.tree, model.scenario, model.day
    safety, dt_h, installed = scenario.safety, scenario.dt_h, _installed(model)
    excess_v2 = 2 * penalty_usd / (dt_h * safety.voltage_usd_per_h) if safety.voltage_usd_per_h else UNKNOWN_RANGE
    excess_l = 2 * penalty_usd / (dt_h * safety.current_usd_per_h) if safety.current_usd_per_h else UNKNOWN_RANGE
    v2_max = safety.v_max_pu**2 + excess_v2
    known = np.where(np.isfinite(tree.rating2_pu), tree.rating2_pu, (UNKNOWN_RANGE * installed) ** 2)
    l_max = known * (1 + excess_l)
    flow_max = np.sqrt(max(v2_max, tree.slack_v2_pu) * l_max)
    head_max = float(flow_max @ tree.at_slack) + installed
    energy_max = np.array([grid.battery.energy_max_mwh for grid in scenario.microgrids.values()])
    bill_max = dt_h * np.abs(day.price).max() * (head_max + installed) * 2
    ranges = {
        model.p: (-flow_max, flow_max),
        model.q: (-flow_max, flow_max),
        model.l: (0.0, l_max),
        model.v: (0.0, v2_max),
        model.under: (0.0, safety.v_min_pu**2),
        model.over: (0.0, excess_v2),
        model.overload: (0.0, excess_l),
        model.energy: (0.0, energy_max),
        model.shortfall: (0.0, energy_max),
        model.head_p: (-head_max, head_max),
        model.peak: (-head_max, head_max),
        model.bill: (-bill_max, bill_max),
        model.battery_q: (-installed, installed),
        **{x: (0.0, installed) for x in (model.charge, model.discharge, model.generator_p, model.pv, model.wind)},
    }
    low, high = np.full(size, -installed), np.full(size, installed)  # what remains stands for generator powers
    for variable, (least, most) in ranges.items():
        start = column[variable.id]
        for values, bound in ((low, least), (high, most)):
            values[start : start + variable.size] = np.broadcast_to(bound, variable.shape).ravel(order="F")
    return low, high


def _relaxation_gap(model: DistFlow) -> tuple[float, float]:
    """Largest cone residual in pu^2, and the energy lost to currents beyond what the powers need, in MWh."""
    tree = model.tree
    p, q, current2, v = (_array(x.value) for x in (model.p, model.q, model.l, model.v))
    v_parent = v @ tree.from_parent.T + tree.at_slack * tree.slack_v2_pu
    residual = v_parent * current2 - p**2 - q**2
    phantom = (residual / v_parent).clip(min=0.0) @ tree.r_pu
    return float(residual.max()), float(model.scenario.dt_h * phantom.sum())


def _set_points(model: DistFlow) -> Applied:
    battery_p = _array(model.charge.value) - _array(model.discharge.value)
    rest = (_array(x.value) for x in (model.battery_q, model.generator_p, model.pv, model.wind))
    return Applied(*(torch.from_numpy(values) for values in (battery_p, *rest)))


def _array(value: Any) -> Array:
    """A solved variable's or dual's value; cvxpy's own type allows for there being none."""
    return np.array(value, dtype=np.float64)
