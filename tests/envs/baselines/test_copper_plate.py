"""The joint optimum without a network: documented values, and that nothing costs less."""

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

import envs
from envs.baselines import dispatch_program, make_baseline
from envs.baselines.copper_plate import CopperPlatePlan, solve_copper_plate
from envs.baselines.dispatch import Plan, bill_envelope
from envs.microgrid import MicrogridEnv
from envs.reference import DayReference
from envs.situation import Outlook, Situation, outlook
from mappo.evaluate import evaluate
from tests.envs.baselines.money import area_power_mw, bill_usd, device_usd, peak_usd, random_schedule
from tests.envs.policies import play, play_year, uniform_random

Settlement = Literal["community", "individual"]


def morning(**settings: Any) -> tuple[MicrogridEnv, Situation, Outlook]:
    """The start of every test day, with its future."""
    env = envs.make(**({"split": "test", "evaluation": True} | settings))
    env.reset()
    now = env.situation()
    return env, now, outlook(now, "perfect", env.scenario.steps_per_hour)


def solved(env: MicrogridEnv, now: Situation, ahead: Outlook) -> Plan:
    return solve_copper_plate(
        env.scenario,
        ahead,
        now.energy_mwh,
        now.initial_energy_mwh,
        now.peak_mw,
        highest_price=now.today.price.amax(1),
    )


def joint_usd(
    env: MicrogridEnv, now: Situation, ahead: Outlook, battery_p_mw: Tensor, generator_p_mw: Tensor
) -> Tensor:
    """(B,) cost of a schedule under the scenario's settlement."""
    power = area_power_mw(env, ahead, battery_p_mw, generator_p_mw)
    head = power.sum(1)
    parties = head[:, None] if env.scenario.settlement == "community" else power
    own = device_usd(env, now, battery_p_mw, generator_p_mw).sum(-1)
    return bill_usd(env, parties, ahead.price[:, None]).sum(-1) + own + peak_usd(env, head)


def test_its_plan_replayed_over_the_year_costs_the_documented_amount() -> None:
    def planned(env: MicrogridEnv):  # noqa: ANN202
        baseline = make_baseline("copper-plate", env)
        return lambda _env, _hour, energy_mwh: baseline.act(energy_mwh)

    played = play_year(planned)
    assert played.cost_usd.mean().item() == pytest.approx(1069.9, abs=0.1)
    assert (played.violating_hours.mean() / 24).item() == pytest.approx(0.007, abs=5e-4)


def test_it_lies_below_the_shipped_certified_bound_on_every_day() -> None:
    env, now, ahead = morning()
    reference = DayReference.of(env.scenario, 366)
    assert reference is not None
    _, bound_usd = reference.of_days(env.day)
    assert (bound_usd - solved(env, now, ahead).usd).min() > 1.0


@pytest.mark.parametrize("settlement", ["community", "individual"])
def test_no_policy_in_the_env_costs_less(settlement: Settlement) -> None:
    env, now, ahead = morning(settlement=settlement, num_envs=10)
    usd = solved(env, now, ahead).usd
    policies = [uniform_random(0)(env), *([lambda _env, _hour, e: env.idle_action().expand(len(e), -1, -1)])]
    for name in ("rule", "copper-plate"):
        baseline = make_baseline(name, env)
        policies.append(lambda _env, _hour, e, act=baseline.act: act(e))
    for policy in policies:
        assert (play(env, policy).cost_usd - usd).min() > 0.0


@pytest.mark.parametrize("settlement", ["community", "individual"])
def test_the_bound_is_what_its_schedule_costs_and_less_than_any_other(settlement: Settlement) -> None:
    env, now, ahead = morning(settlement=settlement, num_envs=20)
    plan = solved(env, now, ahead)
    own_usd = joint_usd(env, now, ahead, plan.set_points.battery_p_mw, plan.set_points.generator_p_mw)
    assert (own_usd - plan.usd).abs().max() < 0.01
    assert (own_usd - plan.usd).min() > -1e-5
    rng = torch.Generator().manual_seed(0)
    for _ in range(20):
        assert (joint_usd(env, now, ahead, *random_schedule(env, rng)) - plan.usd).min() > 0.0


