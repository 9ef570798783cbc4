"""Timing: warm-up, repetitions, median and spread, ratios to the reference loop and to a stage's own reference.

Data flow: a stage's `work` -> `measured` -> `Rate` -> benchmark.py's table or JSON, and `stored.py`.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from benchmarking.device import synchronise
from benchmarking.reference_loop import LOOP_S, ReferenceLoop
from mappo import TrainConfig

WARM_UP_S = 1.0  # memory and clocks settle within this
LOOP = "reference loop"
Stage = Literal[
    "power-flow",
    "env",
    "rollout",
    "update",
    "train",
    "breakdown",
    "roofline",
    "scale",
    "peers",
    "protocols",
    "scenarios",
    "particle",
    "sharing",
    "vmas",
]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every stage is told."""

    scenario: str = "ieee34_ieee13"
    num_envs: int = 1024
    """Copies of power flow, env, protocols, scenarios and peers."""
    train_envs: int = 512
    """Copies of rollout, update and train."""
    repetitions: int = 5
    device: str = "cpu"
    warm_up_s: float = WARM_UP_S
    loop_s: float = LOOP_S
    """Seconds of the reference loop beside each repetition."""
    peer_python: str | None = None
    """Interpreter of an environment that has BenchMARL, or None."""
    rllib_python: str | None = None
    """Interpreter of an environment that has RLlib, or None."""
    point_s: float = 60.0
    """Longest time that a point of the stage scale may take."""
    plot: str | None = None
    """Folder for the pictures of the stages breakdown and scale, and the latter's JSON, or None."""
    small: bool = False
    """Two points an axis and a few iterations: to see that everything runs."""
    notes: list[str] = field(default_factory=list)
    """What a stage could not measure, and why; stages add to it."""
    loop: ReferenceLoop = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "loop", ReferenceLoop(self.device))

    def trained(self, config: TrainConfig) -> TrainConfig:
        """The settings of a training, with the least work an iteration if `small`."""
        if not self.small:
            return config
        return replace(
            config,
            num_epochs=1,
            num_minibatches=1,
            minibatch_size=None,
            hidden_dim=8,
            eval_episodes=1,
            tensorboard=False,
        )


@dataclass(frozen=True, kw_only=True)
class Rate:
    """One measured rate, or another figure of a stage."""

    stage: Stage
    what: str
    unit: str
    median: float
    lowest: float
    highest: float
    per_loop: float | None = None
    """Median over the repetitions of the rate over that of the reference loop beside it; None: not guarded."""
    ratio: float | None = None
    """To the stage's reference of the same run."""
    reference: str = ""
    """What `ratio` is to."""
    error_pu: float | None = None
    """Of power flows: largest |dV| against float64 to 1e-10 pu."""


def measured(
    settings: Settings,
    stage: Stage,
    what: str,
    unit: str,
    count: float,
    work: Callable[[], object],
    *,
    guarded: bool = True,
) -> Rate:
    """Rate of `work`, which does `count` units each time; the reference loop runs before and after each repetition.

    Args:
        settings: of the run.
        stage: that measures.
        what: name of the figure within the stage.
        unit: of the rate.
        count: units that one call of `work` does.
        work: warmed up, then called once a repetition.
        guarded: whether the ratio to the loop is taken, stored and compared; not so for other libraries.
    """
    warm_up(settings, work)
    if not guarded:
        return spread(stage, what, unit, [count / timed(settings, work) for _ in range(settings.repetitions)])
    rates, loop_rates, before = [], [], settings.loop.rate(settings.loop_s)
    for _ in range(settings.repetitions):
        rates.append(count / timed(settings, work))
        after = settings.loop.rate(settings.loop_s)
        loop_rates.append((before + after) / 2)
        before = after
    return spread(stage, what, unit, rates, loop_rates)


def warm_up(settings: Settings, work: Callable[[], object]) -> None:
    """Call `work` at least once, for at least the settings' time."""
    started = time.perf_counter()
    work()
    while time.perf_counter() - started < settings.warm_up_s:
        work()


def timed(settings: Settings, work: Callable[[], object]) -> float:
    """Seconds of one call, the device's work included."""
    synchronise(settings.device)
    started = time.perf_counter()
    work()
    synchronise(settings.device)
    return time.perf_counter() - started


def repeated(settings: Settings, work: Callable[[], object], seconds: float) -> tuple[Callable[[], None], int]:
    """`work` as often as takes so long, at least once; and how often that is: by the faster of two calls after one."""
    work()
    times = max(1, math.ceil(seconds / min(timed(settings, work) for _ in range(2))))
    return partial(repeat, work, times), times


def repeat(work: Callable[[], object], times: int) -> None:
    """Call `work` so often."""
    for _ in range(times):
        work()


def side_by_side(
    settings: Settings, works: Mapping[str, Callable[[], object]], *, rounds: int
) -> dict[str, list[float]]:
    """Seconds of `rounds` calls of each work and of the reference loop: a list each, one entry a repetition.

    The works take turns, call by call, so that whatever else the machine does slows all of them: their ratios are
    steadier than their rates.
    """
    turns = {**works, LOOP: settings.loop.once}
    started = time.perf_counter()
    for work in turns.values():
        work()
    while time.perf_counter() - started < settings.warm_up_s:
        for work in turns.values():
            work()
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(settings.repetitions):
        for spent in seconds.values():
            spent.append(0.0)
        for _ in range(rounds):
            for name, work in turns.items():
                seconds[name][-1] += timed(settings, work)
    return seconds


def spread(
    stage: Stage, what: str, unit: str, values: Sequence[float], loop_rates: Sequence[float] | None = None
) -> Rate:
    """Median and range of repetitions; with the loop's rates beside them, a figure that is guarded."""
    rate = Rate(
        stage=stage, what=what, unit=unit, median=statistics.median(values), lowest=min(values), highest=max(values)
    )
    if loop_rates is None:
        return rate
    per_loop = statistics.median(value / loop for value, loop in zip(values, loop_rates, strict=True))
    return replace(rate, per_loop=per_loop, ratio=per_loop, reference=LOOP)


def single(stage: Stage, what: str, unit: str, value: float) -> Rate:
    """A number that has no spread, such as an error or a ratio of medians."""
    return Rate(stage=stage, what=what, unit=unit, median=value, lowest=value, highest=value)


def relative_to(reference: Rate, rates: Sequence[Rate]) -> list[Rate]:
    """The rates with their ratio of medians to one of them, or to another of the same run."""
    return [replace(rate, ratio=rate.median / reference.median, reference=reference.what) for rate in rates]
