"""Types of the numbers in a scenario: their range, and the unit mistakes that a number betrays.

Data flow: used by `scenario.py`; `scripts/scenario_reference.py` reads the rules for the reference page.
"""

from dataclasses import dataclass
from math import isfinite
from typing import Annotated

from pydantic import AfterValidator, Field


@dataclass(frozen=True)
class UpTo:
    """Refuses what is so large that it must be in another unit."""

    limit: float
    remedy: str

    @property
    def rule(self) -> str:
        """For the reference page."""
        return f"<= {self.limit:g}"

    def __call__(self, value: float) -> float:
        """Return the value.

        Raises:
            ValueError: above the limit; says which unit it looks like.
        """
        if value > self.limit:
            raise ValueError(f"must be at most {self.limit:g}; {self.remedy}")
        return value


@dataclass(frozen=True)
class OneOf:
    """Refuses every number but a few."""

    values: tuple[float, ...]
    unit: str

    @property
    def rule(self) -> str:
        """For the reference page."""
        return " or ".join(map(str, self.values))

    def __call__(self, value: float) -> float:
        """Return the value.

        Raises:
            ValueError: any other number.
        """
        if value not in self.values:
            raise ValueError(f"must be {self.rule} {self.unit}")
        return value


Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Interval = tuple[NonNegative, NonNegative]
Steps = Annotated[int, Field(ge=0)]

PowerMw = Annotated[NonNegative, AfterValidator(UpTo(1000, "it looks like kW, divide it by 1000"))]
EnergyMwh = Annotated[NonNegative, AfterValidator(UpTo(1000, "it looks like kWh, divide it by 1000"))]
LargestEnergyMwh = Annotated[Positive, AfterValidator(UpTo(1000, "it looks like kWh, divide it by 1000"))]
VoltageKv = Annotated[Positive, AfterValidator(UpTo(1000, "it looks like V, divide it by 1000"))]
VoltagePu = Annotated[Positive, AfterValidator(UpTo(2, "it looks like kV or %, divide it by the nominal voltage"))]
BandPu = Annotated[Positive, AfterValidator(UpTo(0.2, "it looks like V or %, divide it by the nominal voltage"))]
Efficiency = Annotated[Positive, AfterValidator(UpTo(1, "it is a share, so 98 % is 0.98"))]
LoadScale = Annotated[
    NonNegative, AfterValidator(UpTo(20, "it multiplies the network's loads, and looks like a load in kW"))
]
StepHours = Annotated[float, AfterValidator(OneOf((1.0, 0.25), "hours"))]
Duration = Annotated[NonNegative, AfterValidator(UpTo(168, "it looks like minutes, divide it by 60"))]

TIME_OF_USE = "tou"
"""The price that is the time-of-use tariff."""


def constant_price(price: str) -> float | None:
    """The number that `data.price` is, in $/MWh; None for a name.

    Raises:
        ValueError: no finite number.
    """
    try:
        value = float(price)
    except ValueError:
        return None
    if not isfinite(value):
        raise ValueError(f"price must be a finite number in $/MWh, {TIME_OF_USE} or the name of a column, got {price}")
    return value
