"""One solved day and its proof: against brute force, against the dual's definition, and where loads shrink."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from envs.baselines import certificate
from envs.baselines.certificate import low_voltage_allowance, set_points, solve_day
from envs.baselines.day_data import day_data
from envs.baselines.distflow import DayData, DistFlow
from envs.baselines.floor import lossless_floor
from envs.microgrid import MicrogridEnv
from envs.scenario import Scenario, load_scenario
from envs.settings import EnvSettings
from envs.situation import outlook


def copies_of_one_day(scenario: Scenario, row: int, copies: int) -> MicrogridEnv:
    """An evaluation env whose copies all play the same day of the test split."""
    env = MicrogridEnv(scenario, EnvSettings(num_envs=copies, split="test", evaluation=True, dtype="float64"))
    env._drawer._starts = env._drawer._starts[row : row + 1]
    env.reset()
    return env


def first_day(scenario: Scenario, row: int = 0) -> DayData:
    env = copies_of_one_day(scenario, row, 1)
    now = env.situation()
    return day_data(now, outlook(now, "perfect", scenario.steps_per_hour))[0]


@pytest.fixture(scope="module")
def model(scenario: Scenario) -> DistFlow:
    return DistFlow(scenario, 24)


def cheapest_last_step(env: MicrogridEnv, rng: torch.Generator) -> float:
    """$ of the best action found for the present step: a grid over real powers, then ever narrower random search."""
    moment = env.state_dict()

    def cost(actions: Tensor) -> Tensor:
        env.load_state_dict(moment)
        metrics = env.step(actions).metrics
        return metrics["cost_usd"] + metrics["penalty_usd"]

    count = env.num_envs
    levels = torch.linspace(-1, 1, round(count ** (1 / 6)), dtype=torch.float64)
    real = torch.cartesian_prod(*[levels] * 6)  # (B, 6): battery and generator P of three microgrids
    actions = torch.zeros(count, 3, 3, dtype=torch.float64)
    actions[:, :, :2] = real.view(count, 3, 2)
    actions[:, :, 2] = 2 * torch.rand(count, 3, generator=rng, dtype=torch.float64) - 1
    best_usd = float("inf")
    centre, spread = actions[0], torch.ones(3, 3, dtype=torch.float64)
    for _ in range(24):
        usd = cost(actions)
        best_usd = min(best_usd, float(usd.min()))
        elite = actions[usd.argsort()[: count // 20]]
        centre, spread = elite.mean(0), elite.std(0)
        noise = torch.randn(count, 3, 3, generator=rng, dtype=torch.float64)
        actions = (centre + 1.1 * spread * noise).clamp(-1, 1)
    return best_usd


@pytest.mark.parametrize(
    ("row", "energy_mwh", "copies"),
    [(33, 0.7, 3**6), *(pytest.param(row, 0.9, 4**6, marks=pytest.mark.slow) for row in (0, 60))],
)
def test_the_last_hour_cannot_be_played_cheaper_than_certified_but_nearly_so_by_brute_force(
    scenario: Scenario, row: int, energy_mwh: float, copies: int
) -> None:
    env = copies_of_one_day(scenario, row, copies)
    idle = env.idle_action()
    for _ in range(23):
        env.step(idle)
    missing = torch.full_like(env._account.energy_mwh, energy_mwh)  # so that the last hour has something to repair
    env._account = env._account._replace(energy_mwh=missing)
    now = env.situation()
    last_hour = day_data(now, outlook(now, "perfect", 1))[0]
    found = solve_day(DistFlow(scenario, 1), last_hour)
    best_usd = cheapest_last_step(env, torch.Generator().manual_seed(0))
    assert found.certified_usd <= found.primal_usd
    # discrete taps cost up to 0.1 $ an hour (2 $ a day, the width of a replayed optimum); the rest is the search
    assert 0 <= best_usd - found.certified_usd < 0.2


def test_a_day_is_certified_just_below_its_primal_value(model: DistFlow, scenario: Scenario) -> None:
    for row in (0, 20, 47):
        env = copies_of_one_day(scenario, row, 1)
        now = env.situation()
        ahead = outlook(now, "perfect", 1)
        floor_usd = float(lossless_floor(scenario, now, ahead)[0])
        found = solve_day(model, day_data(now, ahead)[0], floor_usd)
        assert found.status == "Solved"
        assert floor_usd < found.certified_usd <= found.primal_usd
        assert 0 <= found.residual_allowance_usd < 0.05
        assert found.low_voltage_allowance_usd == 0
        assert found.primal_usd - found.certified_usd < 0.05
        assert found.cone_residual_pu2 < 1e-3
        assert found.phantom_loss_mwh < 1e-4
        without = solve_day(model, day_data(now, ahead)[0])
        assert without.certified_usd <= found.certified_usd
        assert found.primal_usd - without.certified_usd < 2.0, "without a floor the box is wider"


def test_the_dual_solution_lies_in_the_dual_cone_and_every_variable_has_its_box(
    model: DistFlow, scenario: Scenario
) -> None:
    answer, status = certificate._solve(model, first_day(scenario))
    assert answer is not None
    assert status == "Solved"
    data, _, _ = model.problem.get_problem_data("CLARABEL", solver_opts={})
    dims, z = data["dims"], answer.z
    assert (z[dims.zero : dims.zero + dims.nonneg] >= 0).all()
    start = dims.zero + dims.nonneg
    for size in dims.soc:
        assert z[start] >= np.linalg.norm(z[start + 1 : start + size])
        start += size
    assert start == len(z)
    covered = {column for v in model.problem.variables() for column in _columns(answer.column, v)}
    # what cvxpy adds stands for squared generator powers, and the box treats it so
    assert len(answer.x) - len(covered) == 24 * 3
    rest = sorted(set(range(len(answer.x))) - covered)
    produced = np.sort(np.asarray(model.generator_p.value).ravel())
    np.testing.assert_allclose(np.sort(answer.x[rest]), produced, atol=1e-6)


def _columns(start: dict[int, int], variable: Any) -> range:
    return range(start[variable.id], start[variable.id] + variable.size)


def test_the_optimum_lies_in_the_box(model: DistFlow, scenario: Scenario) -> None:
    answer, _ = certificate._solve(model, first_day(scenario))
    assert answer is not None
    low, high = certificate._box(model, answer.column, len(answer.x), 1.0)
    assert (answer.x >= low - 1e-6).all()
    assert (answer.x <= high + 1e-6).all()


def test_a_worse_dual_solution_gives_a_lower_certificate_not_a_wrong_one(
    model: DistFlow, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = first_day(scenario)
    exact = solve_day(model, day, 1800.0)
    original, rng = certificate._solve, np.random.default_rng(0)

    def rough(*inputs: Any) -> Any:
        answer, status = original(*inputs)
        assert answer is not None
        at = slice(0, model.p.size)  # the duals of the real balance, which may have any sign
        z = answer.z.copy()
        z[at] *= 1 + 1e-4 * rng.standard_normal(model.p.size)
        return answer._replace(z=z), status

    monkeypatch.setattr(certificate, "_solve", rough)
    found = solve_day(model, day, 1800.0)
    assert found.residual_allowance_usd > 10 * exact.residual_allowance_usd
    assert found.certified_usd < exact.certified_usd


def test_set_points_are_those_of_the_certified_day(model: DistFlow, scenario: Scenario) -> None:
    day = first_day(scenario)
    points, status = set_points(model, day)
    assert points is not None
    assert status == "Solved"
    for one, other in zip(points, solve_day(model, day).set_points, strict=True):
        assert one.shape == (24, 3)
        torch.testing.assert_close(one, other)


def test_a_day_that_no_set_points_can_serve_is_not_certified(scenario: Scenario, model: DistFlow) -> None:
    day = first_day(scenario)
    impossible = DayData(**{**day.__dict__, "load": 50 * day.load})
    found = solve_day(model, impossible)
    assert found.status == "PrimalInfeasible"
    assert np.isnan(found.certified_usd)
    assert all(bool(values.isnan().all()) for values in found.set_points)
    assert set_points(model, impossible) == (None, "PrimalInfeasible")
    assert solve_day(model, day).status == "Solved", "the next day is not affected"


def test_many_parameters_compile() -> None:
    """cvxpy 1.9.3's default back end fails on more than a thousand."""
    scenario = load_scenario("ieee34_ieee13", {"dt_h": 0.25, "settlement": "individual"})
    env = copies_of_one_day(scenario, 0, 1)
    now = env.situation()._replace(step=56)
    points, status = set_points(DistFlow(scenario, 40), day_data(now, outlook(now, "perfect", 4))[0])
    assert points is not None
    assert status == "Solved"


def test_the_low_voltage_allowance_shrinks_to_0_with_the_penalties_that_a_schedule_can_afford() -> None:
    scenario = load_scenario("ieee34_ieee13", {"feeder": {"load_scale": 1.2}})
    model = DistFlow(scenario, 24)
    assert certificate._solve(model, first_day(scenario))[0] is not None
    found = [low_voltage_allowance(model, limit) for limit in (1e6, 3000.0, 1000.0, 300.0, 10.0)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 100
    assert found[-2:] == [0, 0], "300 $ are 0.2 pu^2 of one bus: 0.84 pu at least"


def test_without_a_voltage_penalty_the_whole_saving_is_allowed_for() -> None:
    scenario = load_scenario("ieee34_ieee13", {"safety": {"voltage_usd_per_h": 0.0}})
    model = DistFlow(scenario, 24)
    assert certificate._solve(model, first_day(scenario))[0] is not None
    p_max, q_max = model.tree.largest_draw(scenario, model.day.load)
    price_p, price_q = (np.abs(np.asarray(c.dual_value)) for c in (model.p_balance, model.q_balance))
    assert low_voltage_allowance(model, 1.0) == pytest.approx((price_p * p_max + price_q * q_max).sum())
