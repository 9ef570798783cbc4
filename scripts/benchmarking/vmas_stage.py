"""The stage `vmas`: training at BenchMARL's settings, beside BenchMARL itself and the bare matrix products.

BenchMARL needs other versions than this project, so it runs in an environment of its own: `--peer-python`.
"""

import csv
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch

from benchmarking.peers.flow_peer import is_installed
from benchmarking.rates import Rate, Settings, Stage, measured, relative_to, repeat, single, spread
from mappo import PRESETS, Trainer
from mappo.adapters.vmas import vmas_env_from

TASKS = {"balance": "vmas:balance:n_agents=4", "navigation": "vmas:navigation:n_agents=3,shared_rew=False"}
PEER = Path(__file__).with_name("benchmarl_peer.py")
PEER_ITERATIONS = 4


def vmas(settings: Settings) -> list[Rate]:
    """Frames a second of both tasks; a frame is one env step of one copy, with all its agents."""
    rates = []
    for task, text in TASKS.items():
        ceiling = _matrix_products(settings, task, text)
        measured_rates = benchmarl_rates(settings, "vmas", (task,))
        ours = measured_rates[0]
        share = single("vmas", f"{task}: share of the bare matrix products", "", ours.median / ceiling.median)
        rates += [*measured_rates, ceiling, share]
    return rates


def benchmarl_rates(settings: Settings, stage: Stage, tasks: Sequence[str]) -> list[Rate]:
    """Ours at BenchMARL's settings and, where its python is given, BenchMARL: ours has the ratio to it."""
    if not is_installed("vmas"):
        settings.notes.append(f'{stage}: vmas is missing; install it with: pip install -e ".[vmas]"')
        return []
    if settings.peer_python is None:
        settings.notes.append(
            f"{stage}: BenchMARL is not measured; make an environment with it (docs/performance.md) and give its "
            "python as --peer-python"
        )
    rates = []
    for task in tasks:
        ours = _ours(settings, stage, task)
        if settings.peer_python is None:
            rates.append(ours)
            continue
        peer = _benchmarl(settings.peer_python, stage, task)
        rates += [*relative_to(peer, [ours]), peer]
    return rates


def _ours(settings: Settings, stage: Stage, task: str) -> Rate:
    with tempfile.TemporaryDirectory() as folder:
        config = replace(PRESETS["benchmarl"], iterations=10_000, runs_dir=folder)
        if settings.small:
            config = replace(settings.trained(config), num_steps=20)
        trainer = Trainer(vmas_env_from(TASKS[task], 60, device=settings.device, seed=1), config)
        trainer.rollout.start()

        def iterate() -> None:
            trainer.rollout.collect(trainer.buffer, trainer.generator)
            trainer.learn()

        what = f"{task}: ours at BenchMARL's settings"
        steps = 60 * len(trainer.buffer.actions)
        return measured(settings, stage, what, "frames/s", steps, iterate, guarded=stage == "vmas")


def _matrix_products(settings: Settings, task: str, text: str) -> Rate:
    """Only the matrix products of one iteration's epochs: forward, gradient of weights, gradient of inputs."""
    env = vmas_env_from(text, 60)
    config = PRESETS["benchmarl"]
    frames, steps = config.minibatch_size or 0, 60 * (config.num_steps or 0)
    count = config.num_epochs * steps // frames
    agents, own = len(env.agents), env.state_dim // len(env.agents)
    hidden = config.hidden_dim
    nets = [(frames * agents, [own, hidden, hidden, 2]), (frames, [env.state_dim, hidden, hidden, 1])]
    products = []
    for rows, sizes in nets:
        for i, (a, b) in enumerate(pairwise(sizes)):
            x, w, g = torch.randn(rows, a), torch.randn(a, b), torch.randn(rows, b)
            products += [(x, w), (x.T, g)] + [(g, w.T)] * (i > 0)

    def multiply() -> None:
        for a, b in products:
            torch.mm(a, b)

    part, what = 20, f"{task}: bare matrix products"  # minibatches: enough to time
    bare = measured(settings, "vmas", what, "frames/s", part, lambda: repeat(multiply, part), guarded=False)
    scale = steps / count
    return replace(bare, median=bare.median * scale, lowest=bare.lowest * scale, highest=bare.highest * scale)


def _benchmarl(python: str, stage: Stage, task: str) -> Rate:
    """Frames a second after its first iteration, which warms up."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "frames.csv"
        command = [
            python,
            str(PEER),
            "--task",
            task,
            "--frames",
            str(6000 * (PEER_ITERATIONS + 1)),
            "--eval-every",
            "0",
        ]
        command += ["--threads", str(torch.get_num_threads()), "--out", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise ValueError(f"--peer-python {python} could not run BenchMARL ({last[0]}); see {PEER.name}")
        with out.open(newline="") as file:
            rates = [float(row["frames_per_s"]) for row in csv.DictReader(file)][1:]
    return spread(stage, f"{task}: BenchMARL", "frames/s", rates)
