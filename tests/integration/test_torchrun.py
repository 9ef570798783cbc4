"""train.py under torchrun: one error line, what a lost rank leaves, curves beside one process."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SMALL = ("--num-envs", "32", "--hidden-dim", "16", "--num-minibatches", "8", "--no-tensorboard")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
QUIET = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start(*flags: str, ranks: bool = True) -> subprocess.Popen[str]:
    launcher = TORCHRUN if ranks else (sys.executable,)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*launcher, "scripts/train.py", *flags], cwd=ROOT, env=QUIET, **pipes)  # pyright: ignore


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=400)
    finally:
        process.kill()
    return process.returncode, out, err


def said(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error:")]


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def children(process: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.slow
def test_copies_that_cannot_be_shared_are_one_line(tmp_path: Path) -> None:
    code, out, err = finished(start(*SMALL, "--num-envs", "33", "--runs-dir", str(tmp_path)))
    assert code
    assert out == ""
    assert said(err) == [
        "error: --num-envs 33 must be a multiple of the number of ranks, 2, which share them; use 32 or 34"
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_rank_ends_the_job_and_its_last_checkpoint_resumes(tmp_path: Path, victim: int) -> None:
    run = tmp_path / "run"
    flags = (*SMALL, "--runs-dir", str(tmp_path), "--experiment-name", "run", "--checkpoint-freq", "1", "--json")
    process = start(*flags, "--iterations", "2000")
    while process.poll() is None and not (run / "checkpoints" / "iteration_000002.pt").exists():
        time.sleep(0.1)
    ranks = children(process)
    assert len(ranks) == 2
    os.kill(ranks[victim], signal.SIGKILL)
    code, _, err = finished(process)
    assert code
    told = said(err)
    assert len(told) == 1, err
    assert re.search(rf"rank {1 - victim} of 2 (has lost|was ended)", told[0])
    assert told[0].endswith(f"resumes it: torchrun --nproc-per-node=2 scripts/train.py --resume {run}")
    assert 'train.py", line' not in err, "no traceback"
    done = torch.load(run / "checkpoints" / "latest.pt", weights_only=True)["progress"]["iteration"]
    more = ("--stop-after", str(done + 2), "--quiet", "--checkpoint-freq", "0")
    code, _, err = finished(start("--resume", str(run), *more))
    assert (code, said(err)) == (0, [])
    assert [int(float(row["iteration"])) for row in rows(run)][-1] == done + 2


@pytest.mark.slow
def test_ctrl_c_saves_once_on_all_ranks(tmp_path: Path) -> None:
    flags = (*SMALL, "--runs-dir", str(tmp_path), "--experiment-name", "run", "--json", "--iterations", "2000")
    process = start(*flags)
    assert process.stdout is not None
    for _ in range(2):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, _, err = finished(process)
    assert err.count("interrupted: finishing this iteration") == 1
    assert not said(err)
    assert (tmp_path / "run" / "checkpoints" / "latest.pt").exists()


@pytest.mark.slow
def test_curves_of_two_ranks_lie_within_those_of_seeds(tmp_path: Path) -> None:
    """The same seed on two ranks differs from one process by less than the seeds differ from each other."""
    flags = (*SMALL, "--iterations", "30", "--eval-every", "30", "--quiet", "--lr", "5e-3", "--runs-dir", str(tmp_path))
    scores: dict[str, float] = {}
    for name, seed, ranks in (("a", 1, False), ("b", 2, False), ("c", 3, False), ("two", 1, True)):
        code, _, err = finished(start(*flags, "--seed", str(seed), "--experiment-name", name, ranks=ranks))
        assert code == 0, err
        scores[name] = float(rows(tmp_path / name)[-1]["eval/j_usd_per_day"])
    seeds = [scores[name] for name in "abc"]
    spread = max(seeds) - min(seeds)
    assert min(seeds) - spread / 2 <= scores["two"] <= max(seeds) + spread / 2, scores
