"""Scenario files: one YAML that describes grid, devices, money and episode; validated, unknown keys are errors.

Data flow: YAML + overrides -> `Scenario` -> network, devices, tariff, profiles -> `MicrogridEnv`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from envs.scenario_file import DATA, located, merged, problems, read_yaml

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Interval = tuple[NonNegative, NonNegative]


def _hour_or_quarter(dt_h: float) -> float:
    if dt_h not in (1.0, 0.25):
        raise ValueError("must be 1.0 or 0.25 hours")
    return dt_h


class _Model(BaseModel):
    # an unquoted `bus: 830` is a number in YAML
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)


class RegulatorSettings(_Model):
    """Overrides of one automatic tap changer of the tables."""

    target_pu: Positive
    """Voltage it holds at its secondary bus."""
    deadband_pu: Positive
    """Full width of the deadband."""


class Battery(_Model):
    """A battery behind an inverter; power is measured on the AC side, charging positive."""

    bus: str
    energy_min_mwh: NonNegative
    energy_max_mwh: Positive
    p_max_mw: NonNegative
    """Largest charge and discharge power."""
    s_max_mva: NonNegative
    """Apparent power of the inverter; must cover p_max_mw."""
    efficiency: Annotated[float, Field(gt=0, le=1)]
    """One-way: eta when charging, 1/eta when discharging."""

    @model_validator(mode="after")
    def _bounds(self) -> "Battery":
        if self.energy_min_mwh >= self.energy_max_mwh:
            raise ValueError(
                f"energy_min_mwh must be below energy_max_mwh, got {self.energy_min_mwh} and {self.energy_max_mwh}"
            )
        if self.s_max_mva < self.p_max_mw:
            raise ValueError(f"s_max_mva must be at least p_max_mw, got {self.s_max_mva} and {self.p_max_mw}")
        return self


class Generator(_Model):
    """A dispatchable unit with cost a P^2 + b P + c in $/h; the constant counts every hour."""

    bus: str
    p_max_mw: NonNegative
    cost_quadratic_usd_per_mw2h: NonNegative
    cost_linear_usd_per_mwh: NonNegative
    cost_constant_usd_per_h: NonNegative


class Renewable(_Model):
    """PV or wind: rated power times a column of the profiles."""

    bus: str
    p_max_mw: NonNegative
    profile: str
    """Column of the profiles, a fraction of rated power."""


class Feeder(_Model):
    """The distribution feeder all microgrids hang on."""

    name: str = "DSO"
    """Prefix of its buses and its area's name."""
    network: str
    """Name of a packaged network or path to a folder of tables; a relative path counts from the YAML's folder."""
    slack_v_pu: Positive
    load_scale: NonNegative
    load_profile: dict[str, NonNegative]
    """Profile column -> weight; the load multiplier is the weighted sum."""
    capacitors: dict[str, Annotated[int, Field(ge=0)]] = {}
    """Bank -> steps switched on; banks not named keep the tables' default."""
    regulators: dict[str, RegulatorSettings] = {}
    """Tap changer -> settings; those not named keep the tables'."""


class Microgrid(_Model):
    """One microgrid, which is one agent."""

    bus: str
    """Feeder bus it hangs on."""
    network: str
    load_scale: NonNegative
    load_profile: dict[str, NonNegative]
    capacitors: dict[str, Annotated[int, Field(ge=0)]] = {}
    regulators: dict[str, RegulatorSettings] = {}
    battery: Battery
    generator: Generator
    pv: Renewable
    wind: Renewable


class Data(_Model):
    """Time series: names of packaged series or paths to CSV files."""

    profiles: str
    """`<name>_hourly` and `<name>_15min` when packaged."""
    prices: str
    """Hourly prices; the column is `<price>_usd_per_mwh`."""
    price: str = "synthetic"
    """Which price to bill with. Training redraws the noise of the packaged `synthetic` price (packaged profiles and
    prices); every other price, such as one from a file of your own, is the same in training and evaluation."""
    price_floor_usd_per_mwh: float = 5.0
    """Lower prices are raised to this."""
    price_cap_usd_per_mwh: float = 250.0
    """Higher prices are cut to this."""

    @model_validator(mode="after")
    def _prices(self) -> "Data":
        if self.price_floor_usd_per_mwh > self.price_cap_usd_per_mwh:
            raise ValueError(
                f"price_floor_usd_per_mwh must not exceed price_cap_usd_per_mwh, got {self.price_floor_usd_per_mwh} "
                f"and {self.price_cap_usd_per_mwh}"
            )
        return self


class Tariff(_Model):
    """Prices relative to the import price lambda (environment.md section 5)."""

    export_share: Share
    """Export pays this share of lambda."""
    pool_share: Share
    """Power matched between microgrids is priced at this share of lambda."""
    demand_charge_usd_per_mw: NonNegative
    """On the day's highest head power."""
    terminal_price_factor: NonNegative
    """A missing MWh at the end of the day costs factor * max(lambda of the day) + adder."""
    terminal_price_adder_usd_per_mwh: NonNegative


