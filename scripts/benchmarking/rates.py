"""Timing: warm-up, repetitions, median and spread.

Data flow: a stage's `work` -> `measured` -> `Rate` -> benchmark.py's table or JSON.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

WARM_UP_S = 1.0  # memory and clocks settle within this
Stage = Literal["power-flow", "env", "rollout", "update", "train", "particle", "sharing", "vmas"]


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
    median = statistics.median(rates)
    return Rate(stage=stage, what=what, unit=unit, median=median, lowest=min(rates), highest=max(rates))


def single(stage: Stage, what: str, unit: str, value: float) -> Rate:
    """A number that has no spread, such as a ratio of medians."""
    return Rate(stage=stage, what=what, unit=unit, median=value, lowest=value, highest=value)


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
