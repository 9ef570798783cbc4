"""Pictures of a played day: dispatch and stored energy; price, head power, voltages and taps.

Data flow: `PlayedDay` of one policy, or of several side by side -> matplotlib figures -> TensorBoard, reports. One
column for each policy; the columns of a row share their y axis, so that they can be compared by eye.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from envs.day_trace import PlayedDay, Series

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"battery": "#4477aa", "generator": "#cc6677", "pv": "#ddaa33", "wind": "#66ccee"}
LABELS = {"battery": "battery", "generator": "generator", "pv": "PV", "wind": "wind"}
AREA_COLOURS = ("#999999", "#332288", "#dd7711", "#117733", "#aa4499", "#88ccee", "#999933", "#882255")
"""Of the feeder, then of the microgrids; they repeat after the last."""
COLUMN_WIDTH_IN, TICK_H = 5.6, 6


def dispatch_figure(days: Mapping[str, PlayedDay], copy: int = 0) -> "Figure":
    """Every microgrid's powers, production stacked above zero and charging below, and all stored energies.

    Args:
        days: label -> what that policy played, all of the same scenario and day; one column each.
        copy: which copy's day.
    """
    first = next(iter(days.values()))
    rows = [2.0] * len(first.agents) + [1.6]
    figure, grid = _grid_of_axes(days, copy, rows, "Dispatch")
    for column, day in enumerate(days.values()):
        for i, agent in enumerate(first.agents):
            _draw_dispatch(grid[i][column], day, copy, i)
            grid[i][0].set_ylabel(f"{agent}\nMW")
        _draw_energy(grid[-1][column], day, copy)
    grid[-1][0].set_ylabel("stored\nMWh")
    _legend(figure, [grid[0][0], grid[-1][0]], columns=5 + len(first.agents))
    return figure


def grid_figure(days: Mapping[str, PlayedDay], copy: int = 0) -> "Figure":
    """Price, head power with its running peak, the voltage of every bus against the limits, and tap positions.

    Args:
        days: label -> what that policy played, all of the same scenario and day; one column each.
        copy: which copy's day.
    """
    figure, grid = _grid_of_axes(days, copy, [1.1, 1.7, 2.4, 1.3], "Grid")
    for column, day in enumerate(days.values()):
        price, head, voltage, taps = (row[column] for row in grid)
        price.stairs(day.price[:, copy], day.edges_h, color="black", baseline=None)
        _draw_head(head, day, copy)
        _draw_voltages(voltage, day, copy)
        _draw_taps(taps, day, copy)
    for row, label in zip(grid, ("price\n$/MWh", "head power\nMW", "voltage\npu", "tap"), strict=True):
        row[0].set_ylabel(label)
    first = next(iter(days.values()))
    _legend(figure, [row[0] for row in grid[1:]], columns=2 + len(first.agents) + 1)
    return figure


def day_figures(days: Mapping[str, PlayedDay], copy: int = 0) -> "dict[str, Figure]":
    """Both pictures of one copy's day, by name."""
    return {"dispatch": dispatch_figure(days, copy), "grid": grid_figure(days, copy)}


def area_colour(position: int) -> str:
    """Colour of an area: 0 is the feeder, 1 + i microgrid i."""
    colours = AREA_COLOURS[1:]
    return AREA_COLOURS[0] if position == 0 else colours[(position - 1) % len(colours)]


