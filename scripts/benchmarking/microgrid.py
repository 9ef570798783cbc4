"""Stages of the microgrid: env, rollout, update, training end to end; copies in worker processes as a training's."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from environments.microgrid import training_copies

import envs
from benchmarking.rates import Rate, Settings, measured
from mappo import TrainConfig, Trainer, VecEnv
from mappo.adapters.split import default_workers


def workers_of_a_training(settings: Settings, num_envs: int) -> int:
    """As many as `scripts/train.py` starts unless told otherwise."""
    return default_workers(num_envs) if settings.device == "cpu" else 0


def in_workers(workers: int) -> str:
    """How a figure's name tells them."""
    return f", {workers} workers" if workers else ""


def train_copies(settings: Settings, workers: int, seed: int) -> VecEnv:
    """The copies of a training."""
    keywords: dict[str, Any] = {"scenario": settings.scenario, "device": settings.device}
    return training_copies(workers, num_envs=settings.train_envs, seed=seed, **keywords)


def env(settings: Settings) -> list[Rate]:
    """Env steps with regulators and observations: uniform random actions, and close to idle; here and in workers."""
    rates: list[Rate] = []
    for workers in dict.fromkeys((0, workers_of_a_training(settings, settings.num_envs))):
        keywords: dict[str, Any] = {"scenario": settings.scenario, "device": settings.device, "seed": 1}
        copies = training_copies(workers, num_envs=settings.num_envs, **keywords)
        rates += _steps(settings, copies, in_workers(workers))
        copies.close()
    return rates


def _steps(settings: Settings, copies: Any, where: str) -> list[Rate]:
    """A day of random actions, and one of actions close to idle."""
    copies.reset()
    generator = torch.Generator().manual_seed(0)
    idle = copies.idle_action().cpu()
    random = [2 * torch.rand(settings.num_envs, *idle.shape, generator=generator) - 1 for _ in range(24)]
    near_idle = [idle + 0.1 * action for action in random]

    def play(actions: list[torch.Tensor]) -> None:
        for action in actions:
            copies.step(action.to(copies.device))

    steps = 24 * settings.num_envs
    return [
        measured(settings, "env", f"random actions{where}", "env steps/s", steps, lambda: play(random)),
        measured(settings, "env", f"near idle{where}", "env steps/s", steps, lambda: play(near_idle)),
    ]


def rollout(settings: Settings) -> list[Rate]:
    """Policy and env: filling one buffer."""
    with _trainer(settings) as trainer:
        buffer, generator = trainer.buffer, trainer.generator
        steps = trainer.env.num_envs * len(buffer.actions)

        def collect() -> None:
            trainer.rollout.collect(buffer, generator)

        what = f"policy and env{in_workers(workers_of_a_training(settings, settings.train_envs))}"
        return [measured(settings, "rollout", what, "env steps/s", steps, collect)]


def update(settings: Settings) -> list[Rate]:
    """All epochs over one buffer, advantages included."""
    with _trainer(settings) as trainer:
        trainer.rollout.collect(trainer.buffer, trainer.generator)
        steps = trainer.env.num_envs * len(trainer.buffer.actions)
        return [measured(settings, "update", "advantages and all epochs", "env steps/s", steps, trainer.learn)]


def train(settings: Settings) -> list[Rate]:
    """End to end, with evaluation, checkpoints and TensorBoard: 10 iterations of the default command."""
    iterations = 1 if settings.small else 10
    workers = workers_of_a_training(settings, settings.train_envs)
    with tempfile.TemporaryDirectory() as folder:
        config = settings.trained(TrainConfig(iterations=iterations, runs_dir=folder))

        def run() -> None:
            few: dict[str, Any] = {"num_envs": 2} if settings.small else {}
            keywords: dict[str, Any] = {"scenario": settings.scenario, "device": settings.device}
            eval_env = envs.make(**keywords, **few, split="val", evaluation=True)
            trainer = Trainer(train_copies(settings, workers, 42), config, eval_env)
            trainer.train()
            trainer.close()

        steps, what = iterations * 24 * settings.train_envs, f"end to end, {iterations} iterations{in_workers(workers)}"
        return [measured(settings, "train", what, "env steps/s", steps, run)]


@contextmanager
def _trainer(settings: Settings) -> Iterator[Trainer]:
    workers = workers_of_a_training(settings, settings.train_envs)
    trainer = Trainer(train_copies(settings, workers, 42), settings.trained(TrainConfig()))
    try:
        trainer.rollout.start()
        yield trainer
    finally:
        trainer.close()
