"""CSV files -> `Series`: named columns on one regular time grid. The schema is in docs/data.md.

Data flow: packaged or own CSV -> `Series` -> `days.py`. Every problem is named with its line.
"""

import csv
import gzip
import warnings
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from difflib import get_close_matches
from io import TextIOWrapper
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from envs.scenario import DATA

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
TIME_COLUMNS = ("time", "time_utc")
SPLIT_COLUMN = "split"
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@dataclass(frozen=True)
class Series:
    """Named columns on one regular time grid that starts at midnight and holds whole days."""

    path: Path
    start: datetime
    columns: Mapping[str, Tensor]  # each (steps,) float64
    split: tuple[Split, ...] = ()
    """(D,) the file's own labels of its days; empty for a file without a `split` column."""
    rows_per_step: int = 1
    """Rows that were averaged into one step."""

    def column(self, name: str, key: str = "") -> Tensor:
        """One column.

        Args:
            name: of the column.
            key: of the scenario that names it, for the error.

        Raises:
            ValueError: no such column; lists those there are, and near names.
        """
        if name not in self.columns:
            near = get_close_matches(name, self.columns, n=3, cutoff=0.6)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            where = f"{key}: " if key else ""
            raise ValueError(
                f"{where}column {name!r} is not in {self.path}; columns are {', '.join(self.columns)}{hint}"
            )
        return self.columns[name]

    def line(self, step: int) -> int:
        """Line of the file on which a step begins."""
        return step * self.rows_per_step + 2


class _Rows(NamedTuple):
    times: list[datetime]
    values: list[list[float]]
    labels: list[str]  # of the `split` column; empty without one
    header: list[str]

    @property
    def names(self) -> list[str]:
        """Of the columns of `values`."""
        return _series_names(self.header)

    @property
    def start(self) -> datetime:
        """The first time as it stands; in a `time_utc` column, as midnight of the time zone in which it is one."""
        first = self.times[0]
        if self.header[0] != "time_utc":
            return first
        since_midnight = timedelta(hours=first.hour, minutes=first.minute, seconds=first.second)
        offset = -since_midnight if since_midnight <= DAY / 2 else DAY - since_midnight
        return first.astimezone(timezone(offset))


