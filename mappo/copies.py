"""States of envs and rollouts that several ranks hold in parts: joined for a checkpoint, taken apart on resume.

Data flow: each rank's `state_dict` -> `joined` -> checkpoint -> `taken` -> each rank's `load_state_dict`. A state is a
nested dict. A tensor with a row for each copy has them in its first dim, unless `dims` names another for its key;
everything else is the same on all ranks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mappo.distributed import Ranks
from mappo.rollout import Rollout
from mappo.vec_env import VecEnv

Dims = Mapping[str, int]
"""Dim of the copies by key, where it is not the first."""


class Unlike(ValueError):  # noqa: N818 - says what the parts are, and never reaches a user
    """Parts that differ in what they should have in common."""


def states_of_copies(env: VecEnv, rollout: Rollout, ranks: Ranks) -> tuple[Any, Any]:
    """States of the env, if it has one, and of the rollout: on the first rank of all ranks' copies."""
    env_state = getattr(env, "state_dict", None)
    states = env_state() if env_state else None, rollout.state_dict()
    if ranks.count == 1:
        return states
    parts = ranks.gather_to_first([on_cpu(state) for state in states])
    if not parts:
        return states
    try:
        whole = joined([part[0] for part in parts], env.num_envs, getattr(env, "copy_dims", {}))
    except Unlike:  # such as a generator that all copies of a rank share
        whole = None
    return whole, joined([part[1] for part in parts], env.num_envs, rollout.copy_dims)


def load_copies(env_state: Any, rollout_state: Any, env: VecEnv, rollout: Rollout, ranks: Ranks) -> str:
    """Inverse of `states_of_copies` on each rank; what a user should know who cannot have the same episodes again."""
    load_env = getattr(env, "load_state_dict", None)
    if load_env is None or env_state is None:
        return "this env cannot restore its state: its episodes start anew, so the run will not repeat"
    if ranks.count > 1:
        total = env.num_envs * ranks.count
        mine = ranks.equal_part(total, "--num-envs")
        env_state = taken(env_state, mine, total, getattr(env, "copy_dims", {}))
        rollout_state = taken(rollout_state, mine, total, rollout.copy_dims)
    if load_env(env_state) is False:
        return "this env can only begin new episodes: those that were running start anew"
    rollout.load_state_dict(rollout_state, rollout.policy.device)
    return ""


def on_cpu(state: Any) -> Any:
    """The state with every tensor on the CPU, ready for another process."""
    if isinstance(state, Mapping):
        return {key: on_cpu(value) for key, value in state.items()}
    return state.cpu() if isinstance(state, Tensor) else state


def joined(parts: Sequence[Any], copies: int, dims: Dims, key: str = "") -> Any:
    """One state of all copies from those of ranks with `copies` each, in their order.

    Raises:
        Unlike: the parts differ in more than their copies.
    """
    first = parts[0]
    if isinstance(first, Mapping):
        return {name: joined([part[name] for part in parts], copies, dims, name) for name in first}
    if isinstance(first, Tensor):
        if _size(first, dims.get(key, 0)) == copies:
            return torch.cat(list(parts), dims.get(key, 0))
        if all(torch.equal(first, part) for part in parts):
            return first
    elif all(part == first for part in parts):
        return first
    raise Unlike(key)


def taken(state: Any, rows: range, total: int, dims: Dims, key: str = "") -> Any:
    """The part of a state of `total` copies that belongs to the copies `rows`."""
    if isinstance(state, Mapping):
        return {name: taken(value, rows, total, dims, name) for name, value in state.items()}
    dim = dims.get(key, 0)
    if isinstance(state, Tensor) and _size(state, dim) == total:
        return state.narrow(dim, rows.start, len(rows)).clone()
    return state


def _size(x: Tensor, dim: int) -> int:
    """Of a dim that may not exist."""
    return x.shape[dim] if x.dim() > dim else -1
