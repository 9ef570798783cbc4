"""Train MAPPO or IPPO on networked microgrids: `python scripts/train.py --algo mappo`."""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import isnan
from typing import Any, Literal

import tyro
from cli import INTERRUPTED, env_keywords, parse, read_checkpoint, run_command, value_of
from rich.console import Console

import envs
from envs import baselines
from envs.baselines.extra import INSTALL, solver_is_missing
from mappo import TrainConfig, Trainer
from mappo.callbacks import ConsoleCallback, banner
from mappo.checkpoint import unpacking
from mappo.config import INSTEAD_OF, PRESETS, flag

ALIASES = {
    "--lambda": "--gae-lambda",
    "--sgd-minibatch-size": "--minibatch-size",
    "--num-sgd-iter": "--num-epochs",
    "--num-envs-per-worker": "--num-envs",
}
"""Names that scripts for RLlib use for our flags."""

ENV_FLAGS = ("scenario", "num_envs", "group_size", "critic_state", "penalty")
DEFAULT_GROUP_SIZE = 8


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train cooperating microgrid controllers; every flag shows its default and unit."""

    train: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)

    env: Literal["microgrid"] = "microgrid"
    """Environment family."""
    scenario: str = "ieee34_ieee13"
    """Name of a packaged scenario, or path of a YAML file."""
    preset: Literal[tuple(PRESETS)] = "microgrid"  # type: ignore[valid-type]
    """Named settings that every other flag overrides."""
    num_envs: int = 512
    """Batched copies of the environment."""
    group_size: int | None = None
    """So many neighbouring copies play the same drawn day, and advantages are taken against their mean; default 8, or
    less where --num-envs is small or has no such divisor."""
    num_workers: int = 0
    """Worker processes; 0 is right for the microgrid, whose copies are one batch."""
    critic_state: Literal["privileged", "full"] = "privileged"
    """What the central critic sees: `full`, all that is measured, or `privileged`, the rest of the drawn day too."""
    share_reward: bool = True
    """Everyone gets the mean of the agents' rewards, or each its own (short for --reward-mode individual)."""
    independent_policies: tyro.conf.FlagCreatePairsOff[bool] = False
    """One policy for each agent (short for --policy-sharing independent)."""
    penalty: float = 1.0
    """Multiplies the safety penalty in the training reward; the reported J keeps the scenario's."""
    no_cuda: tyro.conf.FlagCreatePairsOff[bool] = False
    """Train on the CPU (short for --device cpu)."""
    resume: str | None = None
    """Checkpoint (or run folder) to continue; flags that are given override its settings."""
    init_from: str | None = None
    """Checkpoint (or run folder) whose policy a new run starts from."""
    test: tyro.conf.FlagCreatePairsOff[bool] = False
    """Three small iterations through every part, in seconds."""
    quiet: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print only the best evaluation at the end."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object an iteration and nothing else."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, build, train."""
    argv = [_canonical(word) for word in (sys.argv[1:] if argv is None else argv)]
    checkpoint = _peek_checkpoint(argv)
    defaults = _defaults(argv, checkpoint)
    args = parse(Args, argv, default=defaults, description=__doc__)
    config = _config(args, defaults)
    if config.algo == "ippo" and value_of(argv, "--critic-state") is not None:
        raise ValueError(
            f"--critic-state {args.critic_state} contradicts --algo ippo, whose critic sees own observations only; "
            "leave it out, or use --algo mappo"
        )
    console = Console(soft_wrap=True)
    env, trainer = _build(args, config, defaults, checkpoint, console)
    if not (args.quiet or args.json):
        banner(console, f"{config.algo.upper()} on {args.scenario}", _facts(args, trainer, env))
    signal.signal(signal.SIGINT, lambda *_: _interrupt(trainer, console))
    trainer.train()
    if not (args.quiet or args.json):
        _closing(console, trainer)


def _canonical(word: str) -> str:
    """`--lambda=0.9` -> `--gae-lambda=0.9`; underscores in a flag are hyphens."""
    name, equals, value = word.partition("=")
    if name.startswith("--"):
        name = name.replace("_", "-")
    return ALIASES.get(name, name) + equals + value


def _peek_checkpoint(argv: Sequence[str]) -> dict[str, Any] | None:
    path = value_of(argv, "--resume")
    if path is None:
        return None
    for other in ("--init-from", "--preset", "--test"):
        if value_of(argv, other) is not None:
            raise ValueError(
                f"--resume contradicts {other}: a resumed run has its own start and settings; give one of them"
            )
    return read_checkpoint(path, ("latest",))


def _defaults(argv: Sequence[str], checkpoint: dict[str, Any] | None) -> Args:
    """Defaults of every flag: the checkpoint's settings on resume, else the preset's, else those of --test."""
    given = [name for name in INSTEAD_OF if value_of(argv, flag(name)) is not None]
    if checkpoint is not None:
        keywords = env_keywords(checkpoint)
        mine = {name: keywords[name] for name in ENV_FLAGS if name in keywords}
        with unpacking(checkpoint["path"]):
            stored = replace(TrainConfig.from_dict(checkpoint["config"]), stop_after=None).making_way_for(given)
        mine.setdefault("group_size", 1)  # of runs from before there were groups
        return Args(train=stored, share_reward=stored.reward_mode != "individual", **mine)
    name = value_of(argv, "--preset")
    name = "microgrid" if name is None else name
    if name not in PRESETS:
        raise ValueError(f"--preset must be one of {', '.join(PRESETS)}, got {name!r}")
    preset = PRESETS[name].making_way_for(given)
    if "--test" in argv:
        return Args(train=replace(preset, iterations=3, eval_every=1, checkpoint_freq=1), num_envs=32)
    return Args(train=preset)


def _config(args: Args, defaults: Args) -> TrainConfig:
    """The trainer's settings, with the short forms resolved.

    Raises:
        ValueError: flags that contradict each other.
    """
    config, before = args.train, defaults.train
    if args.num_workers != 0:
        raise ValueError(
            f"--num-workers must be 0 for --env {args.env}, got {args.num_workers}: its copies are one "
            "batch in one process; raise --num-envs instead"
        )
    if not args.share_reward:
        if config.reward_mode not in (before.reward_mode, "individual"):
            raise ValueError(f"--no-share-reward contradicts --reward-mode {config.reward_mode}; give one of them")
        config = replace(config, reward_mode="individual")
    elif defaults.share_reward is False and config.reward_mode == "individual":
        config = replace(config, reward_mode="mean")
    if args.independent_policies:
        if config.policy_sharing not in (before.policy_sharing, "independent"):
            raise ValueError(
                f"--independent-policies contradicts --policy-sharing {config.policy_sharing}; give one of them"
            )
        config = replace(config, policy_sharing="independent")
    if args.no_cuda:
        if config.device not in ("auto", "cpu"):
            raise ValueError(f"--no-cuda contradicts --device {config.device}; give one of them")
        config = replace(config, device="cpu")
    return config


def _build(
    args: Args, config: TrainConfig, defaults: Args, checkpoint: dict[str, Any] | None, console: Console
) -> tuple[envs.MicrogridEnv, Trainer]:
    keywords = {} if checkpoint is None else env_keywords(checkpoint)
    keywords |= {name: getattr(args, name) for name in ENV_FLAGS}
    if args.group_size is None:
        keywords["group_size"] = _default_group_size(args.num_envs)
    keywords |= {"device": config.device, "seed": keywords.get("seed", config.seed)}
    env = envs.make(**keywords)
    eval_env = envs.make(**keywords | {"num_envs": None, "split": "val", "evaluation": True})
    _complete_reference(eval_env, Console(stderr=True, soft_wrap=True) if args.quiet or args.json else console)
    callback = ConsoleCallback(console, quiet=args.quiet, as_json=args.json)
    if checkpoint is not None:
        changed = {name: value for name, value in config.to_dict().items() if value != getattr(defaults.train, name)}
        return env, Trainer.resume(checkpoint["path"], env, eval_env, callbacks=[callback], **changed)
    trainer = Trainer(env, config, eval_env, callbacks=[callback])
    if args.init_from is not None:
        trainer.policy.start_from(read_checkpoint(args.init_from)["path"])
    return env, trainer


def _default_group_size(num_envs: int) -> int:
    """8, or the largest divisor below that leaves at least four groups."""
    most = min(DEFAULT_GROUP_SIZE, max(num_envs // 4, 1))
    return max(size for size in range(1, most + 1) if num_envs % size == 0)


def _complete_reference(eval_env: envs.MicrogridEnv, console: Console) -> None:
    """Bounds of the validation days of a scenario whose reference is not shipped; solved once, then cached."""
    if eval_env.reference is not None or eval_env.scenario.horizon != "day":
        return

    def say(text: str) -> None:
        console.print(f"note: {text}", highlight=False)

    if solver_is_missing():
        say(f"the score is -J: no bounds are shipped for this scenario; to have them solved: {INSTALL}")
        return
    from envs.baselines.tree import check_provable  # noqa: PLC0415 - needs the extra

    try:
        check_provable(eval_env.scenario, eval_env.network)
    except ValueError as refused:
        say(f"the score is -J: {refused}")
        return
    say(f"no bounds are shipped for this scenario: its {eval_env.num_envs} validation days are solved once and kept")
    reference = baselines.day_reference(eval_env)
    _, bound_usd = reference.of_days(eval_env.day.cpu())
    unsolved = [str(date) for date, usd in zip(eval_env.dates, bound_usd.tolist(), strict=True) if isnan(usd)]
    if unsolved:
        say(f"no bound, so not part of the score, which is -J without any: {', '.join(unsolved)}")
    if len(unsolved) < eval_env.num_envs:
        eval_env.reference = reference


def _facts(args: Args, trainer: Trainer, env: envs.MicrogridEnv) -> dict[str, str]:
    config = trainer.config
    modules = {"actor": trainer.policy.actor, "critic": trainer.critic}
    sizes = {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()}
    reward = {"mean": "mean of the agents'", "sum": "sum of the agents'", "individual": "each agent's own"}
    scale = env.scenario.episode.reward_scale_usd
    steps = env.num_envs * trainer.config.rollout_steps(env.num_envs)
    state = f"the {args.critic_state} state of {env.state_dim} numbers"
    own = "each agent's own observation"
    sees = {"own": own, "state": state, "state+own": f"{state} and {own}"}[trainer.critic.view]
    return {
        "experiment": trainer.run.path.name,
        "algorithm": f"{config.algo}, the critic sees {sees}",
        "policies": f"{config.policy_sharing}, {len(env.agents)} agents: {', '.join(env.agents)}",
        "reward": f"{reward[config.reward_mode]} -(cost + penalty) / {scale:g} $ per {env.scenario.dt_h:g} h step; "
        "the Reward column sums it over an episode",
        "envs": f"{env.num_envs} copies x {steps // env.num_envs} steps = {steps:,} env steps an iteration; "
        f"{env.group_size} copies play the same day",
        "device": f"{trainer.device} (env {env.device})",
        "parameters": ", ".join(f"{name} {size:,}" for name, size in sizes.items()),
        "run folder": str(trainer.run.path),
    }


def _interrupt(trainer: Trainer, console: Console) -> None:
    """Ctrl-C: finish the iteration and save; a second one stops at once."""

    def stop_at_once(*_: object) -> None:
        console.show_cursor()  # the progress bar hides it
        os._exit(INTERRUPTED)  # an exception might be swallowed by whatever runs; checkpoints are written atomically

    signal.signal(signal.SIGINT, stop_at_once)
    print("\ninterrupted: finishing this iteration, then saving (Ctrl-C again to stop at once)", file=sys.stderr)
    trainer.request_stop()


def _closing(console: Console, trainer: Trainer) -> None:
    folder = trainer.run.path
    left = trainer.config.iterations - trainer.iteration
    more = "" if left else f" --iterations {2 * trainer.config.iterations}"
    console.print(f"evaluate: python scripts/evaluate.py {folder}", highlight=False)
    console.print(f"resume:   python scripts/train.py --resume {folder}{more}", highlight=False)
    console.print(f"plot:     python scripts/plot.py {folder}", highlight=False)
    console.print(f"curves:   tensorboard --logdir {trainer.config.runs_dir}", highlight=False)


if __name__ == "__main__":
    run_command(main)
