"""The stage breakdown: where the time of a training goes, part by part, and as a picture.

Data flow: a trainer whose parts report to a `Stopwatch` -> seconds of each part without those inside it -> rates in
us an env step, and breakdown.png in `--plot`.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import envs
import mappo.trainer
from benchmarking.rates import Rate, Settings, single
from mappo import TrainConfig, Trainer
from mappo.closed_form import ClosedFormUpdater

ITERATIONS = 20
INK = "#1f4e79"


class Stopwatch:
    """Seconds spent in named parts; what runs within another part counts there only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    def watch(self, owner: Any, method: str, part: str) -> None:
        """Count every call of `owner.method` as `part`."""
        call = getattr(owner, method)

        def watched(*arguments: Any, **options: Any) -> Any:
            self._switch()
            self._running.append(part)
            try:
                return call(*arguments, **options)
            finally:
                self._switch()
                self._running.pop()

        setattr(owner, method, watched)

    def run(self, call: Callable[[], object], part: str) -> None:
        """Call, counting what no other part takes as `part`."""
        self._running, self._since = [part], time.perf_counter()
        call()
        self._switch()

    def _switch(self) -> None:
        now = time.perf_counter()
        self.seconds[self._running[-1]] += now - self._since
        self._since = now


def breakdown(settings: Settings) -> list[Rate]:
    """A training of 20 iterations with its evaluations, checkpoints and logs, at the default settings."""
    iterations = 1 if settings.small else ITERATIONS
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(settings, iterations, folder)
        trainer.rollout.start()
        trainer.rollout.collect(trainer.buffer, trainer.generator)  # warm-up
        watch = Stopwatch()
        _watch_all(watch, trainer)
        make_batch = mappo.trainer.make_batch
        watch.watch(mappo.trainer, "make_batch", "update: values, advantages")
        try:
            watch.run(trainer.train, "logs, checkpoints, the rest")
        finally:
            mappo.trainer.make_batch = make_batch
    steps = trainer.env_steps
    parts = {name: 1e6 * seconds / steps for name, seconds in sorted(watch.seconds.items(), key=lambda part: -part[1])}
    if settings.plot is not None:
        Path(settings.plot).mkdir(exist_ok=True)
        picture(parts).savefig(Path(settings.plot) / "breakdown.png", dpi=120)
    total = sum(parts.values())
    rates = [single("breakdown", name, "us / env step", value) for name, value in parts.items()]
    return [*rates, single("breakdown", "all", "us / env step", total)]


def _trainer(settings: Settings, iterations: int, folder: str) -> Trainer:
    keywords: dict[str, Any] = {"scenario": settings.scenario, "device": settings.device}
    few: dict[str, Any] = {"num_envs": 2} if settings.small else {}
    env = envs.make(**keywords, num_envs=settings.train_envs, group_size=1 if settings.small else 8, seed=42)
    val = envs.make(**keywords, **few, split="val", evaluation=True)
    return Trainer(env, settings.trained(TrainConfig(iterations=iterations, runs_dir=folder)), val)


def _watch_all(watch: Stopwatch, trainer: Trainer) -> None:
    """Name the parts; private ones of env and update are looked into, as a profiler would."""
    env: Any = trainer.env
    updater: Any = trainer.updater
    watch.watch(trainer, "_evaluate", "evaluation")
    watch.watch(trainer.rollout, "collect", "rollout: buffer, normalisers, metrics")
    watch.watch(env, "step", "env: devices, rewards, the rest")
    watch.watch(env._grid._settler, "settle", "env: power flow and taps")
    watch.watch(env._grid, "_measure", "env: currents, loadings")
    watch.watch(env._settler, "bill", "env: tariff")
    watch.watch(env, "_observe", "env: observations")
    watch.watch(env, "_load_day", "env: a new day")
    watch.watch(trainer.policy.actor, "forward", "rollout: policy")
    watch.watch(trainer, "learn", "update: the rest")
    if isinstance(updater, ClosedFormUpdater):
        watch.watch(updater, "_run", "update: shuffling, metrics")
    watch.watch(updater, "_actor_gradient", "update: actor's gradient")
    watch.watch(updater, "_critic_gradient", "update: critic's gradient")
    watch.watch(updater, "apply_gradients", "update: clipping, Adam")


def picture(parts: dict[str, float]) -> Figure:
    """Bars of us an env step, the largest on top."""
    total = sum(parts.values())
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    plot = figure.subplots()
    names = list(parts)[::-1]
    bars = plot.barh(names, [parts[name] for name in names], color=INK)
    plot.bar_label(bars, [f"{parts[name]:.1f} us, {100 * parts[name] / total:.0f} %" for name in names], padding=3)
    plot.set(xlabel="us / env step", title=f"A training: {total:.1f} us an env step, {1e6 / total:,.0f} env steps/s")
    plot.set_xlim(0, 1.3 * max(parts.values()))
    plot.spines[["top", "right"]].set_visible(False)
    return figure
