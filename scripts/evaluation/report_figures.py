"""Pictures of the report, as PNG.

Data flow: `Comparison`, `Row`s -> matplotlib figures -> name -> PNG bytes -> `report.py`, files.
"""

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from envs.figures import dispatch_figure, grid_figure

from .compare import Comparison, Row
from .play import PARTS
from .text import interval, shortened

DPI = 110
WIDTH_IN = 10.0
RUN, OTHER, OPTIMUM, BOUND = "#3457b2", "#8a93a3", "#1a8a5a", "#b2342f"
PART_COLOURS = {
    "energy": "#4477aa",
    "generator": "#cc6677",
    "demand": "#ddaa33",
    "terminal": "#66ccee",
    "penalty": "#882255",
}
SCORE_FLOOR = -1.0
"""Scores below are drawn at the edge of the picture, with an arrow."""
GAP_FLOOR_USD = 0.1
MOST_TICKS = 12


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, format="png", facecolor="white")
    return buffer.getvalue()


def report_pngs(comparison: Comparison, rows: Sequence[Row], days: Mapping[str, int]) -> dict[str, bytes]:
    """All pictures by name; which there are depends on whether there is a bound.

    Args:
        comparison: of the policies.
        rows: its lines.
        days: label -> position of the days to draw, such as `typical`.
    """
    figures = {"money": money_figure(rows)}
    if comparison.reference is not None:
        figures = {"scores": score_figure(rows), "gaps": gap_figure(comparison, rows), **figures}
        figures["days"] = days_figure(comparison)
    run = comparison.first_run
    optimum = next((played for played in comparison.played.values() if played.kind == "optimum"), None)
    if run.day is not None:
        shown = {run.name: run.day}
        if optimum is not None and optimum.day is not None:
            shown["optimum with perfect foresight"] = optimum.day
        for label, position in days.items():
            figures[f"{label}-dispatch"] = dispatch_figure(shown, position)
            figures[f"{label}-grid"] = grid_figure(shown, position)
    return {name: png(figure) for name, figure in figures.items()}


def score_figure(rows: Sequence[Row]) -> Figure:
    """Score of every policy with its interval, best on top; the numbers stand beside the axes."""
    shown = sorted((row for row in rows if row.kind != "bound"), key=lambda row: row.score.value)
    figure, ax = _bars_axes(len(shown))
    edge = min(max(SCORE_FLOOR, min(row.score.value for row in shown)), 0.0) - 0.06
    for y, row in enumerate(shown):
        (value, low, high), colour = row.score, _colour(row.kind)
        if value < edge:
            ax.annotate("", (edge, y), (edge + 0.12, y), arrowprops={"arrowstyle": "-|>", "color": colour})
        else:
            if math.isfinite(low):
                ax.plot([max(low, edge), high], [y, y], color=colour, lw=2.4, solid_capstyle="butt")
            ax.plot(value, y, "D" if row.kind == "group" else "o", color=colour, ms=7, clip_on=False)
        ax.text(1.015, y, interval(row.score, ".3f"), va="center", fontsize=9, transform=ax.get_yaxis_transform())
    for place, label, colour in ((0, "idle", "#555555"), (1, "bound", BOUND)):
        ax.axvline(place, color=colour, lw=1.1, zorder=0)
        ax.annotate(label, (place, 1), (0, 3), xycoords=ax.get_xaxis_transform(), textcoords="offset points",
                    color=colour, ha="center", va="bottom", fontsize=9)  # fmt: skip
    ax.set_xlim(edge, 1.04)
    ax.set_xlabel("score: 0 = doing nothing, 1 = certified bound")
    _name_rows(ax, shown)
    return figure


