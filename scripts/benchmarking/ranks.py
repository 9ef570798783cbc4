"""Training on several processes of one machine, started by torchrun: the axis ranks of the stage scale."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarking.rates import Settings, spread
from benchmarking.scaling_files import Point

TRAIN = Path(__file__).parents[1] / "train.py"
ITERATIONS = 12
WARM_UP = 2  # iterations that do not count
LIMIT_POINTS = 2  # times the limit of a point, because each starts processes


def ranks_axis(settings: Settings) -> tuple[list[Point], str]:
    """1, 2, 4, ... ranks up to the cores, each with one thread; and why there are no more."""
    points: list[Point] = []
    ranks = 1
    while ranks <= (os.cpu_count() or 1):
        output, failure = run_ranks(settings, ranks)
        rates = [] if failure else steps_per_second(output)
        if not failure and not rates:
            failure = f"scripts/train.py did not share the work: each of {ranks} ranks reported for itself"
        if failure:
            return points, f"not available with {ranks} ranks: {failure}"
        what = f"train, {ranks} {'rank' if ranks == 1 else 'ranks'}"
        points.append(Point(ranks, spread("scale", what, "env steps/s", rates)))
        ranks *= 2
    return points, ""


def run_ranks(settings: Settings, ranks: int) -> tuple[str, str]:
    """What training prints as JSON lines, and why it failed, or nothing."""
    iterations = WARM_UP + 1 if settings.small else ITERATIONS
    flags = ["--scenario", settings.scenario, "--num-envs", str(settings.train_envs), "--iterations", str(iterations)]
    flags += ["--eval-every", str(iterations), "--no-tensorboard", "--json"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", str(TRAIN)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command = [*launcher, *flags, "--runs-dir", folder]
        code, output, errors = _run(command, environment, LIMIT_POINTS * settings.point_s)
    if code is None:
        return "", f"more than {LIMIT_POINTS * settings.point_s:.0f} s; --point-seconds allows more"
    if code:
        lines = [line for line in errors.splitlines() if "rror" in line] or ["no message"]
        return "", lines[0].strip()
    return output, ""


def _run(command: list[str], environment: dict[str, str], seconds: float) -> tuple[int | None, str, str]:
    """Exit code (None: it took too long), what it printed, and its errors; nothing of it runs on afterwards."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,  # so that the ranks can be ended with their launcher
    ) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return None, "", ""
    return process.returncode, output, errors


def steps_per_second(output: str) -> list[float]:
    """Env steps a second of each iteration after the warm-up, of one process that reports for all; else nothing.

    Args:
        output: one JSON object a line, with `iteration`, `env_steps` and `time/elapsed_s`.
    """
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    rows = [row for row in rows if "iteration" in row]
    if len({row["iteration"] for row in rows}) < len(rows):
        return []
    rates = []
    for before, after in zip(rows[WARM_UP - 1 :], rows[WARM_UP:], strict=False):
        rates.append((after["env_steps"] - before["env_steps"]) / (after["time/elapsed_s"] - before["time/elapsed_s"]))
    return rates
