"""`scripts/benchmark.py`: every stage runs, and the judgement of stored ratios, which needs no timing."""

import dataclasses
import importlib
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.envs.operating_points import scenario_points
from tests.integration.conftest import ROOT, printed


@pytest.fixture(scope="module", autouse=True)
def _on_path() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield


def part(name: str) -> Any:
    """A module of the benchmark."""
    return importlib.import_module(f"benchmarking.{name}")


def tiny(**settings: Any) -> Any:
    """As `--test`, and smaller."""
    small = {"num_envs": 3, "train_envs": 2, "repetitions": 1, "warm_up_s": 0.0, "loop_s": 0.0, "small": True}
    return part("rates").Settings(**{**small, **settings})


def record(**ratios: float) -> Any:
    """A run with these figures of the stage env."""
    settings = {"scenario": "ieee34_ieee13", "num-envs": 1024, "threads": 2, "device": "cpu"}
    return part("stored").Record(settings=settings, ratios={f"env: {name}": ratio for name, ratio in ratios.items()})


def test_a_slower_figure_regresses_only_below_the_tolerance() -> None:
    stored, now = record(fast=10.0, slow=10.0, gone=1.0), record(fast=7.0, slow=6.9, extra=3.0)
    found = part("stored").compared(stored, now, ("env",), 0.7)
    verdicts = {item.figure: item.verdict for item in found}
    assert verdicts == {"env: fast": "ok", "env: slow": "regressed", "env: gone": "missing", "env: extra": "new"}
    assert [item.figure for item in part("stored").failures(found)] == ["env: slow", "env: gone"]
    assert found[1].share == pytest.approx(0.69)


def test_stored_figures_of_stages_that_did_not_run_are_not_missed() -> None:
    assert part("stored").compared(record(fast=1.0), record(), ("train",), 0.7) == []


def test_a_record_holds_guarded_figures_only_and_survives_its_file(tmp_path: Path) -> None:
    rates = part("rates")
    guarded = rates.spread("env", "steps", "env steps/s", [100.0, 300.0, 200.0], [10.0, 10.0, 10.0])
    other = rates.spread("peers", "another library", "flows/s", [100.0])
    kept = part("stored").record_of([guarded, other], {"threads": 2}, {"torch": "torch 1"})
    assert kept.ratios == {"env: steps": 20.0}
    part("stored").write(kept, tmp_path / "kept.json")
    assert part("stored").read(tmp_path / "kept.json") == kept


def test_a_run_with_other_settings_or_another_file_is_refused(tmp_path: Path) -> None:
    stored = part("stored")
    now = dataclasses.replace(record(), settings=record().settings | {"threads": 1})
    with pytest.raises(ValueError, match=r"--compare kept\.json needs .*, got --threads 1 instead of 2"):
        stored.check_settings(record(), now, Path("kept.json"))
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match=r"--compare .*other\.json must be a file that --store wrote"):
        stored.read(tmp_path / "other.json")
    with pytest.raises(ValueError, match=r"--compare .*nowhere\.json cannot be read"):
        stored.read(tmp_path / "nowhere.json")


def test_the_shipped_ratios_are_of_the_default_stages() -> None:
    kept = part("stored").read(ROOT / "docs" / "benchmarks.json")
    stages = {figure.partition(": ")[0] for figure in kept.ratios}
    assert stages == set(importlib.import_module("benchmark").DEFAULT_STAGES)
    assert min(kept.ratios.values()) > 0


def test_the_device_that_is_measured_and_kept_is_the_one_that_auto_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from envs.settings import env_device

    measured = []

    def stage(settings: Any) -> list[Any]:
        measured.append(settings.device)
        return [part("rates").spread("env", "steps", "env steps/s", [5.0], [1.0])]

    monkeypatch.setitem(importlib.import_module("benchmark").STAGES, "env", stage)
    printed("benchmark", "env", "--device", "auto", "--store", str(tmp_path / "kept.json"))
    kept = part("stored").read(tmp_path / "kept.json")
    assert [*measured, kept.settings["device"]] == 2 * [str(env_device("auto"))]


