"""What a day costs at least whatever the network does: the copper plate's optimum, made safe.

Data flow: `Situation`, `Outlook` -> `lossless_floor` -> `bound.py`: it shows that a failed flow, which costs thousands,
cannot undercut the bound, and it keeps the bound's allowance for rounding small.
"""

import numpy as np
import torch
from torch import Tensor

from envs.baselines.copper_plate import solve_copper_plate
from envs.baselines.tree import Tree
from envs.power.network import BASE_MVA
from envs.power.sweep import LOW_VOLTAGE_PU
from envs.scenario import Scenario
from envs.situation import Outlook, Situation


def lossless_floor(scenario: Scenario, situation: Situation, ahead: Outlook) -> Tensor:
    """(B,) $ of the rest of the day that no schedule undercuts, failed flows or not; NaN with negative prices.

    Losses only add to the bill while prices are not negative. A bus below 0.8 pu saves at most the price of what it
    draws and once, in the peak's hour, the demand charge. A quarter of the voltage penalty of that bus is set against
    each of the two, and what it does not cover is taken off. So even J less half of its penalties is never below the
    floor: J - floor is at least half of them.

    Args:
        scenario: of the env.
        situation: of B copies.
        ahead: the rest of the day as it will be.
    """
    tree, safety = Tree.of(scenario), scenario.safety
    plate_usd = solve_copper_plate(
        scenario, ahead, situation.energy_mwh, situation.initial_energy_mwh, situation.peak_mw
    ).usd
    demand_rate = scenario.tariff.demand_charge_usd_per_mw
    spare_usd = 0.25 * (0.5 * scenario.dt_h * safety.voltage_usd_per_h * safety.v_min_pu**2)
    if safety.v_min_pu < LOW_VOLTAGE_PU:
        spare_usd = 0.0
    p_max_mw = np.array([grid.battery.p_max_mw for grid in scenario.microgrids.values()])
    charging_mw = p_max_mw @ tree.devices["battery"][:, 1:]
    taken_off = []
    for price, load in zip(ahead.price.numpy(), ahead.load.numpy(), strict=True):
        draw = load.T @ np.abs(tree.load_pu.real[:, 1:]) * BASE_MVA + charging_mw  # (h, n)
        energy_usd = (scenario.dt_h * price[:, None] * draw - spare_usd).clip(min=0.0).sum()
        demand_usd = (demand_rate * draw - spare_usd).clip(min=0.0).sum(1).max()
        taken_off.append(float(energy_usd + demand_usd))
    floor = plate_usd - torch.tensor(taken_off, dtype=torch.float64)
    return torch.where((ahead.price < 0).any(1), torch.nan, floor)
