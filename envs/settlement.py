"""The dollars of one step: energy under the scenario's protocols, peak, devices, terminal rule, safety.

Data flow: settled grid, applied powers, account -> `Settler.bill` -> `Ledger`, new peak, state of the protocols.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from envs import tariff
from envs.coordination import Coordination, CoordinationState
from envs.devices import Devices, Used
from envs.grid import Grid, GridState
from envs.observations import Account
from envs.rewards import Ledger
from envs.scenario import Scenario


class Bill(NamedTuple):
    """What a step costs and what follows from it."""

    ledger: Ledger
    peak_mw: Tensor  # (B,)
    protocols: CoordinationState
    metrics: dict[str, Tensor]  # of the protocols, each (B,)
    by_agent: dict[str, Tensor]  # of the protocols, each (B, A)


class Settler:
    """The rules of one scenario's money."""

    def __init__(self, scenario: Scenario, grid: Grid, devices: Devices, coordination: Coordination) -> None:
        self._scenario, self._grid, self._devices, self._coordination = scenario, grid, devices, coordination

    def bill(
        self,
        grid: GridState,
        price: Tensor,
        used: Used,
        bids: Tensor,
        account: Account,
        before: CoordinationState,
    ) -> Bill:
        """Everything but the terminal rule and the DSO's switching.

        Args:
            grid: settled.
            price: (B,) lambda in $/MWh.
            used: what the devices do.
            bids: (B, A, 0 or 1) actions of the protocols.
            account: before the step.
            before: state of the protocols before the step.
        """
        scenario = self._scenario
        energy = self._coordination.settle(grid, price, used.applied, bids, before)
        demand_usd, peak_mw = tariff.demand_charge(
            grid.party_p_mw,
            grid.head_p_mw,
            account.peak_mw,
            usd_per_mw=scenario.tariff.demand_charge_usd_per_mw,
        )
        ledger = Ledger(
            energy_usd=energy.energy_usd,
            demand_usd=demand_usd,
            safety_usd=self._grid.safety_penalty(grid, scenario.dt_h),
            generator_usd=used.costs.generator_usd,
            terminal_usd=torch.zeros_like(account.energy_mwh),
            commitment_usd=used.costs.commitment_usd,
            degradation_usd=used.costs.degradation_usd,
            shedding_usd=used.costs.shedding_usd,
            failure_usd=scenario.dt_h * scenario.safety.failed_flow_usd_per_h * ~grid.converged,
            switching_usd=torch.zeros_like(grid.head_p_mw),
            lost_load_usd=scenario.dt_h
            * scenario.safety.lost_load_usd_per_mwh
            * self._grid.unserved_mw(used.load, grid),
        )
        return Bill(ledger, peak_mw, energy.state, energy.metrics, energy.by_agent)

    def at_midnight(self, ledger: Ledger, energy_mwh: Tensor, account: Account, highest_price: Tensor) -> Ledger:
        """The ledger with the terminal rule: the day's account is settled.

        Args:
            ledger: of the day's last step.
            energy_mwh: (B, A) after it.
            account: with the day's initial energies.
            highest_price: (B,) of the day.
        """
        rule = self._scenario.tariff
        terminal_usd = tariff.terminal_cost(
            energy_mwh,
            account.initial_energy_mwh,
            highest_price,
            factor=rule.terminal_price_factor,
            adder_usd_per_mwh=rule.terminal_price_adder_usd_per_mwh,
        )
        return ledger._replace(terminal_usd=terminal_usd)
