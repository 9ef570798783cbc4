"""The examples run as a user runs them."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python_blocks(document: str, heading: str) -> list[str]:
    """The code below a heading of the second level."""
    section = (ROOT / document).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def run_code(code: str, folder: Path) -> list[str]:
    """Lines that a program prints, run in a process and folder of its own."""
    path = folder / "program.py"
    path.write_text(code, encoding="utf-8")
    command = [sys.executable, "-W", "error", str(path)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_the_baseline_example_beats_doing_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "examples" / "own_baseline.py")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines()}
    assert float(rows["idle"][2]) == 0.0
    assert float(rows["own"][2]) > 0.0
    assert float(rows["idle"][4]) == 1448.50


def test_the_environment_in_the_readme_is_learned_and_its_policy_plays_as_the_docs_say(tmp_path: Path) -> None:
    training, *others = python_blocks("README.md", "Your own environment")
    assert not others
    assert sum(bool(line) for line in training.splitlines()) == 15
    printed = run_code(training, tmp_path)
    assert printed[-1] == "1.0"
    (best,) = tmp_path.glob("runs/*/checkpoints/best.pt")
    env = training[: training.index("history = ")]
    using = "".join(python_blocks("docs/environments.md", "The trained policy"))
    assert "runs/<run>/checkpoints/best.pt" in using
    printed = run_code(env + using.replace("runs/<run>/checkpoints/best.pt", str(best)), tmp_path)
    assert printed == ["{'left': 1.0, 'right': 1.0}", "tensor([1.])", "1.0 tensor([0., 0.])"]
