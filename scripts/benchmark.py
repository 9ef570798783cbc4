"""Measure every stage on this machine: `python scripts/benchmark.py`; power flow, env, rollout, update, train.

Each stage is warmed up, repeated, and reported as the median with the lowest and highest rate. The power flow is
compared with pandapower's default `runpp` on the same network in the same run.
"""

import importlib.util
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Annotated, Any, Literal

import torch
import tyro
from cli import parse, run_command
from rich.console import Console
from rich.table import Table

import envs
from envs.composition import scenario_tables
from envs.power import solve_power_flow
from envs.power.to_pandapower import to_pandapower
from envs.scenario import load_scenario
from mappo import TrainConfig, Trainer
from mappo.checkpoint import versions

Stage = Literal["power-flow", "env", "rollout", "update", "train"]
STAGES: tuple[Stage, ...] = ("power-flow", "env", "rollout", "update", "train")
PANDAPOWER_RUNS = 20
WARM_UP_S = 1.0  # memory and clocks settle within this


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure the stages that are named, or all."""

    stages: Annotated[tuple[Stage, ...], tyro.conf.Positional] = STAGES
    """Stages to measure."""
    scenario: str = "ieee34_ieee13"
    """Scenario of every stage."""
    num_envs: int = 1024
    """Copies of power flow and env; rollout, update and train use 512, as training does."""
    repetitions: int = 5
    """Timed repetitions after the warm-up."""
    threads: int = 0
    """torch threads; 0: torch's default."""
    device: str = "cpu"
    """Device of everything but pandapower."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object instead of a table."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """One measured rate."""

    stage: str
    what: str
    unit: str
    median: float
    lowest: float
    highest: float


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = parse(Args, list(sys.argv[1:] if argv is None else argv), description=__doc__)
    if args.repetitions < 1:
        raise ValueError(f"--repetitions must be at least 1, got {args.repetitions}")
    if args.threads:
        torch.set_num_threads(args.threads)
    measure = {
        "power-flow": measure_power_flow,
        "env": measure_env,
        "rollout": measure_rollout,
        "update": measure_update,
        "train": measure_train,
    }
    rates = [rate for stage in args.stages for rate in measure[stage](args)]
    machine = _machine()
    if args.json:
        print(json.dumps({"machine": machine, "rates": [asdict(rate) for rate in rates]}))
        return
    table = Table("stage", "what", "median", "lowest", "highest", "unit", title=", ".join(machine.values()))
    for rate in rates:
        cells = [format(value, ",.0f") for value in (rate.median, rate.lowest, rate.highest)]
        table.add_row(rate.stage, rate.what, *cells, rate.unit)
    Console().print(table)


def measure_power_flow(args: Args) -> list[Rate]:
    """Random operating points at random taps in +-8, flat start; then pandapower's default runpp."""
    net = envs.make(args.scenario).network
    generator = torch.Generator().manual_seed(0)
    p_mw, q_mvar = net.nominal_injections()
    scale = torch.rand(args.num_envs, 1, generator=generator, dtype=torch.float64)
    tap = torch.randint(-8, 9, (args.num_envs, len(net.regulators)), generator=generator)
    rates = []
    for dtype in (torch.float32, torch.float64):
        name = str(dtype).removeprefix("torch.")
        p, q = (scale * p_mw).to(args.device, dtype), (scale * q_mvar).to(args.device, dtype)
        rates.append(
            _rate(
                args,
                "power-flow",
                f"batch, {name}",
                "flows/s",
                args.num_envs * 10,
                lambda p=p, q=q: [solve_power_flow(net, p, q, tap) for _ in range(10)],
            )
        )
    import pandapower  # noqa: PLC0415 - slow to import, and only this stage needs it

    grid = to_pandapower(scenario_tables(load_scenario(args.scenario)))
    numba = importlib.util.find_spec("numba") is not None  # runpp would only warn and go on without it
    what = f"pandapower runpp, default{'' if numba else ', no numba'}"
    reference = _rate(
        args,
        "power-flow",
        what,
        "flows/s",
        PANDAPOWER_RUNS,
        lambda: [pandapower.runpp(grid, numba=numba) for _ in range(PANDAPOWER_RUNS)],
    )
    ratio = rates[0].median / reference.median
    return [*rates, reference, _single("power-flow", "batch float32 / pandapower", "times", ratio)]


