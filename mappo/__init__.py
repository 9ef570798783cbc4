"""MAPPO, IPPO and HAPPO in plain PyTorch: the public API, nothing else.

Each name is imported when it is first asked for, so that worker processes can be started before torch is loaded
(`mappo.adapters.server`).
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# libgomp's threads spin while they wait, which makes training ten times slower as soon as another program needs a core;
# without any spin they fall asleep between two calls. It is read when torch loads, so it stands before the imports.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

if TYPE_CHECKING:
    from mappo.adapters import ParallelPolicy
    from mappo.config import TrainConfig
    from mappo.policy import Policy, load_policy
    from mappo.presets import PRESETS
    from mappo.trainer import Trainer
    from mappo.vec_env import MetricSpec, Step, VecEnv

__all__ = [
    "PRESETS",
    "MetricSpec",
    "ParallelPolicy",
    "Policy",
    "Step",
    "TrainConfig",
    "Trainer",
    "VecEnv",
    "load_policy",
]

_MODULES = {
    "PRESETS": "mappo.presets",
    "MetricSpec": "mappo.vec_env",
    "ParallelPolicy": "mappo.adapters",
    "Policy": "mappo.policy",
    "Step": "mappo.vec_env",
    "TrainConfig": "mappo.config",
    "Trainer": "mappo.trainer",
    "VecEnv": "mappo.vec_env",
    "load_policy": "mappo.policy",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
