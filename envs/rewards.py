"""From settled dollars to rewards and metrics.

Data flow: `tariff.py`, `Grid.safety_penalty` -> `Ledger` -> rewards (B, A) and logged metrics.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Ledger(NamedTuple):
    """All dollars of one step. Parties are the feeder, then the A microgrids."""

    energy_usd: Tensor  # (B, 1 + A) each party's share of the energy bill
    demand_usd: Tensor  # (B, 1 + A) its share of the peak's rise
    safety_usd: Tensor  # (B, 1 + A) penalty of the buses and branches it owns
    generator_usd: Tensor  # (B, A)
    terminal_usd: Tensor  # (B, A)
    commitment_usd: Tensor  # (B, A) starts and stops of generators
    degradation_usd: Tensor  # (B, A) wear of batteries
    shedding_usd: Tensor  # (B, A) load that was not served
    failure_usd: Tensor  # (B,) for an hour without a power flow
    switching_usd: Tensor  # (B,) for capacitor steps that the DSO switched
    lost_load_usd: Tensor  # (B, 1 + A) loads without voltage

    def cost(self) -> Tensor:
        """(B,) the community's cost without penalties."""
        parties = (self.energy_usd + self.demand_usd + self.lost_load_usd).sum(-1)
        return parties + (self.generator_usd + self.terminal_usd + self.options_usd()).sum(-1) + self.switching_usd

    def options_usd(self) -> Tensor:
        """(B, A) what the options of the microgrids' devices cost (docs/devices.md)."""
        return self.commitment_usd + self.degradation_usd + self.shedding_usd

    def penalty(self) -> Tensor:
        """(B,) safety penalty and failed flows."""
        return self.safety_usd.sum(-1) + self.failure_usd

    def rewards(self, *, scale_usd: float, penalty_weight: float, dso_is_agent: bool = False) -> Tensor:
        """(B, A) individual rewards; their mean is -(cost + penalty) / (scale A), the shared reward.

        An agent pays its own share of everything and 1/A of what is the feeder's. Where the DSO is an agent too,
        rewards are (B, A + 1): it pays what is the feeder's, a microgrid its own alone, and A + 1 stands for A above.

        Args:
            scale_usd: dollars for one unit of reward.
            penalty_weight: multiplies the safety penalty in the reward only (`--penalty`).
            dso_is_agent: it has a reward of its own, the last one.
        """
        agents = self.generator_usd.shape[-1]
        parties = self.energy_usd + self.demand_usd + self.lost_load_usd + penalty_weight * self.safety_usd
        common = parties[:, 0] + self.failure_usd + self.switching_usd
        own = parties[:, 1:] + self.generator_usd + self.terminal_usd + self.options_usd()
        if dso_is_agent:
            return -torch.cat([own, common[:, None]], -1) / scale_usd
        return -(own + (common / agents)[:, None]) / scale_usd
