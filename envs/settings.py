"""Settings of an env that are not the scenario's: copies, device, seed, split, what is shown and rewarded."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from envs.profiles import SPLITS, Split
from mappo.vec_env import checked_device

CriticState = Literal["privileged", "full"]
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True)
class EnvSettings:
    """How to run a scenario.

    Raises:
        ValueError: a setting that breaks its rule (named).
    """

    num_envs: int | None = None
    """Copies B; None: 1, or in evaluation one per day (or week) of the split."""
    device: str = "cpu"
    """Where the tensors live; `auto` is CUDA when there is a GPU."""
    seed: int = 0
    """Of the copies' random streams."""
    split: Split = "train"
    """Days to draw from."""
    evaluation: bool = False
    """Copy b plays day b of the split, with fixed initial energies and no augmentation."""
    critic_state: CriticState = "privileged"
    """What the global state holds."""
    penalty: float = 1.0
    """Multiplies the safety penalty in the reward only, never in the metrics."""
    dtype: Literal["float32", "float64"] = "float32"
    """Of the physics; observations are float32."""

    def __post_init__(self) -> None:
        if self.num_envs is not None and self.num_envs < 1:
            raise ValueError(f"--num-envs must be at least 1, got {self.num_envs}")
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


def env_device(name: str) -> torch.device:
    """The device that `--device` names; `auto` is CUDA when there is a GPU.

    Raises:
        ValueError: a device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return checked_device(name)
