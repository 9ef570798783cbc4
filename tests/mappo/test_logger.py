"""Tables, TensorBoard, console."""

import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from mappo import TrainConfig, Trainer
from mappo.callbacks import ConsoleCallback, banner, table_columns
from mappo.logger import CsvLogger
from mappo.run_folder import RunFolder
from mappo.vec_env import MetricSpec
from tests.mappo.conftest import MakeTrainer
from tests.toy_envs import TargetEnv


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_columns_may_appear_later(tmp_path: Path) -> None:
    log = CsvLogger(tmp_path / "metrics.csv", keep_until=0)
    log.log(1, {"iteration": 1, "a": 0.5})
    log.log(2, {"iteration": 2, "eval/b": 2.0})
    log.log(3, {"iteration": 3, "a": 0.7})
    assert table(tmp_path / "metrics.csv") == [
        {"iteration": "1", "a": "0.5", "eval/b": ""},
        {"iteration": "2", "a": "", "eval/b": "2.0"},
        {"iteration": "3", "a": "0.7", "eval/b": ""},
    ]


def test_a_resumed_table_forgets_what_is_redone(tmp_path: Path) -> None:
    log = CsvLogger(tmp_path / "metrics.csv", keep_until=0)
    for iteration in (1, 2, 3):
        log.log(iteration, {"iteration": iteration})
    again = CsvLogger(tmp_path / "metrics.csv", keep_until=1)
    again.log(2, {"iteration": 2, "new": 1.0})
    assert [row["iteration"] for row in table(tmp_path / "metrics.csv")] == ["1", "2"]


def test_tensorboard_has_the_groups_over_env_steps(make_trainer: MakeTrainer) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = make_trainer(TargetEnv(horizon=5), TargetEnv(4), tensorboard=True)
    trainer.train()
    events = EventAccumulator(str(trainer.run.path))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    for tag in ("train/return", "train/cost", "grid/worst", "eval/score", "losses/policy", "policy/std", "value/std"):
        assert tag in tags
    assert [event.step for event in events.Scalars("train/return")] == [80, 160]
    assert [event.step for event in events.Scalars("eval/score")] == [0, 160]


def test_tensorboards_hparams_hold_the_envs_settings_too(make_trainer: MakeTrainer) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # pyright: ignore[reportAttributeAccessIssue]

    env = TargetEnv()
    env.spec |= {"scenario": "toy", "penalty": 2.0, "nested": {"a": [1]}}
    trainer = make_trainer(env, tensorboard=True)
    trainer.train()
    events = EventAccumulator(str(trainer.run.path))
    events.Reload()
    data = HParamsPluginData.FromString(events.summary_metadata["_hparams_/session_start_info"].plugin_data.content)
    hparams = data.session_start_info.hparams
    assert hparams["env/scenario"].string_value == "toy"
    assert hparams["env/num_envs"].number_value == 16
    assert hparams["env/penalty"].number_value == 2
    assert hparams["num_steps"].number_value == 5


def run_with(make_trainer: MakeTrainer, **options: bool) -> tuple[Trainer, str]:
    out = io.StringIO()
    trainer = make_trainer(TargetEnv(horizon=5), TargetEnv(4))
    trainer.callbacks = (ConsoleCallback(Console(file=out, width=200), **options),)
    trainer.train()
    return trainer, out.getvalue()


def test_the_console_shows_aligned_rows_in_a_pipe(make_trainer: MakeTrainer) -> None:
    trainer, text = run_with(make_trainer)
    rows = [line for line in text.splitlines() if "|" in line]
    assert [cell.strip() for cell in rows[0].split("|")] == [
        *("Iter", "Reward", "Cost", "Episodes", "Env steps", "Steps/s", "Time")
    ]
    assert len(rows) == 3
    assert len({len(row) for row in rows}) == 1
    evaluations = [line for line in text.splitlines() if line.startswith("evaluation at iteration")]
    assert [line.split(":")[0][-1] for line in evaluations] == ["0", "2"]
    cost = trainer.history[-1]["eval/cost"]
    assert evaluations[-1].split(", ")[1].startswith(f"Cost {cost:.2f}")
    assert "best.pt" in text


def test_a_metric_may_choose_the_format_of_its_column() -> None:
    share = MetricSpec(name="violating", unit="1", reduce="mean", column="Violations", format=".2%")
    assert ("Violations", "train/violating", ".2%") in table_columns([share])


def test_json_rows_can_be_read_back(make_trainer: MakeTrainer) -> None:
    trainer, text = run_with(make_trainer, as_json=True)
    assert [json.loads(line) for line in text.splitlines()] == trainer.history


def test_quiet_shows_one_line(make_trainer: MakeTrainer) -> None:
    trainer, text = run_with(make_trainer, quiet=True)
    assert text.startswith(
        f"best evaluation: return {trainer.best_score:.4f} (mean of the agents, summed over steps) at"
    )
    assert text.count("\n") == 1


def test_wandb_without_its_package_says_what_to_install(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"--wandb needs the package wandb; install it with: pip install"):
        make_trainer(wandb=True)


def test_the_banner_aligns_its_facts() -> None:
    out = io.StringIO()
    banner(Console(file=out, width=80), "run", {"algo": "mappo", "device": "cpu"})
    assert "algo    mappo" in out.getvalue()


def test_two_runs_that_start_in_the_same_second_get_folders_of_their_own(tmp_path: Path) -> None:
    config = TrainConfig(runs_dir=str(tmp_path))
    first = RunFolder(path=tmp_path / "same").create(config, {})
    second = RunFolder(path=tmp_path / "same").create(config, {})
    assert [first.path.name, second.path.name] == ["same", "same_2"]
    assert second.checkpoints.is_dir()
