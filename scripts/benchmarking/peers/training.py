"""Training beside RLlib: ours batched, ours on the PettingZoo view that RLlib trains on, and RLlib itself."""

import csv
import functools
import os
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import envs
from benchmarking.rates import Rate, Settings, measured, relative_to, spread
from mappo import PRESETS, TrainConfig, Trainer

PEER = Path(__file__).with_name("rllib_peer.py")
ROOT = Path(__file__).parents[3]
PROCESSES = 2  # that step envs
COPIES = 50
STEPS = 24  # an episode
ITERATIONS = 4  # of RLlib's, the first of which warms up


def rllib_rates(settings: Settings) -> list[Rate]:
    """Env steps a second of sampling and update together; an env step is one step of one copy, all its agents."""
    sizes = (2, 0) if settings.small else (COPIES, PROCESSES)
    rates = [_ours_batched(settings), _ours_on_pettingzoo(settings, *sizes)]
    if settings.rllib_python is None:
        missing = 'an environment with "ray[rllib]" and this project\'s dependencies (docs/performance.md)'
        settings.notes.append(f"peers: RLlib is not measured; make {missing} and give its python as --rllib-python")
        return rates
    reference = _rllib(settings, *sizes)
    return [*relative_to(reference, rates), reference]


def _ours_batched(settings: Settings) -> Rate:
    copies = envs.make(settings.scenario, num_envs=settings.train_envs, device=settings.device, seed=1)
    return _iterations(
        settings, Trainer(copies, settings.trained(TrainConfig())), f"ours, {settings.train_envs} copies batched"
    )


def _ours_on_pettingzoo(settings: Settings, copies: int, processes: int) -> Rate:
    with tempfile.TemporaryDirectory() as folder:
        preset = settings.trained(PRESETS["microgrid"])
        config = replace(preset, num_envs=copies, num_workers=processes, num_steps=STEPS, runs_dir=folder)
        trainer = Trainer(functools.partial(envs.parallel_env, settings.scenario, share_reward=True), config)
        try:
            what = f"ours, {copies} PettingZoo envs" + (f", {processes} processes" if processes else "")
            return _iterations(settings, trainer, what)
        finally:
            trainer.close()


def _iterations(settings: Settings, trainer: Trainer, what: str) -> Rate:
    trainer.rollout.start()

    def iterate() -> None:
        trainer.rollout.collect(trainer.buffer, trainer.generator)
        trainer.learn()

    steps = trainer.env.num_envs * len(trainer.buffer.actions)
    return measured(settings, "peers", f"training, {what}", "env steps/s", steps, iterate, guarded=False)


def _rllib(settings: Settings, copies: int, processes: int) -> Rate:
    """The same batch, epochs, minibatches and layer sizes as ours on PettingZoo; its first iteration warms up."""
    config = settings.trained(PRESETS["microgrid"])
    flags = {"--iterations": 2 if settings.small else ITERATIONS, "--batch": copies * STEPS, "--runners": processes}
    flags |= {"--epochs": config.num_epochs, "--hidden": config.hidden_dim}
    flags |= {"--minibatches": replace(config, num_steps=STEPS).minibatch_count(copies)}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rllib.csv"
        words = [word for flag, value in flags.items() for word in (flag, str(value))]
        command = [str(settings.rllib_python), str(PEER), "--scenario", settings.scenario, *words, "--out", str(out)]
        place = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": place}
        )
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise ValueError(
                f"--rllib-python {settings.rllib_python} could not run RLlib: {last[0]}; see docs/performance.md"
            )
        with out.open(newline="") as file:
            rates = [float(row["env_steps"]) / float(row["seconds"]) for row in csv.DictReader(file)][1:]
    return spread("peers", f"training, RLlib PPO, the same envs, {processes} processes", "env steps/s", rates)
