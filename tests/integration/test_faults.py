"""The example of docs/faults.md, trained on and refused by the bound."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

import envs
from envs.baselines import certified_bound
from mappo import TrainConfig, Trainer
from tests.integration.test_evaluate import NEEDS_SOLVER

ROOT = Path(__file__).parents[2]


@pytest.fixture
def example(tmp_path: Path) -> Path:
    text = (ROOT / "docs" / "faults.md").read_text()
    found = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert found
    path = tmp_path / "faults.yaml"
    path.write_text(found[1])
    return path


def test_training_can_randomise_faults(example: Path, tmp_path: Path) -> None:
    env = envs.make(str(example), num_envs=16, seed=1)
    assert {event.kind for event in env.scenario.events} == {"price_spike", "pv_dip", "outage", "islanding"}
    held_out = envs.make(str(example), split="val", evaluation=True)
    config = TrainConfig(
        iterations=1, eval_every=1, hidden_dim=16, num_minibatches=2, tensorboard=False, runs_dir=str(tmp_path / "runs")
    )
    run = Trainer(env, config, held_out)
    run.train()
    (row,) = [row for row in run.history if "eval/score" in row][-1:]
    assert row["eval/score"] == -row["eval/j_usd_per_day"]
    assert row["eval/lost_load_usd"] > 0
    assert row["eval/islanded"] > 0


@NEEDS_SOLVER
def test_no_bound_is_claimed_under_faults(script: Any, example: Path) -> None:
    del script  # puts its folder on the path
    env = envs.make(str(example), split="val", evaluation=True)
    with pytest.raises(ValueError, match=r"bounds are not claimed under faults: .* remove the key events"):
        certified_bound(env.scenario)
    said: list[str] = []
    importlib.import_module("environments.microgrid").complete_reference(env, said.append)
    assert said[0].startswith("the score is -J: bounds are not claimed under faults")
    assert env.reference is None
