"""`scripts/evaluate.py`: its numbers, its files, and what it refuses. Runs are tiny; days are few."""

import csv
import importlib
import importlib.util
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import envs.baselines
from tests.integration.conftest import made_up_bound

ROOT = Path(__file__).parents[2]
NEEDS_SOLVER = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("cvxpy", "clarabel")),
    reason='needs the extra: pip install -e ".[baselines]"',
)


def report_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("no_solver", "no_pictures")
def test_json_csv_and_tables_say_the_same(
    script: Any, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(runs["tiny_s1"]), "--split", "val", "--days", "2", "--baselines", "idle", "rule"]
    script.main([*arguments, "--out", str(tmp_path / "a"), "--json"])
    result = report_of(capsys)
    assert json.loads((tmp_path / "a" / "evaluation.json").read_text()) == result
    assert (result["scenario"], result["split"], result["days"]) == ("ieee34_ieee13", "val", 2)
    assert set(result["policies"]) == {"tiny_s1", "idle", "rule", "optimum, replayed"}
    idle, rule = result["policies"]["idle"], result["policies"]["rule"]
    assert idle["score"]["value"] == pytest.approx(0.0, abs=1e-4)
    assert idle["gap_usd"]["value"] == pytest.approx(100.0, abs=0.01)
    assert idle["score"]["low"] is None  # two days of one week
    assert rule["score"]["value"] == pytest.approx((idle["j_usd_per_day"] - rule["j_usd_per_day"]) / 100, abs=1e-3)
    parts = sum(rule[f"{part}_usd_per_day"] for part in ("energy", "generator", "demand", "terminal", "penalty"))
    assert parts == pytest.approx(rule["j_usd_per_day"], abs=1e-3)
    assert rule["violating_share"] == rule["violating_h"] / 48
    assert rule["violating_h"] == round(rule["violating_h"]) > 0
    assert result["policies"]["optimum, replayed"]["j_usd_per_day"] == pytest.approx(idle["j_usd_per_day"], rel=1e-6)
    assert result["policies"]["optimum, replayed"]["seconds_per_decision"] is None
    assert rule["seconds_per_decision"] > 0
    with (tmp_path / "a" / "days.csv").open(newline="") as file:
        days = list(csv.DictReader(file))
    assert [row["date"] for row in days if row["policy"] == "rule"] == ["2016-01-22", "2016-01-23"]
    assert sum(float(row["j_usd"]) for row in days if row["policy"] == "rule") / 2 == pytest.approx(
        rule["j_usd_per_day"], rel=1e-5
    )
    with (tmp_path / "a" / "summary.csv").open(newline="") as file:
        summary = {row["policy"]: row for row in csv.DictReader(file)}
    assert set(summary) == {*result["policies"], "certified bound"}
    assert float(summary["rule"]["score"]) == pytest.approx(rule["score"]["value"], rel=1e-5)
    script.main([*arguments, "--out", str(tmp_path / "a")])
    printed = capsys.readouterr().out
    assert max(len(line) for line in printed.splitlines() if str(tmp_path) not in line) <= 150
    for words in ("certified bound", f"{rule['j_usd_per_day']:.2f}", "2 validation days", str(tmp_path / "a")):
        assert words in printed
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"evaluation.json", "days.csv", "summary.csv", "report.html", "figures"}