def gap_figure(comparison: Comparison, rows: Sequence[Row]) -> Figure:
    """How each policy's gap to the bound spreads over the days; a logarithmic scale."""
    shown = [row for row in rows if row.name in comparison.played][::-1]
    figure, ax = _bars_axes(len(shown))
    for y, row in enumerate(shown):
        gaps = comparison.gap_usd(row.name)
        gaps = gaps[torch.isfinite(gaps)].clamp(min=GAP_FLOOR_USD).numpy()
        colour = _colour(row.kind)
        spread = np.random.default_rng(y).uniform(-0.22, 0.22, len(gaps))
        ax.plot(gaps, y + spread, "o", color=colour, ms=3, alpha=0.35, mew=0)
        low, middle, high = np.quantile(gaps, [0.25, 0.5, 0.75])
        ax.plot([low, high], [y, y], color=colour, lw=6, alpha=0.55, solid_capstyle="butt")
        ax.plot([middle, middle], [y - 0.3, y + 0.3], color="black", lw=1.6)
    ax.set_xscale("log")
    ax.set_xlabel("J above the certified bound, $/day (a dot is a day; bar: middle half, line: median)")
    _name_rows(ax, shown)
    return figure


def money_figure(rows: Sequence[Row]) -> Figure:
    """Where the money goes: the parts of J, stacked."""
    shown = [row for row in rows if row.parts_usd][::-1]
    figure, ax = _bars_axes(len(shown))
    for y, row in enumerate(shown):
        right, left = 0.0, 0.0
        for part in PARTS:
            value = row.parts_usd[part]
            start = right if value >= 0 else left
            ax.barh(y, value, 0.66, left=start, color=PART_COLOURS[part], label=part if y == 0 else None)
            right, left = (right + value, left) if value >= 0 else (right, left + value)
        ax.text(right, y, f"  {row.j_usd:.0f}", va="center", fontsize=9)
    bound = next((row for row in rows if row.kind == "bound"), None)
    if bound is not None:
        ax.axvline(bound.j_usd, color=BOUND, lw=1.2, label="certified bound")
    ax.margins(x=0.08)
    ax.set_xlabel("$/day")
    figure.legend(loc="outside upper center", ncols=6, fontsize=9, frameon=False)
    _name_rows(ax, shown)
    return figure


def days_figure(comparison: Comparison) -> Figure:
    """J of the first run, of doing nothing, and the bound, day by day; the gap below. Weeks stand side by side."""
    reference, run = comparison.reference, comparison.first_run
    assert reference is not None
    figure = Figure(figsize=(WIDTH_IN, 4.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [2.2, 1]})
    dates = comparison.dates
    starts = [0] + [i for i in range(1, len(dates)) if (dates[i] - dates[i - 1]).days > 1]
    starts = starts[:: max(1, len(starts) // MOST_TICKS)] if len(starts) > 1 else list(range(0, len(dates), 7))
    x = np.arange(len(dates)) + np.cumsum([i in starts[1:] for i in range(len(dates))])  # an empty place before a week
    series = (("idle", reference.idle_usd, OTHER), ("bound", reference.bound_usd, BOUND), (run.name, run.j_usd, RUN))
    for label, values, colour in series:
        y = values.numpy().astype(float)
        top.plot(np.insert(x, starts, x[starts]), np.insert(y, starts, np.nan), color=colour, lw=1.3, marker=".", ms=4,
                 label=label)  # fmt: skip
    bottom.bar(x, (run.j_usd - reference.bound_usd).numpy(), 0.9, color=RUN)
    top.set_ylabel("J, $/day")
    top.set_ylim(bottom=min(0.0, top.get_ylim()[0]))
    bottom.set_ylabel("gap, $/day")
    bottom.set_xticks(x[starts], [f"{dates[i]:%d %b}" for i in starts])
    figure.legend(*top.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    for ax in (top, bottom):
        _plain(ax)
        ax.grid(axis="y", alpha=0.3, lw=0.5)
    return figure


def _bars_axes(rows: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_IN, max(0.36 * rows + 1.2, 2.4)), layout="constrained")
    ax = figure.subplots()
    ax.set_ylim(-0.6, rows - 0.3)
    _plain(ax)
    ax.grid(axis="x", alpha=0.3, lw=0.5)
    return figure, ax


def _plain(ax: Axes) -> None:
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=9)


def _name_rows(ax: Axes, rows: Sequence[Row]) -> None:
    ax.set_yticks(range(len(rows)), [shortened(row.name, 34) for row in rows])
    for label, row in zip(ax.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row.kind in ("run", "group") else "normal")


def _colour(kind: str) -> str:
    return {"run": RUN, "group": RUN, "optimum": OPTIMUM}.get(kind, OTHER)
