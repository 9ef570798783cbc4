"""What steps some copies of an env, here or in a worker process, and the arrays that it fills.

Data flow: `ParallelBatch` or `EnvBatch` -> `BatchArrays`, directly or out of a worker -> `Step`.
Dims: k copies, A agents, O own-observation width, S state width, U action columns, K action-mask columns, X metrics.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from mappo.vec_env import Step

Array = np.ndarray[Any, np.dtype[Any]]

_FLOATS = ("obs", "state", "final_obs", "final_state", "rewards", "metrics")


class Sizes(NamedTuple):
    """The dims of the arrays but their first."""

    agents: int
    obs: int
    state: int
    actions: int
    mask: int
    metrics: int = 0


@dataclass(frozen=True, kw_only=True)
class BatchArrays:
    """One step of k copies; the fields of `mappo.vec_env.Step`, and which copies began a new episode."""

    obs: Array  # (k, A, O) float32
    state: Array  # (k, S) float32
    final_obs: Array  # (k, A, O) float32
    final_state: Array  # (k, S) float32
    rewards: Array  # (k, A) float32
    terminated: Array  # (k, A) bool
    truncated: Array  # (k, A) bool
    alive: Array  # (k, A) bool
    action_mask: Array  # (k, A, K) bool
    metrics: Array  # (k, X) float32
    ended: Array  # (k,) bool

    @classmethod
    def zeros(cls, copies: int, sizes: Sizes) -> Self:
        """Of the right shapes."""
        shapes = {
            "obs": (sizes.agents, sizes.obs),
            "final_obs": (sizes.agents, sizes.obs),
            "state": (sizes.state,),
            "final_state": (sizes.state,),
            "action_mask": (sizes.agents, sizes.mask),
            "metrics": (sizes.metrics,),
            "ended": (),
        }
        arrays = {
            name: np.zeros((copies, *shapes.get(name, (sizes.agents,))), np.float32 if name in _FLOATS else np.bool_)
            for name in (field.name for field in fields(cls))
        }
        return cls(**arrays)

    def to_step(self, metrics: Sequence[str] = ()) -> Step:
        """Copies, which the next step leaves alone; `metrics` are the X names."""
        finals = {"final_obs": "obs", "final_state": "state"}
        values = {name: tensor(getattr(self, name)) for name in Step._fields if name not in {*finals, "metrics"}}
        ended = bool((self.terminated | self.truncated).any())  # else both are the same, and one copy will do
        values |= {name: tensor(getattr(self, name)) if ended else values[same] for name, same in finals.items()}
        rows = torch.from_numpy(self.metrics.T.copy())  # (X, k)
        return Step(**values, metrics=dict(zip(metrics, rows, strict=True)))


class Batch(Protocol):
    """k copies of an env, which begin their next episode in the step that ends one."""

    @property
    def reset(self) -> Callable[..., BatchArrays]:
        """Begin an episode in every copy; fills obs, state, alive and action_mask. Arguments have an entry a copy."""
        ...

    def step(self, actions: Array) -> BatchArrays:
        """Advance every copy with actions (k, A, U)."""
        ...

    def close(self) -> None:
        """Release what the env holds."""
        ...


def tensor(array: Array) -> Tensor:
    """A copy: the next step overwrites the array. By numpy, as torch's threads would wait for a busy core."""
    return torch.from_numpy(array.copy())


def check_workers(num_envs: int, num_workers: int, group_size: int = 1) -> None:
    """The copies must be shared out equally, and no group of copies be cut.

    Raises:
        ValueError: names the flag, and numbers that would do.
    """
    if num_envs < 1:
        raise ValueError(f"--num-envs must be at least 1; got {num_envs}")
    if num_workers < 0:
        raise ValueError(f"--num-workers must be at least 0; got {num_workers}")
    groups = num_envs // group_size
    if num_workers and groups % num_workers:
        fewer = next(n for n in range(num_workers, 0, -1) if groups % n == 0)
        more = next((n for n in range(num_workers, groups + 1) if groups % n == 0), fewer)
        workers = f"{fewer} or {more}" if more > fewer else f"{fewer}"
        below = groups - groups % num_workers
        copies = " or ".join(str(n * group_size) for n in (below, below + num_workers) if n)
        of = "" if group_size == 1 else f", whose {groups} groups of --group-size {group_size} stay whole"
        raise ValueError(
            f"--num-workers {num_workers} must divide --num-envs {num_envs}{of}; "
            f"give --num-workers {workers}, or --num-envs {copies}"
        )
