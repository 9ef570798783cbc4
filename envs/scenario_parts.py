"""What a scenario says of its equipment: feeder, microgrids, devices, tap changers.

Data flow: a part of `Scenario` (`scenario.py`) -> `composition.py`, `devices/`.
"""

from typing import Annotated

from pydantic import Field, model_validator

from envs.device_options import Commitment, Inverter, LoadShedding, Shiftable
from envs.quantities import (
    BandPu,
    Efficiency,
    EnergyMwh,
    LargestEnergyMwh,
    LoadScale,
    NonNegative,
    Positive,
    PowerMw,
    Steps,
    VoltageKv,
    VoltagePu,
)
from envs.scenario_model import Model


class RegulatorSettings(Model):
    """Overrides of one automatic tap changer of the tables."""

    target_pu: VoltagePu
    """Voltage it holds at its secondary bus."""
    deadband_pu: BandPu
    """Full width of the deadband."""


class Battery(Model):
    """A battery behind an inverter; power is measured on the AC side, charging positive."""

    bus: str
    """Bus of the microgrid's own network."""
    energy_min_mwh: EnergyMwh
    """Lowest stored energy; below energy_max_mwh."""
    energy_max_mwh: LargestEnergyMwh
    """Highest stored energy."""
    p_max_mw: PowerMw
    """Largest charge and discharge power."""
    s_max_mva: PowerMw
    """Apparent power of the inverter; must cover p_max_mw."""
    efficiency: Efficiency
    """One-way: eta when charging, 1/eta when discharging."""
    degradation_usd_per_mwh: NonNegative = 0.0
    """Wear, for each MWh charged and each MWh discharged, measured on the AC side."""
    grid_forming: bool = False
    """Whether it can keep its microgrid alive as an island (docs/faults.md)."""

    @model_validator(mode="after")
    def _bounds(self) -> "Battery":
        if self.energy_min_mwh >= self.energy_max_mwh:
            raise ValueError(
                f"energy_min_mwh must be below energy_max_mwh, got {self.energy_min_mwh} and {self.energy_max_mwh}"
            )
        if self.s_max_mva < self.p_max_mw:
            raise ValueError(f"s_max_mva must be at least p_max_mw, got {self.s_max_mva} and {self.p_max_mw}")
        return self


class Generator(Model):
    """A dispatchable unit with cost a P^2 + b P + c in $/h; c counts every hour unless it has `commitment`."""

    bus: str
    """Bus of the microgrid's own network."""
    p_max_mw: PowerMw
    """Rated power; 0 for none."""
    cost_quadratic_usd_per_mw2h: NonNegative
    """a"""
    cost_linear_usd_per_mwh: NonNegative
    """b"""
    cost_constant_usd_per_h: NonNegative
    """c, paid in every hour, running or not; with `commitment` only while it runs."""
    commitment: Commitment | None = None
    """Starts and stops: one more action of every microgrid; without it the unit is always ready from 0 to p_max_mw."""
    ramp_mw_per_h: Positive | None = None
    """Largest change of its output from step to step, per hour; null: none. A start or stop may jump to p_min_mw."""

    @model_validator(mode="after")
    def _lowest(self) -> "Generator":
        if self.commitment is not None and self.commitment.p_min_mw > self.p_max_mw:
            raise ValueError(
                f"commitment.p_min_mw must be at most p_max_mw, got {self.commitment.p_min_mw} and {self.p_max_mw}"
            )
        return self

    @property
    def certain_cost_usd_per_h(self) -> float:
        """What is paid every hour whatever it does."""
        return self.cost_constant_usd_per_h if self.commitment is None else 0.0


class Renewable(Model):
    """PV or wind: rated power times a column of the profiles."""

    bus: str
    """Bus of the microgrid's own network."""
    p_max_mw: PowerMw
    """Rated power; 0 for none."""
    profile: str
    """Column of the profiles, a fraction of rated power."""
    inverter: Inverter | None = None
    """Reactive power; without it the plant injects P only."""

    @model_validator(mode="after")
    def _apparent(self) -> "Renewable":
        if self.inverter is not None and self.inverter.s_max_mva < self.p_max_mw:
            raise ValueError(
                f"inverter.s_max_mva must be at least p_max_mw, got {self.inverter.s_max_mva} and {self.p_max_mw}"
            )
        return self


