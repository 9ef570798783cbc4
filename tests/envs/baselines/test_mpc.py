"""Receding-horizon control: what it may know, what it measures, and what it does without a solution."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import envs
from envs.baselines import mpc as mpc_module
from envs.baselines.bound import certified_bound
from envs.baselines.day_data import day_data
from envs.baselines.mpc import Mpc
from envs.microgrid import MicrogridEnv
from envs.situation import outlook


def an_env(copies: int = 2, **settings: Any) -> MicrogridEnv:
    return envs.make(num_envs=copies, split="test", evaluation=True, dtype="float64", **settings)


def play_day(env: MicrogridEnv, policy: Mpc) -> tuple[Tensor, Tensor]:
    """J and violating steps (B,) of one day."""
    obs, _ = env.reset()
    cost, violating = (torch.zeros(env.num_envs, dtype=torch.float64) for _ in range(2))
    for _ in range(env.scenario.steps_per_day):
        step = env.step(policy.act(obs))
        cost += step.metrics["cost_usd"] + step.metrics["penalty_usd"]
        violating += step.metrics["violating"]
        obs = step.obs
    return cost, violating


def test_with_perfect_foresight_it_plays_the_optimum() -> None:
    bound = certified_bound(split="test", days=2, cache=False, workers=1)
    mpc = Mpc(an_env(), forecast="perfect", workers=1)
    cost_usd, violating = play_day(mpc._env, mpc)
    assert mpc.unsolved == 0
    assert (violating == 0).all()
    assert (cost_usd >= bound.usd - 1e-4).all()
    assert ((cost_usd / bound.replay_usd - 1).abs() < 0.01).all()


@pytest.mark.slow
def test_persistence_keeps_most_of_the_score() -> None:
    env = an_env(10)
    bound = certified_bound(split="test", days=10, cache=False, workers=1)
    mpc = Mpc(env, workers=1)
    cost_usd, violating = play_day(env, mpc)
    assert (violating == 0).all()
    assert env.reference is not None
    idle_usd, _ = env.reference.of_days(bound.day)
    assert 0.92 < ((idle_usd - cost_usd).sum() / (idle_usd - bound.usd).sum()).item() < 1


@pytest.mark.slow
def test_persistence_reaches_the_documented_score_on_all_test_days() -> None:
    env = an_env(70)
    mpc = Mpc(env)
    cost_usd, violating = play_day(env, mpc)
    assert mpc.unsolved == 0
    assert (violating == 0).all()
    assert cost_usd.mean().item() == pytest.approx(1054.4, abs=3)
    result = env.episode_score({"cost_usd": cost_usd, "penalty_usd": 0 * cost_usd})
    assert result["score"] == pytest.approx(0.945, abs=0.01)


def with_another_future(env: MicrogridEnv) -> None:
    """Give the env's present day other loads and renewables after the present step."""
    now = env.situation()
    load, renewables_mw = now.today.load.clone(), now.today.renewables_mw.clone()
    load[..., now.step + 1 :] *= 1.5
    renewables_mw[..., now.step + 1 :] = 0.0
    env._exogenous = replace(env._exogenous, load=load, renewables_mw=renewables_mw)


def test_persistence_does_not_know_the_future_and_perfect_foresight_does() -> None:
    env = an_env()
    obs, _ = env.reset()
    for _ in range(9):
        obs = env.step(env.idle_action()).obs
    before = {forecast: Mpc(env, forecast=forecast, workers=1).act(obs) for forecast in ("persistence", "perfect")}
    with_another_future(env)
    assert torch.equal(Mpc(env, workers=1).act(obs), before["persistence"])
    assert not torch.allclose(Mpc(env, forecast="perfect", workers=1).act(obs), before["perfect"], atol=1e-3)


