"""What a Trainer is made of: its arguments checked, its envs made, the config split into what each part needs.

Data flow: env or factory, TrainConfig -> parts -> Trainer.
"""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any, TypeGuard

import gymnasium
import torch
from pettingzoo import AECEnv, ParallelEnv

from mappo.adapters.parallel_layout import check_parallel
from mappo.adapters.pettingzoo import PettingZooVecEnv
from mappo.buffer import RolloutBuffer
from mappo.closed_form import ClosedFormUpdater
from mappo.config import TrainConfig
from mappo.distributed import Ranks
from mappo.happo import HappoUpdater
from mappo.logger import Row
from mappo.memory import NetSizes, Widths, available_bytes, check_memory, training_bytes
from mappo.networks import Critic, input_width
from mappo.normalization import RunningMeanStd
from mappo.policy import Policy
from mappo.presets import PRESETS
from mappo.spaces import EnvSpec, check_vec_env
from mappo.targets import TargetSettings
from mappo.update import Updater, UpdateSettings
from mappo.vec_env import VecEnv, checked_device

DEFAULT_NUM_ENVS = 32
TOO_LARGE = 1e15  # the square of a larger number leaves float32
HELD_OUT = 1_000_003  # added to the seed for episodes that no training plays
Factory = Callable[[], Any]
"""Makes one new PettingZoo ParallelEnv."""


def checked_config(config: TrainConfig | None, env: VecEnv | Factory) -> TrainConfig:
    """The settings, with a checkpoint folder that stays the same wherever a resume is started."""
    if config is None:
        return PRESETS["default"] if is_factory(env) else TrainConfig()
    if not isinstance(config, TrainConfig):
        raise ValueError(f"config must be a TrainConfig, got {type(config).__name__}; try TrainConfig(**settings)")
    folder = config.checkpoint_dir
    return replace(config, checkpoint_dir=str(Path(folder).resolve())) if folder else config


def is_factory(env: object) -> TypeGuard[Factory]:
    """Whether it makes envs: a function, or a class of envs."""
    return isinstance(env, type) or (callable(env) and not hasattr(env, "step"))


def make_envs(
    env: VecEnv | Factory, eval_env: VecEnv | Factory | None, config: TrainConfig, undo: ExitStack, ranks: Ranks
) -> tuple[VecEnv, VecEnv | None]:
    """The envs to train and to evaluate on; `undo` closes those that were made here.

    Raises:
        ValueError: see `training_env`; or sizes that do not fit, or no such device, before anything is made.
    """
    copies = (config.num_envs or DEFAULT_NUM_ENVS) if is_factory(env) else getattr(env, "num_envs", 0) * ranks.count
    if copies > 0:
        config.minibatch_count(copies)
    if config.device != "auto":
        checked_device(config.device)
    made = training_env(env, config, ranks)
    if is_factory(env):
        undo.callback(made.close)
    evaluation = evaluation_env(eval_env, env, config, ranks)
    if evaluation is not None and evaluation is not eval_env:
        undo.callback(evaluation.close)
    return made, evaluation


def training_env(env: VecEnv | Factory, config: TrainConfig, ranks: Ranks) -> VecEnv:
    """The batched env to train on; a factory's envs are stepped in this process or in --num-workers others.

    With several ranks it holds this rank's copies: as many on each, together --num-envs.

    Raises:
        ValueError: neither a VecEnv nor a factory, or a VecEnv with another number of copies than --num-envs.
    """
    if is_factory(env):
        mine = ranks.equal_part(config.num_envs or DEFAULT_NUM_ENVS, "--num-envs")
        workers = config.num_workers
        return PettingZooVecEnv(env, len(mine), first_copy=mine.start, num_workers=workers, seed=config.seed)
    if not hasattr(env, "num_envs") and isinstance(env, ParallelEnv | AECEnv | gymnasium.Env):
        check_parallel(env)
        raise ValueError(f"env is a {type(env).__name__} itself; give a function that makes it: Trainer(lambda: env)")
    check_vec_env(env)
    assert isinstance(env, VecEnv)
    if config.num_workers not in (0, getattr(env, "num_workers", 0)):
        raise ValueError(
            f"--num-workers {config.num_workers} is for envs that the trainer makes itself, and this one is made "
            "already; leave it out, or give the env its workers: mappo.adapters.SplitVecEnv"
        )
    if config.num_envs not in (None, env.num_envs * ranks.count):
        of = f"{env.num_envs}" if ranks.count == 1 else f"{env.num_envs} copies on each of {ranks.count} ranks"
        raise ValueError(f"--num-envs {config.num_envs} must be that of the env, {of}, or be left out")
    return env