def test_a_regression_ends_with_exit_code_1_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = importlib.import_module("benchmark")
    found = part("rates").spread("env", "steps", "env steps/s", [5.0], [1.0])
    monkeypatch.setitem(benchmark.STAGES, "env", lambda _: [found])
    file = tmp_path / "kept.json"
    assert "env" in printed("benchmark", "env", "--store", str(file))
    assert "ok" in printed("benchmark", "env", "--compare", str(file))
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"ratios": {"env: steps": 10.0}}))
    with pytest.raises(SystemExit) as stop:
        benchmark.main(["env", "--compare", str(file)])
    assert stop.value.code == 1
    assert "ok" in printed("benchmark", "env", "--compare", str(file), "--tolerance", "0.5")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--tolerance", "1.5"), r"--tolerance must be in \(0, 1\], got 1\.5"),
        (("--num-envs", "0"), "--num-envs must be at least 1, got 0"),
        (("--point-seconds", "0"), r"--point-seconds must be positive, got 0\.0"),
        (("--test", "--store", "kept.json"), "--store and --compare need real figures, got --test"),
        (("--store", "nowhere/kept.json"), "--store nowhere/kept.json needs a folder that exists"),
        (("--device", "cuda:99"), "--device cuda:99 does not exist here"),
        (("--peer-python", "nowhere/python"), "--peer-python must be a python that can be run, got nowhere/python"),
        (("--rllib-python", "nowhere/python"), "--rllib-python must be a python that can be run, got nowhere/python"),
    ],
)
def test_wrong_settings_are_named(flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        importlib.import_module("benchmark").main(flags)


@pytest.mark.parametrize("stage", ["power-flow", "env", "rollout", "update", "train"])
def test_each_stage_of_the_microgrid_measures(stage: str) -> None:
    rates = importlib.import_module("benchmark").STAGES[stage](tiny())
    assert all(0 < rate.lowest <= rate.median <= rate.highest for rate in rates)
    assert all(rate.ratio and rate.reference for rate in rates if rate.per_loop is not None)
    if stage == "power-flow":
        assert "pandapower" in rates[0].reference
        assert all(rate.error_pu <= limit for rate, limit in zip(rates, (2e-5, 1e-8), strict=False))


def test_the_fast_tolerance_keeps_voltages_close_at_any_taps() -> None:
    import envs
    from envs.power import solve_power_flow

    case = part("flow_case")
    env = envs.make()
    points = scenario_points(env.scenario, env.network, 64, seed=5)
    level = 1.3 * torch.rand(64, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p_mw, q_mvar = (level * nominal for nominal in env.network.nominal_injections())
    for p, q in ((points.p_mw, points.q_mvar), (p_mw, q_mvar)):
        exact = solve_power_flow(env.network, p, q, points.tap, tolerance_pu=case.EXACT_PU).v_pu
        fast = solve_power_flow(env.network, p.float(), q.float(), points.tap, tolerance_pu=case.FAST_PU).v_pu
        assert case.largest_error(fast, exact) < case.CLOSE_PU


def test_scaling_writes_each_axis_and_says_what_it_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = part("ranks")
    monkeypatch.setattr(ranks, "run_ranks", lambda *_: ("", "no such option"))
    settings = tiny(plot=str(tmp_path))
    rates = part("scaling").scale(settings)
    assert [rate.ratio for rate in rates[::2]] == [1.0, 1.0, 1.0]
    assert settings.notes == ["scale: ranks: not available with 1 ranks: no such option"]
    names = {f"scaling-{axis}.{kind}" for axis in ("envs", "buses", "agents") for kind in ("json", "png")}
    assert {path.name for path in tmp_path.iterdir()} == names | {"scaling-ranks.json"}
    buses = json.loads((tmp_path / "scaling-buses.json").read_text())
    assert [point["x"] for point in buses["points"]] == [72, 143]


def test_an_axis_ends_where_time_or_memory_does(monkeypatch: pytest.MonkeyPatch) -> None:
    scaling, limits = part("scaling"), part("limits")
    axis = scaling.AXES[0]
    points, stopped = scaling._points(tiny(point_s=1e-3), axis)
    assert not points
    assert stopped.startswith("stopped at 1 copies: more than 0 s")
    monkeypatch.setattr(scaling, "fits", lambda *_: False)
    points, stopped = scaling._points(tiny(), axis)
    assert not points
    assert stopped.startswith("stopped before 1 copies: it may need")
    assert limits.needed_bytes(100, 2, 2) == 400
    assert limits.fits(400, None)
    assert not limits.fits(400, 700)


def test_ranks_that_each_report_for_themselves_are_not_one_training() -> None:
    steps_per_second = part("ranks").steps_per_second
    rows = [{"iteration": i, "env_steps": 100 * i, "time/elapsed_s": 2.0 * i} for i in range(1, 5)]
    lines = "\n".join(json.dumps(row) for row in rows)
    assert steps_per_second(f"a note\n{lines}") == [50.0, 50.0]
    assert steps_per_second(f"{lines}\n{lines}") == []


def test_peers_solve_the_same_network_or_are_missing_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = part("peers.stage")
    monkeypatch.setattr(stage, "rllib_rates", lambda _: [])
    monkeypatch.setattr(stage, "benchmarl_rates", lambda *_: [])
    monkeypatch.setattr(stage, "THREADS", (1,))
    settings = tiny()
    rates = stage.peers(settings)
    names = " ".join(rate.what for rate in rates)
    for package, module in stage.PACKAGES.items():
        missing = f'peers: {package} is missing; install it with: pip install -c constraints.txt -e ".[bench]"'
        assert (missing in settings.notes) != bool(find_spec(module))
        assert (module == "numba") or (package in names) != (missing in settings.notes)
    assert all(rate.error_pu is None or rate.error_pu <= 2e-5 for rate in rates)
    assert "pandapower runpp, recycle" in names


def test_training_beside_rllib_runs_ours_and_says_what_is_missing() -> None:
    settings = tiny()
    rates = part("peers.training").rllib_rates(settings)
    assert [rate.what for rate in rates] == ["training, ours, 2 copies batched", "training, ours, 2 PettingZoo envs"]
    assert "RLlib is not measured" in settings.notes[0]


def test_closed_switches_leave_the_network_as_it_is() -> None:
    from envs.composition import scenario_tables
    from envs.power import solve_power_flow
    from envs.power.from_tables import network_from_tables
    from envs.scenario import load_scenario

    tables = scenario_tables(load_scenario("ieee34_ieee13"))
    plain = part("flow_case").without_switches(tables)
    assert not plain.switches
    with_switches, without = (
        solve_power_flow(net, *net.nominal_injections()).v_pu.abs().sort().values
        for net in map(network_from_tables, (tables, plain))
    )
    assert torch.allclose(with_switches, without, atol=1e-9)


def test_the_parts_of_a_training_add_up_and_are_drawn(tmp_path: Path) -> None:
    rates = part("breakdown").breakdown(tiny(plot=str(tmp_path)))
    *parts, whole = (rate.median for rate in rates)
    assert whole == pytest.approx(sum(parts))
    names = {rate.what for rate in rates}
    assert {"env: power flow and taps", "update: actor's gradient", "evaluation", "env: observations"} <= names
    assert (tmp_path / "breakdown.png").stat().st_size > 10_000


def test_a_stopwatch_counts_what_is_inside_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))

    class Work:
        def outer(self) -> None:
            self.inner()
            self.inner()

        def inner(self) -> None:
            pass

    breakdown = part("breakdown")
    monkeypatch.setattr(breakdown.time, "perf_counter", lambda: float(next(now)))
    watch, work = breakdown.Stopwatch(), Work()
    watch.watch(work, "outer", "outer")
    watch.watch(work, "inner", "inner")
    watch.run(work.outer, "rest")
    # readings 0 start, 1 outer, 2 inner, 3, 4 inner, 5, 6 end of outer, 7 end
    assert dict(watch.seconds) == {"rest": 2.0, "outer": 3.0, "inner": 2.0}


def test_the_roofline_counts_the_products_of_the_update() -> None:
    from mappo.layers import StackedNet

    body = StackedNet([5, 7, 3], torch.zeros(2, dtype=torch.long), activation="relu")
    shapes = part("roofline").products(10, body)
    assert shapes == [(10, 5, 7), (10, 7, 3), (7, 10, 5), (3, 10, 7), (10, 3, 7)]
    rates = {rate.what: rate.median for rate in part("roofline").roofline(tiny())}
    assert rates["update / its matrix products"] > 1
