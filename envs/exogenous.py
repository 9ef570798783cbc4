"""What happens to every copy from outside: drawn days, training augmentation, and the numbers of one day.

Data flow: `DayProfiles`, random streams -> `DayDrawer` -> `ExogenousDay` (one calendar day of every copy) ->
physics, billing and `observations.py`.
"""

from dataclasses import dataclass, fields
from datetime import date, timedelta
from typing import Any, NamedTuple

import torch
from torch import Tensor

from envs.events import EventDraw, EventPlan, apply_to_price, draw_events
from envs.profiles import NOISE_PERSISTENCE, NOISE_SD_USD_PER_MWH, DayProfiles
from envs.scenario import Scenario
from envs.streams import normal, uniform

_DAY_DRAW, _FIRST_FACTOR_DRAW, _FIRST_NOISE_DRAW = 0, 1, 1_000


@dataclass(frozen=True)
class ExogenousDay:
    """One calendar day of B copies in H steps."""

    price: Tensor  # (B, H) $/MWh
    load: Tensor  # (B, 1 + A, H) multipliers of each area's nominal load, the feeder first
    renewables_mw: Tensor  # (B, 2A, H) available: PV of each microgrid, then wind
    yesterday_load: Tensor  # (B, 1 + A, H)
    yesterday_renewables_mw: Tensor  # (B, 2A, H)
    weekday: Tensor  # (B,) int64, Monday 0
    events: EventDraw | None = None
    """What happens on the day; prices and PV have it in."""

    def of(self, copies: slice) -> "ExogenousDay":
        """The day of some copies."""
        tensors = {field.name: getattr(self, field.name)[copies] for field in fields(self) if field.name != "events"}
        events = None if self.events is None else EventDraw(*(part[copies] for part in self.events))
        return ExogenousDay(**tensors, events=events)


class DeviceDay(NamedTuple):
    """A day's inputs of the physics on the env's device, by step."""

    price: Tensor  # (H, B)
    load: Tensor  # (H, B, 1 + A)
    pv_mw: Tensor  # (H, B, A)
    wind_mw: Tensor  # (H, B, A)
    highest_price: Tensor  # (B,)

    @classmethod
    def of(cls, day: ExogenousDay, device: torch.device, dtype: torch.dtype) -> "DeviceDay":
        """Move a day to a device, steps first."""

        def by_step(values: Tensor) -> Tensor:
            return values.to(device, dtype, non_blocking=True).movedim(-1, 0).contiguous()

        pv_mw, wind_mw = by_step(day.renewables_mw).chunk(2, -1)
        price = by_step(day.price)
        return cls(price, by_step(day.load), pv_mw, wind_mw, price.amax(0))


