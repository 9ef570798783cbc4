"""What the preset and the typed flags make of a run's settings together.

Data flow: command line -> `giving_way` (defaults of the flags) -> tyro -> `resolved` (short forms) -> `fitted` (sizes
of the preset that fit the typed ones) -> Trainer. A typed value is kept, or refused with its name.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import takewhile

from cli import flags_in, value_of

from mappo import TrainConfig
from mappo.config import INSTEAD_OF, flag


def giving_way(config: TrainConfig, argv: Sequence[str]) -> TrainConfig:
    """A preset's settings without those that a typed flag stands instead of or rules out."""
    given = flags_in(argv)
    config = config.making_way_for([name for name in INSTEAD_OF if flag(name) in given])
    if value_of(argv, "--algo") == "ippo" and "--critic-input" not in given:
        config = replace(config, critic_input="auto")
    if "--policy-map" in given and "--policy-sharing" not in given:
        config = replace(config, policy_sharing="shared")
    if "--train-batch-size" in given and "--num-steps" not in given:
        config = replace(config, num_steps=None)
    return config


def check_policy_map(argv: Sequence[str]) -> None:
    """Refuse a `--policy-map` whose words are not pairs.

    Raises:
        ValueError: says how it is written.
    """
    if "--policy-map" not in argv:
        return
    words = list(takewhile(lambda word: not word.startswith("--"), argv[argv.index("--policy-map") + 1 :]))
    if words != ["None"] and (not words or len(words) % 2):
        raise ValueError(
            "--policy-map must be pairs of an agent and the name of its policy, such as "
            f"--policy-map agent_0 scout agent_1 base; got {len(words)} words: {' '.join(words)}"
        )


def resolved(config: TrainConfig, before: TrainConfig, given: Collection[str]) -> TrainConfig:
    """The settings with the short forms `--share-reward`, `--independent-policies` and `--no-cuda` resolved.

    Args:
        config: what was parsed.
        before: the defaults, of the preset or the checkpoint.
        given: the flags on the command line.

    Raises:
        ValueError: two typed flags that contradict each other.
    """
    if config.num_envs is None:  # `--num-envs None`
        config = replace(config, num_envs=before.num_envs)
    short = [name for name in ("--share-reward", "--no-share-reward") if name in given]
    if len(short) == 2:
        raise ValueError("--share-reward contradicts --no-share-reward; give one of them")
    if short:
        own = short == ["--no-share-reward"]
        if "--reward-mode" in given and own != (config.reward_mode == "individual"):
            raise ValueError(f"{short[0]} contradicts --reward-mode {config.reward_mode}; give one of them")
        if own != (config.reward_mode == "individual"):
            config = replace(config, reward_mode="individual" if own else "mean")
    if "--independent-policies" in given:
        for rival in ("--policy-sharing", "--policy-map"):
            value = config.policy_sharing if rival == "--policy-sharing" else ""
            if rival in given and value != "independent":
                raise ValueError(f"--independent-policies contradicts {f'{rival} {value}'.strip()}; give one of them")
        config = replace(config, policy_sharing="independent")
    if config.algo == "happo" and "--policy-sharing" in given and config.policy_sharing != "independent":
        raise ValueError(
            f"--policy-sharing {config.policy_sharing} contradicts --algo happo, which trains one policy for each "
            "agent; leave it out"
        )
    if "--no-cuda" in given:
        if config.device not in ("auto", "cpu"):
            raise ValueError(f"--no-cuda contradicts --device {config.device}; give one of them")
        config = replace(config, device="cpu")
    return config


def fitted(config: TrainConfig, given: Collection[str], origin: str, say: Callable[[str], None]) -> TrainConfig:
    """The settings with sizes that were not typed made to divide the rollout; typed ones are left for the trainer.

    Args:
        config: `num_envs` is set.
        given: the flags on the command line.
        origin: where the sizes that were not typed come from, for the notes.
        say: takes a note for each size that is changed.

    Raises:
        ValueError: as `TrainConfig.rollout_steps`.
    """
    assert config.num_envs is not None, "the preset sets it"
    num_envs, steps = config.num_envs, config.rollout_steps(config.num_envs)
    if steps % config.chunk:
        if "--chunk-length" in given:
            return config
        length = _largest(config.chunk, lambda n: steps % n == 0)
        say(f"--chunk-length {config.chunk} of {origin} does not divide --num-steps {steps}, using {length}")
        config = replace(config, chunk_length=length)
    batch, chunk = num_envs * steps, config.chunk

    def fits(value: int) -> bool:
        if name == "minibatch_size":
            return batch % value == 0 and value % chunk == 0
        return (batch // chunk) % value == 0

    name = "num_minibatches" if config.minibatch_size is None else "minibatch_size"
    wanted: int | None = getattr(config, name)
    if wanted is None or flag(name) in given or fits(wanted):
        return config
    value = _largest(wanted, fits) or chunk  # a minibatch holds one chunk at least
    of = f"--num-envs {num_envs} x --num-steps {steps}"
    chunks = "" if chunk == 1 else f" in chunks of {chunk}"
    say(f"{flag(name)} {wanted} of {origin} does not divide the batch of {of}{chunks}, using {value}")
    return replace(config, **{name: value})


def _largest(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `limit` that fits; 0 if none does."""
    return next((n for n in range(limit, 0, -1) if fits(n)), 0)
