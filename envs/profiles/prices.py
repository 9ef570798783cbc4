"""Prices: the synthetic day-ahead model and the time-of-use tariff, constants, columns.

Data flow: `Data` of the scenario, `Series` -> (steps,) $/MWh -> `days.py`.
"""

from datetime import timedelta

import torch
from torch import Tensor

from envs.profiles.series import DAY, Series, read_series
from envs.quantities import TIME_OF_USE, constant_price
from envs.scenario import Data

NOISE_SD_USD_PER_MWH = 4.5
NOISE_PERSISTENCE = 0.92  # per hour
# (from hour, price in $/MWh), each until the next; local time as the series count it
TIME_OF_USE_USD_PER_MWH = ((0, 38.0), (6, 68.0), (10, 45.0), (16, 115.0), (21, 68.0), (22, 38.0))
PRICE_UNIT = "_usd_per_mwh"
# outside these a series is in another unit: $/kWh stay below 2, and no market lets 50 000 $/MWh pass
_LEAST_USD_PER_MWH, _MOST_USD_PER_MWH = 2.0, 50_000.0


def price_base(load: Tensor, pv: Tensor, wind: Tensor) -> Tensor:
    """The synthetic day-ahead price before noise and floor, $/MWh; all inputs (steps,).

    With x = L/mean - 0.275 PV/mean - 0.30 W/mean and z its standard score over the whole series, it is
    58 + 28 z + 9 max(z - 1, 0)^2.
    """
    x = load / load.mean() - 0.275 * pv / pv.mean() - 0.30 * wind / wind.mean()
    z = (x - x.mean()) / x.std(correction=0)
    return 58.0 + 28.0 * z + 9.0 * torch.clamp(z - 1.0, min=0.0) ** 2


def time_of_use_price(steps_per_day: int) -> Tensor:
    """(H,) $/MWh of the time-of-use tariff: 38 at 22-06 h, 68 at 06-10 and 21-22, 45 at 10-16, 115 at 16-21."""
    hour = torch.arange(steps_per_day) * 24 // steps_per_day
    starts = torch.tensor([start for start, _ in TIME_OF_USE_USD_PER_MWH])
    prices = torch.tensor([price for _, price in TIME_OF_USE_USD_PER_MWH], dtype=torch.float64)
    return prices[torch.bucketize(hour, starts, right=True) - 1]


def read_prices(rule: Data, profiles: Series, steps: int, step: timedelta) -> Tensor:
    """(steps,) import price in $/MWh, before floor and cap.

    Args:
        rule: the scenario's data section. Its `price` is `tou`, a number or a column `<price>_usd_per_mwh` or
            `<price>` of the file `prices`, which holds it hourly or finer.
        profiles: the other series, whose days the price must cover.
        steps: of `profiles`.
        step: length of a step.

    Raises:
        ValueError: unreadable data, a missing column, other days than the profiles', a series in another unit.
    """
    constant = constant_price(rule.price)
    if constant is not None:
        return torch.full((steps,), constant, dtype=torch.float64)
    if rule.price == TIME_OF_USE:
        per_day = DAY // step
        return time_of_use_price(per_day).repeat(steps // per_day)
    assert rule.prices is not None, "`Data` asks for the file of a column"
    prices = profiles if rule.prices == str(profiles.path) else read_series(rule.prices, "_hourly", step, hold=True)
    name = f"{rule.price}{PRICE_UNIT}"
    if name not in prices.columns and rule.price in prices.columns:
        name = rule.price
    price = prices.column(name, f"data.price: {rule.price}")
    if len(price) != steps:
        per_day = DAY // step
        raise ValueError(
            f"{prices.path} has {len(price) // per_day} days and {profiles.path} {steps} steps: "
            "they must cover the same days"
        )
    if prices.start != profiles.start:
        raise ValueError(
            f"{prices.path} starts at {prices.start} and {profiles.path} at {profiles.start}: "
            "they must cover the same days, and both have UTC offsets or none"
        )
    _check_unit(prices, name, price)
    return price


def _check_unit(series: Series, name: str, price: Tensor) -> None:
    highest = price.abs()
    peak, step = float(highest.max()), int(highest.argmax())
    where = f"{series.path} line {series.line(step)}: {name} must be in $/MWh, got at most {peak:g}"
    if 0 < peak < _LEAST_USD_PER_MWH:
        raise ValueError(f"{where}, which looks like $/kWh; multiply it by 1000")
    if peak > _MOST_USD_PER_MWH:
        raise ValueError(f"{where}, which no market reaches; convert it to $/MWh")
