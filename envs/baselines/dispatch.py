"""Least-cost schedules when power flows without a network: a convex QP over the rest of the day.

Data flow: `Outlook`, energies, peaks -> `Dispatch.solve` -> chunks of copies -> `DispatchProgram` -> `Plan`.
`selfish.py` nets every microgrid on its own, `copper_plate.py` all areas at one bus. Real power only, no losses, Q 0;
PV and wind at availability. Dims: B copies, A microgrids, P parties billed, K peaks charged, h steps left.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs.baselines.dispatch_program import Array, DispatchData, DispatchProgram, Fleet, Netting
from envs.devices import Applied
from envs.scenario import Scenario
from envs.situation import Outlook
from envs.tariff import shortfall_price

CHUNK_ENTRIES = 1200  # copies x microgrids x steps of one problem: cvxpy's compilation grows faster than linearly


class Plan(NamedTuple):
    """An optimal schedule for the rest of the day."""

    usd: Tensor  # (B,) no schedule of this model costs less: the dual objective; without what was paid before
    set_points: Applied  # each (B, A, h)


class Dispatch:
    """Solver of one scenario's schedules under one netting; keeps its compiled problems.

    Args:
        scenario: devices and tariff.
        area_load_mw: (1 + A,) nominal load of each area, the feeder first.
        netting: who is billed and whose peaks are charged.
        peak_usd_per_mw: on each peak.
    """

    def __init__(self, scenario: Scenario, area_load_mw: Tensor, netting: Netting, peak_usd_per_mw: float) -> None:
        self._tariff, self._dt_h = scenario.tariff, scenario.dt_h
        self._area_load_mw, self._netting = area_load_mw.double(), netting
        self._peak_usd_per_mw, self._fleet = peak_usd_per_mw, Fleet.of(scenario)
        self._programs: dict[tuple[int, int], DispatchProgram] = {}

    def solve(
        self,
        outlook: Outlook,
        energy_mwh: Tensor,
        initial_energy_mwh: Tensor,
        peak_mw: Tensor,
        highest_price: Tensor,
    ) -> Plan:
        """The cheapest schedule from now to midnight.

        Args:
            outlook: of B copies, h steps.
            energy_mwh: (B, A) now.
            initial_energy_mwh: (B, A) what the terminal rule refers to.
            peak_mw: (B, K) what each peak has reached today.
            highest_price: (B,) $/MWh of the whole day, for the terminal rule.
        """
        fleet, rule = self._fleet, self._tariff
        factor, adder = rule.terminal_price_factor, rule.terminal_price_adder_usd_per_mwh
        shortfall = shortfall_price(highest_price, factor=factor, adder_usd_per_mwh=adder)
        # rounding may have left an energy outside its bounds, whence a battery of no power could not return
        inside_mwh = energy_mwh.numpy().clip(fleet.energy_min_mwh[:, 0], fleet.energy_max_mwh[:, 0])
        data = DispatchData(
            *self._powers_and_prices(outlook),
            energy_mwh=inside_mwh,
            initial_energy_mwh=initial_energy_mwh.numpy(),
            shortfall_usd_per_mwh=shortfall.numpy()[:, None],
            peak_mw=peak_mw.numpy(),
        )
        copies, agents, steps = outlook.pv_mw.shape
        size = max(1, min(copies, CHUNK_ENTRIES // (agents * steps)))
        program, parts = self._program(size, steps), []
        for start in range(0, copies, size):
            rows = np.minimum(np.arange(start, start + size), copies - 1)  # the last chunk repeats the last copy
            parts.append(program.solve(data.rows(rows)))
        columns = (np.concatenate(column)[:copies] for column in zip(*parts, strict=True))
        usd, battery_p_mw, generator_p_mw = (torch.from_numpy(column) for column in columns)
        none = torch.zeros_like(battery_p_mw)
        return Plan(usd, Applied(battery_p_mw, none, generator_p_mw, outlook.pv_mw, outlook.wind_mw))

    def _powers_and_prices(self, outlook: Outlook) -> tuple[Array, ...]:
        """The first six fields of `DispatchData`."""
        fleet, parties = self._fleet, self._netting.parties
        area_mw = self._area_load_mw[:, None] * outlook.load
        area_mw[:, 1:] -= outlook.pv_mw + outlook.wind_mw
        net_mw = parties @ area_mw.numpy()
        low_mw = net_mw - parties[:, 1:] @ (fleet.p_max_mw + fleet.generator_max_mw)
        high_mw = net_mw + parties[:, 1:] @ fleet.p_max_mw
        price, export_share = outlook.price.numpy()[:, None], self._tariff.export_share
        slope, kink, intercept = bill_envelope(price, low_mw, high_mw, export_share)
        if self._netting.meters_apart:  # the sum of a line below each meter's bill; one of all powers would be above it
            least_mw = area_mw.numpy().copy()
            least_mw[:, 1:] -= fleet.p_max_mw + fleet.generator_max_mw
            offset = parties @ ((export_share - 1) * price * least_mw.clip(max=0.0))
            slope, intercept = np.where(price < 0, price, slope), np.where(price < 0, offset, intercept)
        return net_mw, low_mw, high_mw, slope, kink, intercept

    def _program(self, copies: int, steps: int) -> DispatchProgram:
        if (copies, steps) not in self._programs:
            self._programs[copies, steps] = DispatchProgram(
                self._fleet,
                self._netting,
                peak_usd_per_mw=self._peak_usd_per_mw,
                dt_h=self._dt_h,
                copies=copies,
                steps=steps,
            )
        return self._programs[copies, steps]


def bill_envelope(price: Array, low_mw: Array, high_mw: Array, export_share: float) -> tuple[Array, Array, Array]:
    """Slope, kink and intercept of a convex bill: slope P + kink max(P, 0) + intercept in $/h for low <= P <= high.

    It is lambda P+ - export_share lambda P- itself where the price lambda is not negative. A negative price makes that
    concave; its convex envelope is the chord between the ends of the range, which is below it everywhere else.

    Args:
        price: lambda in $/MWh; all inputs broadcast.
        low_mw: least power.
        high_mw: highest power.
        export_share: export price / lambda.
    """
    concave = price < 0
    at_low, at_high = (price * (p_mw.clip(min=0.0) + export_share * p_mw.clip(max=0.0)) for p_mw in (low_mw, high_mw))
    width_mw = high_mw - low_mw
    chord = np.where(width_mw > 0, (at_high - at_low) / np.where(width_mw > 0, width_mw, 1.0), price)
    slope = np.where(concave, chord, export_share * price)
    kink = np.where(concave, 0.0, (1 - export_share) * price)
    intercept = np.where(concave, at_low - chord * low_mw, 0.0)
    slope, kink, intercept = np.broadcast_arrays(slope, kink, intercept)
    return slope, kink, intercept
