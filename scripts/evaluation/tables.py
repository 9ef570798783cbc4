"""A comparison as text: tables for the terminal, one JSON object, and CSV.

Data flow: `Comparison`, its `Row`s -> cells -> rich tables, `days.csv`, `summary.csv`, `evaluation.json`.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from mappo.checkpoint import versions

from .compare import GRID_FIELDS, Comparison, Row
from .play import DAYS_PER_EPISODE, PARTS
from .text import Column, cell, csv_text, interval, number, seconds, table, without_nan

SPLIT_NAMES = {"val": "validation", "test": "test", "train": "training"}


def hours(row: Row) -> str:
    """`118 (7.02%)`."""
    return f"{number(row.violating_h, '.0f')} ({number(row.violating_share, '.2%')})"


SCORES: Sequence[Column] = (
    ("score", lambda row: interval(row.score, ".3f")),
    ("J $/day", lambda row: interval(row.j_range_usd, ".1f") if row.across else number(row.j_usd, ".2f")),
    ("gap $/day", lambda row: interval(row.gap_usd, ".1f")),
    ("gap", lambda row: interval(row.gap_share, ".2%")),
)
MONEY: Sequence[Column] = tuple(
    (part, lambda row, part=part: number(row.parts_usd.get(part, math.nan), ".1f")) for part in PARTS
)
GRID: Sequence[Column] = (
    ("violating h", hours),
    ("overloaded h", lambda row: number(row.overloaded_h, ".0f")),
    ("failed h", lambda row: number(row.failed_h, ".0f")),
    ("V min pu", lambda row: number(row.v_min_pu, ".4f")),
    ("V max pu", lambda row: number(row.v_max_pu, ".4f")),
    ("per decision", lambda row: seconds(row.seconds_per_decision)),
)


def title(comparison: Comparison) -> str:
    """Scenario, split, days."""
    dates, split, plural = comparison.dates, SPLIT_NAMES[comparison.split], "s" if len(comparison.dates) > 1 else ""
    which = f"from {dates[0]} to {dates[-1]}" if plural else f"{dates[0]}"
    return f"{comparison.scenario}, {len(dates)} {split} {comparison.horizon}{plural} {which}"


def terminal_tables(comparison: Comparison, rows: Sequence[Row]) -> list[tuple[str, Table]]:
    """Headings and tables: how good; what it pays; the grid, and speed. Each fits into 120 columns; runs in bold."""
    played = [row for row in rows if row.kind != "bound"]
    return [
        (title(comparison), table(SCORES, rows)),
        ("Parts of J, $/day", table(MONEY, played)),
        ("Hours and voltages of all days together; speed", table(GRID, played)),
    ]


def footnotes(comparison: Comparison, rows: Sequence[Row]) -> list[str]:
    """What the numbers mean, as far as the tables need it."""
    lines = ["J = energy + generator + demand + terminal + penalty"]
    if comparison.reference is not None:
        lines[0] += "; score: 0 = doing nothing, 1 = certified bound, which no controller can beat; gap = J - bound"
        if any(math.isfinite(row.score.low) for row in rows if not row.across):
            lines.append("[low, high]: 95 % interval, paired over the same days, bootstrap over whole weeks")
        else:
            lines.append("no intervals: they need days of at least 5 weeks")
    if more := _beyond_parts(rows):
        lines[0] = lines[0].replace("penalty", "penalty + what lost load and options of devices cost", 1)
        lines.append(f"the latter, $/day: {more}")
    lines += sorted({f"rows of several seeds: {row.across} across seeds" for row in rows if row.across})
    return [*lines, *comparison.notes]


def _beyond_parts(rows: Sequence[Row]) -> str:
    """What each policy pays besides `PARTS`; empty where that is rounding."""
    found = {row.name: row.j_usd - sum(row.parts_usd.values()) for row in rows if row.parts_usd}
    if not any(abs(usd) > 0.05 for usd in found.values()):
        return ""
    return ", ".join(f"{name} {usd:.1f}" for name, usd in found.items())


def as_json(comparison: Comparison, rows: Sequence[Row]) -> dict[str, Any]:
    """Plain numbers, lists and dicts; what does not exist is null."""
    content = {
        "scenario": comparison.scenario,
        "split": comparison.split,
        "horizon": comparison.horizon,
        "days": len(comparison.dates) * DAYS_PER_EPISODE[comparison.horizon],
        "first_date": str(comparison.dates[0]),
        "last_date": str(comparison.dates[-1]),
        "runs": {name: dict(facts) for name, facts in comparison.runs.items()},
        "reference": _reference_json(comparison),
        "policies": {row.name: _row_json(row) for row in rows if row.kind not in ("group", "bound")},
        "groups": {
            row.name: _row_json(row) | {"runs": list(comparison.groups[row.name]), "across": row.across}
            for row in rows
            if row.kind == "group"
        },
        "notes": list(comparison.notes),
        "versions": versions(),
    }
    return without_nan(content)


def _row_json(row: Row) -> dict[str, Any]:
    estimates = {name: getattr(row, name)._asdict() for name in ("score", "gap_usd", "gap_share")}
    if row.across:
        estimates["j_across_seeds_usd"] = row.j_range_usd._asdict()
    return {
        "kind": row.kind,
        "j_usd_per_day": row.j_usd,
        **{f"{part}_usd_per_day": value for part, value in row.parts_usd.items()},
        **{name: getattr(row, name) for name in GRID_FIELDS},
        "seconds_per_decision": row.seconds_per_decision,
        **estimates,
    }


def _reference_json(comparison: Comparison) -> dict[str, Any] | None:
    if (reference := comparison.reference) is None:
        return None
    days = reference.scored
    content: dict[str, Any] = {
        "source": reference.source,
        "idle_usd_per_day": float(reference.idle_usd[days].mean()),
        "bound_usd_per_day": float(reference.bound_usd[days].mean()),
        "scored_days": int(days.sum()),
        "unsolved": list(reference.unsolved),
    }
    if (quality := reference.quality) is not None:
        for name, values in asdict(quality).items():
            content[f"{name}_mean"], content[f"{name}_max"] = float(values[days].mean()), float(values[days].max())
    return content


def days_csv(comparison: Comparison) -> str:
    """One row for each policy and day; empty cells for what does not exist."""
    reference = comparison.reference
    heading = ["policy", "kind", "date", "j_usd", *(f"{part}_usd" for part in PARTS)]
    heading += ["violating_h", "overloaded_h", "failed_h", "v_min_pu", "v_max_pu", "idle_usd", "bound_usd", "gap_usd"]
    rows: list[list[Any]] = []
    for name, played in comparison.played.items():
        columns = [played.j_usd, *(played.parts_usd[part] for part in PARTS)]
        columns += [played.violating_h, played.overloaded_h, played.failed_h, played.v_min_pu, played.v_max_pu]
        if reference is not None:
            columns += [reference.idle_usd, reference.bound_usd, comparison.gap_usd(name)]
        values = zip(comparison.dates, *(column.tolist() for column in columns), strict=True)
        rows += [[name, played.kind, date, *map(cell, numbers)] for date, *numbers in values]
    return csv_text(heading, rows)


def summary_csv(rows: Sequence[Row]) -> str:
    """One row for each line of the tables."""
    estimates = ("score", "gap_usd", "gap_share")
    heading = ["policy", "kind", "j_usd_per_day", *(f"{part}_usd_per_day" for part in PARTS), *GRID_FIELDS]
    heading += ["seconds_per_decision", *(f"{name}{end}" for name in estimates for end in ("", "_low", "_high"))]
    lines = []
    for row in rows:
        values = [row.j_usd, *(row.parts_usd.get(part, math.nan) for part in PARTS)]
        values += [getattr(row, name) for name in GRID_FIELDS]
        values += [row.seconds_per_decision, *(value for name in estimates for value in getattr(row, name))]
        lines.append([row.name, row.kind, *map(cell, values)])
    return csv_text([*heading, "across_seeds"], [[*line, row.across] for line, row in zip(lines, rows, strict=True)])