@pytest.mark.usefixtures("no_solver", "no_pictures")
def test_seeds_of_one_configuration_are_summarised(
    script: Any, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("tiny_s1", "wide", "tiny_s3", "tiny_s2")
    flags = ("--days", "1", "--baselines", "none", "--out", str(tmp_path / "out"), "--json")
    script.main([*(str(runs[name]) for name in names), *flags])
    result = report_of(capsys)
    assert set(result["policies"]) == {*names, "optimum, replayed"}
    ((name, group),) = result["groups"].items()
    assert name == "tiny, 3 seeds"
    assert group["runs"] == ["tiny_s1", "tiny_s3", "tiny_s2"]
    assert group["across"] == "mean and range"
    scores = [result["policies"][run]["score"]["value"] for run in group["runs"]]
    assert group["score"] == pytest.approx(
        {"value": sum(scores) / 3, "low": min(scores), "high": max(scores)}, abs=1e-9
    )


@pytest.mark.usefixtures("no_solver", "no_pictures")
def test_two_runs_of_the_same_seed_are_not_two_seeds(
    script: Any, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "tiny_s1"
    shutil.copytree(runs["tiny_s1"], copy)
    flags = ("--days", "1", "--baselines", "none", "--out", str(tmp_path / "out"), "--json")
    script.main([str(runs["tiny_s1"]), str(copy), *flags])
    result = report_of(capsys)
    assert result["groups"] == {}
    assert "several have the same seed" in result["notes"][0]
    assert len(result["policies"]) == 3  # names are told apart by their parents


def test_an_unsolved_day_is_reported_by_date_and_left_out_of_the_score(
    script: Any,
    runs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    no_solver: None,
    no_pictures: None,
) -> None:
    del no_solver, no_pictures
    monkeypatch.setitem(vars(envs.baselines), "certified_bound", made_up_bound(unsolved=[0]))
    flags = ("--days", "3", "--baselines", "rule", "--out", str(tmp_path / "out"), "--json")
    script.main([str(runs["tiny_s1"]), *flags])
    result = report_of(capsys)
    assert result["reference"]["scored_days"] == 2
    assert result["reference"]["unsolved"] == ["2016-01-01"]
    assert any("2016-01-01" in note for note in result["notes"])
    assert "2016-01-01" in (tmp_path / "out" / "report.html").read_text()
    with (tmp_path / "out" / "days.csv").open(newline="") as file:
        rule = [row for row in csv.DictReader(file) if row["policy"] == "rule"]
    assert [bool(row["gap_usd"]) for row in rule] == [False, True, True]
    gaps = [float(row["gap_usd"]) for row in rule[1:]]
    assert result["policies"]["rule"]["gap_usd"]["value"] == pytest.approx(sum(gaps) / 2, rel=1e-5)


@pytest.mark.usefixtures("no_solver", "no_pictures")
def test_days_on_which_a_baseline_found_no_solution_are_named(
    script: Any,
    runs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make = script.make_baseline

    def failing(name: str, env: Any, **_: Any) -> Any:
        baseline = make("idle", env)
        baseline.unsolved_steps = torch.tensor([0, 3, 1]) if name == "mpc" else torch.zeros(3)
        return baseline

    monkeypatch.setattr(script, "make_baseline", failing)
    flags = ("--days", "3", "--baselines", "idle", "mpc", "--out", str(tmp_path / "out"), "--json")
    script.main([str(runs["tiny_s1"]), "--split", "val", *flags])
    assert report_of(capsys)["notes"] == [
        "mpc: 4 decisions were not solved and did nothing instead: 2016-01-23, 2016-01-24"
    ]


@pytest.mark.usefixtures("without_extra")
def test_without_the_extra_the_shipped_bounds_serve_and_it_says_so(
    script: Any, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.main([str(runs["tiny_s1"]), "--days", "2", "--out", str(tmp_path / "out"), "--json"])
    result = report_of(capsys)
    assert set(result["policies"]) == {"tiny_s1", "idle", "rule", "greedy", "random"}
    assert result["policies"]["tiny_s1"]["score"]["value"] is not None
    assert result["reference"]["source"] == "shipped with the scenario"
    notes = " ".join(result["notes"])
    assert "copper-plate left out" in notes
    assert "pip install" in notes
    assert 'id="day-typical"' in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(ValueError, match=r"baseline 'selfish' needs .*pip install"):
        script.main([str(runs["tiny_s1"]), "--days", "1", "--baselines", "selfish", "--out", str(tmp_path / "b")])


@pytest.mark.usefixtures("without_extra", "no_pictures")
def test_another_scenario_without_the_extra_has_no_score(
    script: Any, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.main([str(runs["other"]), "--days", "1", "--baselines", "idle", "--out", str(tmp_path), "--json"])
    result = report_of(capsys)
    assert result["reference"] is None
    assert result["policies"]["idle"]["score"]["value"] is None
    assert result["policies"]["idle"]["j_usd_per_day"] > 1000
    assert "no score: no bounds are shipped for this scenario" in result["notes"][0]
    assert "pip install" in result["notes"][0]


@pytest.mark.usefixtures("no_pictures")
def test_weeks_have_a_cost_but_no_score(
    script: Any, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.main([str(runs["weeks"]), "--days", "1", "--baselines", "idle", "--out", str(tmp_path), "--json"])
    result = report_of(capsys)
    assert (result["horizon"], result["days"], result["reference"]) == ("week", 7, None)
    assert 1000 < result["policies"]["idle"]["j_usd_per_day"] < 3000
    assert "no score" in result["notes"][0]
    assert (tmp_path / "report.html").is_file()


@NEEDS_SOLVER
@pytest.mark.usefixtures("no_pictures")
def test_one_real_day_lies_between_its_bound_and_its_replay(
    script: Any,
    runs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # the cache of bounds is in runs/.cache
    flags = ("--days", "1", "--workers", "1", "--baselines", "none", "--json")
    script.main([str(runs["tiny_s2"]), "--split", "val", *flags])
    result = report_of(capsys)
    assert result["reference"]["bound_usd_per_day"] == pytest.approx(2188.65, rel=5e-4)
    replay = result["policies"]["optimum, replayed"]
    assert 0 < replay["gap_share"]["value"] < 0.002
    assert replay["violating_h"] == 0
    assert (runs["tiny_s2"] / "evaluation-val-1-days" / "report.html").is_file()


BAD_INPUTS = {
    "no run": ((), "give at least one run folder"),
    "not a run": (("nowhere",), "no checkpoint at nowhere"),
    "twice": (("{tiny_s1}", "{tiny_s1}/checkpoints/latest.pt"), "every run must be given once"),
    "scenarios": (("{tiny_s1}", "{other}"), "other was trained on 'ieee34_ieee13', tiny_s1 on 'ieee34_ieee13', which"),
    "horizons": (("{weeks}", "{tiny_s1}"), "which differ in horizon"),
    "baseline": (("{tiny_s1}", "--baselines", "idle", "magic"), "none or some of idle, rule, greedy"),
    "no days": (("{tiny_s1}", "--days", "0"), "--days must be from 1 to 70, what --split test holds; got 0"),
    "many days": (("{tiny_s1}", "--days", "71"), "--days must be from 1 to 70"),
    "forecast": (("{tiny_s1}", "--forecast", "perfect"), "--forecast perfect is for mpc, which is not played"),
    "workers": (("{tiny_s1}", "--workers", "0"), "--workers must be at least 1, got 0"),
    "split": (("{tiny_s1}", "--split", "holdout"), "--split"),
    "out": (("{tiny_s1}", "--out", "{tiny_s1}/config.json"), "--out must be a folder that can be written to; got"),
    "far out": (("{tiny_s1}", "--out", "/proc/x/y"), "--out must be a folder that can be written to; got /proc/x/y"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_says_what_is_wrong_and_writes_nothing(case: str, script: Any, runs: dict[str, Path]) -> None:
    flags, message = BAD_INPUTS[case]
    before = sorted(runs["tiny_s1"].rglob("*"))
    with pytest.raises(ValueError, match=r".") as caught:
        script.main([flag.format(**runs) for flag in flags])
    assert message in str(caught.value)
    assert sorted(runs["tiny_s1"].rglob("*")) == before


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "evaluate.py"), "nowhere", "--json"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith("error: no checkpoint at nowhere")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_solver", "no_pictures")
@pytest.mark.parametrize("stage", ["html_report", "compare"])
def test_a_failure_leaves_nothing_half_written(
    stage: str, script: Any, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(script, stage, fail)
    with pytest.raises(KeyboardInterrupt):
        script.main([str(runs["tiny_s1"]), "--days", "1", "--baselines", "none", "--out", str(tmp_path / "a" / "b")])
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_files(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del script
    output = importlib.import_module("evaluation.output")
    output.write_all(tmp_path, {"a.txt": b"old", "figures/b.png": b"old"})
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        output.write_all(tmp_path, {"a.txt": b"new", "figures/b.png": b"new"})
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.txt", "b.png", "figures"]
    assert (tmp_path / "a.txt").read_bytes() == b"old"


def test_days_to_draw_are_those_of_median_least_and_largest_gap(script: Any) -> None:
    del script
    example_days = importlib.import_module("evaluation.compare").example_days
    assert example_days(torch.tensor([5.0, math.nan, 1.0, 9.0])) == {"typical": 0, "best": 2, "worst": 3}
    assert example_days(torch.tensor([5.0])) == {"typical": 0}
    assert example_days(torch.tensor([math.nan])) == {}


def test_numbers_are_printed_for_readers(script: Any) -> None:
    del script
    text = importlib.import_module("evaluation.text")
    assert text.number(-0.0001, ".2f") == "0.00"
    assert text.number(math.nan, ".2f") == "-"
    assert [text.seconds(value) for value in (3.5, 0.0123, 4.4e-5, 2e-6)] == ["3.5 s", "12.3 ms", "44 µs", "2.0 µs"]
    assert text.shortened("a" * 30 + "z") == "a" * 13 + "…" + "a" * 11 + "z"
