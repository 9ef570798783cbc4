"""What benchmark.py shows: the machine, the table of figures, and a table line per figure beside its stored value."""

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch
from rich import box
from rich.box import Box
from rich.table import Table

from benchmarking.rates import Rate
from benchmarking.stored import Comparison
from mappo.checkpoint import versions

PACKAGES = ("pandapower", "numpy", "numba", "lightsim2grid", "power-grid-model", "vmas")
"""Whose versions belong to the figures, where they are installed."""


def machine() -> dict[str, str]:
    """Processor, threads, versions and commit."""
    found = versions()
    system = {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "threads": f"{torch.get_num_threads()} torch threads",
        "python": f"python {platform.python_version()}",
        "torch": f"torch {found['torch']}",
    }
    if torch.cuda.is_available():
        system["gpu"] = torch.cuda.get_device_name()
    installed = {name: version for name in PACKAGES if (version := _version(name)) is not None}
    return (
        system | {name: f"{name} {version}" for name, version in installed.items()} | {"commit": found["commit"][:12]}
    )


def figures_table(rates: Sequence[Rate], title: str, style: Box = box.HEAVY_HEAD) -> Table:
    """One line a figure."""
    table = Table(
        "stage", "what", "median", "lowest", "highest", "unit", "largest dV, pu", "ratio", "to", title=title, box=style
    )
    for rate in rates:
        values = [number(value) for value in (rate.median, rate.lowest, rate.highest)]
        error, ratio = ("" if value is None else number(value) for value in (rate.error_pu, rate.ratio))
        table.add_row(rate.stage, rate.what, *values, rate.unit, error, ratio, rate.reference)
    return table


def comparison_table(comparisons: Sequence[Comparison], tolerance: float, path: Path) -> Table:
    """One line a figure, in multiples of the reference loop."""
    title = f"multiples of the reference loop beside {path}; regressed: below {tolerance} of the stored ratio"
    table = Table("figure", "stored", "now", "now / stored", "verdict", title=title)
    for item in comparisons:
        cells = ["" if value is None else number(value) for value in (item.stored, item.now, item.share)]
        table.add_row(item.figure, *cells, item.verdict)
    return table


def number(value: float) -> str:
    """Readable at any size."""
    if value != 0 and abs(value) < 0.01:
        return format(value, ".1e")
    return format(value, ",.2f" if abs(value) < 100 else ",.0f")


def _processor() -> str:
    """The processor's name, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
