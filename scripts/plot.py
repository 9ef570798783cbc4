"""Draw the curves of one or several runs into one picture: `python scripts/plot.py runs/<run> --out curves.png`."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from cli import parse, run_command
from matplotlib.figure import Figure

PANELS = (
    ("validation score (0 idle, 1 bound)", "eval/score"),
    ("return of training episodes", "train/return"),
    ("violating share of training steps", "grid/violating"),
    ("standard deviation of actions", "policy/std"),
)


@dataclass(frozen=True, kw_only=True)
class Args:
    """Draw runs beside each other; the x axis is env steps."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders."""
    out: Path = Path("curves.png")
    """Picture to write; its ending chooses the format."""


def main(argv: Sequence[str] | None = None) -> None:
    """Read metrics.csv of every run and draw what they share."""
    args = parse(Args, list(sys.argv[1:] if argv is None else argv), description=__doc__)
    if not args.runs:
        raise ValueError("give at least one run folder: python scripts/plot.py runs/<run>")
    tables = {run.name: read_metrics(run) for run in args.runs}
    figure = Figure(figsize=(11, 7), layout="constrained")
    for axes, (title, column) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        for name, rows in tables.items():
            points = [(float(row["env_steps"]), float(row[column])) for row in rows if row.get(column)]
            if points:
                axes.plot(*zip(*points, strict=True), label=name)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("env steps")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    try:
        figure.savefig(args.out, dpi=110)
    except (OSError, ValueError) as error:
        raise ValueError(f"--out {args.out} cannot be written: {error}") from error
    print(f"wrote {args.out}")


def read_metrics(run: Path) -> list[dict[str, str]]:
    """Rows of a run's metrics.csv.

    Raises:
        ValueError: the folder holds none.
    """
    path = run / "metrics.csv"
    if not path.is_file():
        raise ValueError(f"{run} holds no metrics.csv; give the folder of a run, such as runs/<run>")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    run_command(main)
