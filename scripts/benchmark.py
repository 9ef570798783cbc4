"""Measure this machine: `python scripts/benchmark.py`; stages of the microgrid, and of other tasks where named.

Each stage is warmed up, repeated, and reported as the median with the lowest and highest rate and its ratio to a
reference of the same run: pandapower for power flows, else a fixed loop of torch operations that runs beside each
repetition (docs/performance.md). `--store` keeps the ratios to that loop, `--compare` judges a run by them.
"""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from benchmarking import microgrid, stored, tasks, variants
from benchmarking.breakdown import breakdown
from benchmarking.peers.stage import peers
from benchmarking.power_flow import power_flow
from benchmarking.rates import Rate, Settings, Stage
from benchmarking.report import comparison_table, figures_table, machine
from benchmarking.roofline import roofline
from benchmarking.scaling import scale
from benchmarking.vmas_stage import vmas
from cli import parse, run_command
from rich import box
from rich.console import Console

from envs.settings import env_device
from mappo.threads import use_threads

STAGES: dict[Stage, Callable[[Settings], list[Rate]]] = {
    "power-flow": power_flow,
    "env": microgrid.env,
    "rollout": microgrid.rollout,
    "update": microgrid.update,
    "train": microgrid.train,
    "breakdown": breakdown,
    "roofline": roofline,
    "scale": scale,
    "peers": peers,
    "protocols": variants.protocols,
    "scenarios": variants.scenarios,
    "particle": tasks.particle,
    "sharing": tasks.sharing,
    "vmas": vmas,
}
DEFAULT_STAGES: tuple[Stage, ...] = ("power-flow", "env", "rollout", "update", "train")
REGRESSED = 1  # exit code
WIDTH = 160


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure the stages that are named, or those of the microgrid."""

    stages: Annotated[tuple[Stage, ...], tyro.conf.Positional] = DEFAULT_STAGES
    """Stages to measure; particle needs mpe2, vmas the extra of that name, peers the extra bench."""
    scenario: str = "ieee34_ieee13"
    """Scenario of the microgrid's stages but scale and scenarios; of table networks for power-flow and peers."""
    num_envs: int = 1024
    """Copies of power flow, env, peers, protocols and scenarios; the other stages use what training does."""
    repetitions: int = 5
    """Timed repetitions after the warm-up."""
    threads: int = 0
    """torch threads; 0: as a training."""
    device: str = "cpu"
    """Device of everything but other libraries; auto: a GPU where there is one."""
    peer_python: str | None = None
    """Python of an environment with BenchMARL, to measure it in the stages vmas and peers."""
    rllib_python: str | None = None
    """Python of an environment with RLlib and this project's dependencies, to measure it in the stage peers."""
    store: str | None = None
    """File for the medians as ratios to the reference loop."""
    compare: str | None = None
    """File that --store wrote: one line a figure beside it; a slower one ends with exit code 1."""
    tolerance: float = 0.7
    """Smallest share of a stored ratio that --compare lets pass."""
    point_seconds: float = 60.0
    """Longest time that a point of the stage scale may take; larger points of its axis are then left out."""
    plot: str | None = None
    """Folder for scaling-<axis>.png and .json of the stage scale."""
    test: tyro.conf.FlagCreatePairsOff[bool] = False
    """Few copies, one repetition, two points an axis: only to see that everything runs."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object instead of tables."""
    markdown: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the figures as a Markdown table."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, store and compare."""
    args = parse(Args, list(sys.argv[1:] if argv is None else argv), description=__doc__)
    _check(args)
    kept = None if args.compare is None else stored.read(Path(args.compare))
    threads = use_threads(args.threads)
    settings = _settings(args)
    shared = {"scenario": args.scenario, "num-envs": settings.num_envs, "threads": threads}
    shared |= {"device": settings.device}
    if kept is not None:  # before minutes are spent
        stored.check_settings(kept, stored.Record(settings=shared, ratios={}), Path(str(args.compare)))
    rates = [rate for stage in args.stages for rate in STAGES[stage](settings)]
    record = stored.record_of(rates, shared, machine())
    comparisons = [] if kept is None else stored.compared(kept, record, args.stages, args.tolerance)
    if args.store is not None:
        stored.write(record, Path(args.store))
    if args.json:
        report = {"machine": record.machine, "settings": shared, "rates": [asdict(rate) for rate in rates]}
        report |= {"notes": settings.notes, "comparisons": [asdict(item) for item in comparisons]}
        print(json.dumps(report))
    else:
        console = Console(width=max(WIDTH, Console().width))
        title = ", ".join(record.machine.values())
        console.print(figures_table(rates, title, box.MARKDOWN if args.markdown else box.HEAVY_HEAD))
        for note in settings.notes:
            console.print(f"note: {note}", highlight=False, markup=False)
        if comparisons:
            console.print(comparison_table(comparisons, args.tolerance, Path(str(args.compare))))
    if stored.failures(comparisons):
        raise SystemExit(REGRESSED)


def _check(args: Args) -> None:
    for flag, value in (("--repetitions", args.repetitions), ("--num-envs", args.num_envs)):
        if value < 1:
            raise ValueError(f"{flag} must be at least 1, got {value}")
    if args.threads < 0:
        raise ValueError(f"--threads must be at least 1, or 0 for those of a training, got {args.threads}")
    if args.test and (args.store or args.compare):
        raise ValueError("--store and --compare need real figures, got --test; leave --test out")
    if not args.point_seconds > 0:
        raise ValueError(f"--point-seconds must be positive, got {args.point_seconds}")
    if not 0 < args.tolerance <= 1:
        raise ValueError(f"--tolerance must be in (0, 1], got {args.tolerance}; 0.7 lets a figure lose 30 %")
    for flag, path in (("--store", args.store), ("--plot", args.plot)):
        folder = None if path is None else Path(path).resolve().parent
        if folder is not None and not folder.is_dir():
            raise ValueError(f"{flag} {path} needs a folder that exists, got {folder}; make it first")
    for flag, python in (("--peer-python", args.peer_python), ("--rllib-python", args.rllib_python)):
        if python is not None and shutil.which(python) is None:
            raise ValueError(f"{flag} must be a python that can be run, got {python}; see docs/performance.md")


def _settings(args: Args) -> Settings:
    few = {"num_envs": min(args.num_envs, 8), "train_envs": 8, "repetitions": 1, "warm_up_s": 0.0, "loop_s": 0.01}
    return Settings(
        **{"num_envs": args.num_envs, "repetitions": args.repetitions, **(few if args.test else {})},
        scenario=args.scenario,
        device=str(env_device(args.device)),
        peer_python=args.peer_python,
        rllib_python=args.rllib_python,
        point_s=args.point_seconds,
        plot=args.plot,
        small=args.test,
    )


if __name__ == "__main__":
    run_command(main)