def _grid_of_axes(
    days: Mapping[str, PlayedDay], copy: int, heights: list[float], title: str
) -> "tuple[Figure, list[list[Axes]]]":
    """Rows of axes, one column for each policy; titled with the date, and the columns with the policies if several."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - heavy, and only pictures need it

    first = next(iter(days.values()))
    size = (COLUMN_WIDTH_IN * max(len(days), 1.5), sum(heights) + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(f"{title}, {first.dates[copy].strftime('%a %d %b %Y')}", fontsize=11)
    axes = figure.subplots(
        len(heights), len(days), sharex=True, sharey="row", squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for ax in axes.flat:
        ax.grid(alpha=0.25, lw=0.5)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    for ax, label in zip(axes[0], days if len(days) > 1 else ("",), strict=True):
        ax.set_title(label, fontsize=10, fontweight="bold")
    for ax in axes[-1]:
        ax.set_xlabel("hour")
        ax.set_xlim(0, 24)
        ax.set_xticks(range(0, 25, TICK_H))
    return figure, [list(row) for row in axes]


def _draw_dispatch(ax: "Axes", day: PlayedDay, copy: int, agent: int) -> None:
    edges = day.edges_h
    charge = day.battery_p_mw[:, copy, agent]
    stack = {
        "wind": day.wind_p_mw[:, copy, agent],
        "pv": day.pv_p_mw[:, copy, agent],
        "generator": day.generator_p_mw[:, copy, agent],
        "battery": (-charge).clip(min=0),
    }
    bottom = np.zeros_like(charge)
    for kind, value in stack.items():
        # one patch of the whole day: bars are a patch each, and ten times slower to draw
        ax.stairs(bottom + value, edges, baseline=bottom, fill=True, color=COLOURS[kind], label=LABELS[kind])
        bottom = bottom + value
    ax.stairs(-charge.clip(min=0), edges, fill=True, color=COLOURS["battery"])
    imported = day.party_p_mw[:, copy, 1 + agent]
    ax.stairs(imported, edges, color="black", lw=1.3, baseline=None, label="grid import")
    ax.axhline(0, color="black", lw=0.6)


def _draw_energy(ax: "Axes", day: PlayedDay, copy: int) -> None:
    for i, agent in enumerate(day.agents):
        ax.plot(
            day.edges_h, day.energy_mwh[:, copy, i], color=area_colour(1 + i), marker=".", ms=3, lw=1.2, label=agent
        )
    batteries = [grid.battery for grid in day.scenario.microgrids.values()]
    for limit in {b.energy_min_mwh for b in batteries} | {b.energy_max_mwh for b in batteries}:
        ax.axhline(limit, color="#cc3311", ls="--", lw=0.8)
    ax.set_ylim(0, 1.08 * max(b.energy_max_mwh for b in batteries))


def _draw_head(ax: "Axes", day: PlayedDay, copy: int) -> None:
    ax.stairs(day.head_p_mw[:, copy], day.edges_h, color="#4477aa", lw=1.3, baseline=None, label="head power")
    ax.stairs(day.peak_mw[:, copy], day.edges_h, color="#cc6677", ls="--", baseline=None, label="running peak")
    ax.axhline(0, color="black", lw=0.6)


def _draw_voltages(ax: "Axes", day: PlayedDay, copy: int) -> None:
    from matplotlib.collections import LineCollection  # noqa: PLC0415 - heavy, and only pictures need it

    middle_h: Series = (day.edges_h[:-1] + day.edges_h[1:]) / 2
    for position, area in enumerate((day.scenario.feeder.name, *day.agents)):
        columns = [i for i, owner in enumerate(day.bus_areas) if owner == area]
        voltages = np.where(day.v_pu[:, copy] > 0, day.v_pu[:, copy], np.nan)  # a gap where there is no voltage
        paths = [np.column_stack([middle_h, voltages[:, i]]) for i in columns]
        lines = LineCollection(paths, colors=area_colour(position), linewidths=0.6, alpha=0.8, label=area)
        ax.add_collection(lines)
    ax.autoscale_view()
    limits = day.scenario.safety
    for limit in (limits.v_min_pu, limits.v_max_pu):
        ax.axhline(limit, color="#cc3311", ls="--", lw=1)


def _draw_taps(ax: "Axes", day: PlayedDay, copy: int) -> None:
    areas = (day.scenario.feeder.name, *day.agents)
    styles = ("-", "--", ":", "-.")
    seen = dict.fromkeys(areas, 0)
    for i, name in enumerate(day.tap_names):
        area = name.partition(".")[0]
        position = areas.index(area) if area in areas else 0
        style = styles[seen.get(area, 0) % len(styles)]
        seen[area] = seen.get(area, 0) + 1
        ax.stairs(day.tap[:, copy, i], day.edges_h, color=area_colour(position), ls=style, baseline=None, label=name)


def _legend(figure: "Figure", axes: "list[Axes]", columns: int) -> None:
    """One legend below the picture for what these axes show."""
    handles: list[Artist] = []
    labels: list[str] = []
    for ax in axes:
        more, names = ax.get_legend_handles_labels()
        handles += more
        labels += names
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    figure.align_ylabels()
