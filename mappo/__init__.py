"""MAPPO, IPPO and HAPPO in plain PyTorch: the public API, nothing else."""

import os

# libgomp's threads spin while they wait, which makes training ten times slower as soon as another program needs a core;
# without any spin they fall asleep between two calls. It is read when torch loads, so it stands before the imports.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from mappo.adapters import ParallelPolicy
from mappo.config import TrainConfig
from mappo.heap import keep_freed_memory
from mappo.policy import Policy, load_policy
from mappo.presets import PRESETS
from mappo.trainer import Trainer
from mappo.vec_env import MetricSpec, Step, VecEnv

keep_freed_memory()

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
