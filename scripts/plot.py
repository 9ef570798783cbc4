"""Draw the curves of one or several runs into one picture: `python scripts/plot.py runs/<run> --out curves.png`."""

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

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
    column: str | None = None
    """Draw only this column of metrics.csv, such as eval/return, in a panel for each environment."""


def main(argv: Sequence[str] | None = None) -> None:
    """Read metrics.csv of every run and draw what they share."""
    args = parse(Args, list(sys.argv[1:] if argv is None else argv), description=__doc__)
    if not args.runs:
        raise ValueError("give at least one run folder: python scripts/plot.py runs/<run>")
    tables = {run: read_metrics(run) for run in args.runs}
    drawn = panels(args.runs) if args.column is None else panels_by_env(tables, args.column)
    columns = min(len(drawn), 2 if len(drawn) < 5 else 3)
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(5.5 * columns, 3.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, panel in zip(grid.flat, drawn, strict=False):
        for name, runs in seeds_of_configurations(panel.runs).items():
            draw(axes, name, [points(tables[run], panel.column) for run in runs])
        axes.set_title(panel.title, fontsize=10)
        axes.set_xlabel("env steps")
        axes.grid(alpha=0.3)
        if args.column is not None or panel is drawn[0]:
            axes.legend(fontsize=8)
    for axes in list(grid.flat)[len(drawn) :]:
        axes.remove()
    try:
        figure.savefig(args.out, dpi=110)
    except (OSError, ValueError) as error:
        raise ValueError(f"--out {args.out} cannot be written: {error}") from error
    print(f"wrote {args.out}")


class Panel(NamedTuple):
    """One picture."""

    title: str
    column: str
    """Of metrics.csv."""
    runs: tuple[Path, ...]


def panels(runs: tuple[Path, ...]) -> list[Panel]:
    """The four pictures of the first run's kind of environment, all runs in each."""
    contents = [content for run in runs if (content := read_config(run)) is not None]
    family = known_family(contents[0]["env"]) if contents else None
    team = _team(runs)
    return [Panel(title.format(team=team), column, runs) for title, column in (family or Family).panels]


def panels_by_env(tables: Mapping[Path, Sequence[Mapping[str, str]]], column: str) -> list[Panel]:
    """One picture for each environment.

    Raises:
        ValueError: no run has the column.
    """
    if not any(column in row for rows in tables.values() for row in rows[-1:]):
        known = sorted({name for rows in tables.values() for row in rows[-1:] for name in row})
        raise ValueError(f"--column must be one of {', '.join(known)}; got {column!r}")
    by_env: dict[str, list[Path]] = {}
    for run in tables:
        env = (read_config(run) or {"env": {}})["env"]
        family = known_family(env)
        by_env.setdefault("" if family is None else family.text_of(env), []).append(run)
    return [Panel(f"{env}\n{column}, {_team(runs)}", column, tuple(runs)) for env, runs in by_env.items()]


def _team(runs: Sequence[Path]) -> str:
    """How the runs put the agents' returns together."""
    contents = [content for run in runs if (content := read_config(run)) is not None]
    return " or ".join(dict.fromkeys(TEAM[content["config"].get("reward_mode", "mean")] for content in contents))


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
