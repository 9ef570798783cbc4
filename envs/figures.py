"""Pictures of one evaluated day: dispatch, stored energy, voltages, head power and price.

Data flow: `MicrogridEnv.step` (evaluation only) -> `DayTrace.record` -> `DayTrace.figures` -> TensorBoard.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
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
COLOURS = {"battery": "#4477aa", "generator": "#cc6677", "pv": "#ddaa33", "wind": "#66ccee"}


@dataclass(frozen=True)
class _Day:
    """One day as it is played."""

    date: datetime
    start_mwh: Tensor  # (A,) energies at its first midnight
    rows: list[dict[str, Tensor]] = field(default_factory=list)  # one a step


class DayTrace:
    """Keeps the last day of one copy, the first of the batch."""

    def __init__(self, scenario: Scenario, agents: Sequence[str]) -> None:
        self._scenario, self._agents = scenario, agents
        self._running: _Day | None = None
        self._complete: _Day | None = None

    def start_day(self, date: datetime, account: "Account") -> None:
        """Begin a day with the energies of its first midnight."""
        self._running = _Day(date, account.energy_mwh[0])

    def record(self, price: Tensor, applied: Applied, account: "Account", grid: "GridState") -> None:
        """Add one step; a complete day replaces the previous one."""
        assert self._running is not None
        row = {name: value[0] for name, value in applied._asdict().items()}
        row |= {"price": price[0], "energy_mwh": account.energy_mwh[0], "peak_mw": account.peak_mw[0]}
        row |= {"head_p_mw": grid.head_p_mw[0], "v_pu": grid.v_pu[0, 1:], "party_p_mw": grid.party_p_mw[0]}
        self._running.rows.append(row)
        if len(self._running.rows) == self._scenario.steps_per_day:
            self._complete = self._running

    def figures(self, grid: "Grid") -> dict[str, Any]:
        """Two pictures of the last complete day: `dispatch` and `grid`; empty before there is one."""
        if (day := self._complete) is None:
            return {}
        data = {name: torch.stack([row[name] for row in day.rows]).cpu().numpy() for name in day.rows[0]}
        data["energy_mwh"] = np.concatenate([day.start_mwh[None].cpu().numpy(), data["energy_mwh"]])  # (H + 1, A)
        date = day.date.strftime("%a %d %b %Y")
        return {"dispatch": self._dispatch(data, date), "grid": self._grid_picture(data, date, grid)}

    def _edges(self) -> Series:
        """(H + 1,) hours at which the steps begin, and the day's end."""
        return np.arange(self._scenario.steps_per_day + 1) * self._scenario.dt_h

    def _dispatch(self, data: Mapping[str, Series], date: str) -> Any:
        """Per microgrid: production stacked above zero, charging below, energy on its own axis."""
        from matplotlib.figure import Figure  # noqa: PLC0415 - heavy, and only pictures need it

        edges, dt_h = self._edges(), self._scenario.dt_h
        hours = edges[:-1]
        figure = Figure(figsize=(10, 2.6 * len(self._agents)), layout="constrained")
        axes = figure.subplots(len(self._agents), 1, sharex=True, squeeze=False)[:, 0]
        for i, (name, ax) in enumerate(zip(self._agents, axes, strict=True)):
            charge = data["battery_p_mw"][:, i]
            bottom = 0.0 * charge
            stack = {"wind": data["wind_p_mw"][:, i], "pv": data["pv_p_mw"][:, i]}
            stack |= {"generator": data["generator_p_mw"][:, i], "battery": (-charge).clip(min=0)}
            for label, value in stack.items():
                ax.bar(hours, value, dt_h, bottom=bottom, align="edge", color=COLOURS[label], label=label)
                bottom = bottom + value
            ax.bar(hours, -charge.clip(min=0), dt_h, align="edge", color=COLOURS["battery"])
            ax.stairs(data["party_p_mw"][:, 1 + i], edges, color="black", lw=1.2, baseline=None, label="grid import")
            ax.axhline(0, color="black", lw=0.5)
            ax.set_ylabel(f"{name}\nMW")
            energy = ax.twinx()
            stored = data["energy_mwh"][:, i]
            energy.plot(edges, stored, color="#228833", marker=".", label="energy (right)")
            battery = self._scenario.microgrids[name].battery
            energy.set_ylim(0, 1.05 * battery.energy_max_mwh)
            energy.axhline(stored[0], color="#228833", ls=":", lw=0.8)
            energy.set_ylabel("MWh")
            handles = [*ax.get_legend_handles_labels()[0], *energy.get_legend_handles_labels()[0]]
            if i == 0:
                figure.legend(handles=handles, loc="outside upper center", ncols=6, title=f"Dispatch, {date}")
        axes[-1].set_xlabel("hour")
        axes[-1].set_xlim(0, 24)
        return figure

    def _grid_picture(self, data: Mapping[str, Series], date: str, grid: "Grid") -> Any:
        """Price, head power with the running peak, and every bus voltage against the limits."""
        from matplotlib.figure import Figure  # noqa: PLC0415 - heavy, and only pictures need it

        edges, limits = self._edges(), self._scenario.safety
        middle_of_step = (edges[:-1] + edges[1:]) / 2
        figure = Figure(figsize=(10, 7), layout="constrained")
        figure.suptitle(f"Grid, {date}")
        top, middle, bottom = figure.subplots(3, 1, sharex=True)
        top.stairs(data["price"], edges, color="black", baseline=None)
        top.set_ylabel("price\n$/MWh")
        middle.stairs(data["head_p_mw"], edges, color="#4477aa", baseline=None, label="head power")
        middle.stairs(data["peak_mw"], edges, color="#cc6677", ls="--", baseline=None, label="running peak")
        middle.set_ylabel("MW")
        middle.legend()
        area = grid.net.areas[1:]
        for colour, name in zip(("#bbbbbb", "#4477aa", "#cc6677", "#228833", "#ddaa33"), grid.area_names, strict=False):
            columns = [i for i, owner in enumerate(area) if owner == name]
            lines = bottom.plot(middle_of_step, data["v_pu"][:, columns], color=colour, lw=0.7)
            lines[0].set_label(name)
        for limit in (limits.v_min_pu, limits.v_max_pu):
            bottom.axhline(limit, color="red", ls="--", lw=1)
        bottom.set_ylabel("voltage\npu")
        bottom.legend(ncols=len(grid.area_names))
        bottom.set_xlabel("hour")
        bottom.set_xlim(0, 24)
        return figure
