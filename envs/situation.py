"""What an operator knows before a decision, and the forecast rule that turns it into an outlook to midnight.

Data flow: `MicrogridEnv.situation()` -> `outlook` -> baselines and the receding-horizon optimiser. Everything float64
on the CPU. Dims: B copies, A microgrids, H steps a day, h steps left including the present one.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from envs.exogenous import ExogenousDay

Forecast = Literal["persistence", "perfect"]
FORECASTS: tuple[Forecast, ...] = ("persistence", "perfect")
FORECAST_PERSISTENCE = 0.8  # per hour: how fast the load's deviation from yesterday fades


class Situation(NamedTuple):
    """One moment of every copy, before the action of `step`."""

    step: int  # of the day, 0 .. H - 1
    today: ExogenousDay  # prices are known all day; what loads and plants do after `step` is the future
    energy_mwh: Tensor  # (B, A)
    initial_energy_mwh: Tensor  # (B, A) what the terminal rule refers to
    peak_mw: Tensor  # (B,) highest head power of the day so far


class Outlook(NamedTuple):
    """Exogenous numbers of the rest of the day; the first column is the present step, which is measured."""

    price: Tensor  # (B, h) $/MWh
    load: Tensor  # (B, 1 + A, h) multipliers of each area's nominal load, the feeder first
    pv_mw: Tensor  # (B, A, h) available
    wind_mw: Tensor  # (B, A, h)


def checked_forecast(forecast: str) -> Forecast:
    """The name of a forecast rule; raises ValueError for any other word."""
    for known in FORECASTS:
        if forecast == known:
            return known
    raise ValueError(f"forecast must be one of {', '.join(FORECASTS)}, got {forecast!r}")


def outlook(situation: Situation, forecast: Forecast, steps_per_hour: int) -> Outlook:
    """The rest of the day as it will be (`perfect`) or as the persistence rule expects it.

    Persistence, k hours ahead: yesterday's load at that hour + 0.8^k times the load's present deviation from yesterday,
    not below 0; yesterday's PV and wind. Prices are those of the day-ahead market, known.

    Args:
        situation: of every copy.
        forecast: `persistence` or `perfect`.
        steps_per_hour: of the scenario.
    """
    day, now = situation.today, situation.step
    load, renewables_mw = day.load[..., now:], day.renewables_mw[..., now:]
    if forecast == "persistence":
        deviation = day.load[..., now] - day.yesterday_load[..., now]
        hours_ahead = torch.arange(load.shape[-1], dtype=torch.float64) / steps_per_hour
        fading = FORECAST_PERSISTENCE**hours_ahead
        expected = (day.yesterday_load[..., now:] + fading * deviation[..., None]).clamp(min=0.0)
        load = torch.cat([load[..., :1], expected[..., 1:]], -1)
        renewables_mw = torch.cat([renewables_mw[..., :1], day.yesterday_renewables_mw[..., now + 1 :]], -1)
    pv_mw, wind_mw = renewables_mw.chunk(2, 1)
    return Outlook(day.price[:, now:], load, pv_mw, wind_mw)
