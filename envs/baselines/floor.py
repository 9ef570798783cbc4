"""What a day costs at least whatever the network does: the copper plate's optimum, made safe.

Data flow: `Situation`, `Outlook` -> `lossless_floor` -> `bound.py`: it shows that a failed flow, which costs thousands,
cannot undercut the bound, and it keeps the bound's allowance for rounding small.
"""

import numpy as np
import torch
from torch import Tensor

from envs.baselines.copper_plate import solve_copper_plate
from envs.baselines.tree import Tree
from envs.power.flow import LOW_VOLTAGE_PU
from envs.scenario import Scenario
from envs.situation import Outlook, Situation


def lossless_floor(scenario: Scenario, situation: Situation, ahead: Outlook) -> Tensor:
    """(B,) $ of the rest of the day that no schedule undercuts, failed flows or not; NaN with negative prices.

    Losses only add to the bill while prices are not negative. Loads that shrink below 0.8 pu save at most the price
    of what the bus draws, the demand charge included; what the voltage penalty of that bus does not cover is taken off.

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
    spare_usd = 0.5 * scenario.dt_h * safety.voltage_usd_per_h * safety.v_min_pu**2
    if safety.v_min_pu < LOW_VOLTAGE_PU:
        spare_usd = 0.0
    taken_off = []
    for price, load in zip(ahead.price.numpy(), ahead.load.numpy(), strict=True):
        p_max, _ = tree.largest_draw(scenario, load.T)
        saving_usd = (scenario.dt_h * price[:, None] + demand_rate) * p_max
        taken_off.append(float(np.clip(saving_usd - spare_usd, 0.0, None).sum()))
    floor = plate_usd - torch.tensor(taken_off, dtype=torch.float64)
    return torch.where((ahead.price < 0).any(1), torch.nan, floor)
