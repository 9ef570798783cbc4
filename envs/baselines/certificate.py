"""Solve one day and prove what it says: the dual bound, what it forgives, and how tight the relaxation is.

Data flow: `DistFlow`, `DayData` -> `solve_day` -> `DaySolution` -> `bound.py` (certificate), `mpc.py` (set-points).

The solver minimises x'Px/2 + c'x subject to b - Ax in a cone K. For its answer x* and any z in the dual cone, every
feasible x costs at least -x*'Px*/2 - b'z + r'x with r = Px* + c + A'z. r is rounding, not 0; x is boxed by what a
schedule can reach without paying more in penalties than a day is worth. The least r'x over that box is the allowance.
"""

import warnings
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
from envs.power.network import BASE_MVA
from envs.power.sweep import LOW_VOLTAGE_PU

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
        floor_usd: of `floor.py`, if known: it makes the allowances small.
    """
    answer, status = _solve(model, day)
    if answer is None:
        nan = float("nan")
        nothing = torch.full((model.steps, len(model.scenario.microgrids)), nan, dtype=torch.float64)
        return DaySolution(nan, nan, nan, nan, nan, nan, Applied(*[nothing] * 5), status)
    residual = answer.quadratic @ answer.x + answer.linear + answer.matrix.T @ answer.z
    dual_usd = -0.5 * float(answer.x @ (answer.quadratic @ answer.x)) - float(answer.right @ answer.z)
    dual_usd += answer.constant_usd
    penalty_usd = _penalty_limit(model, max(answer.value_usd, dual_usd), floor_usd)
    low, high = _box(model, answer.column, len(residual), penalty_usd)
    allowance = -float(np.where(residual > 0, residual * low, residual * high).sum())
    low_voltage = low_voltage_allowance(model, penalty_usd)
    cone, phantom_mwh = _relaxation_gap(model)
    return DaySolution(
        certified_usd=dual_usd - allowance - low_voltage,
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
    # the options are Clarabel's own below; cvxpy wants to see some all the same. Its default back end for many
    # parameters (cvxpy 1.9.3, quarter-hour steps) fails; SciPy's also compiles sooner
    backend = cp.SCIPY_CANON_BACKEND
    data, chain, inverse = model.problem.get_problem_data(cp.CLARABEL, canon_backend=backend, solver_opts={})
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
    with warnings.catch_warnings():
        # `AlmostSolved` is no worry: the certificate measures what is missing
        warnings.filterwarnings("ignore", "Solution may be inaccurate", UserWarning)
        model.problem.unpack_results(found, chain, inverse)
    value_usd = float(_array(model.problem.value))
    column = data["param_prob"].var_id_to_col
    x, z = np.array(found.x), np.array(found.z)
    return _Answer(quadratic, linear, matrix, right, column, x, z, value_usd, value_usd - found.obj_val), status


def low_voltage_allowance(model: DistFlow, penalty_usd: float) -> float:
    """$ by which loads that shrink below 0.8 pu could undercut the dual objective; 0 is the normal case.

    Below 0.8 pu the env scales what a bus draws by V^2 / 0.64: it draws a share s = 1 - V^2 / 0.64 less. At the
    optimum's prices (duals of the balances) that saves at most s times the bus's largest power; where a negative
    price makes the bill a line through the lowest power, that point moves down with the loads. The voltage penalty
    charges for v_min^2 - V^2, of which the dual solution has spent the dual of the limit. Saving less what is left of
    the charge is convex in V^2, so it is largest at no depth or at the greatest one that penalties below `penalty_usd`
    allow a bus. The same budget bounds the sum over buses and hours.

    Args:
        model: solved.
        penalty_usd: what a schedule cheaper than the optimum can pay in penalties at most.
    """
    safety = model.scenario.safety
    p_max, q_max = model.tree.largest_draw(model.scenario, model.day.load)
    price_p, price_q = (np.abs(_array(balance.dual_value)) for balance in (model.p_balance, model.q_balance))
    dt_h, export_share = model.scenario.dt_h, model.scenario.tariff.export_share
    price_p = price_p + dt_h * (1 - export_share) * np.maximum(-model.day.price, 0.0)[:, None]
    saving = price_p * p_max + price_q * q_max
    deepest = safety.v_min_pu**2
    if safety.v_min_pu < LOW_VOLTAGE_PU or not safety.voltage_usd_per_h:
        return float(saving.sum())
    spare = (0.5 * dt_h * safety.voltage_usd_per_h - _array(model.lower_limit.dual_value)).clip(min=0.0)
    budget = 2 * penalty_usd / (dt_h * safety.voltage_usd_per_h)  # of v_min^2 - V^2, all buses and hours together
    depth = min(budget, deepest)
    share = max(1 - (deepest - depth) / LOW_VOLTAGE_PU**2, 0.0)
    gain = (saving * share - spare * depth).clip(min=0.0)
    return float(min(gain.sum(), gain.max() * budget / depth))


def _penalty_limit(model: DistFlow, value_usd: float, floor_usd: float | None) -> float:
    """$ of penalties that no schedule cheaper than `value_usd` can pay."""
    if floor_usd is not None:
        return 2 * max(value_usd - floor_usd, 0.0) + 1.0
    # what a negative price can earn: a power S draws at most |S| / 0.8, since its current falls with the voltage below
    # 0.8 pu; shunts count at 2 pu; all is seen from the source through the ratios
    tree = model.tree
    ratios = np.sqrt(np.maximum(tree.ratio2_max, 1.0).prod())
    current_pu = _installed(model) / BASE_MVA / LOW_VOLTAGE_PU + 2 * np.hypot(tree.g_pu, tree.b_pu).sum()
    reach_mw = BASE_MVA * max(np.sqrt(tree.slack_v2_pu), 1.0) * ratios * current_pu
    return abs(value_usd) + float(model.scenario.dt_h * np.abs(model.day.price).sum() * reach_mw) + 1.0


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
    v2_max = safety.v_max_pu**2 + excess_v2
    l_max = np.full_like(tree.rating2_pu, (UNKNOWN_RANGE * installed) ** 2)
    if safety.current_usd_per_h:
        most = tree.rating2_pu * (1 + 2 * penalty_usd / (dt_h * safety.current_usd_per_h))
        l_max = np.where(np.isfinite(most), most, l_max)
    flow_max = np.sqrt(max(v2_max, tree.slack_v2_pu) * l_max)
    head_max = float(flow_max @ tree.at_slack) + installed
    energy_max = np.array([grid.battery.energy_max_mwh for grid in scenario.microgrids.values()])
    party_max = head_max + (float(flow_max[tree.pcc].sum()) if scenario.settlement == "individual" else 0.0)
    bill_max = dt_h * np.abs(day.price).max() * (party_max + installed) * 2
    ranges = {
        model.p: (-flow_max, flow_max),
        model.q: (-flow_max, flow_max),
        model.l: (0.0, l_max),
        model.v: (0.0, v2_max),
        model.under: (0.0, safety.v_min_pu**2),
        model.over: (0.0, excess_v2),
        model.overload: (0.0, (l_max / tree.rating2_pu - 1).clip(min=0.0)),
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
