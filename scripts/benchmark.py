"""Measure this machine: `python scripts/benchmark.py`; stages of the microgrid, and of other tasks where named.

Each stage is warmed up, repeated, and reported as the median with the lowest and highest rate, beside its reference in
the same run: pandapower for power flows, BenchMARL (`--peer-python`) and bare matrix products for VMAS.
"""

import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Annotated

import torch
import tyro
from benchmarking import microgrid, tasks, vmas_stage
from benchmarking.rates import Rate, Settings, Stage
from cli import parse, run_command
from rich.console import Console
from rich.table import Table

from mappo.checkpoint import versions

STAGES: dict[Stage, Callable[[Settings], list[Rate]]] = {
    "power-flow": microgrid.power_flow,
    "env": microgrid.env,
    "rollout": microgrid.rollout,
    "update": microgrid.update,
    "train": microgrid.train,
    "protocols": microgrid.protocols,
    "scenarios": microgrid.scenarios,
    "particle": tasks.particle,
    "sharing": tasks.sharing,
    "vmas": vmas_stage.vmas,
}
DEFAULT_STAGES: tuple[Stage, ...] = ("power-flow", "env", "rollout", "update", "train")


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure the stages that are named, or those of the microgrid."""

    stages: Annotated[tuple[Stage, ...], tyro.conf.Positional] = DEFAULT_STAGES
    """Stages to measure; particle needs mpe2, vmas the extra of that name."""
    scenario: str = "ieee34_ieee13"
    """Scenario of the microgrid's stages but scenarios."""
    num_envs: int = 1024
    """Copies of power flow, env, protocols and scenarios; the other stages use what training does."""
    repetitions: int = 5
    """Timed repetitions after the warm-up."""
    threads: int = 0
    """torch threads; 0: torch's default."""
    device: str = "cpu"
    """Device of everything but pandapower."""
    peer_python: str | None = None
    """Python of an environment with BenchMARL, to measure it beside the stage vmas."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object instead of a table."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = parse(Args, list(sys.argv[1:] if argv is None else argv), description=__doc__)
    if args.repetitions < 1:
        raise ValueError(f"--repetitions must be at least 1, got {args.repetitions}")
    if args.threads:
        torch.set_num_threads(args.threads)
    settings = Settings(
        scenario=args.scenario,
        num_envs=args.num_envs,
        repetitions=args.repetitions,
        device=args.device,
        peer_python=args.peer_python,
    )
    rates = [rate for stage in args.stages for rate in STAGES[stage](settings)]
    machine = _machine()
    if args.json:
        print(json.dumps({"machine": machine, "rates": [asdict(rate) for rate in rates]}))
        return
    table = Table("stage", "what", "median", "lowest", "highest", "unit", title=", ".join(machine.values()))
    for rate in rates:
        places = ",.2f" if rate.highest < 100 else ",.0f"
        cells = [format(value, places) for value in (rate.median, rate.lowest, rate.highest)]
        table.add_row(rate.stage, rate.what, *cells, rate.unit)
    Console().print(table)


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
