"""One-line diagrams: `python -m envs.plot <scenario> [--out FILE]` draws a scenario's network as a PNG.

Data flow: `Scenario` -> `Network` -> `layout` (`diagram.py`) -> matplotlib. The feeder runs from left to right with its
laterals above and below; every microgrid hangs from its feeder bus in its own colour.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from envs.composition import DEVICE_KINDS, build_network, capacitor_buses
from envs.diagram import Layout, layout
from envs.figures import COLOURS, LABELS, area_colour
from envs.power.network import Network
from envs.scenario import Scenario, load_scenario

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHAPES = {"battery": "s", "generator": "o", "pv": "^", "wind": "v"}
REGULATOR, TRANSFORMER, CAPACITOR, OFF = "#cc3311", "#333333", "#009988", "#bbbbbb"
COLUMN_IN, ROW_IN = 0.36, 0.36
HALO = {"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.8}  # behind names, where lines rise
DEVICE_GAP = 0.26  # columns between the symbols of devices at one bus


def one_line_diagram(scenario: Scenario) -> "Figure":
    """The scenario's network as a figure: buses, lines, transformers, regulators, capacitors, devices, the slack bus.

    Raises:
        ValueError: as `build_network`.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - heavy, and only pictures need it

    net = build_network(scenario)
    place = layout(net, scenario.feeder.name)
    colours = {name: area_colour(i) for i, name in enumerate((scenario.feeder.name, *scenario.microgrids))}
    left, right, bottom, top = place.box
    size = max(9.0, COLUMN_IN * (right - left + 4)), ROW_IN * (top - bottom + 5)
    figure = Figure(figsize=size, layout="constrained")
    ax = figure.subplots()
    _draw_branches(ax, net, place, colours)
    _draw_capacitors(ax, scenario, net, place)
    _draw_buses(ax, scenario, net, place, colours)
    _draw_devices(ax, scenario, net, place)
    for name, (x, y) in place.titles.items():
        ax.text(x - 0.3, y, name, color=colours[name], fontsize=9, fontweight="bold", va="center")
    ax.set_title(f"{scenario.name}: {scenario.description}", fontsize=10, loc="left")
    figure.legend(handles=_legend(), loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    spare = size[0] / COLUMN_IN - (right - left + 4)  # of a small network, whose title and legend are wider
    ax.set_xlim(left - 2.2 - spare / 2, right + 1.8 + spare / 2)
    ax.set_ylim(bottom - 0.9, top + 0.9)
    ax.set_axis_off()
    return figure


def _draw_branches(ax: "Axes", net: Network, place: Layout, colours: dict[str, str]) -> None:
    """Each branch leaves its parent vertically and reaches its bus horizontally; a transformer sits before the bus."""
    regulated = {regulator.bus for regulator in net.regulators}
    for j in range(1, net.num_buses):
        (x0, y0), (x1, y1) = place.xy[int(net.parent[j])], place.xy[j]
        colour = colours[net.areas[j]]
        ax.plot([x0, x0, x1], [y0, y1, y1], color=colour, lw=1.3, zorder=1, solid_joinstyle="round")
        if not net.is_trafo[j]:
            continue
        symbol = REGULATOR if j in regulated else TRANSFORMER
        for offset in (-0.09, 0.09):
            ax.plot(x1 - 0.5 + offset, y1, "o", ms=7, mfc="none", mec=symbol, mew=1.2, zorder=3)
        if j in regulated:
            arrow = {"arrowstyle": "-|>", "color": symbol, "lw": 1.0, "mutation_scale": 6, "shrinkA": 0, "shrinkB": 0}
            ax.annotate("", (x1 - 0.27, y1 + 0.27), (x1 - 0.76, y1 - 0.3), arrowprops=arrow, zorder=8)


def _draw_buses(ax: "Axes", scenario: Scenario, net: Network, place: Layout, colours: dict[str, str]) -> None:
    """Dots, filled where a load stands, with the bus's own name; the slack bus as a bar over all its branches."""
    regulated = {regulator.bus for regulator in net.regulators}
    for j in range(1, net.num_buses):
        (x, y), colour = place.xy[j], colours[net.areas[j]]
        ax.plot(x, y, "o", ms=4.5, mec=colour, mfc=colour if net.load_p_mw[j] else "white", mew=1.1, zorder=5)
        text = str(net.bus_index[j]).rpartition(".")[2]
        left, side = (0.14, "left") if j in regulated else (0.0, "center")  # the tap changer's arrow ends left of it
        ax.text(x - left, y + 0.22, text, fontsize=6, ha=side, va="bottom", zorder=6, bbox=HALO)
    x, y = place.xy[0]
    rows = [place.xy[j][1] for j in range(1, net.num_buses) if net.parent[j] == 0] + [y]
    ax.plot([x, x], [min(rows) - 0.4, max(rows) + 0.4], color="black", lw=4, zorder=5, solid_capstyle="butt")
    text = f"{net.bus_index[0]}\n{scenario.feeder.slack_v_pu:g} pu\n{float(net.base_kv[0]):g} kV"
    ax.text(x - 0.3, y, text, fontsize=7, ha="right", va="center")


def _draw_capacitors(ax: "Axes", scenario: Scenario, net: Network, place: Layout) -> None:
    """Two plates below the bus, grey where the bank is off; aside of a branch that goes down there."""
    falls = {int(net.parent[j]) for j in range(1, net.num_buses) if place.xy[j][1] < place.xy[int(net.parent[j])][1]}
    for bus, is_on in capacitor_buses(scenario, net):
        (x, y), colour = place.xy[bus], CAPACITOR if is_on else OFF
        middle = x - 0.28 if bus in falls else x
        ax.plot([x, middle, middle], [y, y - 0.28, y - 0.36], color=colour, lw=1.2, zorder=2)
        for plate in (0.36, 0.46):
            ax.plot([middle - 0.18, middle + 0.18], [y - plate, y - plate], color=colour, lw=1.6, zorder=2)


def _draw_devices(ax: "Axes", scenario: Scenario, net: Network, place: Layout) -> None:
    """Symbols below right of each device's bus; devices of 0 MW are left out."""
    count: dict[int, int] = {}
    for name, grid in scenario.microgrids.items():
        for kind in DEVICE_KINDS:
            device = getattr(grid, kind)
            if not device.p_max_mw:
                continue
            bus = net.position(f"{name}.{device.bus}")
            x, y = place.xy[bus]
            offset = 0.32 + DEVICE_GAP * count.get(bus, 0)
            count[bus] = count.get(bus, 0) + 1
            ax.plot(x + offset, y - 0.3, SHAPES[kind], ms=6, mfc=COLOURS[kind], mec="black", mew=0.5, zorder=7)


def _legend() -> "list[Artist]":
    from matplotlib.lines import Line2D  # noqa: PLC0415 - heavy, and only pictures need it

    def entry(label: str, marker: str, face: str, edge: str) -> Line2D:
        return Line2D([], [], ls="none", marker=marker, mfc=face, mec=edge, label=label, ms=6)

    bus = area_colour(0)
    return [
        entry("bus with load", "o", bus, bus),
        entry("bus without", "o", "white", bus),
        entry("transformer", "$\\infty$", TRANSFORMER, TRANSFORMER),
        entry("tap changer", "o", "none", REGULATOR),
        entry("capacitor (grey: off)", "$=$", CAPACITOR, CAPACITOR),
        *(entry(LABELS[kind], SHAPES[kind], COLOURS[kind], "black") for kind in DEVICE_KINDS),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Draw one scenario; raises ValueError for an unknown or invalid one."""
    parser = argparse.ArgumentParser(prog="python -m envs.plot", description="One-line diagram of a scenario as a PNG.")
    parser.add_argument("scenario", help="name of a packaged scenario or path of a YAML file")
    parser.add_argument("--out", type=Path, help="file to write; default <name>.png in the working folder")
    parser.add_argument("--copies", type=int, help="feeder.copies, as for substation")
    args = parser.parse_args(argv)
    overrides = {} if args.copies is None else {"feeder": {"copies": args.copies}}
    scenario = load_scenario(args.scenario, overrides)
    out = args.out or Path(f"{scenario.name}.png")
    one_line_diagram(scenario).savefig(out, dpi=130)
    sys.stdout.write(f"wrote {out}\n")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
