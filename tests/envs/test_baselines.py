"""Regression values: policies that pin physics, money and data all at once."""

import csv

import pytest
import torch
from torch import Tensor

import envs
from envs.power.regulators import TapSettler
from envs.profiles import Split
from envs.scenario import DATA
from tests.envs.policies import greedy, idle, play, play_year, quantile_rule, uniform_random


@pytest.fixture(scope="module")
def reference_usd() -> Tensor:
    with (DATA / "reference" / "ieee34_ieee13_days.csv").open(newline="") as file:
        return torch.tensor([float(row["idle_usd"]) for row in csv.DictReader(file)], dtype=torch.float64)


@pytest.mark.parametrize(("split", "usd"), [("train", 1345.44), ("val", 1448.50), ("test", 1352.75)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_idle_costs_the_documented_amount_on_every_day(
    split: Split, usd: float, dtype: str, reference_usd: Tensor
) -> None:
    env = envs.make(split=split, evaluation=True, dtype=dtype)
    played = play(env, idle(env))
    assert played.cost_usd.mean().item() == pytest.approx(usd, rel=1e-4)
    assert (played.cost_usd - reference_usd[played.day]).abs().max() < 0.01
    assert not played.violating_hours.any()
    assert not played.failed_hours.any()


def test_an_idle_year_is_made_of_its_documented_parts() -> None:
    totals: dict[str, float] = {}
    v_min, v_max, loading = 2.0, 0.0, 0.0
    for split in ("train", "val", "test"):
        env = envs.make(split=split, evaluation=True)
        env.reset()
        for _ in range(24):
            metrics = env.step(env.idle_action().expand(env.action_shape)).metrics
            for name in ("cost_usd", "penalty_usd", "energy_usd", "demand_usd", "generator_usd", "terminal_usd"):
                totals[name] = totals.get(name, 0.0) + float(metrics[name].double().sum()) / 366
            v_min = min(v_min, float(metrics["v_min_pu"].min()))
            v_max = max(v_max, float(metrics["v_max_pu"].max()))
            loading = max(loading, float(metrics["loading_max"].max()))
    expected = {"cost_usd": 1366.55, "energy_usd": 1214.62, "demand_usd": 117.75, "generator_usd": 34.18}
    assert {name: totals[name] for name in expected} == pytest.approx(expected, abs=0.02)
    assert totals["penalty_usd"] == totals["terminal_usd"] == 0.0
    assert (v_min, v_max, loading) == pytest.approx((0.953, 1.047, 0.777), abs=6e-4)


def test_quarter_hour_steps_bill_about_the_same_idle_day() -> None:
    env = envs.make(split="val", evaluation=True, dt_h=0.25)
    assert env.episode_length == 96
    played = play(env, idle(env))
    assert played.cost_usd.mean().item() == pytest.approx(1448.50, rel=0.02)
    assert not played.failed_hours.any()


@pytest.mark.parametrize(
    ("policy", "usd", "tolerance_usd", "violating"),
    [
        ("greedy", 1730.5, 0.5, None),
        ("greedy with end rule", 1652.0, 0.5, 0.161),
        ("quantile", 1665.6, 0.5, 0.165),
    ],
)
def test_price_rules_cost_the_documented_amount(
    policy: str, usd: float, tolerance_usd: float, violating: float | None
) -> None:
    chosen = {
        "greedy": lambda env: greedy(env, end_rule=False),
        "greedy with end rule": lambda env: greedy(env, end_rule=True),
        "quantile": quantile_rule,
    }[policy]
    played = play_year(chosen)
    assert played.cost_usd.mean().item() == pytest.approx(usd, abs=tolerance_usd)
    if violating is not None:
        assert (played.violating_hours.mean() / 24).item() == pytest.approx(violating, abs=6e-4)
    assert not played.failed_hours.any()


@pytest.mark.slow
def test_without_the_upstream_correction_greedy_costs_more(monkeypatch: pytest.MonkeyPatch) -> None:
    original = TapSettler.__init__

    def uncorrected(self: TapSettler, *args: object) -> None:
        original(self, *args)  # pyright: ignore[reportArgumentType]
        monkeypatch.setattr(self._paths, "upstream", torch.zeros_like)

    monkeypatch.setattr(TapSettler, "__init__", uncorrected)
    played = play_year(lambda env: greedy(env, end_rule=False))
    assert played.cost_usd.mean().item() == pytest.approx(1744.3, abs=0.5)


@pytest.mark.parametrize(
    "seeds", [range(1), pytest.param(range(1, 7), marks=pytest.mark.slow)], ids=["one seed", "six seeds"]
)
def test_random_actions_cost_the_documented_amount(seeds: range) -> None:
    runs = [play_year(uniform_random(seed)) for seed in seeds]
    cost = torch.stack([played.cost_usd.mean() for played in runs])
    violating = torch.stack([played.violating_hours.mean() / 24 for played in runs])
    assert cost.mean().item() == pytest.approx(3337, rel=0.03)
    assert violating.mean().item() == pytest.approx(0.33, abs=0.02)
    assert not any(played.failed_hours.any() for played in runs)


def test_no_flow_fails_in_forty_thousand_random_actions() -> None:
    env = envs.make(num_envs=1700, seed=3)
    env.reset()
    rng = torch.Generator().manual_seed(0)
    for _ in range(24):
        actions = 2 * torch.rand(env.action_shape, generator=rng) - 1
        metrics = env.step(actions).metrics
        assert not metrics["not_converged"].any()
        assert torch.isfinite(metrics["cost_usd"]).all()


@pytest.mark.parametrize(
    ("power", "held", "low", "high"),
    [(1.0, 1, 0.005, 0.025), (1.0, 2, 0.26, 0.33), (1.0, 3, 0.65, 0.67), (-1.0, 1, 0.02, 0.08), (-1.0, 3, 0.68, 0.70)],
)
def test_batteries_together_violate_what_one_alone_does_not(power: float, held: int, low: float, high: float) -> None:
    """An hour each, from a fresh energy: what agents must coordinate."""
    violating = []
    for split in ("train", "val", "test"):
        env = envs.make(split=split, evaluation=True)
        env.reset()
        actions = env.idle_action().expand(env.action_shape).clone()
        actions[:, :held, 0] = power
        for _ in range(24):
            env._account = env._account._replace(energy_mwh=torch.ones_like(env._account.energy_mwh))
            violating.append(env.step(actions).metrics["violating"])
    assert low <= torch.cat(violating).mean().item() <= high
