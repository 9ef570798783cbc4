"""Draw the curves of one or several runs into one picture: `python scripts/plot.py runs/<run> --out curves.png`."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from cli import common_stem, configuration_key, parse, run_command
from environments import Family, known_family
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mappo.run_folder import read_config

TEAM = {"mean": "mean of the agents", "individual": "mean of the agents", "sum": "sum of the agents"}
"""What a return is, by --reward-mode."""


@dataclass(frozen=True, kw_only=True)
class Args:
    """Draw runs beside each other, seeds of one configuration as mean and range; the x axis is env steps."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders."""
    out: Path = Path("curves.png")
    """Picture to write; its ending chooses the format."""


def main(argv: Sequence[str] | None = None) -> None:
    """Read metrics.csv of every run and draw what they share."""
    args = parse(Args, list(sys.argv[1:] if argv is None else argv), description=__doc__)
    if not args.runs:
        raise ValueError("give at least one run folder: python scripts/plot.py runs/<run>")
    tables = {run: read_metrics(run) for run in args.runs}
    figure = Figure(figsize=(11, 7), layout="constrained")
    for axes, (title, column) in zip(figure.subplots(2, 2).flat, panels(args.runs), strict=True):
        for name, runs in seeds_of_configurations(args.runs).items():
            draw(axes, name, [points(tables[run], column) for run in runs])
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("env steps")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    try:
        figure.savefig(args.out, dpi=110)
    except (OSError, ValueError) as error:
        raise ValueError(f"--out {args.out} cannot be written: {error}") from error
    print(f"wrote {args.out}")


def panels(runs: Sequence[Path]) -> list[tuple[str, str]]:
    """Title and column of the four pictures, those of the first run's kind of environment."""
    contents = [content for run in runs if (content := read_config(run)) is not None]
    modes = dict.fromkeys(TEAM[content["config"].get("reward_mode", "mean")] for content in contents)
    family = known_family(contents[0]["env"]) if contents else None
    return [(title.format(team=" or ".join(modes)), column) for title, column in (family or Family).panels]


def seeds_of_configurations(runs: Sequence[Path]) -> dict[str, list[Path]]:
    """Runs whose settings agree apart from the seed, by name: the run's own, or what the names of several share."""
    by_settings: dict[str, list[Path]] = {}
    for run in runs:
        content = read_config(run) or {"config": {"run": str(run)}, "env": {}}
        by_settings.setdefault(configuration_key(content["config"], content["env"]), []).append(run)
    named: dict[str, list[Path]] = {}
    for members in by_settings.values():
        names = [run.resolve().name for run in members]
        title = names[0] if len(members) == 1 else f"{common_stem(names) or names[0]}, {len(members)} seeds"
        named[title if title not in named else str(members[0])] = members
    return named


def points(rows: Sequence[dict[str, str]], column: str) -> dict[float, float]:
    """Env steps -> value, where the column has one."""
    return {float(row["env_steps"]): float(row[column]) for row in rows if row.get(column)}


def draw(axes: Axes, name: str, curves: Sequence[dict[float, float]]) -> None:
    """The mean of some seeds over the env steps they share, and a band from their lowest to their highest."""
    steps = sorted(set.intersection(*map(set, curves)))
    if not steps:
        return
    values = [[curve[step] for curve in curves] for step in steps]
    (line,) = axes.plot(steps, [sum(row) / len(row) for row in values], label=name)
    if len(curves) > 1:
        low, high = [min(row) for row in values], [max(row) for row in values]
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, lw=0)


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