def test_what_it_measures_are_this_steps_loads_energies_and_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    env = an_env()
    given: list[Any] = []

    def nothing(*inputs: Any, workers: Any) -> list[Any]:
        given.append((inputs, workers))
        return [(None, "MaxTime")] * 2

    monkeypatch.setattr(mpc_module, "solve_all", nothing)
    obs, _ = env.reset()
    actions = env.idle_action().clone()
    actions[:, 0] = 0.4
    peak = torch.zeros(2, dtype=torch.float64)
    for _ in range(3):
        metrics = env.step(actions).metrics
        peak = torch.maximum(peak, metrics["head_peak_mw"])
    Mpc(env, workers=5).act(obs)
    (_, scenario, days), workers = given[0]
    assert workers == 5
    assert scenario == env.scenario
    energy_mwh = min(1.0 + 3 * 0.98 * 0.2, 2.0)
    for b, day in enumerate(days):
        assert day.energy_mwh.tolist() == pytest.approx([energy_mwh] * 3)
        assert day.initial_energy_mwh.tolist() == [1.0] * 3
        assert day.peak_mw == pytest.approx(float(peak[b]))
        assert day.highest_price == pytest.approx(float(env.situation().today.price[b].max()))
        assert day.load.shape == (21, 4)
        assert torch.equal(torch.from_numpy(day.load[0]), env.situation().today.load[b, :, 3])
        assert day.price.tolist() == env.situation().today.price[b, 3:].tolist()


def test_decisions_without_a_solution_are_counted_and_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    env = an_env(3)
    original = mpc_module.solve_all

    def second_fails(*inputs: Any, workers: Any) -> list[Any]:
        found = original(*inputs, workers=workers)
        return [found[0], (None, "NumericalError"), found[2]]

    monkeypatch.setattr(mpc_module, "solve_all", second_fails)
    obs, _ = env.reset()
    for _ in range(20):
        obs = env.step(env.idle_action()).obs
    mpc = Mpc(env, workers=1)
    first = mpc.act(obs)
    assert mpc.unsolved == 1
    torch.testing.assert_close(first[1], env.idle_action().double())
    assert not torch.allclose(first[0], env.idle_action().double(), atol=1e-2)
    env.step(first)
    mpc.act(obs)
    assert mpc.unsolved == 2


def test_actions_are_valid_in_single_precision_training_too() -> None:
    env = envs.make(num_envs=2, seed=4, curtailment=True)
    obs, _ = env.reset()
    for _ in range(21):
        obs = env.step(env.idle_action()).obs
    mpc = Mpc(env, workers=1)
    for _ in range(3):
        actions = mpc.act(obs)
        assert tuple(actions.shape) == env.action_shape
        assert actions.abs().max() <= 1
        obs = env.step(actions).obs
    assert mpc.unsolved == 0


def test_an_energy_on_its_lower_limit_has_a_solution() -> None:
    env = envs.make(num_envs=1, split="test", evaluation=True, microgrids={"MG1": {"battery": {"energy_min_mwh": 0.3}}})
    obs, _ = env.reset()
    actions = env.idle_action().clone()
    actions[0, 0] = -1.0
    for _ in range(22):
        obs = env.step(actions).obs
    assert env.situation().energy_mwh[0, 0].item() == pytest.approx(0.3)
    mpc = Mpc(env, workers=1)
    mpc.act(obs)
    assert mpc.unsolved == 0


def test_an_unknown_forecast_is_refused() -> None:
    with pytest.raises(ValueError, match=r"forecast must be one of persistence, perfect, got 'none'"):
        Mpc(an_env(1), forecast="none")  # pyright: ignore[reportArgumentType]


def test_day_data_are_the_situations_numbers() -> None:
    env = an_env(2)
    env.reset()
    env.step(env.idle_action())
    now = env.situation()
    ahead = outlook(now, "persistence", 1)
    for b, day in enumerate(day_data(now, ahead)):
        assert day.pv_mw.shape == day.wind_mw.shape == (23, 3)
        assert torch.equal(torch.from_numpy(day.pv_mw), ahead.pv_mw[b].T)
        assert torch.equal(torch.from_numpy(day.wind_mw), ahead.wind_mw[b].T)
        assert torch.equal(torch.from_numpy(day.load), ahead.load[b].T)
        assert day.highest_price == float(now.today.price[b].max())
