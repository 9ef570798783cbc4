"""Idle cost, certified bound and replayed optimum of a scenario's days; makes the shipped reference anew.

`python scripts/reference.py` writes envs/data/reference/<scenario>_days.csv, which scores are measured by.
`python scripts/reference.py --scenario simple_2mg --split test` prints the means of one split of any scenario.
"""

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cli import parse, run_command
from evaluation.output import write_all
from rich.console import Console
from torch import Tensor

from envs.baselines.extra import require_solver
from envs.profiles import SPLITS
from envs.reference import FOLDER, SHIPPED


@dataclass(frozen=True, kw_only=True)
class Args:
    """Solve and play every day of the data."""

    scenario: str = "ieee34_ieee13"
    """Name of a scenario whose reference is shipped; with --split or --out any name or path of a YAML file."""
    split: Literal["train", "val", "test"] | None = None
    """Only this split; nothing is written unless --out is given."""
    copies: int | None = None
    """So many feeders (the scenario's feeder.copies), such as 1 for `substation`."""
    out: Path | None = None
    """File to write; the packaged one unless given."""
    cache: bool = True
    """Use the days kept under runs/.cache, and keep those solved now."""


def main(argv: Sequence[str] | None = None) -> None:
    """Solve the splits, print their means and write one row a day."""
    args = parse(Args, list(sys.argv[1:] if argv is None else argv), description=__doc__)
    changed = args.copies is not None or args.scenario not in SHIPPED
    if args.out is None and args.split is None and changed:
        raise ValueError(
            f"--scenario must be {' or '.join(SHIPPED)} as shipped, or go with --split or --out; got {args.scenario}"
        )
    require_solver("the reference")
    from envs.baselines import certified_bound  # noqa: PLC0415 - needs the extra
    from envs.baselines.reference import idle_costs  # noqa: PLC0415

    console = Console(soft_wrap=True)
    overrides = {} if args.copies is None else {"feeder": {"copies": args.copies}}
    rows: list[tuple[int, str, float, float, float]] = []
    for split in SPLITS if args.split is None else (args.split,):
        bound = certified_bound(args.scenario, split, cache=args.cache, **overrides)
        if bound.unsolved:
            raise ValueError(f"no bound for {', '.join(map(str, bound.unsolved))}: the reference needs every day")
        columns = (bound.day, idle_costs(bound), bound.usd, bound.replay_usd)
        rows += [(int(d), split, i, b, r) for d, i, b, r in zip(*(c.tolist() for c in columns), strict=True)]
        console.print(f"{split}: {len(bound.day)} days, $/day: {_means(*columns[1:])}", highlight=False)
    if args.out is None and args.split is not None:
        return
    path = args.out or FOLDER / f"{args.scenario}_days.csv"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("day", "split", "idle_usd", "bound_usd", "replay_usd"))
    writer.writerows((day, split, *(f"{value:.4f}" for value in usd)) for day, split, *usd in sorted(rows))
    write_all(path.parent, {path.name: text.getvalue().encode()})
    console.print(f"wrote {path}", highlight=False)


def _means(idle_usd: Tensor, bound_usd: Tensor, replay_usd: Tensor) -> str:
    """Means over the days, and how far the replayed optimum is above the bound."""
    idle, bound, replay = (float(usd.mean()) for usd in (idle_usd, bound_usd, replay_usd))
    above = 100 * (replay / bound - 1)
    return f"idle {idle:.2f}, bound {bound:.2f}, replay {replay:.2f} ({above:.2f} % above the bound)"


if __name__ == "__main__":
    run_command(main)