def measure_env(args: Args) -> list[Rate]:
    """Env steps with regulators and observations: uniform random actions, and close to idle."""
    env = envs.make(args.scenario, num_envs=args.num_envs, device=args.device, seed=1)
    env.reset()
    generator = torch.Generator().manual_seed(0)
    random = [2 * torch.rand(env.action_shape, generator=generator) - 1 for _ in range(24)]
    idle = env.idle_action().cpu()
    near_idle = [idle + 0.1 * action for action in random]

    def play(actions: list[torch.Tensor]) -> None:
        for action in actions:
            env.step(action.to(env.device))

    steps = 24 * args.num_envs
    return [
        _rate(args, "env", "random actions", "env steps/s", steps, lambda: play(random)),
        _rate(args, "env", "near idle", "env steps/s", steps, lambda: play(near_idle)),
    ]


def measure_rollout(args: Args) -> list[Rate]:
    """Policy and env: filling one buffer."""
    trainer = _trainer(args)
    buffer, generator = trainer.buffer, trainer.generator
    steps = trainer.env.num_envs * len(buffer.actions)
    return [
        _rate(
            args, "rollout", "policy and env", "env steps/s", steps, lambda: trainer.rollout.collect(buffer, generator)
        )
    ]


def measure_update(args: Args) -> list[Rate]:
    """All epochs over one buffer, advantages included."""
    trainer = _trainer(args)
    trainer.rollout.collect(trainer.buffer, trainer.generator)
    steps = trainer.env.num_envs * len(trainer.buffer.actions)
    return [_rate(args, "update", "advantages and all epochs", "env steps/s", steps, trainer.learn)]


def measure_train(args: Args) -> list[Rate]:
    """End to end, with evaluation, checkpoints and TensorBoard: 10 iterations of the default command."""
    with tempfile.TemporaryDirectory() as folder:

        def train() -> None:
            settings: dict[str, Any] = {"scenario": args.scenario, "device": args.device}
            env = envs.make(**settings, num_envs=512, seed=42)
            eval_env = envs.make(**settings, split="val", evaluation=True)
            Trainer(env, TrainConfig(iterations=10, runs_dir=folder), eval_env).train()

        return [_rate(args, "train", "end to end, 10 iterations", "env steps/s", 10 * 24 * 512, train)]


def _trainer(args: Args) -> Trainer:
    env = envs.make(args.scenario, num_envs=512, device=args.device, seed=42)
    trainer = Trainer(env, TrainConfig())
    trainer.rollout.start()
    return trainer


def _rate(args: Args, stage: str, what: str, unit: str, count: int, work: Callable[[], object]) -> Rate:
    """Median rate of `work`, which does `count` units each time."""
    started = time.perf_counter()
    while time.perf_counter() - started < WARM_UP_S:
        work()
    rates = []
    for _ in range(args.repetitions):
        _synchronise(args.device)
        started = time.perf_counter()
        work()
        _synchronise(args.device)
        rates.append(count / (time.perf_counter() - started))
    return Rate(
        stage=stage, what=what, unit=unit, median=statistics.median(rates), lowest=min(rates), highest=max(rates)
    )


def _single(stage: str, what: str, unit: str, value: float) -> Rate:
    return Rate(stage=stage, what=what, unit=unit, median=value, lowest=value, highest=value)


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _machine() -> dict[str, str]:
    found = versions()
    return {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "threads": f"{torch.get_num_threads()} torch threads",
        "torch": f"torch {found['torch']}",
        "pandapower": f"pandapower {metadata.version('pandapower')}",
        "commit": found["commit"][:12],
    }


if __name__ == "__main__":
    run_command(main)
