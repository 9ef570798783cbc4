"""What happened in every copy on the last day that was evaluated, kept for pictures and reports.

Data flow: `MicrogridEnv.step` (evaluation only) -> `DayTrace.record` -> `PlayedDay` -> `figures.py`.
Dims: H steps of a day, B copies, A microgrids, N buses (n = N - 1 below the slack bus), R regulators.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from envs.devices import Applied
from envs.scenario import Scenario

if TYPE_CHECKING:
    from envs.grid import Grid, GridState
    from envs.observations import Account

Series = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True)
class PlayedDay:
    """One complete day of every copy: what was applied and what the grid did."""

    scenario: Scenario
    dates: tuple[date, ...]
    """(B,) the day that each copy played."""
    bus_areas: tuple[str, ...]
    """(n,) area of each bus below the slack bus: the feeder's name or a microgrid's."""
    tap_names: tuple[str, ...]
    """(R,)"""
    price: Series  # (H, B) $/MWh
    battery_p_mw: Series  # (H, B, A) > 0 charges
    battery_q_mvar: Series  # (H, B, A)
    generator_p_mw: Series  # (H, B, A)
    pv_p_mw: Series  # (H, B, A)
    wind_p_mw: Series  # (H, B, A)
    party_p_mw: Series  # (H, B, 1 + A) feeder load and losses, then each microgrid's connection; import positive
    head_p_mw: Series  # (H, B)
    peak_mw: Series  # (H, B) highest head power so far
    energy_mwh: Series  # (H + 1, B, A) at the edges of the steps
    v_pu: Series  # (H, B, n)
    loading: Series  # (H, B, n) I / I_max of the branch above each bus
    tap: Series  # (H, B, R)

    @property
    def agents(self) -> tuple[str, ...]:
        """Names of the A microgrids."""
        return tuple(self.scenario.microgrids)

    @property
    def edges_h(self) -> Series:
        """(H + 1,) hours at which the steps begin, and the day's end."""
        return np.arange(len(self.price) + 1) * self.scenario.dt_h


@dataclass
class _Running:
    """A day while it is played."""

    dates: tuple[date, ...]  # (B,)
    start_mwh: Tensor  # (B, A)
    rows: list[dict[str, Tensor]] = field(default_factory=list)  # one a step


class DayTrace:
    """Keeps the last complete day of all copies. Recording stores references: it costs an evaluation no time."""

    def __init__(self, scenario: Scenario, grid: "Grid") -> None:
        self._scenario, self._net = scenario, grid.net
        self._running: _Running | None = None
        self._complete: _Running | None = None

    def start_day(self, dates: tuple[date, ...], account: "Account") -> None:
        """Begin a day.

        Args:
            dates: (B,) of each copy.
            account: energies at its first midnight.
        """
        self._running = _Running(dates, account.energy_mwh)

    def record(self, price: Tensor, applied: Applied, account: "Account", grid: "GridState") -> None:
        """Add one step; a complete day replaces the previous one."""
        assert self._running is not None
        row = applied._asdict()
        row |= {"price": price, "energy_mwh": account.energy_mwh, "peak_mw": account.peak_mw, "tap": grid.tap}
        row |= {name: getattr(grid, name) for name in ("head_p_mw", "party_p_mw", "v_pu", "loading_squared")}
        self._running.rows.append(row)
        if len(self._running.rows) == self._scenario.steps_per_day:
            self._complete = self._running

    def last_day(self) -> PlayedDay | None:
        """The last complete day; None before there is one."""
        if (day := self._complete) is None:
            return None
        data = {name: torch.stack([row[name] for row in day.rows]).cpu().numpy() for name in day.rows[0]}
        return PlayedDay(
            scenario=self._scenario,
            dates=day.dates,
            bus_areas=self._net.areas[1:],
            tap_names=tuple(regulator.name for regulator in self._net.regulators),
            **self._arranged(data, day.start_mwh.cpu().numpy()),
        )

    @staticmethod
    def _arranged(data: Mapping[str, Series], start_mwh: Series) -> dict[str, Series]:
        """Recorded rows as the fields of `PlayedDay`; the slack bus has neither limits nor a branch."""
        fields = dict(data)
        loading = np.sqrt(fields.pop("loading_squared")[..., 1:])
        energy_mwh = np.concatenate([start_mwh[None], data["energy_mwh"]])
        return fields | {"energy_mwh": energy_mwh, "v_pu": data["v_pu"][..., 1:], "loading": loading}
