"""Environments of other libraries as `VecEnv`s, batched ones split between processes, and trained policies on them.

Data flow: `--env` or a factory -> adapter -> Step -> rollout; policy file -> `ParallelPolicy` -> a user's env. Each
adapter is imported when it is first asked for, because each needs a library of its own.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mappo.adapters.parallel_policy import ParallelPolicy
    from mappo.adapters.pettingzoo import PettingZooVecEnv
    from mappo.adapters.split import SplitVecEnv
    from mappo.adapters.vmas import VmasVecEnv

__all__ = ["ParallelPolicy", "PettingZooVecEnv", "SplitVecEnv", "VmasVecEnv"]

_MODULES = {
    "ParallelPolicy": "mappo.adapters.parallel_policy",
    "PettingZooVecEnv": "mappo.adapters.pettingzoo",
    "SplitVecEnv": "mappo.adapters.split",
    "VmasVecEnv": "mappo.adapters.vmas",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
