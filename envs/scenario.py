"""Scenario files: one YAML that describes grid, devices, money and episode; validated, unknown keys are errors.

Data flow: YAML + overrides -> `Scenario` -> network, devices, tariff, profiles -> `MicrogridEnv`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from envs.events import Event
from envs.protocols.settings import Protocols
from envs.quantities import (
    TIME_OF_USE,
    EnergyMwh,
    Interval,
    NonNegative,
    Positive,
    Share,
    StepHours,
    VoltagePu,
    constant_price,
)
from envs.scenario_file import DATA, located, merged, problems, read_extended
from envs.scenario_parts import DsoAgentSettings, Feeder, Microgrid, Model


class Data(Model):
    """Time series: names of packaged series or paths to CSV files."""

    profiles: str
    """`<name>_hourly` and `<name>_15min` when packaged."""
    prices: str | None = None
    """Hourly prices; the column is `<price>_usd_per_mwh`. Needed only where `price` names a column."""
    price: str = "synthetic"
    """Which price to bill with: a column of prices, `tou` for the time-of-use tariff, or a number in $/MWh. Training
    redraws the noise of the packaged `synthetic` price (packaged profiles and prices); every other price, such as one
    from a file of your own, is the same in training and evaluation."""
    price_floor_usd_per_mwh: float = 5.0
    """Lower prices are raised to this."""
    price_cap_usd_per_mwh: float = 250.0
    """Higher prices are cut to this."""

    @model_validator(mode="after")
    def _file_of_a_column(self) -> "Data":
        is_column = self.price != TIME_OF_USE and constant_price(self.price) is None
        if is_column and self.prices is None:
            file = "price_2016 or a CSV file" if self.price == "synthetic" else "the CSV file"
            raise ValueError(
                f"prices is missing, and price: {self.price} is a column: set prices to {file} that holds "
                f"{self.price}_usd_per_mwh, or price to {TIME_OF_USE} or a number in $/MWh"
            )
        return self

    @model_validator(mode="after")
    def _prices(self) -> "Data":
        if self.price_floor_usd_per_mwh > self.price_cap_usd_per_mwh:
            raise ValueError(
                f"price_floor_usd_per_mwh must not exceed price_cap_usd_per_mwh, got {self.price_floor_usd_per_mwh} "
                f"and {self.price_cap_usd_per_mwh}"
            )
        return self


class Tariff(Model):
    """Prices relative to the import price lambda."""

    export_share: Share
    """Export pays this share of lambda."""
    pool_share: Share
    """Power matched between microgrids is priced at this share of lambda."""
    demand_charge_usd_per_mw: NonNegative
    """On the day's highest head power."""
    terminal_price_factor: NonNegative
    """A missing MWh at the end of the day costs factor * max(lambda of the day) + adder."""
    terminal_price_adder_usd_per_mwh: NonNegative
    """See terminal_price_factor."""


class Safety(Model):
    """Limits and what exceeding them costs."""

    v_min_pu: VoltagePu
    """Lowest voltage allowed at any bus below the substation."""
    v_max_pu: VoltagePu
    """Highest voltage allowed."""
    voltage_usd_per_h: NonNegative
    """Multiplies the sum over buses of half the squared voltages' excess."""
    current_usd_per_h: NonNegative
    """Multiplies the sum over branches of half the squared loadings' excess over 1."""
    failed_flow_usd_per_h: NonNegative
    """An hour whose power flow has no solution."""
    lost_load_usd_per_mwh: NonNegative = 5000.0
    """Value of lost load: what the owner of a load pays while its bus has no voltage (docs/faults.md)."""

    @model_validator(mode="after")
    def _bounds(self) -> "Safety":
        if self.v_min_pu >= self.v_max_pu:
            raise ValueError(f"v_min_pu must be below v_max_pu, got {self.v_min_pu} and {self.v_max_pu}")
        return self


class Episode(Model):
    """How an episode starts, what training randomises, and the scale of the reward."""

    initial_energy_mwh: EnergyMwh
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


