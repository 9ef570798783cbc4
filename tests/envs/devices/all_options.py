"""Scenario overrides that switch the options of the devices on."""

from typing import Any

import torch
from torch import Tensor

from envs.microgrid import MicrogridEnv

COMMITMENT = {
    "p_min_mw": 0.2,
    "start_usd": 12.0,
    "stop_usd": 3.0,
    "start_h": 1.0,
    "stop_h": 1.0,
    "min_up_h": 3.0,
    "min_down_h": 2.0,
}
VOLT_VAR = {"s_max_mva": 0.5, "mode": "volt_var"}
BY_ACTION = {"s_max_mva": 0.45, "mode": "action"}
SHEDDING = {"max_share": 0.3, "usd_per_mwh": 900.0}
SHIFTABLE = {"share": 0.4, "max_backlog_mwh": 0.3}
EVERYTHING: dict[str, Any] = {
    "curtailment": True,
    "microgrids": {
        "MG1": {
            "battery": {"degradation_usd_per_mwh": 4.0},
            "generator": {"commitment": COMMITMENT, "ramp_mw_per_h": 0.2},
            "pv": {"inverter": VOLT_VAR},
            "wind": {"inverter": BY_ACTION},
            "load_shedding": SHEDDING,
            "shiftable": SHIFTABLE,
        },
        "MG2": {
            "generator": {"commitment": {**COMMITMENT, "start_h": 0.0, "initially_on": True}},
            "pv": {"inverter": {"s_max_mva": 0.4, "mode": "power_factor", "power_factor": 0.9, "absorbing": True}},
            "shiftable": SHIFTABLE,
        },
        "MG3": {"battery": {"degradation_usd_per_mwh": 2.0}, "load_shedding": SHEDDING},
    },
}


def of_all(**options: Any) -> dict[str, Any]:
    """The same parts for every microgrid of the default scenario."""
    return {name: options for name in ("MG1", "MG2", "MG3")}


def random_actions(env: MicrogridEnv, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return env.action_layout.from_unit(2 * torch.rand(env.action_shape, generator=rng) - 1)


def acting(env: MicrogridEnv, **columns: float) -> Tensor:
    """(A, U) the idle action with some columns set for every microgrid."""
    action = env.idle_action().clone()
    for name, value in columns.items():
        action[:, env.action_names.index(name)] = value
    return action
