"""The stage scale: env steps a second against copies, buses, agents and ranks.

Data flow: `Axis` -> points, each within its limits of time and memory -> rates, and JSON and PNG in `--plot`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import envs
from benchmarking.limits import PointTooSlow, fits, free_bytes, needed_bytes, peak_bytes, time_limit
from benchmarking.ranks import ranks_axis
from benchmarking.rates import Rate, Settings, measured, relative_to, repeated
from benchmarking.scaling_files import Point, write_axis
from benchmarking.variants import random_steps
from mappo import TrainConfig, Trainer

AxisName = Literal["envs", "buses", "agents"]
COPIES = tuple(2**k for k in range(14))  # 1 .. 8192
FEEDERS = (1, 2, 5, 10, 20, 50, 101)  # of the scenario substation: 72 .. 7,172 buses
AGENT_FEEDERS = (1, 2, 5, 10, 20, 50, 100)  # 3 .. 300 agents
BUSES_ENVS = 64  # copies of the axis buses
AGENTS_ENVS = 16  # copies of the axis agents
REPETITION_S = 0.3
"""Least time of a repetition: calls are added up to it."""


class Work(NamedTuple):
    """One call at one point."""

    x: int
    """Where on the axis the point is."""
    what: str
    """Name of the figure."""
    env_steps: int
    call: Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What grows, and what is measured against it."""

    name: AxisName
    what: str
    sizes: tuple[int, ...]
    of: str
    """What `sizes` count."""
    memory_power: int
    """As `needed_bytes`: 1, or 2 where matrices may grow with the square."""
    build: Callable[[Settings, int], Work]


def scale(settings: Settings) -> list[Rate]:
    """Each axis from small to large; the first point is its reference."""
    rates = []
    for axis in AXES:
        points, stopped = _points(settings, axis)
        rates += with_ratios(points)
        if stopped:
            settings.notes.append(f"scale: {axis.name}: {stopped}")
        write_axis(settings.plot, axis.name, axis.what, points, stopped)
    points, stopped = ranks_axis(settings)
    rates += with_ratios(points)
    if stopped:
        settings.notes.append(f"scale: ranks: {stopped}")
    write_axis(settings.plot, "ranks", "training end to end, one thread a rank", points, stopped)
    return rates


def with_ratios(points: list[Point]) -> list[Rate]:
    """The rates of an axis, each with its ratio to the first."""
    return relative_to(points[0].rate, [rate for _, rate in points]) if points else []


def _points(settings: Settings, axis: Axis) -> tuple[list[Point], str]:
    """The points that could be measured, and why the others could not."""
    sizes = axis.sizes[:2] if settings.small else axis.sizes
    points: list[Point] = []
    base, previous = peak_bytes(settings.device), sizes[0]
    for size in sizes:
        growth = peak_bytes(settings.device) - base
        needed, free = needed_bytes(growth, size / previous, axis.memory_power), free_bytes(settings.device)
        if not fits(needed, free):
            gib = needed / 2**30
            return (
                points,
                f"stopped before {size:,} {axis.of}: it may need {gib:.1f} GiB, more than half of what is free",
            )
        try:
            with time_limit(settings.point_s):
                points.append(_point(settings, axis, size))
        except PointTooSlow as reason:
            return points, f"stopped at {size:,} {axis.of}: {reason}; --point-seconds allows more"
        previous = size
    return points, ""


def _point(settings: Settings, axis: Axis, size: int) -> Point:
    work = axis.build(settings, size)
    calls, times = repeated(settings, work.call, 0.0 if settings.small else REPETITION_S)
    rate = measured(settings, "scale", work.what, "env steps/s", times * work.env_steps, calls, guarded=False)
    return Point(work.x, rate)


def _copies(settings: Settings, size: int) -> Work:
    return Work(size, f"env, {size:,} copies", size, random_steps(settings, settings.scenario, num_envs=size))


def _buses(settings: Settings, feeders: int) -> Work:
    copies = 2 if settings.small else BUSES_ENVS
    step = random_steps(settings, "substation", num_envs=copies, feeder={"copies": feeders})
    buses = envs.make("substation", feeder={"copies": feeders}).network.num_buses
    return Work(buses, f"env, {copies} copies, {buses:,} buses", copies, step)


def _agents(settings: Settings, feeders: int) -> Work:
    copies = 2 if settings.small else AGENTS_ENVS
    env = envs.make("substation", num_envs=copies, device=settings.device, seed=1, feeder={"copies": feeders})
    trainer = Trainer(env, settings.trained(TrainConfig()))
    trainer.rollout.start()

    def iterate() -> None:
        trainer.rollout.collect(trainer.buffer, trainer.generator)
        trainer.learn()

    what = f"rollout and update, {copies} copies, {len(env.agents)} agents"
    return Work(len(env.agents), what, copies * len(trainer.buffer.actions), iterate)


AXES = (
    Axis(name="envs", what="env, random actions", sizes=COPIES, of="copies", memory_power=1, build=_copies),
    Axis(
        name="buses",
        what=f"env, random actions, {BUSES_ENVS} copies",
        sizes=FEEDERS,
        of="feeders",
        memory_power=2,
        build=_buses,
    ),
    Axis(
        name="agents",
        what=f"rollout and update, {AGENTS_ENVS} copies",
        sizes=AGENT_FEEDERS,
        of="feeders",
        memory_power=2,
        build=_agents,
    ),
)