def read_series(name_or_path: str, suffix: str, step: timedelta, *, hold: bool = False) -> Series:
    """Read a packaged series (`<name><suffix>.csv.gz`) or a CSV file with a `time` column and named series.

    Rows that are shorter than a step are averaged, with a warning: the mean of powers, shares and prices.

    Args:
        name_or_path: packaged name or path.
        suffix: of the packaged file.
        step: length of a step.
        hold: a row longer than a step holds for all of its steps (prices). Else such a file is an error.

    Raises:
        ValueError: missing or damaged file, duplicate, gapped or unordered times (with the line), no whole days,
            rows longer than a step, negative loads, a cell that is no number.
    """
    path = _found(name_or_path, suffix)
    rows = _read_rows(path)
    if not rows.times:
        raise ValueError(f"data file {path} holds no rows")
    row = _row_length(path, rows.times, step)
    _check_whole_days(path, rows, row)
    names = rows.names
    table = torch.tensor(rows.values, dtype=torch.float64).view(len(rows.times), len(names))
    for i, name in enumerate(names):
        if name.startswith("load"):
            check_load(path, name, table[:, i])
    labels = _day_labels(path, rows.labels, DAY // row)
    averaged = 1
    if row > step:
        if not hold or row % step:
            raise ValueError(
                f"{path} has a row every {row}, but a step of the scenario is {step}: what happens within a row is "
                f"not known; set dt_h to {row / HOUR:g} if the scenario allows it, or give rows of {step}"
            )
        table = table.repeat_interleave(row // step, 0)
    elif row < step:
        averaged = step // row
        table = table.view(-1, averaged, len(names)).mean(1)
        warnings.warn(
            f"{path} has a row every {row}: {averaged} rows make a step of {step} (mean of powers, shares and prices)",
            stacklevel=2,
        )
    columns = {name: table[:, i].clone() for i, name in enumerate(names)}
    return Series(path, rows.start, columns, labels, averaged)


def column_names(path: Path) -> list[str]:
    """The named series of a CSV file, without its time and split columns; raises ValueError as `read_series`."""
    try:
        with _opened(path) as file:
            header = _checked_header(next(csv.reader(file), []))
    except (EOFError, OSError, UnicodeDecodeError, zlib.error) as error:
        raise ValueError(f"data file {path} cannot be read ({error})") from error
    except ValueError as error:
        raise ValueError(f"data file {path} line 1: {error}") from error
    return _series_names(header)


def check_load(path: Path, name: str, values: Tensor, rows_per_step: int = 1) -> None:
    """Raises ValueError, with the line, where a load is negative."""
    negative = (values < 0).nonzero()
    if len(negative):
        first = int(negative[0])
        raise ValueError(
            f"{path} line {first * rows_per_step + 2}: {name} is a load and must not be negative, got "
            f"{float(values[first]):g}; consumption counts positive, generation belongs into a PV or wind column"
        )


def _found(name_or_path: str, suffix: str) -> Path:
    path = DATA / "profiles" / f"{name_or_path}{suffix}.csv.gz"
    if not path.is_file():
        path = Path(name_or_path)
    if not path.is_file():
        raise ValueError(
            f"data file {name_or_path!r} is missing: give a packaged name or the path of a CSV file in "
            "data.profiles and data.prices"
        )
    return path


def _series_names(header: Sequence[str]) -> list[str]:
    return [name for name in header[1:] if name != SPLIT_COLUMN]


def _opened(path: Path) -> TextIOWrapper:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", newline="", encoding="utf-8-sig")
    return path.open("rt", newline="", encoding="utf-8-sig")


def _read_rows(path: Path) -> _Rows:
    times: list[datetime] = []
    values: list[list[float]] = []
    labels: list[str] = []
    line = 1
    try:
        with _opened(path) as file:
            reader = csv.reader(file)
            header = _checked_header(next(reader, []))
            label = header.index(SPLIT_COLUMN) if SPLIT_COLUMN in header else None
            names = _series_names(header)
            for line, cells in enumerate(reader, start=2):  # noqa: B007 - the line is for the messages below
                if len(cells) != len(header):
                    raise ValueError(f"expected {len(header)} cells, got {len(cells)}")
                times.append(_time(cells[0], header[0]))
                if label is not None:
                    labels.append(cells.pop(label).strip())
                values.append(_numbers(cells[1:], names))
    except (EOFError, OSError, UnicodeDecodeError, zlib.error) as error:
        raise ValueError(f"data file {path} cannot be read ({error}); restore the file") from error
    except (ValueError, csv.Error) as error:
        raise ValueError(f"data file {path} line {line}: {error}") from error
    return _Rows(times, values, labels, header)


def _checked_header(cells: Sequence[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    if not header or header[0] not in TIME_COLUMNS:
        hint = "; separate cells by commas" if header and ";" in header[0] else ""
        raise ValueError(f"the first column must be 'time' (or 'time_utc'), got {header[:1]}{hint}")
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice or "" in header:
        problem = f"{twice[0]!r} is the name of two columns" if twice and twice[0] else "a column has no name"
        raise ValueError(f"{problem}: give every column a name of its own")
    return header


def _time(cell: str, column: str) -> datetime:
    try:
        time = datetime.fromisoformat(cell)
    except ValueError as error:
        raise ValueError(f"{error}; write times like 2024-01-31T13:45 or 2024-01-31T13:45+01:00") from error
    if column == "time_utc":
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    return time


def _numbers(cells: Sequence[str], names: Sequence[str]) -> list[float]:
    try:
        values = [float(cell) for cell in cells]
        if all(map(isfinite, values)):
            return values
    except ValueError:
        pass  # named below
    for name, cell in zip(names, cells, strict=True):
        if not cell.strip():
            raise ValueError(f"{name} is empty; fill every gap with a number")
        try:
            finite = isfinite(float(cell))
        except ValueError as error:
            raise ValueError(f"{name}: {error}; write numbers like 0.25") from error
        if not finite:
            raise ValueError(f"{name} must be a finite number, got {cell!r}; fill every gap with a number")
    raise AssertionError("one of the cells is no finite number")


def _row_length(path: Path, times: Sequence[datetime], step: timedelta) -> timedelta:
    """The most frequent advance of the times; raises ValueError where they do not all advance by it."""
    aware = [time.tzinfo is not None for time in times]
    if len(set(aware)) > 1:
        line = aware.index(not aware[0]) + 2
        raise ValueError(f"{path} line {line}: write all times with a UTC offset or none, got {times[line - 2]}")
    advances = Counter(now - before for before, now in pairwise(times))
    row = max(advances, key=lambda length: advances[length], default=step)
    if row <= timedelta(0):
        row = step
    ordered = all(before <= now for before, now in pairwise(times))
    for line, (before, now) in enumerate(pairwise(times), start=3):
        if now - before != row:
            raise ValueError(
                f"{path} line {line}: times must advance by {row}, got {before} -> {now} "
                f"({_irregularity(before, now, row, ordered)}"
            )
    if step % row and row % step:
        raise ValueError(f"{path} has a row every {row}, which does not fit into steps of {step}")
    return row


def _check_whole_days(path: Path, rows: _Rows, row: timedelta) -> None:
    start, count = rows.start, len(rows.times)
    if (start.hour, start.minute, start.second) != (0, 0, 0) or DAY % row or count % (DAY // row):
        remedy = "cut it" if count * row > DAY else f"give {DAY // row} rows a day"
        raise ValueError(
            f"{path} must start at midnight and hold whole days, got {count} rows from {rows.times[0]} to "
            f"{rows.times[-1]}, {count * row / DAY:.3g} days; {remedy} (days of a `time_utc` column count from its "
            "first row)"
        )


def _irregularity(before: datetime, now: datetime, row: timedelta, ordered: bool) -> str:
    """What is wrong, a bracket, and the remedy."""
    by_clock = now.tzinfo is None and now.hour <= 3 and now.month in (3, 4, 9, 10, 11)
    kind = "duplicate" if now == before else "gap" if ordered else "unordered"
    if by_clock and now - before in (row + HOUR, row - HOUR):
        return f"{kind}, as daylight saving makes it); write them in standard time or with UTC offsets"
    remedies = {"duplicate": "remove one of the rows", "gap": "fill in the missing rows", "unordered": "sort the rows"}
    return f"{kind}); {remedies[kind]}"


def _day_labels(path: Path, labels: Sequence[str], rows_per_day: int) -> tuple[Split, ...]:
    days: list[Split] = []
    splits: dict[str, Split] = {split: split for split in SPLITS}
    for row, label in enumerate(labels):
        known = splits.get(label)
        if known is None:
            raise ValueError(f"{path} line {row + 2}: split must be one of {', '.join(SPLITS)}, got {label!r}")
        if row % rows_per_day == 0:
            days.append(known)
        elif known != days[-1]:
            raise ValueError(f"{path} line {row + 2}: split must be the same all day, got {days[-1]!r} and {label!r}")
    return tuple(days)
