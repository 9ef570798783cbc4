"""`train.py --processes`: how many are chosen, that they train together, how they end."""

import csv
import importlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mappo.shared_sums import suits
from mappo.threads import shared_threads

ROOT = Path(__file__).parents[2]
SMALL = ("--num-envs", "32", "--hidden-dim", "16", "--num-minibatches", "8", "--no-tensorboard")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def start(*flags: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "scripts/train.py", *SMALL, *flags], cwd=ROOT, env=environment, **pipes)  # pyright: ignore


@pytest.fixture
def count_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[str]], int]:
    """On a machine with four cores, no GPU and no OMP_NUM_THREADS."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    forked = importlib.import_module("forked")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(forked, "shared_threads", lambda processes: 4 // processes)
    monkeypatch.setattr(forked, "suits", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    return forked.count_of


@pytest.mark.parametrize(
    ("flags", "processes"),
    [
        ((), 2),
        (("--num-envs", "4096", "--algo", "ippo"), 2),
        (("--env=microgrid", "--num-envs=511"), 1),  # fewer than 256 each
        (("--num-envs", "520"), 1),  # half a group each
        (("--num-envs", "many"), 1),
        (("--preset", "nowhere"), 1),
        (("--resume", "nowhere"), 1),
        (("--env", "pettingzoo:a.b"), 1),
        (("--num-workers", "2"), 1),
        (("--no-cuda",), 2),
        (("--env", "pettingzoo:a.b", "--processes", "3"), 3),
        (("--processes", "0"), 2),
        (("--threads", "2"), 1),
        (("--test",), 1),
        (("--help",), 1),
    ],
)
def test_two_are_chosen_where_they_pay(count_of: Callable[..., int], flags: Sequence[str], processes: int) -> None:
    assert count_of(flags) == processes


def test_one_process_is_chosen_where_threads_or_ranks_are_given(
    count_of: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert count_of(()) == 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert count_of(()) == 1
    with pytest.raises(ValueError, match="--processes 2 contradicts torchrun"):
        count_of(("--processes", "2"))


def test_two_processes_train_as_one_does_and_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    def returns(name: str) -> list[float]:
        with (tmp_path / name / "metrics.csv").open(newline="") as file:
            return [float(row["train/return"]) for row in csv.DictReader(file) if row["train/return"]]

    flags = ("--runs-dir", str(tmp_path), "--iterations", "3")
    both = start(*flags, "--experiment-name", "two", "--processes", "2", "--stop-after", "2")
    one = start(*flags, "--experiment-name", "one", "--processes", "1")
    out, err = both.communicate(timeout=120)
    assert both.returncode == 0, err
    assert "2 ranks of 16 copies" in out
    one.communicate(timeout=120)
    more = start("--resume", str(tmp_path / "two"), "--processes", "2", "--stop-after", "3", "--quiet")
    assert more.communicate(timeout=120)[1] == ""
    assert len(returns("two")) == 3
    assert returns("two") == pytest.approx(returns("one"), rel=1e-3)


@pytest.mark.parametrize(
    ("spec", "ranks", "processes"),
    [({"scenario": "simple_2mg"}, 2, 2), ({"scenario": "simple_2mg"}, 8, 1), ({"env": "vmas:balance"}, 2, 1)],
)
def test_a_run_goes_on_in_as_many_processes(
    count_of: Callable[..., int], monkeypatch: pytest.MonkeyPatch, spec: dict[str, str], ranks: int, processes: int
) -> None:
    """With four cores; a run of another environment in one."""
    stored = {"env": {"spec": spec, "num_envs": 512}, "ranks": ranks}
    monkeypatch.setattr("forked.read_checkpoint", lambda path, names: stored)
    monkeypatch.setattr("forked.torch.set_num_threads", lambda count: None)
    assert count_of(("--resume", "runs/x")) == processes


@pytest.mark.skipif(shared_threads(1) < 2, reason="one core")
def test_the_default_is_two_processes_that_say_once_what_is_wrong(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment["PYTHONPATH"] = str(ROOT)

    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "scripts/train.py", "--runs-dir", str(tmp_path), *flags]
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    small = ("--num-steps", "2", "--train-batch-size", "1024", "--hidden-dim", "8", "--no-tensorboard")
    done = run(*small, "--num-minibatches", "4", "--iterations", "1", "--experiment-name", "run")
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 ranks of 256 copies" in done.stdout
    again = run("--resume", str(tmp_path / "run"))
    assert (again.returncode, len(again.stderr.splitlines())) == (2, 1)
    assert "iterations are done already" in again.stderr
    wrong = run("--gamma", "2")
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)


@pytest.mark.skipif(not suits(), reason="a lost rank is noticed later without shared memory")
def test_the_first_process_says_that_another_is_lost(tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ("--runs-dir", str(tmp_path), "--experiment-name", "run", "--checkpoint-freq", "1", "--quiet")
    process = start(*flags, "--iterations", "2000", "--processes", "2")
    waited = time.monotonic()
    while (
        time.monotonic() - waited < 60
        and process.poll() is None
        and not (run / "checkpoints" / "iteration_000002.pt").exists()  # `latest` is there since the first
    ):
        time.sleep(0.1)
    (other,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(other), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    # it may be found out by the sums (which say so) or by gloo, when a checkpoint is being put together
    assert re.search(
        "^error: rank 0 of 2 has lost another one, which ended or cannot be reached .*(rank 1 ended|gloo)", err
    )
    assert err.strip().endswith(f"resumes it: python scripts/train.py --processes 2 --resume {run}")
    assert len(err.splitlines()) == 1