class Safety(_Model):
    """Limits and what exceeding them costs (environment.md section 6)."""

    v_min_pu: Positive
    v_max_pu: Positive
    voltage_usd_per_h: NonNegative
    current_usd_per_h: NonNegative
    failed_flow_usd_per_h: NonNegative

    @model_validator(mode="after")
    def _bounds(self) -> "Safety":
        if self.v_min_pu >= self.v_max_pu:
            raise ValueError(f"v_min_pu must be below v_max_pu, got {self.v_min_pu} and {self.v_max_pu}")
        return self


class Episode(_Model):
    """How an episode starts, what training randomises, and the scale of the reward."""

    initial_energy_mwh: NonNegative
    """Energy of every battery at the start of an evaluation day."""
    training_initial_energy_mwh: Interval
    """Uniform range of the initial energies in training."""
    load_factor: Interval
    """Uniform range of a factor on each area's load, per episode, in training."""
    renewable_factor: Interval
    """Uniform range of a factor on each PV and wind plant, per episode, in training."""
    reward_scale_usd: Positive
    """Reward = -$ / (reward_scale_usd); 1 for plain dollars."""

    @model_validator(mode="after")
    def _intervals(self) -> "Episode":
        for name in ("training_initial_energy_mwh", "load_factor", "renewable_factor"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be [low, high] with low <= high, got [{low}, {high}]")
        return self


class Scenario(_Model):
    """One complete scenario."""

    name: str
    description: str = ""
    dt_h: Annotated[float, AfterValidator(_hour_or_quarter)]
    """Length of a step in hours, 1 or 0.25."""
    horizon: Literal["day", "week"]
    """`day` settles at midnight and terminates; `week` runs on and is truncated after 168 h."""
    settlement: Literal["community", "individual"]
    """Bill at the feeder head, pooled; or every connection point on its own."""
    feeder: Feeder
    microgrids: Annotated[dict[str, Microgrid], Field(min_length=1)]
    data: Data
    tariff: Tariff
    safety: Safety
    episode: Episode
    curtailment: bool = False
    """Two more actions per microgrid: curtail PV and wind."""

    @model_validator(mode="after")
    def _energies(self) -> "Scenario":
        low, high = self.episode.training_initial_energy_mwh
        for name, microgrid in self.microgrids.items():
            battery = microgrid.battery
            for key, value in (
                ("initial_energy_mwh", self.episode.initial_energy_mwh),
                ("training_initial_energy_mwh", low),
                ("training_initial_energy_mwh", high),
            ):
                if not battery.energy_min_mwh <= value <= battery.energy_max_mwh:
                    raise ValueError(
                        f"episode.{key} must lie within {name}'s battery [{battery.energy_min_mwh}, "
                        f"{battery.energy_max_mwh}] MWh, got {value}"
                    )
        if self.feeder.name in self.microgrids:
            raise ValueError(f"the feeder's name {self.feeder.name!r} must differ from the microgrids'")
        return self

    @property
    def steps_per_hour(self) -> int:
        """1 or 4."""
        return round(1 / self.dt_h)

    @property
    def steps_per_day(self) -> int:
        """24 or 96."""
        return 24 * self.steps_per_hour


def scenario_names() -> list[str]:
    """Names of the packaged scenarios."""
    return sorted(path.stem for path in (DATA / "scenarios").glob("*.yaml"))


def load_scenario(name_or_path: str | Path, overrides: Mapping[str, Any] | None = None) -> Scenario:
    """Read a packaged scenario or a YAML file and merge nested overrides into it.

    Raises:
        ValueError: unknown name, unreadable YAML, unknown or invalid keys; names the key, the rule and the value.
    """
    return build_scenario(read_scenario(name_or_path), located(overrides or {}, Path.cwd()), name_or_path)


def read_scenario(name_or_path: str | Path) -> dict[str, Any]:
    """The content of a packaged scenario or a YAML file, not validated yet.

    Raises:
        ValueError: unknown name or unreadable YAML.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = DATA / "scenarios" / f"{name_or_path}.yaml"
    if not path.is_file():
        raise ValueError(
            f"--scenario {name_or_path!s} is unknown; use one of {', '.join(scenario_names())} "
            "or the path of a .yaml file"
        )
    return read_yaml(path)


def build_scenario(content: Mapping[str, Any], overrides: Mapping[str, Any], name: str | Path) -> Scenario:
    """Validate a scenario's content with overrides merged into it.

    Raises:
        ValueError: unknown or invalid keys; begins with the scenario's name.
    """
    try:
        return Scenario.model_validate(merged(content, overrides))
    except ValidationError as error:
        raise ValueError(f"scenario {name}: {problems(error)}") from error
