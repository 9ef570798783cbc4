"""What a scenario may ask of its devices beyond the plain ones; all off unless a file names them (docs/devices.md).

Data flow: a part of `scenario_parts.py` -> `envs/devices/`.
"""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from envs.quantities import Duration, LargestEnergyMwh, NonNegative, PowerMw, Share, VoltagePu
from envs.scenario_model import Model

InverterMode = Literal["power_factor", "action", "volt_var"]
SignedShare = Annotated[float, Field(ge=-1, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]


class Commitment(Model):
    """A generator that is switched on and off: start and stop take time and money, and it has a lowest output."""

    p_min_mw: PowerMw
    """Lowest output while it runs; at most p_max_mw."""
    start_usd: NonNegative = 0.0
    """Paid once, in the step in which a start begins."""
    stop_usd: NonNegative = 0.0
    """Paid once, in the step in which a stop begins."""
    start_h: Duration = 0.0
    """From the start to the first output, without any; a whole number of steps, like all durations here."""
    stop_h: Duration = 0.0
    """From the stop to no output; the output falls in a straight line from p_min_mw."""
    min_up_h: Duration = 0.0
    """It runs at least so long once it has started; a wish to stop earlier is ignored."""
    min_down_h: Duration = 0.0
    """It stands still at least so long once it has stopped; a wish to start earlier is ignored."""
    initially_on: bool = False
    """Whether it runs, at p_min_mw and free to stop, at the start of an episode."""

    def durations(self) -> dict[str, float]:
        """The keys in hours."""
        return {name: getattr(self, name) for name in ("start_h", "stop_h", "min_up_h", "min_down_h")}


class Inverter(Model):
    """Reactive power of a PV or wind plant; real power comes first, Q > 0 injects."""

    s_max_mva: PowerMw
    """Apparent power; at least the plant's p_max_mw, and more for Q at full sun or wind."""
    mode: InverterMode
    """`power_factor` holds one, `action` is one more action (share of what P leaves of s_max_mva), `volt_var` follows
    the voltage of the plant's own bus in the step before."""
    power_factor: Annotated[float, Field(ge=0.01, le=1)] = 1.0
    """P / S of mode power_factor."""
    absorbing: bool = False
    """Whether mode power_factor consumes its Q instead of injecting it."""
    v_pu: tuple[VoltagePu, VoltagePu, VoltagePu, VoltagePu] = (0.92, 0.98, 1.02, 1.08)
    """Voltages of the four points of mode volt_var, rising (default: IEEE 1547-2018, category B)."""
    q_share: tuple[SignedShare, SignedShare, SignedShare, SignedShare] = (0.44, 0.0, 0.0, -0.44)
    """Q at these points as a share of s_max_mva, never rising; constant beyond the outer ones."""

    @model_validator(mode="after")
    def _droop(self) -> "Inverter":
        if any(low >= high for low, high in zip(self.v_pu, self.v_pu[1:], strict=False)):
            raise ValueError(f"v_pu must rise from point to point, got {list(self.v_pu)}")
        if any(left < right for left, right in zip(self.q_share, self.q_share[1:], strict=False)):
            raise ValueError(
                f"q_share must not rise with the voltage (that drives it away from its limits), got {self.q_share}"
            )
        return self

    @model_validator(mode="after")
    def _used(self) -> "Inverter":
        keys = {"power_factor": ("power_factor", "absorbing"), "volt_var": ("v_pu", "q_share"), "action": ()}
        for mode in get_args(InverterMode):
            for key in keys[mode]:
                if mode != self.mode and getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} belongs to mode {mode} and would be ignored with mode {self.mode}")
        return self


class LoadShedding(Model):
    """The microgrid may switch off a share of its load, for a price: one more action."""

    max_share: PositiveShare
    """Largest share of the present load's P and Q."""
    usd_per_mwh: NonNegative
    """Paid by the microgrid for each MWh that is not served."""


class Shiftable(Model):
    """The microgrid may serve a share of its load later: one more action. At the end of a day all is served."""

    share: Annotated[Share, Field(gt=0)]
    """Largest share of the present load (what is not shed of it) that may be deferred."""
    max_backlog_mwh: LargestEnergyMwh
    """Largest energy that may be owed at any time."""
