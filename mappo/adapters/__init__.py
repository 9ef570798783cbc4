"""Environments of other libraries as `VecEnv`s.

Data flow: `--env` or a factory -> adapter -> Step -> rollout. Each adapter is imported when it is first asked for,
because each needs a library of its own.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mappo.adapters.pettingzoo import PettingZooVecEnv
    from mappo.adapters.vmas import VmasVecEnv

__all__ = ["PettingZooVecEnv", "VmasVecEnv"]

_MODULES = {"PettingZooVecEnv": "mappo.adapters.pettingzoo", "VmasVecEnv": "mappo.adapters.vmas"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
