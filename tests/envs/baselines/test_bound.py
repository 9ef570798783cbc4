"""No schedule of the env undercuts the certified bound, least of all where an argument of docs/bound.md could fail."""

import csv
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import envs
from envs.baselines import bound as bound_module
from envs.baselines import make_baseline
from envs.baselines.bound import Bound, certified_bound
from envs.baselines.schedule import Schedule
from envs.devices import Applied
from envs.profiles import Split
from envs.scenario import DATA, Scenario, load_scenario
from mappo import TrainConfig, Trainer
from mappo.evaluate import Acts
from tests.envs.baselines.adversaries import ALLOWED_USD, check_validity, evaluation_env, j_usd


@pytest.fixture(scope="module")
def shipped() -> dict[int, tuple[float, float]]:
    """Reference bound and replay by day of the data."""
    with (DATA / "reference" / "ieee34_ieee13_days.csv").open(newline="") as file:
        return {int(r["day"]): (float(r["bound_usd"]), float(r["replay_usd"])) for r in csv.DictReader(file)}


@pytest.fixture(scope="module")
def ten_days() -> Bound:
    return certified_bound(split="test", days=10, cache=False, workers=1)


def test_a_bound_is_narrow_and_close_to_the_reference(ten_days: Bound, shipped: dict[int, tuple[float, float]]) -> None:
    bound = ten_days
    assert bound.status == ("Solved",) * 10
    assert bound.unsolved == ()
    reference = torch.tensor([shipped[day][0] for day in bound.day.tolist()], dtype=torch.float64)
    assert ((bound.usd / reference - 1).abs() < 2e-4).all()
    assert (bound.floor_usd < bound.usd).all()
    assert (bound.usd <= bound.primal_usd).all()
    assert (bound.primal_usd <= bound.replay_usd).all()
    assert (bound.residual_allowance_usd < 0.05).all()
    assert (bound.low_voltage_allowance_usd == 0).all()
    assert (bound.cone_residual < 1e-3).all()
    assert (bound.phantom_loss_mwh < 1e-4).all()
    assert (bound.width / bound.usd < 0.002).all()
    assert (bound.failed_flow_margin_usd > 1800).all()
    assert [str(day) for day in bound.dates[:2]] == ["2016-01-29", "2016-01-30"]
    assert all(values.shape == (10, 3, 24) for values in bound.schedule)


@pytest.mark.slow
@pytest.mark.parametrize(("split", "mean_usd"), [("train", 1023.28), ("val", 1126.73), ("test", 1037.03)])
def test_every_day_of_a_split_is_solved_narrow_and_as_documented(
    split: Split, mean_usd: float, shipped: dict[int, tuple[float, float]]
) -> None:
    bound = certified_bound(split=split, cache=False)
    assert not bound.unsolved
    assert bound.usd.mean().item() == pytest.approx(mean_usd, rel=5e-4)
    reference = torch.tensor([shipped[day][0] for day in bound.day.tolist()], dtype=torch.float64)
    assert ((bound.usd / reference - 1).abs() < 2e-4).all()
    assert (bound.residual_allowance_usd < 0.05).all()
    assert (bound.low_voltage_allowance_usd == 0).all()
    assert (bound.failed_flow_margin_usd > 0).all()
    assert (bound.width >= 0).all()
    assert (bound.width / bound.usd).max() < 0.002
    env = evaluation_env(bound)
    obs, _ = env.reset()
    schedule = Schedule(env, bound.schedule)
    for _ in range(24):
        step = env.step(schedule.act(obs))
        assert not step.metrics["violating"].any()
    assert check_validity(bound, range(2)) > 1000


def test_no_schedule_undercuts_the_default_scenario(ten_days: Bound, tmp_path: Path) -> None:
    pairs = check_validity(ten_days, range(3))
    policy = trained_policy(tmp_path)
    learnt_usd = j_usd(evaluation_env(ten_days), policy)
    assert (ten_days.usd - learnt_usd).max() <= ALLOWED_USD
    assert pairs + len(learnt_usd) >= 200


def trained_policy(folder: Path) -> Acts:
    settings = {"num_minibatches": 8, "hidden_dim": 32, "tensorboard": False, "runs_dir": str(folder), "seed": 1}
    run = Trainer(envs.make(num_envs=64, seed=1), TrainConfig(iterations=4, **settings))  # pyright: ignore
    run.train()
    return run.policy


