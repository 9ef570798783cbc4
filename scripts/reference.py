"""Make the reference of a packaged scenario anew: idle cost, certified bound and replayed optimum of every day.

`python scripts/reference.py` writes envs/data/reference/<scenario>_days.csv, which scores are measured by.
"""

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cli import parse, run_command
from evaluation.output import write_all
from rich.console import Console

from envs.baselines.extra import require_solver
from envs.profiles import SPLITS
from envs.reference import FOLDER, SHIPPED


@dataclass(frozen=True, kw_only=True)
class Args:
    """Solve and play every day of the data."""

    scenario: str = "ieee34_ieee13"
    """Name of a scenario whose reference is shipped; with --out any name or path of a YAML file."""
    out: Path | None = None
    """File to write; the packaged one unless given."""
    cache: bool = True
    """Use the days kept under runs/.cache, and keep those solved now."""


def main(argv: Sequence[str] | None = None) -> None:
    """Solve all splits and write one row a day."""
    args = parse(Args, list(sys.argv[1:] if argv is None else argv), description=__doc__)
    if args.out is None and args.scenario not in SHIPPED:
        raise ValueError(f"--scenario must be {' or '.join(SHIPPED)}, or go with --out; got {args.scenario}")
    require_solver("the reference")
    from envs.baselines import certified_bound  # noqa: PLC0415 - needs the extra
    from envs.baselines.reference import idle_costs  # noqa: PLC0415

    console = Console(soft_wrap=True)
    rows: list[tuple[int, str, float, float, float]] = []
    for split in SPLITS:
        bound = certified_bound(args.scenario, split, cache=args.cache)
        if bound.unsolved:
            raise ValueError(f"no bound for {', '.join(map(str, bound.unsolved))}: the reference needs every day")
        columns = (bound.day, idle_costs(bound), bound.usd, bound.replay_usd)
        rows += [(int(d), split, i, b, r) for d, i, b, r in zip(*(c.tolist() for c in columns), strict=True)]
        means = ", ".join(
            f"{name} {float(values.mean()):.2f}"
            for name, values in zip(("idle", "bound", "replay"), columns[1:], strict=True)
        )
        console.print(f"{split}: {len(bound.day)} days, $/day: {means}", highlight=False)
    path = args.out or FOLDER / f"{args.scenario}_days.csv"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("day", "split", "idle_usd", "bound_usd", "replay_usd"))
    writer.writerows((day, split, *(f"{value:.4f}" for value in usd)) for day, split, *usd in sorted(rows))
    write_all(path.parent, {path.name: text.getvalue().encode()})
    console.print(f"wrote {path}", highlight=False)


if __name__ == "__main__":
    run_command(main)
