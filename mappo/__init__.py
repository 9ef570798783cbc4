"""MAPPO and IPPO in plain PyTorch: the public API, nothing else."""

from mappo.config import TrainConfig
from mappo.policy import Policy, load_policy
from mappo.trainer import Trainer
from mappo.vec_env import MetricSpec, Step, VecEnv

__all__ = ["MetricSpec", "Policy", "Step", "TrainConfig", "Trainer", "VecEnv", "load_policy"]
