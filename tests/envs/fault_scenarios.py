"""Scenario overrides with events, and episodes under them, for the tests of faults."""

from typing import Any

import torch
from torch import Tensor

from envs.microgrid import MicrogridEnv
from mappo.vec_env import Step
from tests.envs.devices.all_options import random_actions

FORMING: dict[str, Any] = {name: {"battery": {"grid_forming": True}} for name in ("MG1", "MG2", "MG3")}
SPIKE: dict[str, Any] = {"kind": "price_spike", "start_h": [17, 17], "duration_h": [3, 3], "price_factor": [3, 3]}
DIP: dict[str, Any] = {"kind": "pv_dip", "start_h": [11, 11], "duration_h": [3, 3], "pv_share_lost": [0.6, 0.6]}
HEAD: dict[str, Any] = {"kind": "outage", "start_h": [6, 6], "duration_h": [2, 2], "targets": ["DSO.800-802"]}
ISLANDING: dict[str, Any] = {"kind": "islanding", "start_h": [0, 0], "duration_h": [24, 24]}
RANDOM: list[dict[str, Any]] = [
    {"kind": "price_spike", "probability": 0.3, "start_h": [15, 19], "duration_h": [1, 4], "price_factor": [1.5, 4.0]},
    {
        "kind": "pv_dip",
        "probability": 0.5,
        "start_h": [8, 15],
        "duration_h": [1, 4],
        "pv_share_lost": [0.3, 0.9],
        "hits": "each",
    },
    {
        "kind": "outage",
        "probability": 0.6,
        "start_h": [0, 20],
        "duration_h": [1, 8],
        "targets": ["DSO.834-860", "DSO.Regulator2", "DSO.816-824", "MG1.632-671", "DSO.XFM-1", "MG3.632-645"],
        "hits": "one",
    },
    {"kind": "islanding", "probability": 0.5, "start_h": [0, 20], "duration_h": [1, 8], "hits": "each"},
]


def with_events(*events: dict[str, Any], **overrides: Any) -> dict[str, Any]:
    """Keywords of `envs.make` with these events and grid-forming batteries everywhere."""
    return {"events": list(events), "microgrids": FORMING, **overrides}


def played(env: MicrogridEnv, hours: int = 24, seed: int = 0) -> list[Step]:
    """A new episode with random actions."""
    env.reset()
    return [env.step(random_actions(env, seed + t)) for t in range(hours)]


def total(day: list[Step], name: str) -> Tensor:
    """(B,) sum of a metric over the steps."""
    return torch.stack([step.metrics[name] for step in day]).sum(0)
