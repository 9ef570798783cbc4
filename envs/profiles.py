"""Time series: CSV files -> arrays by day, the splits, and the price model (environment.md section 7).

Data flow: CSV -> `Series` -> `DayProfiles` (one row a day, by split) -> `exogenous.py`.
"""

import csv
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from envs.scenario import DATA, Scenario

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
NOISE_SD_USD_PER_MWH = 4.5
NOISE_PERSISTENCE = 0.92  # per hour
PV_COLUMNS = ("PV1", "PV2", "PV5", "PV7")
WIND_COLUMNS = ("WP3", "WP5", "WP11", "WP12")
MARKET_LOAD = "load_mv_semiurb"


@dataclass(frozen=True)
class Series:
    """Named columns on one regular time grid that starts at midnight and holds whole days."""

    path: Path
    start: datetime
    columns: Mapping[str, Tensor]  # each (steps,) float64

    def column(self, name: str) -> Tensor:
        """One column.

        Raises:
            ValueError: no such column; lists those there are.
        """
        if name not in self.columns:
            raise ValueError(f"column {name!r} is not in {self.path}; columns are {', '.join(self.columns)}")
        return self.columns[name]


def read_series(name_or_path: str, suffix: str, step: timedelta) -> Series:
    """Read a packaged series (`<name><suffix>.csv.gz`) or a CSV file with a `time` column and named series.

    Raises:
        ValueError: missing or damaged file, duplicate, gapped or unordered times (with the line), no whole days,
            negative loads, a cell that is no number.
    """
    path = DATA / "profiles" / f"{name_or_path}{suffix}.csv.gz"
    if not path.is_file():
        path = Path(name_or_path)
    if not path.is_file():
        raise ValueError(f"data file {name_or_path!r} is missing: give a packaged name or the path of a CSV file")
    times, rows, names = _read_rows(path)
    if not times:
        raise ValueError(f"data file {path} holds no rows")
    for line, (before, now) in enumerate(pairwise(times), start=3):
        if now - before != step:
            kind = "duplicate" if now == before else "unordered" if now < before else "gap"
            raise ValueError(
                f"{path} line {line}: times must advance by {step}, got {before} -> {now} ({kind}); "
                "write them in standard time or with UTC offsets"
            )
    if times[0].hour or times[0].minute or len(times) % (timedelta(days=1) // step):
        raise ValueError(f"{path} must start at midnight and hold whole days, got {len(times)} rows from {times[0]}")
    table = torch.tensor(rows, dtype=torch.float64)
    columns = {name: table[:, i].clone() for i, name in enumerate(names)}
    for name, values in columns.items():
        if name.startswith("load") and bool((values < 0).any()):
            line = int((values < 0).nonzero()[0]) + 2
            raise ValueError(f"{path} line {line}: {name} is a load and must not be negative, got {values.min():g}")
    return Series(path, times[0], columns)


def _read_rows(path: Path) -> tuple[list[datetime], list[list[float]], list[str]]:
    times: list[datetime] = []
    rows: list[list[float]] = []
    line = 1
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if not header or header[0] != "time":
                raise ValueError(f"the first column must be 'time', got {header[:1]}")
            line = 2
            for row in reader:
                if len(row) != len(header):
                    raise ValueError(f"expected {len(header)} cells, got {len(row)}")
                time, cells = datetime.fromisoformat(row[0]), [float(cell) for cell in row[1:]]
                if not all(map(isfinite, cells)):
                    raise ValueError(f"every value must be a finite number, got {row[1:]}")
                times.append(time)
                rows.append(cells)
                line += 1
    except (EOFError, OSError, gzip.zlib.error) as error:  # type: ignore[attr-defined]
        raise ValueError(f"data file {path} cannot be read ({error}); restore it from the package") from error
    except ValueError as error:
        raise ValueError(f"data file {path} line {line}: {error}") from error
    return times, rows, header[1:]


@dataclass(frozen=True)
class DayProfiles:
    """Everything exogenous of D days in H steps each, float64; areas are the feeder, then the A microgrids."""

    price: Tensor  # (D, H) $/MWh, the price of evaluation
    price_base: Tensor | None  # (D, H) the price model without noise; None where the price has none
    load: Tensor  # (D, 1 + A, H) multipliers of each area's nominal load
    renewables: Tensor  # (D, 2A, H) available shares of rated power: PV of each microgrid, then wind
    weekday: Tensor  # (D,) int64, Monday 0
    first_date: datetime

    @property
    def num_days(self) -> int:
        """D."""
        return len(self.price)


def episode_starts(num_days: int, split: Split, horizon: Literal["day", "week"]) -> list[int]:
    """Days of a split on which an episode may start: every day, or the first days of its whole weeks.

    Week w = day // 7; w % 5 = 4 is test, 3 validation, the rest training.

    Raises:
        ValueError: an unknown split, or one without a whole day or week.
    """
    if split not in SPLITS:
        raise ValueError(f"--split must be one of {', '.join(SPLITS)}, got {split!r}")
    wanted = {"test": (4,), "val": (3,), "train": (0, 1, 2)}[split]
    days = [day for day in range(num_days) if day // 7 % 5 in wanted]
    if horizon == "week":
        days = [day for day in days if day % 7 == 0 and day + 7 <= num_days]
    if not days:
        raise ValueError(f"split {split!r} holds no whole {horizon}: the data has only {num_days} days")
    return days


def price_base(load: Tensor, pv: Tensor, wind: Tensor) -> Tensor:
    """The synthetic day-ahead price before noise and floor, $/MWh; all inputs (steps,).

    With x = L/mean - 0.275 PV/mean - 0.30 W/mean and z its standard score over the whole series, it is
    58 + 28 z + 9 max(z - 1, 0)^2.
    """
    x = load / load.mean() - 0.275 * pv / pv.mean() - 0.30 * wind / wind.mean()
    z = (x - x.mean()) / x.std(correction=0)
    return 58.0 + 28.0 * z + 9.0 * torch.clamp(z - 1.0, min=0.0) ** 2


def load_profiles(scenario: Scenario) -> DayProfiles:
    """Read a scenario's series and arrange them by day.

    Raises:
        ValueError: unreadable data, missing columns, or series of different lengths.
    """
    steps = scenario.steps_per_hour
    suffix = {1: "_hourly", 4: "_15min"}[steps]
    series = read_series(scenario.data.profiles, suffix, timedelta(hours=scenario.dt_h))
    prices = read_series(scenario.data.prices, "_hourly", timedelta(hours=1))
    rule = scenario.data
    price = prices.column(f"{rule.price}_usd_per_mwh").view(-1, 24)
    price = price.clamp(rule.price_floor_usd_per_mwh, rule.price_cap_usd_per_mwh)
    parts = [scenario.feeder, *scenario.microgrids.values()]
    load = torch.stack([_weighted(series, part.load_profile) for part in parts])
    plants = [grid.pv for grid in scenario.microgrids.values()] + [grid.wind for grid in scenario.microgrids.values()]
    renewables = torch.stack([_available_share(series, plant.profile) for plant in plants])
    if len(price) * scenario.steps_per_day != load.shape[1]:
        raise ValueError(
            f"{prices.path} has {len(price)} days and {series.path} {load.shape[1]} steps: "
            "they must cover the same days"
        )
    if prices.start != series.start:
        raise ValueError(
            f"{prices.path} starts at {prices.start} and {series.path} at {series.start}: they must cover the same days"
        )
    days = len(price)
    base = None
    # the noise model is that of the packaged price, which was made from the packaged profiles
    if rule.price == "synthetic" and {prices.path.parent, series.path.parent} == {DATA / "profiles"}:
        market = [_hourly(series, columns, steps) for columns in ((MARKET_LOAD,), PV_COLUMNS, WIND_COLUMNS)]
        base = price_base(*market).view(days, 24).repeat_interleave(steps, 1)
    return DayProfiles(
        price=price.repeat_interleave(steps, 1),
        price_base=base,
        load=load.view(len(parts), days, -1).transpose(0, 1).contiguous(),
        renewables=renewables.view(len(plants), days, -1).transpose(0, 1).contiguous(),
        weekday=(torch.arange(days) + series.start.weekday()) % 7,
        first_date=series.start,
    )


def _available_share(series: Series, name: str) -> Tensor:
    values = series.column(name)
    outside = (values < 0) | (values > 1)
    if bool(outside.any()):
        line = int(outside.nonzero()[0]) + 2
        raise ValueError(
            f"{series.path} line {line}: {name} must be a share of rated power in [0, 1], got {values[line - 2]:g}; "
            "divide the series by its rated power"
        )
    return values


def _weighted(series: Series, weights: Mapping[str, float]) -> Tensor:
    total = torch.zeros_like(next(iter(series.columns.values())))
    for name, weight in weights.items():
        total += weight * series.column(name)
    return total


def _hourly(series: Series, columns: Sequence[str], steps_per_hour: int) -> Tensor:
    mean = torch.stack([series.column(name) for name in columns]).mean(0)
    return mean.view(-1, steps_per_hour).mean(1)