@pytest.mark.slow
def test_mpc_does_not_undercut_the_bound(ten_days: Bound) -> None:
    env = evaluation_env(ten_days)
    for forecast in ("persistence", "perfect"):
        mpc = make_baseline("mpc", env, forecast=forecast, workers=1)
        assert (ten_days.usd - j_usd(env, mpc)).max() <= ALLOWED_USD


def microgrids(**parts: Any) -> dict[str, Any]:
    """Overrides of every microgrid."""
    return {"microgrids": {name: parts for name in ("MG1", "MG2", "MG3")}}


NO_BATTERY = {"p_max_mw": 0.0, "s_max_mva": 0.0}
STRESSED: dict[str, dict[str, Any]] = {
    "individual bills": {"settlement": "individual"},
    "export pays the full price": {"tariff": {"export_share": 1.0}},
    "curtailment": {"curtailment": True, **microgrids(pv={"p_max_mw": 1.5}, wind={"p_max_mw": 1.5})},
    "no demand charge": {"tariff": {"demand_charge_usd_per_mw": 0.0}},
    "no batteries": microgrids(battery=NO_BATTERY),
    "no generators": microgrids(generator={"p_max_mw": 0.0, "cost_quadratic_usd_per_mw2h": 0.0}),
    "no devices": microgrids(
        battery=NO_BATTERY, generator={"p_max_mw": 0.0}, pv={"p_max_mw": 0.0}, wind={"p_max_mw": 0.0}
    ),
    "linear generator costs": microgrids(generator={"cost_quadratic_usd_per_mw2h": 0.0}),
    "over-voltage at the slack bus": {"feeder": {"slack_v_pu": 1.08}},
    "currents cost nothing": {"safety": {"current_usd_per_h": 0.0}},
    "overloaded": {"feeder": {"load_scale": 1.0}},
    "collapsing": {"feeder": {"load_scale": 1.4}},
    "collapsing, weak penalties": {
        "feeder": {"load_scale": 1.4},
        "safety": {"voltage_usd_per_h": 10.0, "current_usd_per_h": 1.0, "failed_flow_usd_per_h": 0.0},
    },
    "v_min below 0.8 pu": {"feeder": {"load_scale": 1.2}, "safety": {"v_min_pu": 0.7}},
    "always below 0.8 pu": {"feeder": {"slack_v_pu": 0.75}, "safety": {"voltage_usd_per_h": 10.0}},
}
QUICK = ("individual bills", "no devices", "over-voltage at the slack bus", "collapsing, weak penalties")


