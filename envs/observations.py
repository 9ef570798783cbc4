"""Own observations and the critic's global state.

Data flow: `ExogenousDay` -> `DayTables` once a day; each step one row of them, the devices and `GridState` -> obs
(B, A, O) and state (B, S). Every column has a name with its unit; all are scaled to about [-1, 1].
"""

from math import pi
from typing import NamedTuple

import torch
from torch import Tensor

from envs.devices import Devices
from envs.events import EventPlan
from envs.exogenous import ExogenousDay
from envs.grid import Grid, GridState
from envs.scenario import Scenario
from envs.settings import CriticState
from envs.situation import FORECAST_PERSISTENCE

PRICE_HOURS = 12  # prices shown ahead
FORECAST_HOURS = 4
PRICE_CENTRE_USD_PER_MWH = PRICE_SCALE_USD_PER_MWH = 60.0
VOLTAGE_SCALE_PU = 0.05
TABLE_ENTRIES = 2**22  # of a day's state columns that are computed at once, in several copies as large


class DayTables(NamedTuple):
    """The exogenous columns of one day; row H is the moment the day is over (the day repeats, no hour is left).

    G neighbouring copies that play the same day have one entry.
    """

    own: Tensor  # (H + 1, B / G, A, 22 + 7) shared columns, then each agent's, then those of events
    state: Tensor  # (H + 1, B / G, F)
    group_size: int  # G

    def rows(self, step: int) -> tuple[Tensor, Tensor]:
        """Those of one step, for each copy: (B, A, 22 + 7) and (B, F)."""
        own, state = self.own[step], self.state[step]
        if self.group_size == 1:
            return own, state
        return own.repeat_interleave(self.group_size, 0), state.repeat_interleave(self.group_size, 0)


class Account(NamedTuple):
    """What the env carries from step to step besides the grid."""

    energy_mwh: Tensor  # (B, A)
    initial_energy_mwh: Tensor  # (B, A) at the start of the day's account
    peak_mw: Tensor  # (B,) highest head power of the day


