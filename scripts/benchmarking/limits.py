"""Limits of a point that grows: its time, and the memory that the next larger one will need.

Data flow: stage scale -> `time_limit` around a point, `needed_bytes` before the next.
"""

import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

LARGEST_SHARE = 0.5
"""Of the memory that is free, which a point may need."""
KIB = 1024


class PointTooSlow(Exception):  # noqa: N818 - not an error: the axis ends here
    """A point took longer than it may."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `PointTooSlow` between two operations once `seconds` are over; main thread of a POSIX system only."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise PointTooSlow(f"more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def peak_bytes(device: str) -> int:
    """Most memory that this process has had so far, on the device."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * KIB  # bytes there, KiB elsewhere


def free_bytes(device: str) -> int | None:
    """Memory that is free on the device; None where the system does not tell."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info()[0]
    info = Path("/proc/meminfo")
    if not info.is_file():
        return None
    lines = dict(line.split(":", 1) for line in info.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * KIB


def needed_bytes(growth: int, times: float, power: int) -> float:
    """Memory of a point that is `times` as large as one that took `growth`.

    Args:
        growth: of the smaller point, in bytes.
        times: larger over smaller.
        power: 1 where memory grows with the size, 2 where matrices may.
    """
    return growth * times**power


def fits(needed: float, free: int | None) -> bool:
    """Whether a point may be tried; where free memory is unknown, it may."""
    return free is None or needed <= LARGEST_SHARE * free
