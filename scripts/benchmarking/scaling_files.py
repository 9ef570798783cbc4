"""One axis of the stage scale as scaling-<axis>.json and scaling-<axis>.png."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from benchmarking.rates import Rate
from benchmarking.report import machine

INK, GREY = "#1f4e79", "#888888"


class Point(NamedTuple):
    """One measured point of an axis."""

    x: int
    rate: Rate


def write_axis(folder: str | None, axis: str, what: str, points: Sequence[Point], stopped: str) -> None:
    """Write both files; nothing without a folder.

    Args:
        folder: of `--plot`; made if it does not exist.
        axis: what grows.
        what: is measured.
        points: from small to large; without any, only the JSON is written, which says why.
        stopped: why there are no more, or nothing.
    """
    if folder is None:
        return
    place = Path(folder)
    place.mkdir(exist_ok=True)
    rows = [{"x": x} | asdict(rate) for x, rate in points]
    content = {"axis": axis, "what": what, "machine": machine(), "points": rows, "stopped": stopped}
    (place / f"scaling-{axis}.json").write_text(json.dumps(content, indent=2) + "\n")
    if points:
        axis_figure(axis, what, points).savefig(place / f"scaling-{axis}.png", dpi=120)


def axis_figure(axis: str, what: str, points: Sequence[Point]) -> Figure:
    """Median and range against size, both logarithmic; grey: in proportion, or inversely where the rate falls."""
    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    plot = figure.subplots()
    sizes, medians = [x for x, _ in points], [rate.median for _, rate in points]
    below = [rate.median - rate.lowest for _, rate in points]
    above = [rate.highest - rate.median for _, rate in points]
    plot.errorbar(sizes, medians, [below, above], color=INK, marker="o", markersize=4, capsize=3)
    power = 1 if medians[-1] > medians[0] else -1
    start = points[0] if power == 1 else points[-1]
    ideal = [start.rate.median * (x / start.x) ** power for x in sizes]
    plot.plot(sizes, ideal, "--", color=GREY, label="in proportion" if power == 1 else "linear cost")
    plot.set(xscale="log", yscale="log", xlabel=axis, ylabel=points[0].rate.unit, title=what)
    plot.set_ylim(min(medians) / 2, max(medians) * 2)
    plot.grid(visible=True, alpha=0.3)
    plot.legend(frameon=False)
    return figure