class Observer:
    """Names, scales and assembly of observations for one scenario."""

    def __init__(
        self,
        scenario: Scenario,
        grid: Grid,
        devices: Devices,
        critic_state: CriticState,
        protocol_names: tuple[str, ...] = (),
        events: EventPlan | None = None,
    ) -> None:
        """`protocol_names` are the columns that the protocols add to every agent's observation."""
        self._protocol_names, self._events = protocol_names, events
        self._grid, self._devices = grid, devices
        self._privileged = critic_state == "privileged"
        self._per_hour, self._steps = scenario.steps_per_hour, scenario.steps_per_day
        self._like = devices.efficiency
        self._nominal_mw = grid.area_load_mw  # (1 + A,) float64 on the CPU, where days are prepared
        self._scale_mw = torch.where(self._nominal_mw > 0, self._nominal_mw, 1.0)
        self._load_mw = self._scale_mw.to(self._like)
        self._pcc_scale_mw = self._load_mw[1:] + devices.battery_p_max_mw
        self._rated_mw = torch.cat([devices.pv_p_max_mw, devices.wind_p_max_mw]).clamp(min=1e-6)[:, None].cpu()
        self._path_length = max(map(len, grid.tap_paths), default=0)
        no_tap = len(grid.net.regulators)  # a column of zeros stands behind the taps
        self._tap_columns = torch.tensor(
            [path + [no_tap] * (self._path_length - len(path)) for path in grid.tap_paths],
            dtype=torch.int64,
            device=self._like.device,
        )
        self._calendar = self._calendar_columns()

    @property
    def obs_names(self) -> tuple[str, ...]:
        """Names of the O own-observation columns."""
        taps = [f"tap_{k}_of_path" for k in range(self._path_length)]
        local = ["pcc_p_mw", "pcc_q_mvar", "pcc_v_pu", "area_v_min_pu", "area_v_max_pu"]
        return (
            "energy_mwh",
            "initial_energy_mwh",
            *shared_names(),
            *_local_names(),
            *(self._events.obs_names if self._events else ()),
            *local,
            "head_p_mw",
            "peak_mw",
            *taps,
            *self._protocol_names,
        )

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the S state columns."""
        feeder, *agents = self._grid.area_names
        each = [f"{agent}.{name}" for agent in agents for name in _local_names()]
        future = [
            f"future_{name}_plus_{k}h"
            for name in ("price_usd_per_mwh", f"{feeder}.load_mw", *(f"{agent}.net_load_mw" for agent in agents))
            for k in range(1, 24)
        ]
        devices = [f"{agent}.{name}" for name in ("energy_mwh", "initial_energy_mwh") for agent in agents]
        pcc = [f"{agent}.{name}" for name in ("pcc_p_mw", "pcc_q_mvar", "pcc_v_pu") for agent in agents]
        ranges = [f"{area}.v_{end}_pu" for end in ("min", "max") for area in self._grid.area_names]
        taps = [f"tap_{regulator.name}" for regulator in self._grid.net.regulators]
        protocols = [f"{agent}.{name}" for agent in agents for name in self._protocol_names]
        return (
            *shared_names(),
            f"{feeder}.load_mw",
            *each,
            *(future if self._privileged else ()),
            *(self._events.state_names if self._events else ()),
            *devices,
            *pcc,
            *ranges,
            "head_p_mw",
            "peak_mw",
            *taps,
            *protocols,
        )

    def day_tables(self, day: ExogenousDay, group_size: int, room: DayTables | None = None) -> DayTables:
        """All exogenous columns of a day, on the env's device; made for some copies at a time, in float64.

        `room` holds the tables of a day that is over, which are overwritten.
        """
        day = day.of(slice(None, None, group_size))
        copies, entries = len(day.price), self._steps * len(self.state_names)
        some = max(1, TABLE_ENTRIES // entries)
        for first in range(0, copies, some):
            own, state = self._columns(day.of(slice(first, first + some)))
            if room is None:
                room = DayTables(self._table(copies, own, 3), self._table(copies, state, 2), group_size)
            _write(own, 3, room.own[:, first : first + some])
            _write(state, 2, room.state[:, first : first + some])
        assert room is not None, "there is at least one copy"
        return room

    def _columns(self, day: ExogenousDay) -> tuple[list[Tensor], list[Tensor]]:
        """What stands side by side in the tables, own (B, H, A, ...) and state (B, H, ...)."""
        shared = self._shared_columns(day)  # (B, H, 22)
        local, net_mw = self._local_columns(day)  # (B, H, A, 7), (B, A, H)
        feeder_load = 2 * day.load[:, 0] - 1  # (B, H)
        own = [shared[:, :, None].expand(-1, -1, local.shape[2], -1), local]
        state = [shared, feeder_load[..., None], local]
        if self._privileged:
            ahead = [_scaled_price(day.price)[:, None], feeder_load[:, None], net_mw / self._scale_mw[1:, None]]
            state.append(self._future(torch.cat(ahead, 1)))
        if self._events is not None and day.events is not None:
            own.append(self._events.own_columns(day.events))
            state.append(self._events.state_columns(day.events))
        return own, state

    def _table(self, copies: int, parts: list[Tensor], leading: int) -> Tensor:
        """Room for `parts`, whose dims from `leading` on are columns."""
        width = sum(part.shape[leading:].numel() for part in parts)
        return self._like.new_empty(self._steps + 1, copies, *parts[0].shape[2:leading], width)

    def observe(
        self, tables: DayTables, step: int, account: Account, state: GridState, protocols: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Observations (B, A, O) and global state (B, S) before the action of `step` (0 .. H).

        `protocols` (B, A, C) are the columns of `protocol_names`.
        """
        devices, grid = self._devices, self._grid
        span = devices.energy_max_mwh - devices.energy_min_mwh
        energy = torch.stack([account.energy_mwh, account.initial_energy_mwh])
        charge = 2 * (energy - devices.energy_min_mwh) / span - 1  # (2, B, A)
        pcc = torch.stack(
            [
                state.party_p_mw[:, 1:] / self._pcc_scale_mw,
                state.pcc_q_mvar / self._pcc_scale_mw,
                (grid.live_v_pu(state)[:, grid.pcc_buses] - 1) / VOLTAGE_SCALE_PU,
            ]
        )  # (3, B, A)
        v_range = (torch.stack(grid.voltage_range(state)) - 1) / VOLTAGE_SCALE_PU  # (2, B, 1 + A)
        head = torch.stack([state.head_p_mw, account.peak_mw], -1) / self._load_mw.sum()  # (B, 2)
        taps = grid.tap_position(state)
        padded = torch.cat([taps, taps.new_zeros(len(taps), 1)], -1)
        agents = charge.shape[2]
        own, shared = tables.rows(step)
        obs = torch.cat(
            [
                charge.movedim(0, -1),
                own,
                pcc.movedim(0, -1),
                v_range[..., 1:].movedim(0, -1),
                head[:, None].expand(-1, agents, -1),
                padded[:, self._tap_columns],
                protocols,
            ],
            -1,
        )
        rows = (charge, pcc, v_range)
        flat = [part.movedim(0, 1).flatten(1) for part in rows]
        return obs, torch.cat([shared, *flat, head, taps, protocols.flatten(1)], -1)

    def _calendar_columns(self) -> Tensor:
        """(H, 3): share of the day left, sin and cos of the hour."""
        step = torch.arange(self._steps, dtype=torch.float64)
        angle = 2 * pi * step / self._steps
        return torch.stack([1 - step / self._steps, angle.sin(), angle.cos()], -1)

    def _shared_columns(self, day: ExogenousDay) -> Tensor:
        """(B, H, 22): calendar, the price now and ahead, and the rest of the day's prices."""
        copies, steps = day.price.shape
        angle = 2 * pi * day.weekday.double() / 7
        week = torch.stack([angle.sin(), angle.cos()], -1)[:, None].expand(-1, steps, -1)
        calendar = self._calendar.expand(copies, -1, -1)
        now = torch.arange(steps)
        ahead = (now[:, None] + self._per_hour * torch.arange(PRICE_HOURS + 1)) % steps
        price = day.price
        backwards = price.flip(1)
        mean = backwards.cumsum(1).flip(1) / (steps - now)
        lowest, highest = backwards.cummin(1).values.flip(1), backwards.cummax(1).values.flip(1)
        later = now > now[:, None]  # [t, s]: step s comes after t
        cheaper = ((price[:, None, :] < price[:, :, None]) & later).sum(-1) / later.sum(-1).clamp(min=1)
        rest = torch.stack([_scaled_price(mean), _scaled_price(lowest), _scaled_price(highest), 2 * cheaper - 1], -1)
        return torch.cat([calendar, week, _scaled_price(price[:, ahead]), rest], -1)

    def _local_columns(self, day: ExogenousDay) -> tuple[Tensor, Tensor]:
        """(B, H, A, 7) load, PV and wind now and the net-load forecast; net load (B, A, H) in MW.

        Forecast at +k h: yesterday's load at that hour + 0.8^k times the load's present deviation from
        yesterday, minus yesterday's PV and wind.
        """
        steps, per_hour = self._steps, self._per_hour
        scale_mw = self._scale_mw[1:]
        load_mw = torch.cat([day.yesterday_load, day.load], -1)[:, 1:] * scale_mw[:, None]  # (B, A, 2H)
        plants_mw = torch.cat([day.yesterday_renewables_mw, day.renewables_mw], -1)
        pv_mw, wind_mw = plants_mw.chunk(2, 1)
        net_mw = load_mw - pv_mw - wind_mw
        deviation_mw = load_mw[..., steps:] - load_mw[..., :steps]
        forecast = [
            net_mw[..., k * per_hour : k * per_hour + steps] + FORECAST_PERSISTENCE**k * deviation_mw
            for k in range(1, FORECAST_HOURS + 1)
        ]
        pv, wind = (day.renewables_mw / self._rated_mw).chunk(2, 1)
        columns = [2 * day.load[:, 1:] - 1, pv, wind, *(f / scale_mw[:, None] for f in forecast)]
        return torch.stack(columns, -1).transpose(1, 2), net_mw[..., steps:]

    def _future(self, series: Tensor) -> Tensor:
        """(B, C, H) -> (B, H, C, 23): each series at +1 .. +23 h, 0 beyond midnight; a view of little memory."""
        per_hour = self._per_hour
        padded = torch.nn.functional.pad(series, (0, 23 * per_hour))
        windows = padded[..., per_hour:].unfold(-1, 22 * per_hour + 1, 1)  # (B, C, H, 22 hours and 1 step)
        return windows[..., ::per_hour].transpose(1, 2)


