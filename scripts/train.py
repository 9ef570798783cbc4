"""Train MAPPO, IPPO or HAPPO on microgrids or any cooperative task: `python scripts/train.py --algo mappo`."""

import contextlib
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import tyro
from cli import (
    INTERRUPTED,
    env_keywords,
    flags_in,
    kept_stdout,
    parse,
    read_checkpoint,
    run_command,
    spelt,
    value_of,
    warnings_as_notes,
)
from environments import (
    Family,
    Request,
    check_flags,
    check_resumed,
    default_preset,
    env_help,
    family_of,
    find_family,
    preset_help,
)
from environments.flags import MicrogridFlags
from environments.microgrid import stored_flags
from forked import count_of, forked
from ranks import REPEATED_WITHIN_S, check_device, end_of_rank, leave_at_once, one_voice, silent_unless, under_torchrun
from rich.console import Console
from settings import check_policy_map, fitted, giving_way, resolved
from torch import get_num_threads

from mappo import PRESETS, TrainConfig, Trainer
from mappo.callbacks import Callback, ConsoleCallback, banner
from mappo.checkpoint import unpacking
from mappo.config import INSTEAD_OF, flag
from mappo.distributed import LostRankError, Ranks
from mappo.parts import HELD_OUT
from mappo.threads import use_threads