def evaluation_env(
    eval_env: VecEnv | Factory | None, env: VecEnv | Factory, config: TrainConfig, ranks: Ranks
) -> VecEnv | None:
    """What is given, or for a factory envs with seeds that no training episode has; None: no evaluation."""
    source = env if eval_env is None and is_factory(env) else eval_env
    if is_factory(source):
        mine = ranks.part(config.eval_episodes, "--eval-episodes")
        return PettingZooVecEnv(source, len(mine), first_copy=mine.start, seed=config.seed + HELD_OUT)
    return None if source is None else training_env(source, replace(config, num_envs=None, num_workers=0), ranks)


def check_envs(env: VecEnv, eval_env: VecEnv | None, spec: EnvSpec, config: TrainConfig) -> None:
    """Refuse an evaluation of other spaces than `spec`, and a discount of 1 where the env has no end.

    Raises:
        ValueError: one of these.
    """
    if eval_env is not None and (lines := spec.differences(EnvSpec.of(eval_env))):
        raise ValueError("eval_env must have the spaces of env (env -> eval_env): " + "; ".join(lines))
    if getattr(env, "needs_discount", False) and config.gamma == 1:
        raise ValueError(
            "--gamma must be below 1 for an env whose episodes are cut while the task goes on, got 1; try 0.99"
        )


def env_name(env: VecEnv) -> str:
    """What a run's name says of its env."""
    return getattr(env, "name", f"{len(env.agents)}agents")