@pytest.mark.parametrize("name", QUICK)
def test_no_schedule_undercuts_a_stressed_scenario(name: str) -> None:
    bound = certified_bound(load_scenario("ieee34_ieee13", STRESSED[name]), "test", days=2, cache=False, workers=1)
    assert check_validity(bound, range(1)) >= 20
    assert (bound.width >= -ALLOWED_USD).all()
    assert (bound.failed_flow_margin_usd >= 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", STRESSED)
def test_no_schedule_undercuts_a_stressed_scenario_on_many_days(name: str) -> None:
    bound = certified_bound(load_scenario("ieee34_ieee13", STRESSED[name]), "val", days=12, cache=False)
    assert check_validity(bound, range(4)) >= 300


@pytest.mark.slow
def test_no_schedule_undercuts_quarter_hours() -> None:
    bound = certified_bound(split="test", days=2, cache=False, workers=1, dt_h=0.25)
    check_validity(bound, range(2))
    assert (bound.width / bound.usd < 0.002).all()
    assert (bound.failed_flow_margin_usd > 300).all()


def composed(change: Callable[[dict[str, Any]], None]) -> Scenario:
    """The default scenario after a change of its content."""
    content = load_scenario("ieee34_ieee13").model_dump(mode="json")
    change(content)
    return Scenario.model_validate(content)


def one_microgrid(content: dict[str, Any]) -> None:
    content["microgrids"] = {"MG1": content["microgrids"]["MG1"]}


def nine_microgrids(content: dict[str, Any]) -> None:
    grids = list(content["microgrids"].values())
    for i, bus in enumerate(("816", "820", "828", "854", "858", "836")):
        content["microgrids"][f"N{i}"] = {**grids[i % 3], "bus": bus}
    for name, grid in content["microgrids"].items():
        battery = {**grid["battery"], "p_max_mw": 0.15, "s_max_mva": 0.2}
        generator = {**grid["generator"], "p_max_mw": 0.2}
        content["microgrids"][name] = {**grid, "load_scale": 0.05, "battery": battery, "generator": generator}


def feeder_of_123_buses(content: dict[str, Any]) -> None:
    content["feeder"].update(network="ieee123", slack_v_pu=1.0, load_scale=0.5, capacitors={}, regulators={})
    for grid, bus in zip(content["microgrids"].values(), ("47", "76", "108"), strict=True):
        grid.update(bus=bus, load_scale=0.1, connection_kv=4.16)


@pytest.mark.parametrize(
    "change",
    [one_microgrid, *(pytest.param(f, marks=pytest.mark.slow) for f in (nine_microgrids, feeder_of_123_buses))],
)
def test_other_networks_are_solved_and_valid(change: Callable[[dict[str, Any]], None]) -> None:
    bound = certified_bound(composed(change), "test", days=2, cache=False, workers=1)
    check_validity(bound, range(1))
    assert (bound.width / bound.usd < 0.003).all()
    assert (bound.residual_allowance_usd < 0.1).all()


def test_without_the_low_voltage_allowance_the_claim_would_be_wrong() -> None:
    """With 0.75 pu at the source the loads on the way to the regulators shrink, at no loss."""
    bound = certified_bound(
        split="test", days=3, cache=False, workers=1, feeder={"slack_v_pu": 0.75}, safety={"voltage_usd_per_h": 0.0}
    )
    assert (bound.replay_usd < bound.primal_usd - 1).all()
    assert (bound.low_voltage_allowance_usd > bound.primal_usd - bound.replay_usd).all()
    assert (bound.usd <= bound.replay_usd).all()


def test_a_failed_flow_that_costs_nothing_lowers_the_bound_to_the_floor() -> None:
    safety = {"failed_flow_usd_per_h": 0.0}
    bound = certified_bound(split="test", days=1, cache=False, workers=1, safety=safety)
    usual = certified_bound(split="test", days=1, cache=False, workers=1)
    assert bound.usd.item() == bound.floor_usd.item() < usual.usd.item()
    assert bound.failed_flow_margin_usd.item() == 0


@pytest.fixture(scope="module")
def negative_prices(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Overrides with the packaged prices less 90 $/MWh, most of them negative."""
    path = tmp_path_factory.mktemp("prices") / "own.csv"
    with gzip.open(DATA / "profiles" / "price_2016_hourly.csv.gz", "rt") as file:
        rows = [(row["time"], float(row["synthetic_usd_per_mwh"]) - 90) for row in csv.DictReader(file)]
    path.write_text("time,own_usd_per_mwh\n" + "".join(f"{time},{price}\n" for time, price in rows))
    return {"data": {"prices": str(path), "price": "own", "price_floor_usd_per_mwh": -200.0}}


@pytest.mark.parametrize(
    "also",
    [
        {},
        *(
            pytest.param(overrides, marks=pytest.mark.slow)
            for overrides in (
                {"settlement": "individual"},
                {"curtailment": True},
                {"tariff": {"export_share": 1.0}},
                {"feeder": {"load_scale": 1.2}, "safety": {"voltage_usd_per_h": 100.0}},
            )
        ),
    ],
    ids=["plain", "individual", "curtailment", "full export", "low voltage"],
)
def test_no_schedule_undercuts_negative_prices_and_the_width_is_told(
    also: dict[str, Any], negative_prices: dict[str, Any]
) -> None:
    scenario = load_scenario("ieee34_ieee13", {**negative_prices, **also})
    bound = certified_bound(scenario, "val", days=2, cache=False, workers=1)
    env = evaluation_env(bound)
    env.reset()
    assert (env.situation().today.price < 0).any(1).all()
    check_validity(bound, range(1))
    assert bound.failed_flow_margin_usd.isnan().all()
    assert bound.floor_usd.isnan().all()
    assert torch.isfinite(bound.width).all()
    assert (bound.width > 1).all()
    assert (bound.residual_allowance_usd < 5).all()
    burn = bound.schedule._replace(
        battery_p_mw=torch.full_like(bound.schedule.battery_p_mw, 0.5),
        generator_p_mw=torch.zeros_like(bound.schedule.generator_p_mw),
    )
    assert (bound.usd <= j_usd(env, Schedule(env, burn)) + ALLOWED_USD).all()


def test_a_day_without_a_solution_is_reported_by_date_and_leaves_the_others_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ten_days: Bound
) -> None:
    monkeypatch.setattr(bound_module, "default_cache", lambda: tmp_path)
    original, calls = bound_module.solve_day, []

    def second_fails(model: Any, day: Any, floor_usd: Any) -> Any:
        calls.append(day)
        found = original(model, day, floor_usd)
        if len(calls) != 2:
            return found
        nothing = Applied(*(torch.full_like(values, torch.nan) for values in found.set_points))
        return found._replace(certified_usd=np.nan, primal_usd=np.nan, set_points=nothing, status="MaxTime")

    monkeypatch.setattr(bound_module, "solve_day", second_fails)
    bound = certified_bound(split="test", days=3, workers=1)
    assert [str(day) for day in bound.unsolved] == ["2016-01-30"]
    assert bound.status == ("Solved", "MaxTime", "Solved")
    assert bound.usd.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(bound.usd[[0, 2]], ten_days.usd[[0, 2]], atol=1e-6, rtol=0)
    assert bound.replay_usd.isnan().tolist() == [False, True, False]
    assert bound.width.isnan().tolist() == [False, True, False]
    assert bound.failed_flow_margin_usd.isnan().tolist() == [False, True, False]
    again = certified_bound(split="test", days=3, workers=1)
    assert len(calls) == 4, "only the day without a solution is solved again"
    assert again.unsolved == ()
    torch.testing.assert_close(again.usd, ten_days.usd[:3], atol=1e-6, rtol=0)


def test_more_days_solve_only_what_is_missing_and_fewer_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ten_days: Bound
) -> None:
    monkeypatch.setattr(bound_module, "default_cache", lambda: tmp_path)
    solved: list[int] = []
    original = bound_module.solve_all

    def counting(solve: Any, scenario: Any, days: Any, *extra: Any, workers: Any) -> Any:
        solved.append(len(days))
        return original(solve, scenario, days, *extra, workers=workers)

    monkeypatch.setattr(bound_module, "solve_all", counting)
    certified_bound(split="test", days=2, workers=1)
    certified_bound(split="test", days=4, workers=1)
    fewer = certified_bound(split="test", days=3, workers=1)
    assert solved == [2, 2]
    torch.testing.assert_close(fewer.usd, ten_days.usd[:3], atol=1e-6, rtol=0)
    torch.testing.assert_close(fewer.replay_usd, ten_days.replay_usd[:3], atol=1e-3, rtol=0)
    assert fewer.status == ("Solved",) * 3
    certified_bound(split="test", days=1, cache=False, workers=1)
    assert solved == [2, 2, 1]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_two_workers_find_what_one_does(ten_days: Bound) -> None:
    bound = certified_bound(split="test", days=3, cache=False, workers=2)
    torch.testing.assert_close(bound.usd, ten_days.usd[:3], rtol=0.0, atol=1e-9)  # sums of numpy round as they please
    assert all(torch.equal(a, b[:3]) for a, b in zip(bound.schedule, ten_days.schedule, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"days": 0}, r"--days must be from 1 to 70, the days of split test; got 0"),
        ({"days": 71}, r"--days must be from 1 to 70, the days of split test; got 71"),
        ({"days": -1}, r"--days must be from 1 to 70"),
        ({"workers": 0, "days": 2}, r"workers must be at least 1, got 0"),
        ({"workers": -1, "days": 2}, r"workers must be at least 1, got -1"),
        ({"split": "all"}, r"--split must be one of train, val, test, got 'all'"),
        ({"horizon": "week"}, r"a bound needs horizon: day, .*; got week"),
        ({"scenario": "ieee99"}, r"--scenario ieee99 is unknown"),
        ({"tarif": {}}, r"unknown key 'tarif'"),
    ],
)
def test_bad_input_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        certified_bound(**{"split": "test", "cache": False, **arguments})


def test_overrides_do_not_go_with_a_scenario(scenario: Scenario) -> None:
    with pytest.raises(ValueError, match=r"overrides \(dt_h\) go with a scenario's name; got a Scenario"):
        certified_bound(scenario, "test", dt_h=0.25)
