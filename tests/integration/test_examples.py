"""The examples run as a user runs them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_baseline_example_beats_doing_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "examples" / "own_baseline.py")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines()}
    assert float(rows["idle"][2]) == 0.0
    assert float(rows["own"][2]) > 0.0
    assert float(rows["idle"][4]) == 1448.50
