"""What goes into the devices in a step, and what comes out.

Sign: battery P > 0 charges and Q > 0 consumes (load convention); generator, PV and wind produce and inject.
Dims: B copies, A microgrids; 2A plants are the PV of all microgrids, then their wind.
"""

from typing import NamedTuple

from torch import Tensor


class Applied(NamedTuple):
    """Powers of every device over one step, after clipping, each (B, A)."""

    battery_p_mw: Tensor
    battery_q_mvar: Tensor
    generator_p_mw: Tensor
    pv_p_mw: Tensor
    wind_p_mw: Tensor


class Present(NamedTuple):
    """What the devices meet in one step."""

    load: Tensor  # (B, 1 + A) multipliers of the areas' nominal loads, the feeder first
    pv_mw: Tensor  # (B, A) available
    wind_mw: Tensor  # (B, A) available
    energy_mwh: Tensor  # (B, A) at its start
    settles: bool  # whether the day's account is settled after it


class DeviceState(NamedTuple):
    """What the options of the devices carry from step to step; battery energies are in the account."""

    generator_p_mw: Tensor  # (B, A) of the step before
    unit_on: Tensor  # (B, A) bool: starting or running; True without commitment
    unit_steps: Tensor  # (B, A) int64 steps since `unit_on` changed, counted up to where nothing depends on them
    backlog_mwh: Tensor  # (B, A) load deferred and not yet served
    plant_v_pu: Tensor  # (B, 2A) voltage at each plant in the step before; (B, 0) unless a droop needs it


class DeviceCosts(NamedTuple):
    """Dollars of one step, each (B, A)."""

    generator_usd: Tensor
    commitment_usd: Tensor
    degradation_usd: Tensor
    shedding_usd: Tensor


class Used(NamedTuple):
    """What the devices do in one step."""

    requested: Applied
    applied: Applied
    load: Tensor  # (B, 1 + A) multipliers that are served
    plant_q_mvar: Tensor | None  # (B, 2A) injected; None without inverters
    state: DeviceState  # after the step, but for the plants' voltages, which the grid tells
    costs: DeviceCosts
    more_requested: dict[str, Tensor]  # of the options, each (B, A), for infos
    more_applied: dict[str, Tensor]
    metrics: dict[str, Tensor]  # of the options, each (B,)