class DayDrawer:
    """Draws episodes for B copies and unrolls their days. State: episode counters and the present draw.

    With `events`, prices and PV have them in; the masks of outages are in `events_today`. Evaluations draw the same
    events each time.
    """

    def __init__(
        self,
        scenario: Scenario,
        profiles: DayProfiles,
        starts: list[int],
        copies: range,
        *,
        seed: int,
        evaluation: bool,
        group_size: int = 1,
        events: EventPlan | None = None,
    ) -> None:
        self._scenario, self._profiles = scenario, profiles
        self._evaluation = evaluation
        self._events = events
        self._seed = seed
        self._first_copies = torch.tensor(copies) // group_size
        self._copy = self._first_copies  # the stream that each copy draws from
        self._starts = torch.tensor(starts)
        grids = scenario.microgrids.values()
        rated_mw = [g.pv.p_max_mw for g in grids] + [g.wind.p_max_mw for g in grids]
        self._rated_mw = torch.tensor(rated_mw, dtype=torch.float64)[:, None]
        self._episode = torch.full((len(copies),), -1)
        # the days of an evaluation are known from the start; in training the first are drawn by `new_episode`
        self._day = self.evaluated_days(self._copy) if evaluation else torch.zeros_like(self._copy)
        self._day_of_episode = 0
        self._factors = torch.ones(len(copies), 1 + 3 * len(scenario.microgrids), dtype=torch.float64)

    @property
    def day(self) -> Tensor:
        """(B,) index of the present day in the data."""
        return self._day

    @property
    def dates(self) -> tuple[date, ...]:
        """(B,) calendar date of the present day."""
        return self.dates_of(self._day)

    def dates_of(self, days: Tensor) -> tuple[date, ...]:
        """Calendar dates of days of the data."""
        first = self._profiles.first_date.date()
        return tuple(first + timedelta(days=day) for day in days.tolist())

    def evaluated_days(self, copies: Tensor) -> Tensor:
        """Which day copies with these numbers (B,) play in an evaluation."""
        return self._starts[copies % len(self._starts)]

    def begin_turn(self, turn: int) -> None:
        """Of an evaluation of more episodes than copies: copy b becomes the copy turn * B + b."""
        self._copy = self._first_copies + turn * len(self._first_copies)

    def restart(self, seed: int) -> None:
        """Forget all episodes and draw from another seed."""
        self._seed = seed
        self._episode.fill_(-1)

    def new_episode(self) -> Tensor:
        """Draw the next episode of every copy; returns the initial energies (B, A) in MWh."""
        episode, agents = self._scenario.episode, len(self._scenario.microgrids)
        self._episode += 1
        self._day_of_episode = 0
        if self._evaluation:
            self._day = self.evaluated_days(self._copy)
            return torch.full((len(self._copy), agents), episode.initial_energy_mwh, dtype=torch.float64)
        pick = uniform(self._seed, self._copy, self._episode, range(_DAY_DRAW, _DAY_DRAW + 1))[:, 0]
        self._day = self._starts[(pick * len(self._starts)).long()]
        # one row: the initial energies, a factor on each area's load, then on each renewable plant
        ranges = [episode.training_initial_energy_mwh] * agents
        ranges += [episode.load_factor] * (1 + agents) + [episode.renewable_factor] * (2 * agents)
        low, high = torch.tensor(ranges, dtype=torch.float64).T
        draws = range(_FIRST_FACTOR_DRAW, _FIRST_FACTOR_DRAW + len(ranges))
        values = low + (high - low) * uniform(self._seed, self._copy, self._episode, draws)
        energy_mwh, self._factors = values[:, :agents], values[:, agents:]
        return energy_mwh

    def next_day(self) -> None:
        """Move every copy to the following calendar day (after the last day of the data comes the first)."""
        self._day = (self._day + 1) % self._profiles.num_days
        self._day_of_episode += 1

    def today(self) -> ExogenousDay:
        """The present day's numbers; in training the price's noise is redrawn."""
        data, yesterday = self._profiles, (self._day - 1) % self._profiles.num_days
        areas = data.load.shape[1]
        load_factor, plant_factor = self._factors[:, :areas, None], self._factors[:, areas:, None]

        def available_mw(day: Tensor, events: EventDraw | None) -> Tensor:
            available = (data.renewables[day] * plant_factor).clamp(max=1.0) * self._rated_mw
            if events is None:
                return available
            pv_mw, wind_mw = available.chunk(2, 1)
            return torch.cat([pv_mw * events.pv_factor, wind_mw], 1)

        price = data.price[self._day] if self._evaluation or data.price_base is None else self._noisy_price()
        events = self.events_today()
        before = self._events_on(self._day_of_episode - 1) if self._day_of_episode else None
        return ExogenousDay(
            price=price if events is None else apply_to_price(price, events),
            load=data.load[self._day] * load_factor,
            renewables_mw=available_mw(self._day, events),
            yesterday_load=data.load[yesterday] * load_factor,
            yesterday_renewables_mw=available_mw(yesterday, before),
            weekday=data.weekday[self._day],
            events=events,
        )

    def events_today(self) -> EventDraw | None:
        """The present day's events; None for a scenario without."""
        return self._events_on(self._day_of_episode)

    def _events_on(self, day_of_episode: int) -> EventDraw | None:
        if self._events is None:
            return None
        # evaluations are compared with each other: their events do not change from one to the next
        episode = torch.zeros_like(self._episode) if self._evaluation else self._episode
        return draw_events(
            self._events, seed=self._seed, copy=self._copy, episode=episode, day_of_episode=day_of_episode
        )

    def _noisy_price(self) -> Tensor:
        """(B, H) price model with fresh noise: hourly AR(1), stationary at the start of the episode.

        n_0 = e_0, n_t = rho n_{t-1} + sqrt(1 - rho^2) e_t with sd(e) = 4.5. The path is unrolled from the
        episode's start, so that there is no noise state to keep.
        """
        assert self._profiles.price_base is not None
        hours = 24 * (self._day_of_episode + 1)
        draws = range(_FIRST_NOISE_DRAW, _FIRST_NOISE_DRAW + hours)
        shocks = NOISE_SD_USD_PER_MWH * normal(self._seed, self._copy, self._episode, draws)
        shocks[:, 1:] *= (1 - NOISE_PERSISTENCE**2) ** 0.5
        hour = torch.arange(hours)
        lag = hour[-24:, None] - hour
        weights = torch.where(lag >= 0, NOISE_PERSISTENCE ** lag.clamp(min=0).double(), 0.0)  # (24, hours)
        noise = (shocks @ weights.T).repeat_interleave(self._scenario.steps_per_hour, 1)
        rule = self._scenario.data
        price = self._profiles.price_base[self._day] + noise
        return price.clamp(rule.price_floor_usd_per_mwh, rule.price_cap_usd_per_mwh)

    def state_dict(self) -> dict[str, Any]:
        """Counters and the present draw."""
        return {
            "seed": self._seed,
            "episode": self._episode.clone(),  # `new_episode` counts in place
            "day": self._day,
            "day_of_episode": self._day_of_episode,
            "factors": self._factors,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._seed, self._day_of_episode = state["seed"], state["day_of_episode"]
        self._episode, self._day = state["episode"].clone(), state["day"].clone()
        self._factors = state["factors"].clone()