class Feeder(Model):
    """The distribution feeder all microgrids hang on."""

    name: str = "DSO"
    """Prefix of its buses and its area's name."""
    network: str
    """A packaged network, the path of a folder of tables, `pandapower:<name>` for a network of pandapower's own, or the
    path of a `.json` file written by `pandapower.to_json`; a relative path counts from the YAML's folder."""
    ext_grid: Annotated[int, Field(ge=0, strict=True)] | str | None = None
    """Of a pandapower network with several external grids the one (index or name) whose tree is the feeder; buses of
    the other trees, and everything at them, are left out."""
    copies: Annotated[int, Field(ge=1, strict=True)] = 1
    """So many equal feeders, each with all the microgrids, stand on one substation bus. Beyond 1 names get a prefix:
    buses `F1.DSO.850` and `F1.MG1.671`, agents `F1.MG1`; what they cost the feeder's party is one account."""
    slack_v_pu: VoltagePu
    """Voltage that the substation holds at the feeder's source bus."""
    load_scale: LoadScale
    """Multiplies P and Q of the network's own loads."""
    load_profile: dict[str, NonNegative]
    """Profile column -> weight; the load multiplier is the weighted sum."""
    capacitors: dict[str, Steps] = Field(default_factory=dict)
    """Bank -> steps switched on; banks not named keep the network's default."""
    regulators: dict[str, RegulatorSettings] = Field(default_factory=dict)
    """Tap changer -> settings; those not named keep the network's."""


class DsoAgentSettings(Model):
    """The DSO as a learning agent: it switches capacitor banks and moves regulator targets (docs/dso-agent.md)."""

    capacitors: tuple[str, ...] | None = None
    """Banks of the feeder's network that it switches; null: all. With `feeder.copies` those of every feeder."""
    regulators: tuple[str, ...] | None = None
    """Tap changers of the feeder whose targets it moves; null: all."""
    offset_pu: BandPu = 0.00625
    """Smallest move of a target."""
    offsets: Annotated[int, Field(ge=1, le=16, strict=True)] = 2
    """A target is the scenario's + k * offset_pu, k from -offsets to offsets; it must stay within the safety limits."""
    switching_usd: NonNegative = 0.0
    """For each capacitor step switched on or off."""

    @model_validator(mode="after")
    def _devices(self) -> "DsoAgentSettings":
        for key in ("capacitors", "regulators"):
            names = getattr(self, key) or ()
            if len(set(names)) < len(names):
                raise ValueError(f"{key} must name each device once, got {', '.join(names)}")
        if self.capacitors == () and self.regulators == ():
            raise ValueError(
                "capacitors and regulators must not both be empty, got [] and []: name a device, leave a key out for "
                "all of them, or remove dso_agent"
            )
        return self


class Microgrid(Model):
    """One microgrid, which is one agent."""

    bus: str
    """Feeder bus it hangs on; for a pandapower feeder the bus's index."""
    network: str
    """A packaged network or the path of a folder of tables, with one transformer at its source bus."""
    connection_kv: VoltageKv | None = None
    """High-voltage rating of the transformer at the network's source bus, to hang it on a feeder of another voltage
    than its tables have; impedances in per unit stay. Without it the tables' rating counts. It must fit the feeder bus
    within 10 %; what remains is an off-nominal ratio."""
    load_scale: LoadScale
    """Multiplies P and Q of the network's own loads."""
    load_profile: dict[str, NonNegative]
    """Profile column -> weight; the load multiplier is the weighted sum."""
    capacitors: dict[str, Steps] = Field(default_factory=dict)
    """Bank -> steps switched on; banks not named keep the tables' default."""
    regulators: dict[str, RegulatorSettings] = Field(default_factory=dict)
    """Tap changer -> settings; those not named keep the tables'."""
    battery: Battery
    generator: Generator
    pv: Renewable
    wind: Renewable
    load_shedding: LoadShedding | None = None
    """Switching off a share of the load; without it all load is served."""
    shiftable: Shiftable | None = None
    """Serving a share of the load later; without it load is served when it comes."""
