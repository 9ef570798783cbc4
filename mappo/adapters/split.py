"""A batched env whose copies are shared out to worker processes, each a `VecEnv` of its own.

Data flow: actions -> `Workers` -> `EnvBatch`, a VecEnv in each process -> shared memory -> `Step` of all copies.
For envs made of many small tensor operations, whose threads would meet after each; processes meet once a step.
Dims: B copies, W workers, k = B / W.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from mappo.adapters.batch import Array, BatchArrays, Sizes, check_workers, tensor
from mappo.adapters.server import start_server
from mappo.adapters.worker import Workers
from mappo.copies import Unlike, joined, on_cpu, taken
from mappo.spaces import EnvSpec
from mappo.vec_env import MetricSpec, Step, VecEnv

_SAME = ("name", "group_size", "needs_discount", "copy_dims", "obs_names", "state_names", "action_names")
_SAME += ("idle_action", "episode_score")
"""Extras of a VecEnv that do not depend on which copies it holds."""


class SplitVecEnv:
    """B copies in W processes of k neighbouring copies each, as one `VecEnv` on the CPU.

    It steps, ends episodes, saves and restores as one env with all copies does, if `make` gives copy b what it gives
    copy b there (`envs.make(first_copy=...)`): a checkpoint does not tell how many workers there were. Extras that
    belong to single copies, such as pictures and turns of an evaluation, are left out, and `example` has the rest.
    """

    def __init__(
        self, make: Callable[[range], VecEnv], num_envs: int, num_workers: int, *, first_copy: int = 0
    ) -> None:
        """Start the workers.

        Args:
            make: makes the env of the copies with these numbers, in this process (`example`) and in each worker. It is
                pickled by cloudpickle, so it may be a lambda.
            num_envs: B.
            num_workers: W, at least 1.
            first_copy: number of the first copy, where others are stepped elsewhere.

        Raises:
            ValueError: sizes that do not divide, an env of other sizes, on a GPU, or with metrics that its
                `metric_specs` do not name; a `make` that cannot be sent to another process.
        """
        if num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {num_workers}; use make(range({num_envs})) itself")
        check_workers(num_envs, num_workers)
        self.num_envs, self.num_workers, self.device = num_envs, num_workers, torch.device("cpu")
        start_server()  # it imports while the example is made
        copies, size = range(first_copy, first_copy + num_envs), num_envs // num_workers
        with ExitStack() as undo:
            self.example = make(copies[:size])
            undo.callback(self.example.close)
            spec = _checked(self.example, size, num_envs, num_workers)
            self._describe()
            names = [metric.name for metric in self.metric_specs]
            layout = spec.action_spec
            sizes = Sizes(
                len(spec.agents), spec.obs_dim, spec.state_dim, layout.columns, layout.mask_columns, len(names)
            )
            self._shape = (num_envs, sizes.agents, sizes.actions)

            def batch(share: range) -> EnvBatch:
                return EnvBatch(make(share), names, sizes)

            self._workers: Workers | None = Workers(batch, sizes, copies=copies, num_workers=num_workers)
            undo.pop_all()

    def _describe(self) -> None:
        """What is the same for all copies."""
        example = self.example
        self.agents: Sequence[str] = example.agents
        self.observation_spaces: Mapping[str, gymnasium.Space[Any]] = example.observation_spaces
        self.action_spaces: Mapping[str, gymnasium.Space[Any]] = example.action_spaces
        self.state_dim = example.state_dim
        self.metric_specs: Sequence[MetricSpec] = getattr(example, "metric_specs", ())
        self.ended: Tensor | None = None  # (B,) where the env tells
        # as of one env with all copies, whose first is 0 unless it says so
        own = {name: value for name, value in getattr(example, "spec", {}).items() if name != "first_copy" or value}
        self.spec = own | ({"num_envs": self.num_envs} if "num_envs" in own else {})

    def __getattr__(self, name: str) -> Any:
        if name in _SAME:
            return getattr(self.example, name)
        raise AttributeError(f"a SplitVecEnv has no attribute {name!r}; `example` may, and each worker's env")

    def reset(self) -> tuple[Tensor, Tensor]:
        """Start a new episode in every copy; returns obs (B, A, O) and state (B, S)."""
        now = self._open().reset()
        return tensor(now.obs), tensor(now.state)

    def initial_masks(self) -> tuple[Tensor, Tensor]:
        """`alive` (B, A) and `action_mask` (B, A, K) that go with the observations last returned."""
        now = self._open().arrays
        return tensor(now.alive), tensor(now.action_mask)

    def step(self, actions: Tensor) -> Step:
        """Advance every copy with actions (B, A, U).

        Raises:
            ValueError: a wrong shape, or what the env refuses.
            RuntimeError: an env raised something else, its traceback is in the message; all workers are closed.
        """
        if tuple(actions.shape) != self._shape:
            raise ValueError(f"actions must be {self._shape}; got {tuple(actions.shape)}")
        now = self._open().step(actions.detach().cpu().float().numpy())
        if hasattr(self.example, "ended"):
            self.ended = tensor(now.ended)
        return now.to_step([metric.name for metric in self.metric_specs])

    def state_dict(self) -> dict[str, Any] | None:
        """What one env with all copies would return; None where that cannot be told from the workers' envs."""
        if not hasattr(self.example, "state_dict"):
            return None
        parts = self._open().ask("state_dict")
        try:
            return joined(parts, self.num_envs // self.num_workers, getattr(self, "copy_dims", {}))
        except Unlike:  # such as a generator that all copies of a worker share
            return None

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Restore what `state_dict` returned, here or of one env with all copies.

        Returns:
            False if only new episodes could be begun, by the next `reset`.
        """
        size, dims = self.num_envs // self.num_workers, getattr(self, "copy_dims", {})
        rows = [range(start, start + size) for start in range(0, self.num_envs, size)]
        parts = [taken(on_cpu(state), mine, self.num_envs, dims) for mine in rows]
        return False not in self._open().ask("load_state_dict", parts)

    def close(self) -> None:
        """End the workers; again does nothing."""
        workers, self._workers = self._workers, None
        if workers is not None:
            workers.close()
            self.example.close()

    def _open(self) -> Workers:
        if self._workers is None:
            raise ValueError("the env is closed")
        return self._workers


class EnvBatch:
    """A VecEnv in a worker, as a `Batch` of arrays."""

    def __init__(self, env: VecEnv, metrics: Sequence[str], sizes: Sizes) -> None:
        """`metrics` are the names of their columns."""
        self.env, self._metrics = env, metrics
        self._arrays = BatchArrays.zeros(env.num_envs, sizes)

    def reset(self) -> BatchArrays:
        """Begin an episode in every copy."""
        obs, state = self.env.reset()
        if initial_masks := getattr(self.env, "initial_masks", None):
            alive, mask = (part.numpy() for part in initial_masks())
        else:
            alive, mask = np.ones_like(self._arrays.alive), np.ones_like(self._arrays.action_mask)
        self._arrays = replace(self._arrays, obs=obs.numpy(), state=state.numpy(), alive=alive, action_mask=mask)
        return self._arrays

    def step(self, actions: Array) -> BatchArrays:
        """Advance every copy.

        Raises:
            ValueError: metrics that the env's `metric_specs` do not name.
        """
        step = self.env.step(torch.from_numpy(actions))
        if unnamed := sorted(set(step.metrics) - set(self._metrics)):
            raise ValueError(f"metric_specs must name every metric of a Step for --num-workers; {unnamed} are missing")
        columns = [step.metrics[name].float() for name in self._metrics]
        metrics = torch.stack(columns, -1).numpy() if columns else self._arrays.metrics
        ended = getattr(self.env, "ended", None)
        self._arrays = BatchArrays(
            **{name: value.numpy() for name, value in step._asdict().items() if name != "metrics"},
            metrics=metrics,
            ended=self._arrays.ended if ended is None else ended.numpy(),
        )
        return self._arrays

    def state_dict(self) -> dict[str, Any]:
        """Of the env."""
        env: Any = self.env
        return env.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> bool | None:
        """Into the env."""
        env: Any = self.env
        return env.load_state_dict(state)

    def close(self) -> None:
        """Close the env."""
        self.env.close()


def _checked(example: VecEnv, size: int, num_envs: int, num_workers: int) -> EnvSpec:
    """What the networks need to know of the env."""
    spec = EnvSpec.of(example)
    if example.num_envs != size:
        raise ValueError(f"make(copies) must give an env of len(copies) = {size} copies; got {example.num_envs}")
    if example.device.type != "cpu":
        raise ValueError(f"--num-workers {num_workers} needs an env on the CPU, got {example.device}; leave it out")
    check_workers(num_envs, num_workers, getattr(example, "group_size", 1))
    return spec
