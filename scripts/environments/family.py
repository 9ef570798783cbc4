"""The interface of a kind of environment.

Data flow: command line or checkpoint -> `Request` -> `Family` -> VecEnvs for training and evaluation, words for the
banner. A VecEnv that a family builds has a `spec` that the family rebuilds it from.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from mappo import TrainConfig, VecEnv
from mappo.adapters.env_string import parse_env_string
from mappo.config import RewardMode
from mappo.distributed import Ranks
from mappo.evaluate import Acts

from .flags import MicrogridFlags

LEARNS_FROM = {"mean": "mean of the agents'", "sum": "sum of the agents'", "individual": "each agent's own"}
"""The reward that an agent learns from, by `--reward-mode`."""
Panel = tuple[str, str]  # title of a picture, column of metrics.csv


@dataclass(frozen=True, kw_only=True)
class Request:
    """The environment that a training asks for."""

    text: str
    """What `--env` says, or would say."""
    config: TrainConfig
    """`num_envs` is set."""
    microgrid: MicrogridFlags = field(default_factory=MicrogridFlags)
    stored: Mapping[str, Any] = field(default_factory=dict)
    """Spec of the env of the run that goes on; empty for a new run."""
    test: bool = False
    """Whether all that matters is that every part runs: nothing that takes minutes is computed for it."""
    say: Callable[[str], None] = lambda _: None
    """Where notes for the reader go."""
    ranks: Ranks = field(default_factory=Ranks)
    """Processes that share the copies; each builds envs of its own part."""

    @property
    def num_envs(self) -> int:
        """Copies to train on, of all ranks."""
        assert self.config.num_envs is not None, "the preset or the checkpoint sets it"
        return self.config.num_envs

    @property
    def copies(self) -> range:
        """Numbers of this rank's copies to train on."""
        return self.ranks.equal_part(self.num_envs, "--num-envs")

    @property
    def episodes(self) -> range:
        """Numbers of this rank's held-out episodes."""
        return self.ranks.part(self.config.eval_episodes, "--eval-episodes")


class Family(ABC):
    """One kind of environment: how it is named, built and described."""

    name: ClassVar[str]
    """What `--env` begins with."""
    form: ClassVar[str]
    """All of `--env`, with placeholders."""
    help: ClassVar[str]
    """One line for `--help`."""
    flags: ClassVar[tuple[str, ...]] = ()
    """Flags of train.py that other kinds do not have."""
    panels: ClassVar[tuple[Panel, ...]] = (
        ("return of held-out episodes, {team}", "eval/return"),
        ("return of training episodes, {team}", "train/return"),
        ("length of training episodes in env steps", "train/episode_length"),
        ("entropy of the policy", "policy/entropy"),
    )
    """What plot.py draws; `{team}` stands for how the agents' returns are put together."""
    plays: ClassVar[Literal["days", "episodes"]] = "episodes"
    """What evaluate.py plays: the days of a split, or seeded episodes."""
    chunk: ClassVar[int] = 1000
    """Copies that evaluate.py plays side by side."""
    has_workers: ClassVar[bool] = False
    """Whether other processes can step it."""

    def check_text(self, text: str) -> None:
        """Raise a ValueError where `--env` does not have this family's form; nothing is imported for it."""
        parse_env_string(text)

    def owns(self, spec: Mapping[str, Any]) -> bool:
        """Whether an env with this `spec` is of this family."""
        return str(spec.get("env", "")).startswith(f"{self.name}:")

    def text_of(self, spec: Mapping[str, Any]) -> str:
        """What `--env` says of the env with this spec."""
        return spec["env"]

    def title(self, request: Request) -> str:
        """What is trained on, for the banner."""
        return request.text

    @abstractmethod
    def training_env(self, request: Request) -> VecEnv:
        """The env to train on."""

    @abstractmethod
    def evaluation_env(self, request: Request) -> VecEnv:
        """Held-out episodes for the evaluations during training."""

    def test_settings(self) -> dict[str, Any]:
        """Fields of `TrainConfig` that make `--test` small."""
        batch = {"num_envs": 4, "train_batch_size": None, "minibatch_size": None, "num_minibatches": 4}
        return batch | {"num_epochs": 2, "eval_episodes": 4}

    def reward(self, env: VecEnv, mode: RewardMode) -> str:
        """What an agent's reward and the Reward column mean, for the banner."""
        over = f"{'summed over' if mode == 'sum' else 'mean of'} the {len(env.agents)} agents"
        return (
            f"{LEARNS_FROM[mode]} rewards at each step; Reward and return: summed over the steps of an episode, {over}"
        )

    def state(self, env: VecEnv) -> str:
        """What the central critic sees, for the banner."""
        return f"the state of {env.state_dim} numbers"

    def copies(self, env: VecEnv) -> str:
        """What else the banner says of the copies."""
        del env
        return "each starts anew when its episode ends"

    def held_out(self, spec: Mapping[str, Any], copies: int, *, seed: int, num_workers: int) -> VecEnv:
        """Copies of the env of `spec` with seeds of their own; every reset starts the same episodes.

        Only of families that play episodes.
        """
        raise NotImplementedError

    def idle(self, spec: Mapping[str, Any], env: VecEnv) -> Acts | None:
        """What does nothing, where that is known."""
        del spec, env
        return None
