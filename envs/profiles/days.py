"""Series -> `DayProfiles`: loads, renewables and prices by day, and the split that each day belongs to.

Data flow: `Series`, `Scenario` -> `DayProfiles` (one row a day) -> `exogenous.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import torch
from torch import Tensor

from envs.composition import build_network
from envs.grid import area_load_mw
from envs.profiles.prices import price_base, read_prices
from envs.profiles.series import SPLITS, Series, Split, check_load, read_series
from envs.scenario import DATA, Scenario

Horizon = Literal["day", "week"]
PV_COLUMNS = ("PV1", "PV2", "PV5", "PV7")
WIND_COLUMNS = ("WP3", "WP5", "WP11", "WP12")
MARKET_LOAD = "load_mv_semiurb"
ABSOLUTE = "_mw"
"""Ending of columns that are powers in MW, not multipliers or shares."""
_OTHER_UNITS = ("_w", "_kw", "_gw", "_kwh", "_mwh", "_percent", "_pct")
LARGEST_MULTIPLIER = 20.0  # of a nominal load; beyond it a series is in another unit
_CYCLE: tuple[Split, ...] = ("train", "train", "train", "val", "test")  # of weeks


@dataclass(frozen=True)
class DayProfiles:
    """Everything exogenous of D days in H steps each, float64; areas are the feeder, then the A microgrids."""

    price: Tensor  # (D, H) $/MWh, the price of evaluation
    price_base: Tensor | None  # (D, H) the price model without noise; None where the price has none
    load: Tensor  # (D, 1 + A, H) multipliers of each area's nominal load
    renewables: Tensor  # (D, 2A, H) available shares of rated power: PV of each microgrid, then wind
    weekday: Tensor  # (D,) int64, Monday 0
    first_date: datetime
    split: tuple[Split, ...]  # (D,) by week, or as the file labels its days

    @property
    def num_days(self) -> int:
        """D."""
        return len(self.price)

    def starts(self, split: Split, horizon: Horizon) -> list[int]:
        """Days of a split on which an episode may start; raises ValueError as `starts_of`."""
        return starts_of(self.split, split, horizon)


def weekly_split(num_days: int) -> tuple[Split, ...]:
    """Week w = day // 7; w % 5 = 4 is test, 3 validation, the rest training."""
    return tuple(_CYCLE[day // 7 % 5] for day in range(num_days))


def labelled_split(labels: Sequence[Split]) -> tuple[Split, ...]:
    """A file's own labels; without any `val`, the training days of weeks with w % 5 = 3 become validation."""
    if "val" in labels:
        return tuple(labels)
    weekly = weekly_split(len(labels))
    return tuple("val" if (own, week) == ("train", "val") else own for own, week in zip(labels, weekly, strict=True))


def starts_of(labels: Sequence[Split], split: Split, horizon: Horizon) -> list[int]:
    """Days on which an episode may start: every day of the split, or the first days of its whole weeks.

    Raises:
        ValueError: an unknown split, or one without a whole day or week.
    """
    if split not in SPLITS:
        raise ValueError(f"--split must be one of {', '.join(SPLITS)}, got {split!r}")
    days = [day for day, label in enumerate(labels) if label == split]
    if horizon == "week":
        inside = set(days)
        days = [day for day in days if day % 7 == 0 and inside.issuperset(range(day, day + 7))]
    if not days and tuple(labels) != weekly_split(len(labels)):
        whole = "a day" if horizon == "day" else "seven days in a row, the first of them day 0, 7, 14, ... of the data,"
        raise ValueError(
            f"data.profiles: split {split!r} holds no whole {horizon}: label {whole} as {split} in the column `split`"
        )
    if not days:
        first = 7 * _CYCLE.index(split)
        needed = first + (7 if horizon == "week" else 1)
        raise ValueError(
            f"data.profiles: split {split!r} holds no whole {horizon}: the data has only {len(labels)} days; "
            f"{split} begins on day {first} (weeks in turn: three train, one val, one test) and needs {needed} days, "
            "or label the days by a column `split`"
        )
    return days


def load_profiles(scenario: Scenario) -> DayProfiles:
    """Read a scenario's series and arrange them by day.

    Raises:
        ValueError: unreadable data, missing columns, other units, or series of different lengths.
    """
    per_hour, rule = scenario.steps_per_hour, scenario.data
    step = timedelta(hours=scenario.dt_h)
    series = read_series(rule.profiles, {1: "_hourly", 4: "_15min"}[per_hour], step)
    load = _loads(scenario, series)
    grids = scenario.microgrids
    plants = {f"{name}.pv": grid.pv for name, grid in grids.items()}
    plants |= {f"{name}.wind": grid.wind for name, grid in grids.items()}
    steps = load.shape[1]
    renewables = torch.stack(
        [_available_share(series, name, plant.profile, plant.p_max_mw, steps) for name, plant in plants.items()]
    )
    price = read_prices(rule, series, steps, step)
    price = price.clamp(rule.price_floor_usd_per_mwh, rule.price_cap_usd_per_mwh)
    days = steps // scenario.steps_per_day
    base = None
    # the noise model is that of the packaged price, which was made from the packaged profiles
    if rule.price == "synthetic" and _packaged(rule.prices) and series.path.parent == DATA / "profiles":
        market = [_hourly(series, columns, per_hour) for columns in ((MARKET_LOAD,), PV_COLUMNS, WIND_COLUMNS)]
        base = price_base(*market).view(days, 24).repeat_interleave(per_hour, 1)
    return DayProfiles(
        price=price.view(days, -1),
        price_base=base,
        load=load.view(len(load), days, -1).transpose(0, 1).contiguous(),
        renewables=renewables.view(len(plants), days, -1).transpose(0, 1).contiguous(),
        weekday=(torch.arange(days) + series.start.weekday()) % 7,
        first_date=series.start,
        split=labelled_split(series.split) if series.split else weekly_split(days),
    )


def _packaged(prices: str | None) -> bool:
    return (DATA / "profiles" / f"{prices}_hourly.csv.gz").is_file()


def _loads(scenario: Scenario, series: Series) -> Tensor:
    """(1 + A, steps) multipliers of each area's nominal load."""
    parts = {scenario.feeder.name: scenario.feeder, **scenario.microgrids}
    absolute = any(name.endswith(ABSOLUTE) for part in parts.values() for name in part.load_profile)
    nominal_mw = [1.0] * len(parts)
    if absolute:  # building the network takes a moment: only where it is asked for
        nominal_mw = area_load_mw(build_network(scenario), tuple(parts)).tolist()
    return torch.stack(
        [
            _multiplier(series, name, part.load_profile, nominal)
            for (name, part), nominal in zip(parts.items(), nominal_mw, strict=True)
        ]
    )


def _multiplier(series: Series, area: str, weights: Mapping[str, float], nominal_mw: float) -> Tensor:
    total = torch.zeros_like(next(iter(series.columns.values())))
    for name, weight in weights.items():
        column = _known_unit(series, name, f"load_profile of {area}")
        check_load(series.path, name, column, series.rows_per_step)
        if name.endswith(ABSOLUTE):
            if nominal_mw <= 0:
                raise ValueError(f"load_profile of {area}: {name} is in MW, but its network has no load to scale")
            column = column / nominal_mw
        total += weight * column
    if bool((total > LARGEST_MULTIPLIER).any()):
        step = int(total.argmax())
        raise ValueError(
            f"{series.path} line {series.line(step)}: load_profile of {area} ({', '.join(weights)}) reaches "
            f"{float(total[step]):g} times the nominal load, at most {LARGEST_MULTIPLIER:g} is plausible: it looks "
            f"like %, kW or W; give a multiplier, or MW in a column whose name ends in {ABSOLUTE}"
        )
    return total


def _available_share(series: Series, plant: str, name: str, p_max_mw: float, steps: int) -> Tensor:
    """(steps,) share of rated power in [0, 1] from column `name`; 0 for a plant that does not exist."""
    if p_max_mw == 0:
        return torch.zeros(steps, dtype=torch.float64)
    values = _known_unit(series, name, f"microgrids.{plant}.profile")
    absolute = name.endswith(ABSOLUTE)
    share = values / p_max_mw if absolute else values
    # a plant in MW may stand at its rating: no error for the rounding of the division
    outside = (share < 0) | (share > 1 + (1e-9 if absolute else 0.0))
    if bool(outside.any()):
        step = int(outside.nonzero()[0])
        where = f"{series.path} line {series.line(step)}: {name}"
        if absolute:
            raise ValueError(f"{where} must be in [0, {p_max_mw}] MW, {plant}.p_max_mw, got {values[step]:g}")
        peak = float(values.max())
        looks = "it looks like %, " if 1.5 < peak <= 100 else "it looks like W or kW, " if peak > 100 else ""
        raise ValueError(
            f"{where} must be a share of rated power in [0, 1], got {values[step]:g} (at most {peak:g}): {looks}"
            f"divide the series by its rated power, or give MW in a column whose name ends in {ABSOLUTE}"
        )
    return share.clamp(max=1.0)


def _known_unit(series: Series, name: str, key: str) -> Tensor:
    if name.lower().endswith(_OTHER_UNITS):
        raise ValueError(
            f"{key}: column {name!r} of {series.path} must be a multiplier, a share or, with a name that ends in "
            f"{ABSOLUTE}, a power in MW; convert and rename it"
        )
    return series.column(name, key)


def _hourly(series: Series, columns: Sequence[str], steps_per_hour: int) -> Tensor:
    mean = torch.stack([series.column(name) for name in columns]).mean(0)
    return mean.view(-1, steps_per_hour).mean(1)
