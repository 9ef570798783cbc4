"""Numbers as text, for the terminal, CSV and JSON.

Data flow: rows of `compare.py` or `episodes.py` -> `Column`s -> cells -> rich tables, CSV. What does not exist is a
dash, an empty cell, null.
"""

import csv
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from mappo.statistics import Estimate

NOTHING = "-"
LONGEST_NAME = 26
MICRO = "\N{MICRO SIGN}"
Column = tuple[str, Callable[[Any], str]]  # heading, a row's cell


def number(value: float, form: str) -> str:
    """Formatted, or a dash for what does not exist."""
    if not math.isfinite(value):
        return NOTHING
    text = format(value, form)
    return text.lstrip("-") if float(text.rstrip("%")) == 0 else text  # no minus sign on a rounded zero


def interval(estimate: Estimate, form: str) -> str:
    """`0.94 [0.93, 0.95]`; without interval the value alone."""
    value = number(estimate.value, form)
    if not math.isfinite(estimate.low) or estimate.low == estimate.high:
        return value
    low, high = (number(end, form).rstrip("%") for end in estimate[1:])
    return f"{value} [{low}, {high}]"


def seconds(value: float) -> str:
    """With a unit that fits."""
    if not math.isfinite(value):
        return NOTHING
    for scale, unit in ((1.0, "s"), (1e-3, "ms")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-6:.0f} {MICRO}s" if value >= 1e-5 else f"{value / 1e-6:.1f} {MICRO}s"


def with_content(columns: Sequence[Column], rows: Sequence[Any]) -> list[Column]:
    """Columns without those that hold nothing, such as scores without a bound."""
    return [column for column in columns if any(column[1](row) != NOTHING for row in rows)]


def table(columns: Sequence[Column], rows: Sequence[Any]) -> Table:
    """One line for each row, which has a name and a kind; runs in bold."""
    drawn = Table("policy", box=SIMPLE_HEAD, pad_edge=False)
    columns = with_content(columns, rows)
    for heading, _ in columns:
        drawn.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        style = "bold" if row.kind in ("run", "group") else "dim" if row.kind in ("bound", "optimum") else ""
        drawn.add_row(shortened(row.name), *(cell(row) for _, cell in columns), style=style)
    return drawn


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """Both ends of a name that is too long."""
    end = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[: longest - 1 - end]}…{name[-end:]}"


def without_nan(value: Any) -> Any:
    """For JSON: None in place of what is no number, in nested dicts and lists."""
    if isinstance(value, dict):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cell(value: float) -> str:
    """For CSV."""
    return f"{value:.9g}" if math.isfinite(value) else ""


def csv_text(heading: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Short rows are filled up."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heading)
    writer.writerows([row + [""] * (len(heading) - len(row)) for row in map(list, rows)])
    return text.getvalue()
