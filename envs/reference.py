"""Per-day reference costs of shipped scenarios: doing nothing, and the certified lower bound (environment.md 9).

Data flow: `data/reference/<scenario>_days.csv` -> `DayReference` -> `MicrogridEnv.episode_score`.
"""

import csv
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor

from envs.scenario import DATA, Scenario, load_scenario

FOLDER = DATA / "reference"
SHIPPED = ("ieee34_ieee13",)
"""Scenarios with a file in `data/reference`; without it their score would silently mean something else."""
_REMEDY = "restore it from the package"


@dataclass(frozen=True)
class DayReference:
    """J in $ of every day of the data under two references."""

    idle_usd: Tensor  # (days,) float64
    bound_usd: Tensor  # (days,) float64

    @classmethod
    def of(cls, scenario: Scenario, num_days: int) -> "DayReference | None":
        """The reference of a shipped scenario; None where anything in the scenario was changed or none is shipped.

        Args:
            scenario: of the env.
            num_days: days in the scenario's data.

        Raises:
            ValueError: a missing or damaged reference file of a shipped scenario; names the file and the line.
        """
        if scenario.name not in SHIPPED or scenario != load_scenario(scenario.name):
            return None
        path = FOLDER / f"{scenario.name}_days.csv"
        rows = _read(path)
        if len(rows) != num_days:
            raise ValueError(
                f"reference file {path} must hold the {num_days} days of the data, got {len(rows)}; {_REMEDY}"
            )
        idle, bound = torch.tensor(rows, dtype=torch.float64).T
        return cls(idle, bound)

    def of_days(self, days: Tensor) -> tuple[Tensor, Tensor]:
        """Idle cost and bound of some days, in their order."""
        return self.idle_usd[days], self.bound_usd[days]


def _read(path: Path) -> list[tuple[float, float]]:
    """Idle cost and bound of each day."""
    rows: list[tuple[float, float]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                if int(row["day"]) != len(rows):
                    raise ValueError(f"days must count 0, 1, 2, ..., got {row['day']}")
                idle, bound = float(row["idle_usd"]), float(row["bound_usd"])
                if not (isfinite(idle) and isfinite(bound)):
                    raise ValueError(f"every value must be a finite number, got {idle} and {bound}")
                rows.append((idle, bound))
    except KeyError as error:
        raise ValueError(f"reference file {path} line 1: column {error} is missing; {_REMEDY}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"reference file {path} line {len(rows) + 2}: {error}; {_REMEDY}") from error
    except OSError as error:
        raise ValueError(f"reference file {path} cannot be read ({error.strerror}); {_REMEDY}") from error
    return rows


def score(cost_usd: Tensor, idle_usd: Tensor, bound_usd: Tensor) -> float:
    """Share of the possible savings: sum(idle - cost) / sum(idle - bound) over the same days."""
    return float((idle_usd - cost_usd).sum() / (idle_usd - bound_usd).sum())
