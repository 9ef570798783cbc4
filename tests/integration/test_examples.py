"""The examples run as a user runs them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import envs

ROOT = Path(__file__).parents[2]
SCENARIOS = sorted((ROOT / "scripts" / "examples" / "scenarios").glob("*.yaml"))


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


def example_rows(name: str, folder: Path, *arguments: str) -> dict[str, list[str]]:
    """What an example prints: first word of each line -> its words."""
    command = [sys.executable, str(ROOT / "scripts" / "examples" / name), *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=240)
    assert result.returncode == 0, result.stderr
    return {line.split()[0]: line.split() for line in result.stdout.splitlines() if line.split()}


def test_two_microgrids_are_compared_and_drawn(tmp_path: Path) -> None:
    rows = example_rows("simple_2mg.py", tmp_path, "--iterations", "2", "--out", "day.png")
    assert float(rows["idle"][1]) == 1098.80
    assert float(rows["greedy"][3]) > 0, "the price rule overloads the regulator"
    assert float(rows["trained"][1]) < 1400
    assert (tmp_path / "day.png").read_bytes().startswith(b"\x89PNG")


def test_trading_saves_money(tmp_path: Path) -> None:
    rows = example_rows("p2p_trading_3mg.py", tmp_path, "--iterations", "1")
    assert float(rows["traded,"][-2]) == 0
    assert float(rows["traded,"][-1]) > 0
    assert float(rows["saved"][-1]) > 0


def test_the_price_signal_has_an_adder(tmp_path: Path) -> None:
    rows = example_rows("price_signal.py", tmp_path, "--iterations", "1")
    assert rows["hours"][0] == "hours"
    assert len(rows["hours"]) == len(rows["paid"]) - 3 == 4
    assert [float(row[-2]) for row in (rows["paid"], rows["mean"])] == [0.0, 0.0]


@pytest.mark.slow
def test_the_price_signal_ends_most_violations(tmp_path: Path) -> None:
    rows = example_rows("price_signal.py", tmp_path)
    without, with_signal = (float(share.rstrip("%")) for share in rows["hours"][-2:])
    assert without > 1.0
    assert with_signal < without / 3


def test_a_grid_and_data_of_ones_own_are_written_and_trained_on(tmp_path: Path) -> None:
    rows = example_rows("custom_microgrid.py", tmp_path, "--iterations", "2", "--folder", "mine")
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"grid.json", "data.csv", "scenario.yaml"}
    assert rows["idle"][-1] == "0.00%"
    assert float(rows["trained"][1]) < 1.1 * float(rows["idle"][1])


@pytest.mark.parametrize(
    "path", sorted((ROOT / "scripts" / "examples" / "scenarios").glob("*.yaml")), ids=lambda p: p.stem
)
def test_a_scenario_of_the_examples_plays_a_step_of_doing_nothing(path: Path) -> None:
    env = envs.make(path, num_envs=2, seed=1)
    assert env.scenario.name == path.stem
    env.reset()
    assert not env.step(env.idle_action()).metrics["not_converged"].any()


def test_examples_stay_short() -> None:
    for path in (ROOT / "scripts" / "examples").glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 80, path.name


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
