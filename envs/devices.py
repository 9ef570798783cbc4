"""Batteries, generators, PV and wind of all microgrids as tensors: actions in, feasible powers out.

Data flow: actions (B, A, U) -> `requested` -> `feasible` (with the energies) -> `Applied` -> power flow, billing; then
`next_energy`.
Sign: battery P > 0 charges and Q > 0 consumes (load convention); generator, PV and wind P > 0 produce.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from envs.scenario import Scenario


class Applied(NamedTuple):
    """Powers of every device over one step, after clipping, each (B, A)."""

    battery_p_mw: Tensor
    battery_q_mvar: Tensor
    generator_p_mw: Tensor
    pv_p_mw: Tensor
    wind_p_mw: Tensor


class Devices:
    """The parameters of every device, each (A,), and what they make of an action."""

    def __init__(self, scenario: Scenario, device: torch.device, dtype: torch.dtype) -> None:
        microgrids = scenario.microgrids.values()

        def column(part: str, name: str) -> Tensor:
            values = [getattr(getattr(grid, part), name) for grid in microgrids]
            return torch.tensor(values, device=device, dtype=dtype)

        self._curtailment = scenario.curtailment
        self._dt_h = scenario.dt_h
        self.energy_min_mwh, self.energy_max_mwh = (column("battery", f"energy_{end}_mwh") for end in ("min", "max"))
        self.battery_p_max_mw, self.battery_s_max_mva = column("battery", "p_max_mw"), column("battery", "s_max_mva")
        self.efficiency = column("battery", "efficiency")
        self.generator_p_max_mw = column("generator", "p_max_mw")
        names = ("cost_quadratic_usd_per_mw2h", "cost_linear_usd_per_mwh", "cost_constant_usd_per_h")
        self._cost = tuple(column("generator", name) for name in names)
        self.pv_p_max_mw, self.wind_p_max_mw = column("pv", "p_max_mw"), column("wind", "p_max_mw")

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the U action columns."""
        curtailable = ("pv_share", "wind_share") if self._curtailment else ()
        return ("battery_p", "generator_p", "battery_q", *curtailable)

    def idle_action(self) -> Tensor:
        """(A, U): battery P and Q 0, generator off, all of PV and wind used."""
        row = [0.0, -1.0, 0.0] + [1.0] * (len(self.action_names) - 3)
        return torch.tensor(row, device=self.efficiency.device).expand(len(self.efficiency), -1).clone()

    def requested(self, actions: Tensor, pv_mw: Tensor, wind_mw: Tensor) -> Applied:
        """What actions in [-1, 1] ask for, before the battery's limits.

        Args:
            actions: (B, A, U), columns as `action_names`; values beyond [-1, 1] are clipped.
            pv_mw: (B, A) available now.
            wind_mw: (B, A) available now.
        """
        actions = actions.clamp(-1.0, 1.0)
        shares = (actions[..., 3:] + 1) / 2 if self._curtailment else actions.new_ones(*actions.shape[:-1], 2)
        return Applied(
            battery_p_mw=actions[..., 0] * self.battery_p_max_mw,
            battery_q_mvar=actions[..., 2] * self.battery_s_max_mva,
            generator_p_mw=(actions[..., 1] + 1) / 2 * self.generator_p_max_mw,
            pv_p_mw=pv_mw * shares[..., 0],
            wind_p_mw=wind_mw * shares[..., 1],
        )

    def feasible(self, requested: Applied, energy_mwh: Tensor) -> Applied:
        """Clip P so that the energy stays inside its bounds; Q then gets its share of what the inverter has left.

        Args:
            requested: from `requested`.
            energy_mwh: (B, A) at the start of the step.
        """
        charge = (self.energy_max_mwh - energy_mwh).clamp(min=0.0) / (self.efficiency * self._dt_h)
        discharge = (energy_mwh - self.energy_min_mwh).clamp(min=0.0) * self.efficiency / self._dt_h
        p_mw = torch.minimum(torch.maximum(requested.battery_p_mw, -discharge), charge)
        left = (self.battery_s_max_mva.square() - p_mw.square()).clamp(min=0.0).sqrt()
        share = torch.where(self.battery_s_max_mva > 0, left / self.battery_s_max_mva, 0.0)
        return requested._replace(battery_p_mw=p_mw, battery_q_mvar=requested.battery_q_mvar * share)

    def actions_for(self, wanted: Applied, pv_mw: Tensor, wind_mw: Tensor) -> Tensor:
        """Actions (B, A, U) that lead to these powers: the inverse of `requested` and `feasible`.

        What no action can reach becomes the nearest action; without curtailment wanted PV and wind are ignored.

        Args:
            wanted: set-points, each (B, A).
            pv_mw: (B, A) available now.
            wind_mw: (B, A) available now.
        """

        def share(part: Tensor, whole: Tensor, otherwise: float) -> Tensor:
            return torch.where(whole > 0, part / whole, otherwise)

        battery_p = share(wanted.battery_p_mw, self.battery_p_max_mw, 0.0).clamp(-1.0, 1.0)
        p_mw = battery_p * self.battery_p_max_mw
        left = (self.battery_s_max_mva.square() - p_mw.square()).clamp(min=0.0).sqrt()
        columns = [
            battery_p,
            2 * share(wanted.generator_p_mw, self.generator_p_max_mw, 0.0) - 1,
            share(wanted.battery_q_mvar, left, 0.0),
        ]
        if self._curtailment:
            columns += [2 * share(wanted.pv_p_mw, pv_mw, 1.0) - 1, 2 * share(wanted.wind_p_mw, wind_mw, 1.0) - 1]
        return torch.stack(columns, -1).clamp(-1.0, 1.0)

    def next_energy(self, energy_mwh: Tensor, battery_p_mw: Tensor) -> Tensor:
        """(B, A) energy after the step: E + dt (eta P+ - P- / eta)."""
        charged = battery_p_mw.clamp(min=0.0) * self.efficiency
        discharged = (-battery_p_mw).clamp(min=0.0) / self.efficiency
        after = energy_mwh + self._dt_h * (charged - discharged)
        # P was clipped to the bounds; what remains beyond them is rounding
        return torch.minimum(torch.maximum(after, self.energy_min_mwh), self.energy_max_mwh)

    @property
    def generator_cost_terms(self) -> tuple[Tensor, Tensor]:
        """Of the cost a P^2 + b P + c: a in $/(MW^2 h) and b in $/MWh, (A,) each."""
        return self._cost[0], self._cost[1]

    def generator_cost(self, generator_p_mw: Tensor) -> Tensor:
        """(B, A) $ of one step: dt (a P^2 + b P + c); the constant counts at P = 0 too."""
        quadratic, linear, constant = self._cost
        return self._dt_h * ((quadratic * generator_p_mw + linear) * generator_p_mw + constant)
