"""Stages of the microgrid: env, rollout, update, training end to end."""

import tempfile
from typing import Any

import torch
from environments.microgrid import training_copies

import envs
from benchmarking.rates import Rate, Settings, measured
from mappo import TrainConfig, Trainer


def env(settings: Settings) -> list[Rate]:
    """Env steps with regulators and observations: in this process, and in as many workers as torch has threads."""
    threads = torch.get_num_threads()
    apart = settings.device == "cpu" and threads > 1 and settings.num_envs % threads == 0
    keywords: dict[str, Any] = {"scenario": settings.scenario, "device": settings.device, "seed": 1}
    rates: list[Rate] = []
    for workers in (0, threads) if apart else (0,):
        copies = training_copies(workers, num_envs=settings.num_envs, **keywords)
        rates += _steps(settings, copies, f", {workers} workers" if workers else "")
        copies.close()
    return rates


def _steps(settings: Settings, copies: Any, where: str) -> list[Rate]:
    """A day of uniform random actions, and one of actions close to idle."""
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
    trainer = _trainer(settings)
    buffer, generator = trainer.buffer, trainer.generator
    steps = trainer.env.num_envs * len(buffer.actions)

    def collect() -> None:
        trainer.rollout.collect(buffer, generator)

    return [measured(settings, "rollout", "policy and env", "env steps/s", steps, collect)]


def update(settings: Settings) -> list[Rate]:
    """All epochs over one buffer, advantages included."""
    trainer = _trainer(settings)
    trainer.rollout.collect(trainer.buffer, trainer.generator)
    steps = trainer.env.num_envs * len(trainer.buffer.actions)
    return [measured(settings, "update", "advantages and all epochs", "env steps/s", steps, trainer.learn)]


def train(settings: Settings) -> list[Rate]:
    """End to end, with evaluation, checkpoints and TensorBoard: 10 iterations of the default command."""
    iterations = 1 if settings.small else 10
    with tempfile.TemporaryDirectory() as folder:
        config = settings.trained(TrainConfig(iterations=iterations, runs_dir=folder))

        def run() -> None:
            keywords: dict[str, Any] = {"scenario": settings.scenario, "device": settings.device}
            copies = envs.make(**keywords, num_envs=settings.train_envs, seed=42)
            few: dict[str, Any] = {"num_envs": 2} if settings.small else {}
            eval_env = envs.make(**keywords, **few, split="val", evaluation=True)
            Trainer(copies, config, eval_env).train()

        steps = iterations * 24 * settings.train_envs
        return [measured(settings, "train", f"end to end, {iterations} iterations", "env steps/s", steps, run)]


def _trainer(settings: Settings) -> Trainer:
    copies = envs.make(settings.scenario, num_envs=settings.train_envs, device=settings.device, seed=42)
    trainer = Trainer(copies, settings.trained(TrainConfig()))
    trainer.rollout.start()
    return trainer
