"""Timing: warm-up, repetitions, median and spread.

Data flow: a stage's `work` -> `measured` -> `Rate` -> benchmark.py's table or JSON.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

WARM_UP_S = 1.0  # memory and clocks settle within this
Stage = Literal[
    "power-flow", "env", "rollout", "update", "train", "protocols", "scenarios", "particle", "sharing", "vmas"
]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every stage is told."""

    scenario: str
    num_envs: int
    repetitions: int
    device: str
    peer_python: str | None
    """Interpreter of an environment that has BenchMARL, or None."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """One measured rate."""

    stage: Stage
    what: str
    unit: str
    median: float
    lowest: float
    highest: float


def measured(settings: Settings, stage: Stage, what: str, unit: str, count: int, work: Callable[[], object]) -> Rate:
    """Rate of `work`, which does `count` units each time."""
    started = time.perf_counter()
    while time.perf_counter() - started < WARM_UP_S:
        work()
    rates = []
    for _ in range(settings.repetitions):
        synchronise(settings.device)
        started = time.perf_counter()
        work()
        synchronise(settings.device)
        rates.append(count / (time.perf_counter() - started))
    return spread(stage, what, unit, rates)


def side_by_side(
    settings: Settings, works: Mapping[str, Callable[[], object]], *, rounds: int
) -> dict[str, list[float]]:
    """Seconds of `rounds` calls of each work, one list a work and one entry a repetition.

    The works take turns, call by call, so that whatever else the machine does slows all of them: their ratios are
    steadier than their rates.
    """
    started = time.perf_counter()
    while time.perf_counter() - started < WARM_UP_S:
        for work in works.values():
            work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(settings.repetitions):
        for spent in seconds.values():
            spent.append(0.0)
        for _ in range(rounds):
            for name, work in works.items():
                synchronise(settings.device)
                started = time.perf_counter()
                work()
                synchronise(settings.device)
                seconds[name][-1] += time.perf_counter() - started
    return seconds


def spread(stage: Stage, what: str, unit: str, values: Sequence[float]) -> Rate:
    """Median and range of repetitions."""
    median = statistics.median(values)
    return Rate(stage=stage, what=what, unit=unit, median=median, lowest=min(values), highest=max(values))


def single(stage: Stage, what: str, unit: str, value: float) -> Rate:
    """A number that has no spread, such as a ratio of medians."""
    return Rate(stage=stage, what=what, unit=unit, median=value, lowest=value, highest=value)


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
