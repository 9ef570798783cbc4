"""Any PettingZoo ParallelEnv as a batched `VecEnv`, in this process or in workers.

Data flow: action tensor -> `ParallelBatch` (here) or `Workers` -> `Step`. Episodes: each has its own seed, from the
env's seed, the number of the copy and the number of the episode, however many workers there are.
Dims: B copies, A agents, O own-observation width, S state width, U action columns, K action-mask columns.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from mappo.adapters.batch import BatchArrays, check_workers, tensor
from mappo.adapters.flatten import Encoder
from mappo.adapters.parallel_batch import ParallelBatch, episode_seed
from mappo.adapters.parallel_factory import ParallelFactory, own_envs, parallel_factory
from mappo.adapters.parallel_layout import ParallelLayout
from mappo.adapters.worker import Workers
from mappo.vec_env import MetricSpec, Step

__all__ = ["ParallelFactory", "PettingZooVecEnv", "parallel_factory"]


class PettingZooVecEnv:
    """B copies of a ParallelEnv.

    Agents are the env's `possible_agents`; those that have died or not yet appeared are not `alive`, and their rows
    hold zeros; what an agent saw last stands in `final_obs` of the step in which it ended. The state is what `state()`
    returns, flat; where the env has none, or one that is empty or an image, the flat observations of all agents side by
    side. Rewards are counted for whoever the env gives them to, dead agents too.
    An episode is over when no agent is left or all are flagged. `reset` always begins with the same episodes, so that
    every evaluation meets the same ones. Actions lie within the agents' spaces, so PettingZoo's own guards against
    others are taken off.
    """

    metric_specs: Sequence[MetricSpec] = ()

    def __init__(
        self,
        factory: Callable[[], Any],
        num_envs: int = 32,
        *,
        first_copy: int = 0,
        num_workers: int = 0,
        seed: int = 0,
        encoder: Encoder | None = None,
        spec: str | None = None,
    ) -> None:
        """Make the envs and start the workers.

        Args:
            factory: makes an env; `parallel_factory("pettingzoo:...")` or one's own. If it gives the same object
                at each call, every copy is a deep copy of that. With workers it is pickled by cloudpickle, so it may
                be a lambda.
            num_envs: B.
            first_copy: number of the first copy, on which the episodes depend, where others are stepped elsewhere.
            num_workers: processes that step the copies, equally many each; 0 steps them in this process.
            seed: of all episodes, and of the spaces of each agent.
            encoder: turns image observations (a Box with 3 dims, or 2 of uint8; also inside a Dict or Tuple) into 1-D
                float arrays. It is fixed preprocessing, such as downsampling or a frozen network, and is not trained.
            spec: text after `--env` that makes the factory; by default that of `parallel_factory`.

        Raises:
            ValueError: an env that is not parallel, spaces that cannot be used, or sizes that do not divide.
        """
        check_workers(num_envs, num_workers)
        if seed < 0:
            raise ValueError(f"--seed must be at least 0; got {seed}")
        if not callable(factory):
            raise ValueError(f"factory must be a function that makes an env, such as lambda: MyEnv(); got {factory!r}")
        self.num_envs, self.num_workers = num_envs, num_workers
        copies = range(first_copy, first_copy + num_envs)
        self.device = torch.device("cpu")
        first, factory = own_envs(factory)
        layout = ParallelLayout(first, seed=episode_seed(seed, copies.stop, 0), encoder=encoder)
        self._describe(layout)
        text = spec if spec is not None else getattr(factory, "text", None)
        numbers = {"num_envs": num_envs, "num_workers": num_workers, "seed": seed}
        self.spec: dict[str, Any] = numbers if text is None else {"env": text, **numbers}
        self._first = np.zeros(num_envs, np.int64)  # (B,) the episodes that `reset` begins
        self._episode, self._length = self._first.copy(), self._first.copy()  # (B,) running episode, steps so far
        self._arrays: BatchArrays | None = None
        self.ended = torch.zeros(num_envs, dtype=torch.bool)  # in the last step

        def make(share: range) -> ParallelBatch:
            return ParallelBatch(factory, layout, copies=share, seed=seed)

        self._batch: ParallelBatch | Workers | None = (
            Workers(make, layout.sizes, copies=copies, num_workers=num_workers) if num_workers else make(copies)
        )
        layout.close()

    def _describe(self, layout: ParallelLayout) -> None:
        """Name, agents, spaces and widths."""
        self.name = layout.name
        self.agents: list[str] = layout.agents
        flat = [flattener.space for flattener in layout.flatteners]
        self.observation_spaces: dict[str, gymnasium.Space[Any]] = dict(zip(self.agents, flat, strict=True))
        self.action_spaces: dict[str, gymnasium.Space[Any]] = dict(zip(self.agents, layout.action_spaces, strict=True))
        self.state_dim = layout.state_dim
        self.obs_names, self.state_names = layout.obs_names, layout.state_names
        self._action_shape = (self.num_envs, len(self.agents), layout.columns)

    def reset(self) -> tuple[Tensor, Tensor]:
        """Begin the first episode in every copy; returns obs (B, A, O) and state (B, S)."""
        self._episode, self._length = self._first.copy(), np.zeros_like(self._length)
        self._arrays = self._open().reset(self._episode.tolist())
        return tensor(self._arrays.obs), tensor(self._arrays.state)

    def step(self, actions: Tensor) -> Step:
        """Advance every copy with actions (B, A, U); see `VecEnv` for the columns.

        Raises:
            ValueError: a wrong shape, an action that is none, or an env that breaks its own spaces.
            RuntimeError: an env in a worker raised, its traceback is in the message; all workers are closed.
        """
        batch = self._open()
        if self._arrays is None:
            raise ValueError("call reset() before step()")
        if tuple(actions.shape) != self._action_shape:
            raise ValueError(f"actions must be {self._action_shape}; got {tuple(actions.shape)}")
        now = self._arrays = batch.step(actions.detach().cpu().float().numpy())
        self._episode += now.ended
        self._length += 1
        self.ended = tensor(now.ended)
        self._length[now.ended] = 0
        return now.to_step()

    def initial_masks(self) -> tuple[Tensor, Tensor]:
        """`alive` (B, A) and `action_mask` (B, A, K) that go with the observations last returned."""
        if self._arrays is None:
            raise ValueError("call reset() before initial_masks()")
        return tensor(self._arrays.alive), tensor(self._arrays.action_mask)

    def state_dict(self) -> dict[str, Tensor]:
        """Number of the running episode and steps made in it, each (B,); the envs themselves cannot be saved."""
        return {"episode": tensor(self._episode), "length": tensor(self._length)}

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Begin the episodes that were running; True if none had made a step, so that nothing is lost.

        After False the next `reset` begins the same episodes anew.

        Raises:
            ValueError: the state is of another number of copies.
        """
        if len(state["episode"]) != self.num_envs:
            raise ValueError(f"--num-envs must be {len(state['episode'])}, as in the checkpoint; got {self.num_envs}")
        self._first = state["episode"].numpy().copy()
        self.reset()
        return not bool(state["length"].any())

    def close(self) -> None:
        """Close the envs and end the workers; again does nothing."""
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.close()

    def _open(self) -> ParallelBatch | Workers:
        if self._batch is None:
            raise ValueError("the env is closed")
        return self._batch
