"""Every microgrid for itself: documented values, and that each one's own bill is least."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import envs
from envs.baselines import make_baseline
from envs.baselines.selfish import Selfish
from envs.microgrid import MicrogridEnv
from envs.situation import Outlook, Situation, outlook
from mappo.evaluate import evaluate
from tests.envs.baselines.money import area_power_mw, bill_usd, device_usd, peak_usd, random_schedule
from tests.envs.policies import play, play_year


@pytest.mark.parametrize(
    ("name", "usd", "violating"),
    [("selfish", 1130.1, 0.009), pytest.param("selfish-no-peak", 1489.7, 0.075, marks=pytest.mark.slow)],
)
def test_a_year_with_foresight_costs_the_documented_amount(name: str, usd: float, violating: float) -> None:
    def planned(env: MicrogridEnv):  # noqa: ANN202
        baseline = make_baseline(name, env, forecast="perfect")
        return lambda _env, _hour, energy_mwh: baseline.act(energy_mwh)

    played = play_year(planned)
    # without a peak charge the batteries' optimum is not unique: solvers differ by a few tenths of a dollar
    assert played.cost_usd.mean().item() == pytest.approx(usd, abs=0.5)
    assert (played.violating_hours.mean() / 24).item() == pytest.approx(violating, abs=6e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("own_peak", "usd"), [(True, 1132.13), (False, 1432.79)])
def test_the_test_days_with_persistence_cost_what_was_measured(own_peak: bool, usd: float) -> None:
    env = envs.make(split="test", evaluation=True)
    result = evaluate(Selfish(env, own_peak=own_peak), env)
    assert result.summary["j_usd_per_day"] == pytest.approx(usd, abs=0.5)


def own_usd(env: MicrogridEnv, now: Situation, ahead: Outlook, battery_p_mw: Tensor, generator_p_mw: Tensor) -> Tensor:
    """(B,) what all microgrids pay when each is on its own, its own peak included."""
    power = area_power_mw(env, ahead, battery_p_mw, generator_p_mw)[:, 1:]
    bills = bill_usd(env, power, ahead.price[:, None]) + peak_usd(env, power)
    return (bills + device_usd(env, now, battery_p_mw, generator_p_mw)).sum(-1)


def test_a_plan_costs_each_microgrid_its_least() -> None:
    env = envs.make(split="test", evaluation=True, num_envs=16)
    env.reset()
    now = env.situation()
    ahead = outlook(now, "perfect", 1)
    peak_mw, highest_price = torch.zeros(16, 3, dtype=torch.float64), now.today.price.amax(1)
    plan = Selfish(env)._dispatch.solve(ahead, now.energy_mwh, now.initial_energy_mwh, peak_mw, highest_price)
    chosen = own_usd(env, now, ahead, plan.set_points.battery_p_mw, plan.set_points.generator_p_mw)
    assert (chosen - plan.usd).abs().max() < 0.01
    rng = torch.Generator().manual_seed(0)
    for _ in range(20):
        assert (own_usd(env, now, ahead, *random_schedule(env, rng)) - plan.usd).min() > 0.0


def test_planning_again_each_hour_with_foresight_keeps_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    def j_usd(*, again: bool) -> Tensor:
        env = envs.make(split="test", evaluation=True, num_envs=3)
        baseline = Selfish(env, forecast="perfect")
        if again:
            monkeypatch.setattr("envs.baselines.planner.outlook", lambda now, _, steps: outlook(now, "perfect", steps))
            baseline = Selfish(env, forecast="persistence")
        return play(env, lambda _env, _hour, energy_mwh: baseline.act(energy_mwh)).cost_usd

    assert (j_usd(again=True) - j_usd(again=False)).abs().max() < 1.0


def test_its_own_peak_of_the_day_is_remembered_until_midnight() -> None:
    env = envs.make(split="test", evaluation=True, num_envs=3, dtype="float64")
    baseline = Selfish(env)
    obs, _ = env.reset()
    powers = []
    for _ in range(5):
        now = env.situation()
        obs = env.step(baseline.act(obs)).obs
        applied = env.applied
        ahead = outlook(now, "perfect", 1)
        power = area_power_mw(env, ahead, torch.zeros(3, 3, 24 - now.step), torch.zeros(3, 3, 24 - now.step))
        powers.append(power[:, 1:, 0] + applied["battery_p_mw"] - applied["generator_p_mw"])
    baseline.act(obs)
    assert (baseline._own_peak_mw - torch.stack(powers).amax(0)).abs().max() < 1e-9
    obs, _ = env.reset()
    baseline.act(obs)
    assert not baseline._own_peak_mw.any()


@pytest.mark.parametrize("name", ["rule", "greedy", "selfish"])
def test_a_baseline_does_not_see_what_a_controller_would_not(name: str) -> None:
    env = envs.make(split="test", evaluation=True, num_envs=2)
    obs, _ = env.reset()
    for _ in range(7):
        env.step(env.idle_action())
    seen = make_baseline(name, env).act(obs)
    day = env._exogenous
    load, renewables_mw = day.load.clone(), day.renewables_mw.clone()
    load[..., 8:], renewables_mw[..., 8:] = 9.0, 0.0
    env._exogenous = replace(day, load=load, renewables_mw=renewables_mw)
    assert torch.equal(make_baseline(name, env).act(obs), seen)


def test_an_unknown_forecast_is_refused() -> None:
    with pytest.raises(ValueError, match="forecast must be one of persistence, perfect, got 'oracle'"):
        make_baseline("selfish", envs.make(num_envs=1), forecast="oracle")