class Scenario(Model):
    """One complete scenario."""

    name: str
    """Of the scenario, in logs and reports."""
    description: str = ""
    """One line for people."""
    dt_h: StepHours
    """Length of a step in hours, 1 or 0.25."""
    horizon: Literal["day", "week"]
    """`day` settles at midnight and terminates; `week` runs on and is truncated after 168 h."""
    settlement: Literal["community", "individual"]
    """Bill at the feeder head, pooled; or every connection point on its own."""
    feeder: Feeder
    microgrids: Annotated[dict[str, Microgrid], Field(min_length=1)]
    """Name -> microgrid. With `feeder.copies` each stands on every feeder."""
    data: Data
    tariff: Tariff
    safety: Safety
    episode: Episode
    curtailment: bool = False
    """Two more actions per microgrid: curtail PV and wind."""
    protocols: Protocols = Protocols()
    dso_agent: DsoAgentSettings | None = None
    """The DSO decides as well, as one more agent named like the feeder; `{}` for all its devices."""
    events: tuple[Event, ...] = ()
    """Price spikes, PV dips, outages and islanding, drawn for every day (docs/faults.md)."""

    @model_validator(mode="after")
    def _trade(self) -> "Scenario":
        if self.protocols.horizontal == "p2p" and self.settlement != "individual":
            raise ValueError(
                "protocols.horizontal: p2p (--horizontal-protocol p2p) needs settlement: individual, got "
                f"{self.settlement}: the community's pool has traded everything already; set settlement: individual, "
                "or use consensus"
            )
        return self

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
        return self

    @model_validator(mode="after")
    def _durations(self) -> "Scenario":
        for name, microgrid in self.microgrids.items():
            commitment = microgrid.generator.commitment
            for key, hours in (commitment.durations() if commitment else {}).items():
                if not (hours / self.dt_h).is_integer():
                    raise ValueError(
                        f"microgrids.{name}.generator.commitment.{key} must be a whole number of steps of dt_h = "
                        f"{self.dt_h:g} h, got {hours:g}"
                    )
        return self

    @model_validator(mode="after")
    def _names(self) -> "Scenario":
        if self.feeder.name in self.microgrids:
            raise ValueError(f"the feeder's name {self.feeder.name!r} must differ from the microgrids'")
        if self._is_copied():
            return self
        for name in (self.feeder.name, *self.microgrids):
            if "." in name or not name:
                raise ValueError(f"names of feeder and microgrids must have a letter and no dot, got {name!r}")
        return self

    def _is_copied(self) -> bool:
        """Whether the microgrids already stand on each of the `feeder.copies` feeders, as in a stored scenario."""
        prefixes = {f"F{i}" for i in range(1, self.feeder.copies + 1)}
        split = [name.partition(".")[::2] for name in self.microgrids]
        own = {own for _, own in split}
        complete = len(split) == len(own) * len(prefixes) and {prefix for prefix, _ in split} == prefixes
        return self.feeder.copies > 1 and complete and not any("." in name or not name for name in own)

    def on_every_feeder(self) -> "Scenario":
        """With `feeder.copies` beyond 1, `MG1` becomes `F1.MG1`, `F2.MG1`, ...; else the scenario as it is."""
        if self.feeder.copies == 1 or self._is_copied():
            return self
        copied = {f"{prefix}.{n}": g for prefix in self._prefixes() for n, g in self.microgrids.items()}
        return self.model_copy(update={"microgrids": copied})

    def feeders(self) -> dict[str, dict[str, Microgrid]]:
        """Bus prefix of each feeder (`DSO`; with copies `F1.DSO`, `F2.DSO`, ...) -> the microgrids that hang on it."""
        if self.feeder.copies == 1:
            return {self.feeder.name: dict(self.microgrids)}
        on: dict[str, dict[str, Microgrid]] = {prefix: {} for prefix in self._prefixes()}
        for name, grid in self.microgrids.items():
            if (prefix := name.partition(".")[0]) in on:
                on[prefix][name] = grid
        return {f"{prefix}.{self.feeder.name}": grids for prefix, grids in on.items()}

    def _prefixes(self) -> list[str]:
        return [f"F{i}" for i in range(1, self.feeder.copies + 1)]

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
    """The content of a packaged scenario or a YAML file with what it `extends`, not validated yet.

    Raises:
        ValueError: unknown name or unreadable YAML.
    """
    return read_extended(str(name_or_path), scenario_names())


def build_scenario(content: Mapping[str, Any], overrides: Mapping[str, Any], name: str | Path) -> Scenario:
    """Validate a scenario's content with overrides merged into it.

    Raises:
        ValueError: unknown or invalid keys; begins with the scenario's name.
    """
    try:
        return Scenario.model_validate(merged(content, overrides)).on_every_feeder()
    except ValidationError as error:
        raise ValueError(f"scenario {name}: {problems(error)}") from error
