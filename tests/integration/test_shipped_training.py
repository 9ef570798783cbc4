"""Every shipped scenario trains: three small iterations through every part, as `scripts/train.py --test` runs them."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest

import envs
from tests.integration.conftest import keeping_ctrl_c, printed

SMALL = ("--hidden-dim", "8", "--num-envs", "8", "--no-tensorboard", "--quiet")


@pytest.mark.parametrize("name", envs.scenarios())
def test_a_shipped_scenario_trains_in_test_mode(name: str, script: Any, tmp_path: Path) -> None:
    del script  # puts its folder on the path
    place = ("--runs-dir", str(tmp_path), "--experiment-name", name)
    with keeping_ctrl_c():
        printed("train", "--test", "--scenario", name, *SMALL, *place)
    with (tmp_path / name / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(float(row["iteration"])) for row in rows] == [0, 1, 2, 3]
    assert math.isfinite(float(rows[-1]["eval/j_usd_per_day"]))
    assert (tmp_path / name / "checkpoints" / "best.pt").exists()