def _write(parts: list[Tensor], leading: int, table: Tensor) -> None:
    """Parts (B, H, ...) side by side into a table (H + 1, B, ...): what one step reads lies together."""
    columns = table[:-1].split([part.shape[leading:].numel() for part in parts], -1)
    for part, place in zip(parts, columns, strict=True):
        place.unflatten(-1, part.shape[leading:]).copy_(part.transpose(0, 1), non_blocking=True)
    table[-1] = table[0]
    table[-1, ..., 0] = 0.0  # the first column is the share of the day left


def _scaled_price(usd_per_mwh: Tensor) -> Tensor:
    return (usd_per_mwh - PRICE_CENTRE_USD_PER_MWH) / PRICE_SCALE_USD_PER_MWH


def shared_names() -> tuple[str, ...]:
    """Columns that are the same for every agent: calendar and prices."""
    prices = [f"price_usd_per_mwh_plus_{k}h" for k in range(1, PRICE_HOURS + 1)]
    return (
        "day_left_share",
        "hour_sin",
        "hour_cos",
        "weekday_sin",
        "weekday_cos",
        "price_usd_per_mwh",
        *prices,
        "rest_price_mean_usd_per_mwh",
        "rest_price_min_usd_per_mwh",
        "rest_price_max_usd_per_mwh",
        "rest_cheaper_share",
    )


def _local_names() -> tuple[str, ...]:
    forecast = [f"net_load_mw_plus_{k}h" for k in range(1, FORECAST_HOURS + 1)]
    return ("load_mw", "pv_available_mw", "wind_available_mw", *forecast)