def checked_env_spec(env: VecEnv, num_envs: int) -> dict[str, Any]:
    """The env's keyword arguments, which config.json and every checkpoint must be able to hold.

    They are those of an env of the copies of all ranks, `num_envs`.
    """
    spec = getattr(env, "spec", {})
    try:
        spec = json.loads(json.dumps(dict(spec)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"env.spec must hold plain values that JSON knows ({error}); got {spec!r}") from error
    if num_envs != env.num_envs:
        spec = {name: value for name, value in spec.items() if name != "first_copy"} | {"num_envs": num_envs}
    return spec


def make_updater(policy: Policy, critic: Critic, config: TrainConfig, num_envs: int, ranks: Ranks) -> Updater:
    """The algorithm's update; `num_envs` are the copies of this rank."""
    names = ("num_epochs", "grad_accumulation", "value_clip", "max_grad_norm", "huber_delta", "target_kl")
    count = config.minibatch_count(num_envs * ranks.count)
    plain = {name: getattr(config, name) for name in names}
    bf16 = config.precision == "bf16"
    settings = UpdateSettings(num_envs=num_envs, num_minibatches=count, compile=config.compile, bf16=bf16, **plain)
    if config.algo == "happo":
        return HappoUpdater(policy, critic, settings, ranks)
    fits = ClosedFormUpdater.fits(policy, critic, settings)
    return (ClosedFormUpdater if fits else Updater)(policy, critic, settings, ranks)


def target_settings(config: TrainConfig, group_size: int) -> TargetSettings:
    """The part of the config that the advantages need."""
    names = ("gamma", "gae_lambda", "reward_mode", "advantage_norm")
    return TargetSettings(group_size=group_size, **{name: getattr(config, name) for name in names})


def warn_about(row: Row, buffer: RolloutBuffer, config: TrainConfig) -> None:
    """What the first rollout shows of an env that its settings do not suit."""
    steps = len(buffer.actions)
    if not row["train/episodes"]:
        warnings.warn(
            f"no episode ended in the first {steps} steps of {buffer.rewards.shape[1]} copies: returns appear once "
            f"one does. If it never will, give the env a time limit; else --num-steps above {steps} shows more",
            stacklevel=3,
        )
    if config.gamma == 1 and bool((buffer.truncated & ~buffer.terminated).any()):
        warnings.warn(
            "episodes are cut by a time limit and go on in value: with --gamma 1 that value has no bound; try 0.99",
            stacklevel=3,
        )


def check_inputs(obs_norm: RunningMeanStd, state_norm: RunningMeanStd, spec: EnvSpec, place: str) -> None:
    """Refuse observations and states that would spoil the normalisers for good.

    Raises:
        ValueError: one that is not finite; begins with `place`, names the agent and the column.
    """
    if (entry := obs_norm.non_finite()) is not None:
        agent, column = entry
        raise ValueError(f"{place} column {column} of {spec.agents[agent]}'s observation is not finite, mend the env")
    if (entry := state_norm.non_finite()) is not None:
        raise ValueError(f"{place} column {entry[1]} of the state is not finite, mend the env")


def cause_of_non_finite(buffer: RolloutBuffer, agents: Sequence[str]) -> str | None:
    """The earliest number of the rollout that is not finite or too large; None: the rollout is no cause."""
    cut = buffer.truncated.any(-1)[..., None]  # final observations and states are read only there
    parts = (
        ("observation", buffer.obs[:-1]),
        ("state", buffer.state[:-1].unsqueeze(2)),
        ("reward", buffer.rewards.unsqueeze(-1)),
        ("final observation", torch.where(cut[..., None], buffer.final_obs, 0.0)),
        ("final state", torch.where(cut, buffer.final_state, 0.0).unsqueeze(2)),
    )
    found: list[tuple[int, int, str]] = []
    for order, (name, values) in enumerate(parts):
        for step, copy, agent, column in (~(values.abs() <= TOO_LARGE)).nonzero().tolist()[:1]:
            value = values[step, copy, agent, column].item()
            whose = "" if "state" in name else f" of {agents[agent]}"
            entry = "" if name == "reward" else f", column {column},"
            remedy = "scale it down" if isfinite(value) else "mend the env"
            found.append(
                (step, order, f"the {name}{whose}{entry} is {value:g} in copy {copy} at step {step}; {remedy}")
            )
    return min(found)[2] if found else None


def checked_groups(env: VecEnv) -> int:
    """How many neighbouring copies of the env play the same episodes."""
    group_size = getattr(env, "group_size", 1)
    if group_size < 1 or env.num_envs % group_size:
        raise ValueError(f"env.group_size must be at least 1 and divide num_envs {env.num_envs}, got {group_size}")
    return group_size


def buffer_widths(spec: EnvSpec, policy: Policy, critic: Critic) -> Widths:
    """Last dims of the buffer's tensors."""
    return Widths(
        agents=len(spec.agents),
        obs=spec.obs_dim,
        inputs=input_width(spec, policy.config),
        state=spec.state_dim,
        actions=spec.action_spec.columns,
        mask=spec.action_spec.mask_columns,
        memory=policy.actor.body.memory_width,
        critic_rows=critic.num_rows,
    )


def check_compiler(config: TrainConfig, device: torch.device) -> None:
    """`--compile` on a CPU writes C++."""
    names = (os.environ.get("CXX") or "g++", "clang++", "cl")
    if config.compile and device.type == "cpu" and not any(shutil.which(name) for name in names):
        raise ValueError("--compile on a CPU needs a C++ compiler, and there is no g++ or clang++; install one")


def check_fits_memory(
    config: TrainConfig, num_envs: int, widths: Widths, critic: Critic, device: torch.device, ranks: Ranks
) -> None:
    """Refuse a rollout of `num_envs` copies, those of all ranks, that this machine has no memory for.

    Raises:
        ValueError: says what is needed, what there is, and what to lower.
    """
    steps, count = config.rollout_steps(num_envs), config.minibatch_count(num_envs)
    nets = NetSizes(config.hidden_dim, config.num_layers, critic.num_values)
    mine = num_envs // ranks.count
    needed = training_bytes(steps, mine, config.chunk, count, config.grad_accumulation, widths, nets)
    available = available_bytes(device)
    if available is not None and device.type == "cpu":
        available //= ranks.here
    check_memory(needed, available, num_envs=num_envs, num_steps=steps, device=str(device), num_ranks=ranks.count)


def rates(env_steps: int, num_agents: int, rollout_s: float, update_s: float) -> Row:
    """Speed of one iteration, evaluation and checkpoints apart."""
    per_s = env_steps / (rollout_s + update_s)
    return {
        "time/steps_per_s": per_s,
        "time/agent_steps_per_s": per_s * num_agents,
        "time/rollout_s": rollout_s,
        "time/update_s": update_s,
    }
