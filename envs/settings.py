"""Settings of an env that are not the scenario's: copies, device, seed, split, what is shown and rewarded."""

import operator
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
import torch

from envs.profiles import SPLITS, Split
from mappo.vec_env import checked_device

CriticState = Literal["privileged", "full"]
# power-flow tolerances: a day's J differs by less than 0.01 $ between training and evaluation
TRAINING_TOLERANCE_PU, EVALUATION_TOLERANCE_PU, DOUBLE_TOLERANCE_PU = 3e-5, 1e-6, 1e-10
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True)
class EnvSettings:
    """How to run a scenario.

    Raises:
        ValueError: a setting that breaks its rule (named).
    """

    num_envs: int | None = None
    """Copies B; None: 1, or in evaluation one per day (or week) of the split."""
    first_copy: int = 0
    """Number of the first copy, where others are stepped elsewhere: copy b draws what copy first_copy + b of one env
    with all of them draws."""
    group_size: int = 1
    """So many neighbouring copies draw the same episodes: the learner compares them. An evaluation has no groups."""
    device: str = "cpu"
    """Where the tensors live; `auto` is CUDA when there is a GPU."""
    seed: int = 0
    """Of the copies' random streams."""
    split: Split = "train"
    """Days to draw from."""
    evaluation: bool = False
    """Copy b plays day b of the split, with fixed initial energies and no augmentation."""
    buses_at_once: int | None = None
    """Of an evaluation: so many buses, over all copies, are computed at once; `mappo.evaluate` plays what is left in
    further turns, and `num_envs` of the env are the copies of one turn. None: all copies at once."""
    critic_state: CriticState = "privileged"
    """What the global state holds."""
    penalty: float = 1.0
    """Multiplies the safety penalty in the reward only, never in the metrics."""
    dtype: Literal["float32", "float64"] = "float32"
    """Of the physics; observations are float32."""

    @property
    def tolerance_pu(self) -> float:
        """Of the power flow."""
        if self.dtype == "float64":
            return DOUBLE_TOLERANCE_PU
        return EVALUATION_TOLERANCE_PU if self.evaluation else TRAINING_TOLERANCE_PU

    def copies_of_a_turn(self, episodes: int, num_buses: int) -> int:
        """How many of the episodes are played at once: as few turns as possible, of about equal size."""
        most = episodes if self.buses_at_once is None else max(1, self.buses_at_once // num_buses)
        return -(-episodes // -(-episodes // most))

    def __post_init__(self) -> None:
        self._make_plain()
        if self.num_envs is not None and self.num_envs < 1:
            raise ValueError(f"--num-envs must be at least 1, got {self.num_envs}")
        if self.buses_at_once is not None and (self.buses_at_once < 1 or not self.evaluation):
            raise ValueError(f"buses_at_once must be at least 1 and is for an evaluation, got {self.buses_at_once}")
        copies = self.num_envs or 1
        if self.group_size < 1 or (copies % self.group_size and not self.evaluation):
            raise ValueError(f"--group-size must be at least 1 and divide --num-envs {copies}, got {self.group_size}")
        if self.first_copy < 0 or (self.first_copy % self.group_size and not self.evaluation):
            rule = f"must be a multiple of --group-size {self.group_size} and not negative"
            raise ValueError(f"first_copy {rule}, got {self.first_copy}")
        if not self.penalty >= 0:
            raise ValueError(f"--penalty must not be negative, got {self.penalty}")
        for flag, value, choices in (
            ("--split", self.split, SPLITS),
            ("--critic-state", self.critic_state, get_args(CriticState)),
            ("dtype", self.dtype, tuple(DTYPES)),
        ):
            if value not in choices:
                raise ValueError(f"{flag} must be one of {', '.join(choices)}, got {value!r}")
        env_device(self.device)

    def _make_plain(self) -> None:
        """Plain Python values for numpy's numbers and a torch.device, so that `env.spec` fits into JSON."""
        if not isinstance(self.penalty, Real) or isinstance(self.penalty, bool):
            raise ValueError(f"--penalty must be a number, got {self.penalty!r}")
        if not isinstance(self.evaluation, bool | np.bool_):
            raise ValueError(f"evaluation must be True or False, got {self.evaluation!r}")
        plain = {
            "num_envs": None if self.num_envs is None else whole_number("--num-envs", self.num_envs),
            "first_copy": whole_number("first_copy", self.first_copy),
            "group_size": whole_number("--group-size", self.group_size),
            "buses_at_once": None if self.buses_at_once is None else whole_number("buses_at_once", self.buses_at_once),
            "seed": whole_number("--seed", self.seed),
            "device": str(self.device),
            "penalty": float(self.penalty),
            "evaluation": bool(self.evaluation),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)


def whole_number(flag: str, value: Any) -> int:
    """`value`, a Python or numpy integer, as int.

    Raises:
        ValueError: anything else, and what does not fit into 64 bits; begins with the flag.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise ValueError(f"{flag} must be a whole number such as 3, got {value!r}")
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{flag} must fit into 64 bits, -2**63 to 2**63 - 1, got {number}")
    return number


def env_device(name: str) -> torch.device:
    """The device that `--device` names; `auto` is CUDA when there is a GPU.

    Raises:
        ValueError: a device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return checked_device(name)