def test_an_inexact_solution_only_lowers_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = morning(num_envs=8)
    exact_usd = solved(*setting).usd
    monkeypatch.setattr("envs.baselines.dispatch_program.TOLERANCE", 1e-2)
    loose_usd = solved(*setting).usd
    assert (loose_usd - exact_usd).max() < 1e-3
    assert (loose_usd - exact_usd).min() < -0.01


def test_copies_without_a_plan_do_nothing_and_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch_program.cp.Problem, "solve", lambda self, **_: None)  # leaves the status at None
    env, now, ahead = morning(num_envs=2)
    assert solved(env, now, ahead).usd.isnan().all()
    plan = make_baseline("copper-plate", env)
    assert torch.equal(plan.act(torch.empty(0)), env.idle_action().expand(env.action_shape))
    assert isinstance(plan, CopperPlatePlan)
    assert plan.unsolved_steps.tolist() == [1, 1]


def test_netting_every_party_on_its_own_costs_more() -> None:
    together, alone = (solved(*morning(settlement=s, num_envs=8)).usd for s in ("community", "individual"))
    assert (alone - together).min() > 0.0


def test_negative_prices_are_bounded_by_the_chord() -> None:
    env, now, ahead = morning(num_envs=20)
    ahead = ahead._replace(price=ahead.price - 80.0)
    now = now._replace(today=replace(now.today, price=ahead.price))
    usd = solved(env, now, ahead).usd
    rng = torch.Generator().manual_seed(1)
    for _ in range(20):
        assert (joint_usd(env, now, ahead, *random_schedule(env, rng)) - usd).min() > 0.0


def test_a_convex_bill_equals_the_bill_or_its_chord() -> None:
    price = torch.tensor([40.0, -40.0, 0.0, -40.0], dtype=torch.float64)[:, None].numpy()
    low, high = torch.tensor([[-1.0, -1.0, -1.0, 2.0], [3.0, 3.0, 3.0, 2.0]], dtype=torch.float64)[..., None].numpy()
    slope, kink, intercept = bill_envelope(price, low, high, 0.5)
    for share in (0.0, 0.25, 0.6, 1.0):
        p_mw = low + share * (high - low)
        bill = price * (p_mw.clip(min=0) + 0.5 * p_mw.clip(max=0))
        convex = slope * p_mw + kink * p_mw.clip(min=0) + intercept
        assert convex[0] == pytest.approx(bill[0])
        assert convex[2:] == pytest.approx(bill[2:])
        assert convex[1] <= bill[1] + 1e-12
        if share in (0.0, 1.0):
            assert convex[1] == pytest.approx(bill[1])


def test_at_noon_a_peak_already_reached_is_not_paid_again() -> None:
    env, _, _ = morning(num_envs=6)
    for _ in range(12):
        env.step(env.idle_action())
    now = env.situation()
    ahead = outlook(now, "perfect", 1)
    fresh = solved(env, now._replace(peak_mw=torch.zeros(6, dtype=torch.float64)), ahead)
    reached = solved(env, now, ahead)
    assert ahead.price.shape == (6, 12)
    assert (fresh.usd - reached.usd).min() > 0.0
    assert (fresh.usd - reached.usd - 100 * now.peak_mw).max() < 1e-3, "no more than the peak's price"


def test_devices_of_no_size_and_quarter_hours_are_planned() -> None:
    none = {"battery": {"p_max_mw": 0.0, "s_max_mva": 0.0}, "generator": {"p_max_mw": 0.0}}
    env, now, ahead = morning(
        num_envs=2, dt_h=0.25, microgrids={"MG1": none, "MG2": {"generator": {"cost_quadratic_usd_per_mw2h": 0.0}}}
    )
    plan = solved(env, now, ahead)
    assert plan.set_points.battery_p_mw[:, 0].abs().max() < 1e-5
    assert plan.set_points.generator_p_mw[:, 0].abs().max() < 1e-5
    own_usd = joint_usd(env, now, ahead, plan.set_points.battery_p_mw, plan.set_points.generator_p_mw)
    assert (own_usd - plan.usd).abs().max() < 0.01
    result = evaluate(make_baseline("copper-plate", env), env)
    assert torch.isfinite(result.totals["cost_usd"]).all()