ALIASES = {
    "--lambda": "--gae-lambda",
    "--sgd-minibatch-size": "--minibatch-size",
    "--num-sgd-iter": "--num-epochs",
    "--num-envs-per-worker": "--num-envs",
}
"""Names that scripts for RLlib use for our flags."""


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train cooperating agents; every flag shows its default and unit."""

    train: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)

    microgrid: tyro.conf.OmitArgPrefixes[MicrogridFlags] = field(default_factory=MicrogridFlags)

    env: Annotated[str, tyro.conf.arg(help=env_help(), metavar="ENV")] = "microgrid"
    preset: Annotated[Literal[tuple(PRESETS)], tyro.conf.arg(help=preset_help())] = "microgrid"  # type: ignore[valid-type]
    share_reward: bool = True
    """Everyone gets the mean of the agents' rewards, or each its own (short for --reward-mode individual)."""
    independent_policies: tyro.conf.FlagCreatePairsOff[bool] = False
    """One policy for each agent (short for --policy-sharing independent)."""
    no_cuda: tyro.conf.FlagCreatePairsOff[bool] = False
    """Train on the CPU (short for --device cpu)."""
    processes: int = 0
    """Processes that train together on this machine, each with a part of the copies (docs/distributed.md); 0: for the
    microgrid on the CPU two, if there are as many cores and 256 copies for each, else one."""
    threads: int = 0
    """Threads that torch computes with in each process; 0: those of OMP_NUM_THREADS, else the physical cores it may
    use, at most 8."""
    resume: str | None = None
    """Checkpoint (or run folder) to continue; flags that are given override its settings."""
    init_from: str | None = None
    """Checkpoint (or run folder) whose policy a new run starts from."""
    test: tyro.conf.FlagCreatePairsOff[bool] = False
    """Three small iterations through every part, in seconds."""
    quiet: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print only the best evaluation at the end."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object an iteration and nothing else; what an environment prints goes to stderr."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, build, train; with several processes together with the other ranks, of which the first writes."""
    argv = [_canonical(word) for word in (sys.argv[1:] if argv is None else argv)]
    with forked(count_of(argv), lambda: run_command(lambda: _rank(argv))):
        _rank(argv)


def _rank(argv: Sequence[str]) -> None:
    with contextlib.closing(Ranks.from_environment()) as ranks, one_voice(ranks), silent_unless(ranks.is_first):
        with ranks.together():
            checkpoint = _peek_checkpoint(argv)
            defaults = _defaults(argv, checkpoint)
            check_policy_map(argv)
            args = parse(Args, argv, default=defaults, description=__doc__)
            config = resolved(args.train, defaults.train, flags_in(argv))
            _check(argv, args, config, find_family(args.env))
            check_device(config, ranks)
        use_threads(args.threads)
        with kept_stdout(args.json) as output:
            console = Console(file=output, soft_wrap=True)
            _train(argv, replace(args, train=config), defaults, checkpoint, console, ranks)


def _train(
    argv: Sequence[str],
    args: Args,
    defaults: Args,
    checkpoint: dict[str, Any] | None,
    console: Console,
    ranks: Ranks,
) -> None:
    """Build and train; `console` is where the results go."""
    config, family = args.train, find_family(args.env)
    notes = Console(stderr=True, soft_wrap=True) if args.quiet or args.json else console

    def say(text: str) -> None:
        if ranks.is_first:
            notes.print(f"note: {text}", highlight=False)

    if checkpoint is None:
        with ranks.together():
            config = fitted(config, flags_in(argv), "--test" if args.test else f"preset {args.preset}", say)
    request = Request(
        text=args.env if checkpoint is None else defaults.env,  # which may have more arguments than was typed
        config=config,
        microgrid=args.microgrid,
        stored={} if checkpoint is None else env_keywords(checkpoint),
        say=say,
        test=args.test,
        ranks=ranks,
    )
    with ExitStack() as stack:
        callbacks = [ConsoleCallback(console, quiet=args.quiet, as_json=args.json)] if ranks.is_first else []
        trainer = _build(args, request, defaults, checkpoint, callbacks, stack)
        if not (args.quiet or args.json):
            banner(console, f"{config.algo.upper()} on {family.title(request)}", _facts(family, trainer))
        signal.signal(signal.SIGINT, lambda *_: _interrupt(trainer, console))
        if ranks.count > 1:
            why = ", as torchrun does when it loses another" if under_torchrun() else ""
            ended = f"rank {ranks.index} of {ranks.count} was ended (SIGTERM){why}"
            signal.signal(signal.SIGTERM, lambda *_: end_of_rank(trainer, ended))
        with warnings_as_notes(say):
            try:
                trainer.train()
            except LostRankError as error:
                end_of_rank(trainer, str(error))
    if not (args.quiet or args.json):
        _closing(console, trainer)


def _canonical(word: str) -> str:
    """`--lambda=0.9` -> `--gae-lambda=0.9`; underscores in a flag are hyphens."""
    name, equals, value = spelt(word).partition("=")
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
    if checkpoint is not None:
        return _resumed_defaults(argv, checkpoint)
    text = value_of(argv, "--env") or "microgrid"
    family = find_family(text)
    name = value_of(argv, "--preset")
    name = default_preset(text) if name is None else name
    if name not in PRESETS:
        raise ValueError(f"--preset must be one of {', '.join(PRESETS)}, got {name!r}")
    config = PRESETS[name]
    if "--test" in argv:
        config = replace(config, iterations=3, eval_every=1, checkpoint_freq=1, **family.test_settings())
    config = giving_way(config, argv)
    return Args(env=text, preset=name, train=config, share_reward=config.reward_mode != "individual")


def _resumed_defaults(argv: Sequence[str], checkpoint: dict[str, Any]) -> Args:
    given = [name for name in INSTEAD_OF if flag(name) in flags_in(argv)]
    spec, path = env_keywords(checkpoint), checkpoint["path"]
    family = family_of(spec, path)
    text = family.text_of(spec)
    if (typed := value_of(argv, "--env")) is not None:
        check_resumed(typed, text, path)
    with unpacking(path):
        stored = TrainConfig.from_dict(checkpoint["config"])
        stored = replace(stored, stop_after=None, num_envs=checkpoint["env"]["num_envs"]).making_way_for(given)
    share_reward = stored.reward_mode != "individual"
    return Args(env=text, train=stored, microgrid=stored_flags(spec), share_reward=share_reward)


def _check(argv: Sequence[str], args: Args, config: TrainConfig, family: Family) -> None:
    """Refuse flags that the environment or the algorithm does not have."""
    given = flags_in(argv)
    check_flags(family, args.env, given)
    if config.num_workers and not family.has_workers:
        raise ValueError(
            f"--num-workers must be 0 for --env {args.env}, got {config.num_workers}: its copies are one "
            "batch in one process; raise --num-envs instead"
        )
    if family.plays == "episodes" and config.seed >= HELD_OUT and "--seed" in given:
        raise ValueError(
            f"--seed must be below {HELD_OUT} for --env {args.env}, got {config.seed}: larger ones may train on the "
            "episodes that evaluations play"
        )
    if config.algo == "ippo" and "--critic-state" in given:
        raise ValueError(
            f"--critic-state {args.microgrid.critic_state} contradicts --algo ippo, whose critic sees own "
            "observations only; leave it out, or use --algo mappo"
        )


def _build(
    args: Args,
    request: Request,
    defaults: Args,
    checkpoint: dict[str, Any] | None,
    callbacks: Sequence[Callback],
    stack: ExitStack,
) -> Trainer:
    """The trainer and its envs, which `stack` closes."""
    family, config, ranks = find_family(request.text), request.config, request.ranks
    with ranks.together():
        env = family.training_env(request)
        stack.callback(env.close)
    eval_env = ranks.first_alone(lambda: family.evaluation_env(request))
    stack.callback(eval_env.close)
    with ranks.together():
        if checkpoint is not None:
            before = defaults.train
            changed = {name: value for name, value in config.to_dict().items() if value != getattr(before, name)}
            return Trainer.resume(checkpoint["path"], env, eval_env, callbacks, ranks=ranks, **changed)
        trainer = Trainer(env, config, eval_env, callbacks, ranks=ranks)
        if args.init_from is not None:
            trainer.policy.start_from(read_checkpoint(args.init_from)["path"])
        return trainer


def _facts(family: Family, trainer: Trainer) -> dict[str, str]:
    """Lines of the banner."""
    config, env = trainer.config, trainer.env
    modules = {"actor": trainer.policy.actor, "critic": trainer.critic}
    sizes = {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()}
    copies, steps = trainer.num_envs, config.rollout_steps(trainer.num_envs)
    state, own = family.state(env), "each agent's own observation"
    sees = {"own": own, "state": state, "state+own": f"{state} and {own}"}[trainer.critic.view]
    workers = f" in {config.num_workers} worker processes" if config.num_workers else ""
    return {
        "experiment": trainer.run.path.name,
        "algorithm": f"{config.algo}, the critic sees {sees}",
        "policies": _policies(config, env.agents),
        "reward": family.reward(env, config.reward_mode),
        "envs": f"{copies} copies{workers} x {steps} steps = {copies * steps:,} env steps an iteration; "
        f"{family.copies(env)}",
        "device": f"{trainer.device} (env {env.device}){_ranks(trainer)}, torch threads: {get_num_threads()}",
        "parameters": ", ".join(f"{name} {size:,}" for name, size in sizes.items()),
        "run folder": str(trainer.run.path),
    }


def _ranks(trainer: Trainer) -> str:
    count = trainer.ranks.count
    return "" if count == 1 else f", {count} ranks of {trainer.env.num_envs} copies"


def _policies(config: TrainConfig, agents: Sequence[str]) -> str:
    if config.policy_map is not None:
        return f"{len(agents)} agents: {', '.join(f'{agent} by {config.policy_map[agent]}' for agent in agents)}"
    return f"{config.sharing}, {len(agents)} agents: {', '.join(agents)}"


def _interrupt(trainer: Trainer, console: Console) -> None:
    """Ctrl-C: finish the iteration and save; a second one stops at once."""
    first = time.monotonic()

    def stop_at_once(*_: object) -> None:
        if under_torchrun() and time.monotonic() - first < REPEATED_WITHIN_S:
            return
        console.show_cursor()  # the progress bar hides it
        leave_at_once(INTERRUPTED)

    signal.signal(signal.SIGINT, stop_at_once)
    if trainer.ranks.is_first:
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
