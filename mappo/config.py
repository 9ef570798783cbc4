"""Settings of a training run: one frozen dataclass, checked once.

Data flow: command line or notebook -> TrainConfig -> Trainer, and Policy, whose file must tell how it was built. The
maths gets plain numbers from them.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import NoneType
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

Algo = Literal["mappo", "ippo", "happo"]
PolicySharing = Literal["shared", "independent", "grouped"]
RewardMode = Literal["mean", "individual", "sum"]
CriticInput = Literal["auto", "state", "agent"]
ActionDist = Literal["gaussian", "tanh_gaussian", "beta"]
Precision = Literal["float32", "bf16"]
AgentId = Literal["auto", "one_hot", "embedding"]
Recurrent = Literal["none", "gru", "lstm"]
Activation = Literal["relu", "tanh"]
AdvantageNorm = Literal["batch", "agent", "none"]
Schedule = Literal["linear", "constant"]

DEFAULT_MINIBATCHES = 64
DEFAULT_STEPS = 24


def flag(name: str) -> str:
    """Spell a field as the user typed it: `num_steps` -> `--num-steps`."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True, kw_only=True)
class StepSizes:
    """The numbers that schedules change from one iteration to the next."""

    lr: float
    clip: float
    ent_coef: float


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that a training run can be told. The defaults are the preset for the microgrid."""

    algo: Algo = "mappo"
    """What the critic sees: the global state (mappo) or each agent's own observation (ippo); happo is mappo with
    independent policies that are updated one after the other."""
    iterations: int = 100
    """Iterations in total, each one rollout and one update; they stretch the schedules."""
    stop_after: int | None = None
    """Stop once this many iterations are done in total, without changing the schedule."""
    policy_sharing: PolicySharing = "shared"
    """One policy for all agents, one for each, or one for each group of agents with the same spaces."""
    policy_map: dict[str, str] | None = None
    """Name of each agent's policy, instead of --policy-sharing: `--policy-map agent_0 scout agent_1 base`."""
    agent_id: AgentId = "auto"
    """What tells agents of one policy apart: a one-hot id, an input column for each agent, or a learned embedding of 16
    columns; auto: one-hot up to 16 agents, the embedding beyond."""
    reward_mode: RewardMode = "mean"
    """Reward of each agent: the mean or sum over all agents, or its own."""
    critic_input: CriticInput = "auto"
    """Critic input: the state once per copy, or a row per agent; auto follows --algo and the reward mode."""
    action_dist: ActionDist = "gaussian"
    """Box actions: a Gaussian whose samples are clipped to the bounds, one squashed to them by tanh, or a Beta."""

    num_envs: int | None = None
    """Copies of the environment; default: the preset's, else 32."""
    num_workers: int = 0
    """Processes that step the copies of a PettingZoo environment or of the microgrid; 0: this one."""
    eval_episodes: int = 32
    """Held-out episodes of an evaluation; the microgrid plays every validation day instead."""
    eval_max_steps: int = 10_000
    """Env steps after which an evaluation gives up on an episode."""
    num_steps: int | None = None
    """Rollout length T of each copy in env steps; default 24, or what --train-batch-size implies."""
    train_batch_size: int | None = None
    """Env steps an iteration, num_envs times num_steps; default: that product."""
    minibatch_size: int | None = None
    """Env steps a minibatch; default: a sixty-fourth of the batch."""
    num_minibatches: int | None = None
    """Minibatches an epoch, instead of --minibatch-size; default 64, or the next divisor of the batch below."""
    grad_accumulation: int = 1
    """Parts that each minibatch is computed in, for memory; the gradient is that of the whole."""
    num_epochs: int = 2
    """Passes over each batch, reshuffled each time."""
    target_kl: float | None = None
    """Stop the epochs of an update once approx_kl exceeds 1.5 times this; default: never."""

    lr: float = 2e-3
    """Adam's learning rate of actor and critic at the first iteration."""
    lr_schedule: Schedule = "linear"
    """Learning rate over the iterations: linear towards (but never at) 0, or constant."""
    gamma: float = 1.0
    """Discount per env step; 1 suits episodes of finite length."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation: 0 trusts the critic, 1 the sampled return."""
    clip: float = 0.2
    """PPO's clip range of the probability ratio at the first iteration."""
    clip_schedule: Schedule = "constant"
    """Clip range over the iterations: linear towards 0, or constant."""
    value_clip: bool = False
    """Also clip the step of the value, by the same range in normalised units."""
    ent_coef: float = 0.003
    """Weight of the entropy bonus at the first iteration."""
    ent_schedule: Schedule = "linear"
    """Weight of the entropy bonus over the iterations: linear towards 0, or constant."""
    max_grad_norm: float = 10.0
    """Gradient-norm limit, for each policy and each critic by itself."""
    huber_delta: float = 10.0
    """Normalised value errors above this are penalised linearly instead of quadratically."""
    advantage_norm: AdvantageNorm = "batch"
    """Normalise advantages over the whole batch, for each agent by itself, or not at all."""

    hidden_dim: int = 128
    """Units of each hidden layer, in actor and critic."""
    num_layers: int = 2
    """Hidden layers, in actor and critic."""
    activation: Activation = "relu"
    """Activation of the hidden layers."""
    layer_norm: bool = False
    """Normalise the outputs of each hidden layer (LayerNorm)."""
    recurrent: Recurrent = "none"
    """Give actor and critic a memory behind the hidden layers, as wide as they are."""
    chunk_length: int = 8
    """Env steps that gradients flow back through a memory; divides --num-steps."""
    log_std_init: float = -1.0
    """Initial log standard deviation of Gaussian actions (actions span [-1, 1])."""
    normalize_obs: bool = True
    """Normalise observations and state by their running mean and standard deviation."""
    value_norm: bool = True
    """Let the critic predict returns normalised by their running mean and standard deviation."""

    compile: bool = False
    """Compile the update's losses and gradients by torch.compile, with CUDA graphs on a GPU. Takes a minute once."""
    precision: Precision = "float32"
    """Of the networks' products in the update; bf16 suits GPUs. Weights, losses and rollouts stay float32."""

    eval_every: int = 10
    """Iterations between evaluations of the updated policy; there is one at the start and after the last iteration
    too, but none after Ctrl-C."""
    checkpoint_freq: int = 10
    """Iterations between checkpoints; 0: only the latest, at the end."""
    checkpoint_dir: str | None = None
    """Folder in which each run keeps its checkpoints, in a folder of its name; default: in the run folder."""
    experiment_name: str | None = None
    """Name of the run and of its folder; default: <algo>_<sharing>_<env>_<time>, with mg3 for three microgrids."""
    runs_dir: str = "runs"
    """Folder that holds the run folders."""
    seed: int = 42
    """Seed of weights, sampled actions, minibatches and the environment made for the run; evaluation episodes have
    seeds of their own. An env made in Python has the seed that it was given."""
    device: str = "auto"
    """Where the networks live, such as `cpu` or `cuda:0`; auto: the env's device."""
    tensorboard: bool = True
    """Write TensorBoard events into the run folder."""
    wandb: bool = False
    """Also log to Weights & Biases; needs the extra `wandb`."""
    wandb_project: str = "mappo"
    """Project at Weights & Biases."""
    wandb_entity: str | None = None
    """User or team at Weights & Biases; default: your own."""

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            _check_type(name, getattr(self, name), kind)
        for name, low, high, rule in RANGES:
            value = getattr(self, name)
            if value is not None and not (low <= value <= high and value != math.inf):
                raise ValueError(f"{flag(name)} must be {rule}; got {value}")
        for agent, name in (self.policy_map or {}).items():
            if not (isinstance(agent, str) and isinstance(name, str)):
                raise ValueError(f"--policy-map must map names of agents to names of policies; got {agent!r}: {name!r}")
        if self.policy_map is not None and self.policy_sharing != "shared":
            raise ValueError(f"--policy-map contradicts --policy-sharing {self.policy_sharing}; give one of them")
        if self.algo == "happo" and (self.policy_sharing == "grouped" or self.policy_map is not None):
            raise ValueError(
                "--algo happo trains one policy for each agent; leave out --policy-sharing and --policy-map"
            )
        if self.minibatch_size is not None and self.num_minibatches is not None:
            raise ValueError(
                f"--minibatch-size {self.minibatch_size} and --num-minibatches {self.num_minibatches} "
                "both set the number of minibatches; give one of them"
            )
        if self.algo == "ippo" and self.critic_input == "state":
            raise ValueError(
                "--critic-input state contradicts --algo ippo, whose critic sees own observations only; "
                "use --algo mappo, or --critic-input agent"
            )
        if self.compile and self.algo == "happo":
            raise ValueError("--compile is for --algo mappo and ippo, got happo; leave one of them out")
        if self.precision == "bf16" and self.recurrent != "none":
            raise ValueError(f"--precision bf16 needs --recurrent none, got {self.recurrent}; use --precision float32")
        if self.stop_after is not None and self.stop_after > self.iterations:
            raise ValueError(f"--stop-after {self.stop_after} must not exceed --iterations {self.iterations}")

    def rollout_steps(self, num_envs: int) -> int:
        """Rollout length T for an env of `num_envs` copies."""
        if self.train_batch_size is None:
            return self.num_steps or DEFAULT_STEPS
        if self.num_steps is None and self.train_batch_size % num_envs == 0:
            return self.train_batch_size // num_envs
        if self.num_steps is None:
            raise ValueError(
                f"--train-batch-size {self.train_batch_size} must be a multiple of --num-envs {num_envs}; the nearest "
                f"one below is {self.train_batch_size // num_envs * num_envs or num_envs}"
            )
        if self.train_batch_size != num_envs * self.num_steps:
            raise ValueError(
                f"--train-batch-size {self.train_batch_size} must equal --num-envs {num_envs} x --num-steps "
                f"{self.num_steps} = {num_envs * self.num_steps}; leave one of them out"
            )
        return self.num_steps

    def minibatch_count(self, num_envs: int) -> int:
        """Minibatches an epoch for an env of `num_envs` copies; each holds all agents of its env steps."""
        steps = self.rollout_steps(num_envs)
        if steps % self.chunk:
            raise ValueError(
                f"--chunk-length {self.chunk} must divide --num-steps {steps}; {_nearest(_divisors(steps), self.chunk)}"
            )
        batch = num_envs * steps
        chunks = batch // self.chunk  # a memory's chunk is never split
        name = "num_minibatches" if self.minibatch_size is None else "minibatch_size"
        wanted: int | None = getattr(self, name)
        if wanted is None:
            return max(n for n in range(1, DEFAULT_MINIBATCHES + 1) if chunks % n == 0)
        count = wanted if name == "num_minibatches" else batch // wanted
        if batch % wanted or chunks % count:
            whole = "" if self.chunk == 1 else f", and --chunk-length {self.chunk} steps of a copy stay together"
            fitting = [n if name == "num_minibatches" else batch // n for n in _divisors(chunks)]
            raise ValueError(
                f"{flag(name)} {wanted} must divide the batch of {batch} env steps "
                f"(--num-envs {num_envs} x --num-steps {steps}{whole}); {_nearest(fitting, wanted)}"
            )
        return count

    @property
    def sharing(self) -> Literal["shared", "independent", "grouped", "mapped"]:
        """How policies are shared, whatever setting says so."""
        if self.policy_map is not None:
            return "mapped"
        return "independent" if self.algo == "happo" else self.policy_sharing

    @property
    def chunk(self) -> int:
        """Env steps that stay together in a minibatch: 1 without a memory."""
        return 1 if self.recurrent == "none" else self.chunk_length

    def step_sizes(self, iteration: int) -> StepSizes:
        """What the schedules give for iteration 0 .. iterations - 1."""
        return StepSizes(
            lr=self.lr * self._remaining(iteration, self.lr_schedule),
            clip=self.clip * self._remaining(iteration, self.clip_schedule),
            ent_coef=self.ent_coef * self._remaining(iteration, self.ent_schedule),
        )

    def _remaining(self, iteration: int, schedule: Schedule) -> float:
        """1 - i/n, which ends at 1/n, not at 0; or 1."""
        return 1 - iteration / self.iterations if schedule == "linear" else 1.0

    def resumed(self, overrides: Mapping[str, Any]) -> Self:
        """These settings with overrides; `stop_after` is not kept, what the networks depend on cannot change."""
        for name, value in overrides.items():
            if name not in RESUME_MAY_CHANGE and value != getattr(self, name, None):
                now = getattr(self, name, "unknown")
                raise ValueError(
                    f"{flag(name)} {value} cannot change on resume (the checkpoint has {now}); "
                    f"these can: {', '.join(flag(name) for name in RESUME_MAY_CHANGE)}"
                )
        given = [name for name, value in overrides.items() if value is not None]
        return replace(self.making_way_for(given), **{"stop_after": None, **overrides})

    def stretch_notes(self, stored: Self) -> list[str]:
        """What a user should know who resumes settings `stored` with these: that another total moves the schedules."""
        schedules = (self.lr_schedule, self.ent_schedule, self.clip_schedule)
        if self.iterations == stored.iterations or "linear" not in schedules:
            return []
        total = f"--iterations {stored.iterations} -> {self.iterations}"
        return [f"{total}: the schedule is stretched to the new total"]

    def making_way_for(self, names: Collection[str]) -> Self:
        """These settings without the one that a named setting stands instead of."""
        return replace(self, **{rival: None for name, rival in INSTEAD_OF.items() if name in names})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`; a key that is no field is an error."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown setting {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        # what was stored before the setting existed has one-hot ids, however many agents
        return cls(**{"agent_id": "one_hot", **values})


def _check_type(name: str, value: object, kind: Any) -> None:
    """`kind` is a Literal, a plain type, or one of them with None; a whole number may stand for a float."""
    kinds = get_args(kind) if NoneType in get_args(kind) else (kind,)
    if value is None and NoneType in kinds:
        return
    if get_origin(kinds[0]) is Literal:
        if value not in get_args(kinds[0]):
            raise ValueError(f"{flag(name)} must be one of {', '.join(get_args(kinds[0]))}; got {value!r}")
        return
    plain = get_origin(kinds[0]) or kinds[0]
    fits = (int, float) if plain is float else plain
    # True is an int in Python, never a number of iterations
    if not isinstance(value, fits) or (isinstance(value, bool) and plain is not bool):
        raise ValueError(f"{flag(name)} must be {TYPE_NAMES[plain]}; got {value!r}, a {type(value).__name__}")


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _nearest(fitting: Collection[int], wanted: int) -> str:
    """Which values would do: the nearest ones below and above."""
    below = max((n for n in fitting if n <= wanted), default=None)
    above = min((n for n in fitting if n >= wanted), default=None)
    near = [str(n) for n in (below, above) if n is not None]
    return f"{' and '.join(dict.fromkeys(near))} would"


TYPE_NAMES = {int: "a whole number, such as 10", float: "a number", bool: "True or False", str: "text", dict: "a dict"}
TINY = math.ulp(0.0)
RANGES: tuple[tuple[str, float, float, str], ...] = (
    *((name, 1, math.inf, "at least 1") for name in ("iterations", "num_epochs", "hidden_dim", "num_layers")),
    *((name, 1, math.inf, "at least 1") for name in ("eval_every", "stop_after", "num_steps", "train_batch_size")),
    *((name, 1, math.inf, "at least 1") for name in ("minibatch_size", "num_minibatches", "grad_accumulation")),
    *((name, 1, math.inf, "at least 1") for name in ("num_envs", "eval_episodes", "eval_max_steps", "chunk_length")),
    *((name, TINY, math.inf, "above 0") for name in ("lr", "clip", "max_grad_norm", "huber_delta", "target_kl")),
    *((name, 0, math.inf, "at least 0") for name in ("ent_coef", "checkpoint_freq", "num_workers")),
    ("seed", 0, 2**63 - 1, "from 0 to 2**63 - 1"),
    ("gamma", TINY, 1, "in (0, 1]"),
    ("gae_lambda", 0, 1, "in [0, 1]"),
    ("log_std_init", -5, 2, "in [-5, 2], the range that log-std is clamped to"),
)

INSTEAD_OF = {"minibatch_size": "num_minibatches", "num_minibatches": "minibatch_size"}
"""Pairs of which only one is set: overriding one drops the other."""

RESUME_MAY_CHANGE = (
    *("iterations", "stop_after", "eval_every", "checkpoint_freq", "checkpoint_dir", "tensorboard", "device"),
    *("wandb", "wandb_project", "wandb_entity", "lr", "lr_schedule", "ent_coef", "ent_schedule", "clip", "value_clip"),
    *("target_kl", "gamma", "gae_lambda", "huber_delta", "max_grad_norm", "advantage_norm", "num_epochs"),
    *("minibatch_size", "num_minibatches", "grad_accumulation", "clip_schedule"),
    *("num_envs", "num_workers", "eval_episodes", "eval_max_steps", "compile", "precision"),
)
