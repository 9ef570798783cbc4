"""The boundary between environments and the trainer: `VecEnv` and the `Step` it returns.

Data flow: env -> Step -> rollout -> buffer. Environments may import this module and nothing else of `mappo`.
Dims: B envs, A agents, O own-observation width, S state width, U action columns, K action-mask columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import gymnasium
import torch
from torch import Tensor


class Step(NamedTuple):
    """What one step of all B copies returns. Complete: no field is ever missing.

    Auto-reset happens in the same step: `obs` and `state` already belong to the next episode where one
    ended, `final_obs` and `final_state` to the one that ended. `terminated` and `truncated` are never
    merged: a time limit is bootstrapped with the value of `final_obs`/`final_state`, a terminal state is not.
    """

    obs: Tensor  # (B, A, O) after auto-reset: the policy acts on this next
    state: Tensor  # (B, S) after auto-reset
    final_obs: Tensor  # (B, A, O) before auto-reset; equals obs where no episode ended
    final_state: Tensor  # (B, S) before auto-reset
    rewards: Tensor  # (B, A) each agent's own reward; the trainer reduces (see `reward_mode`)
    terminated: Tensor  # (B, A) bool: the agent reached a terminal state, its value from here on is 0
    truncated: Tensor  # (B, A) bool: the episode was cut by a limit and would have gone on
    alive: Tensor  # (B, A) bool: the agents that act on `obs`; a dead agent's row is padding
    action_mask: Tensor  # (B, A, K) bool: choices valid on `obs`, all discrete heads side by side; K may be 0
    metrics: dict[str, Tensor]  # each (B,): for logging only, named in `VecEnv.metric_specs`


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """How one entry of `Step.metrics` is reduced over an episode, and where it is shown."""

    name: str
    """Key in `Step.metrics`."""
    unit: str
    """Unit of the value, `1` for a plain number."""
    reduce: Literal["sum", "mean", "max", "min", "last"]
    """Reduction over the steps of one episode; over episodes it is always the mean."""
    column: str = ""
    """Heading of its console column; empty: not a console column."""
    format: str = ".2f"
    """Format of its console column, such as `.2%`."""
    group: str = "train"
    """TensorBoard group, such as `grid`."""


@runtime_checkable
class VecEnv(Protocol):
    """A batch of B copies of one multi-agent environment, on one device.

    Actions are one float tensor (B, A, U): first a column for each Box dim, in [-1, 1] where both bounds are finite
    (the env clips and scales), else in physical units (the env clips); then for each discrete choice a column with its
    index. Nested spaces are flattened in order; agents with fewer columns leave the last ones of each part unused.
    """

    # Read-only, so that plain attributes of narrower types (a list of names, a dict of Box) fit as well.
    @property
    def num_envs(self) -> int:
        """Number of copies B."""
        ...

    @property
    def device(self) -> torch.device:
        """Where every tensor of a Step lives."""
        ...

    @property
    def agents(self) -> Sequence[str]:
        """Names of the A agents, in the order of the agent dim."""
        ...

    @property
    def observation_spaces(self) -> Mapping[str, gymnasium.Space[Any]]:
        """Own-observation space of each agent; narrower ones are zero-padded to O."""
        ...

    @property
    def action_spaces(self) -> Mapping[str, gymnasium.Space[Any]]:
        """Action space of each agent; narrower ones ignore their columns beyond their width."""
        ...

    @property
    def state_dim(self) -> int:
        """Width S of the global state; 0 if there is none."""
        ...

    def reset(self) -> tuple[Tensor, Tensor]:
        """Start a new episode in every copy; returns obs (B, A, O) and state (B, S)."""
        ...

    def step(self, actions: Tensor) -> Step:
        """Advance every copy by one step with actions (B, A, U)."""
        ...

    def close(self) -> None:
        """Release what the env holds (processes, files)."""
        ...


class VecEnvExtras(Protocol):
    """What a VecEnv may also offer. Each is optional; the default stands in its docstring."""

    metric_specs: Sequence[MetricSpec]
    """Default: every metric is averaged and none is a console column."""
    obs_names: Sequence[str]
    """Names of the O own-observation columns; default: their numbers. Checked when a checkpoint is loaded."""
    state_names: Sequence[str]
    """Names of the S state columns; default: their numbers. Checked when a checkpoint is loaded."""
    action_names: Sequence[str]
    """Names of the U action columns; default: their numbers. Checked when a checkpoint is loaded."""
    name: str
    """Short name, part of a run's; default: <agents>agents."""
    spec: Mapping[str, Any]
    """JSON-able keyword arguments that rebuild this env; stored in checkpoints. Default: empty."""

    group_size: int
    """So many neighbouring copies meet the same randomness (days, loads), apart from actions; advantages are then
    centred in each group. Default: 1."""

    needs_discount: bool
    """True where a time limit cuts a task that goes on, so that gamma must be below 1. Default: False."""

    num_episodes: int
    """Episodes of an evaluation where there are more than copies; `evaluate` plays them in turns. Default: num_envs."""

    ended: Tensor
    """(B,) bool: which copies' episodes ended in the last step. Default: those in which nobody who acted goes on; an
    env in which new agents may take over from the last ones must tell."""

    copy_dims: Mapping[str, int]
    """Dim of the copies in those tensors of `state_dict` where it is not the first, by key. Several ranks join their
    states by it; what holds no row for each copy must be the same on all of them. Default: none."""

    def initial_masks(self) -> tuple[Tensor, Tensor]:
        """`alive` (B, A) and `action_mask` (B, A, K) that go with the obs of `reset`; default: all true."""
        ...

    def begin_turn(self, turn: int) -> None:
        """Copy b plays episode turn * B + b of `num_episodes` from the next `reset`; without it there are no turns."""
        ...

    def idle_action(self) -> Tensor:
        """(A, U) action in [-1, 1] that does nothing: the policy's initial mean. Default: zeros."""
        ...

    def episode_score(self, totals: Mapping[str, Tensor]) -> dict[str, float]:
        """Summary of evaluated episodes from their reduced metrics, each (episodes,).

        They are those of the env's copies or, where ranks share an evaluation, those of all ranks' copies in order.
        Key `score` (higher is better) chooses the best checkpoint. Default: `score` is the mean team return.
        """
        ...

    def figures(self) -> dict[str, Any]:
        """Named matplotlib figures of the last complete episode. Default: none."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything an exact resume needs, as tensors and plain values. Default: resume restarts the episodes."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> bool | None:
        """Restore what `state_dict` returned; False: only new episodes could be begun, by the next `reset`."""
        ...


def checked_device(name: str) -> torch.device:
    """The device that `--device` names.

    Raises:
        ValueError: this machine does not have it.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name} does not exist here ({reason}); use cpu or auto") from error
    return device
