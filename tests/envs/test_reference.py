import csv
import shutil
from pathlib import Path

import pytest
import torch

import envs
from envs import reference
from envs.reference import SHIPPED, DayReference, score
from envs.scenario import DATA, Scenario, load_scenario
from tests.envs.policies import idle, play


def test_reference_covers_every_day_in_order() -> None:
    with (DATA / "reference" / "ieee34_ieee13_days.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["day"]) for row in rows] == list(range(366))
    for row in rows:
        assert row["split"] == ("train", "train", "train", "val", "test")[int(row["day"]) // 7 % 5]


def test_bounds_average_to_the_documented_values(scenario: Scenario) -> None:
    found = DayReference.of(scenario, 366)
    assert found is not None
    week = torch.arange(366) // 7 % 5
    for wanted, bound, idle_usd in (
        (week < 3, 1023.28, 1345.44),
        (week == 3, 1126.73, 1448.50),
        (week == 4, 1037.03, 1352.75),
        (week < 5, 1045.7, 1366.6),
    ):
        assert found.bound_usd[wanted].mean().item() == pytest.approx(bound, abs=0.06)
        assert found.idle_usd[wanted].mean().item() == pytest.approx(idle_usd, abs=0.06)
    assert (found.bound_usd < found.idle_usd).all()


def test_a_changed_scenario_has_no_reference() -> None:
    assert DayReference.of(load_scenario("ieee34_ieee13", {"safety": {"v_min_pu": 0.96}}), 366) is None


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped references."""
    shutil.copytree(reference.FOLDER, tmp_path / "reference")
    monkeypatch.setattr(reference, "FOLDER", tmp_path / "reference")
    return tmp_path / "reference"


def test_every_shipped_reference_is_known(folder: Path) -> None:
    assert {f"{name}_days.csv" for name in SHIPPED} == {path.name for path in folder.glob("*.csv")}


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (0, "day,split,idle_usd,replay_usd", "line 1: column 'bound_usd' is missing"),
        (5, "4,train,many,1.0,1.0", "line 6: could not convert string to float: 'many'"),
        (5, "4,train,nan,1.0,1.0", "line 6: every value must be a finite number"),
        (5, "4,train", "line 6: "),
        (5, "7,train,2.0,1.0,1.0", "line 6: days must count 0, 1, 2, ..., got 7"),
        (366, "", "must hold the 366 days of the data, got 365"),
    ],
)
def test_a_damaged_reference_is_named(folder: Path, line: int, text: str, message: str) -> None:
    path = folder / "ieee34_ieee13_days.csv"
    lines = path.read_text().splitlines()
    lines[line] = text
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=rf"ieee34_ieee13_days\.csv {message}.*; restore it from the package"):
        envs.make()


def test_a_missing_reference_of_a_shipped_scenario_is_an_error(folder: Path) -> None:
    (folder / "ieee34_ieee13_days.csv").unlink()
    with pytest.raises(ValueError, match=r"ieee34_ieee13_days\.csv cannot be read .*; restore it from the package"):
        envs.make()
    assert envs.make(settlement="individual").num_envs == 1


def test_score_is_0_for_idle_and_1_for_the_bound() -> None:
    idle_usd, bound_usd = torch.tensor([10.0, 20.0]), torch.tensor([8.0, 12.0])
    assert score(idle_usd, idle_usd, bound_usd) == 0
    assert score(bound_usd, idle_usd, bound_usd) == 1
    assert score(torch.tensor([11.0, 14.0]), idle_usd, bound_usd) == pytest.approx(0.5)


def test_days_without_a_bound_count_neither_way() -> None:
    nan = float("nan")
    found = DayReference(torch.tensor([10.0, 20.0, 30.0]), torch.tensor([8.0, nan, 24.0]))
    days, cost_usd = torch.tensor([2, 1, 0]), torch.tensor([27.0, 1e6, 10.0])
    assert found.summary(cost_usd, days) == {
        "score": pytest.approx(3 / 8),
        "idle_usd_per_day": pytest.approx(20.0),
        "bound_usd_per_day": pytest.approx(16.0),
    }
    idle_usd, bound_usd = found.of_days(days)
    assert idle_usd.tolist() == [30.0, 20.0, 10.0]
    assert bound_usd.isnan().tolist() == [False, True, False]


def test_a_reference_of_other_days_is_refused() -> None:
    found = DayReference(torch.tensor([10.0, 20.0]), torch.tensor([8.0, float("nan")]))
    with pytest.raises(ValueError, match=r"holds no bound of the 2 days played; make it for their split"):
        found.summary(torch.tensor([9.0, 9.0]), torch.tensor([1, 1]))


def test_the_optimum_replayed_costs_a_little_more_than_the_bound() -> None:
    with (DATA / "reference" / "ieee34_ieee13_days.csv").open(newline="") as file:
        rows = [
            {name: float(row[f"{name}_usd"]) for name in ("bound", "replay", "idle")} for row in csv.DictReader(file)
        ]
    for row in rows:
        assert row["bound"] < row["replay"] < row["idle"]
        assert row["replay"] / row["bound"] < 1.002


def test_env_scores_an_idle_evaluation_0() -> None:
    env = envs.make(split="val", evaluation=True)
    played = play(env, idle(env))
    found = env.episode_score({"cost_usd": played.cost_usd, "penalty_usd": 0 * played.cost_usd})
    assert found["score"] == pytest.approx(0.0, abs=1e-4)
    assert found["j_usd_per_day"] == pytest.approx(1448.50, abs=0.02)
    assert found["idle_usd_per_day"] == pytest.approx(1448.50, abs=0.02)
    assert found["bound_usd_per_day"] == pytest.approx(1126.73, abs=0.02)


def test_without_shipped_bounds_the_score_is_minus_the_cost() -> None:
    env = envs.make(num_envs=2, split="val", evaluation=True, settlement="individual")
    totals = {"cost_usd": torch.tensor([1.0, 3.0]), "penalty_usd": torch.tensor([0.0, 2.0])}
    assert env.episode_score(totals) == {"score": -3.0, "j_usd_per_day": 3.0}
