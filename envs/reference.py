"""Per-day reference costs: doing nothing, and the certified lower bound.

Data flow: `data/reference/<scenario>_days.csv` (shipped, written by `scripts/reference.py`) or
`envs.baselines.reference` -> `DayReference` -> `MicrogridEnv.episode_score`.
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
_REMEDY = "restore it from the package, or make it anew: python scripts/reference.py"


@dataclass(frozen=True)
class DayReference:
    """J in $ of every day of the data under two references; NaN where it is not known."""

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

    def summary(self, cost_usd: Tensor, days: Tensor) -> dict[str, float]:
        """Score and mean references of episodes that cost `cost_usd` on `days`, over the days whose bound is known.

        Raises:
            ValueError: no day has a bound.
        """
        idle, bound = self.of_days(days)
        known = bound.isfinite()
        if not known.any():
            raise ValueError(f"the reference holds no bound of the {len(days)} days played; make it for their split")
        return {
            "score": score(cost_usd, idle, bound),
            "idle_usd_per_day": float(idle[known].mean()),
            "bound_usd_per_day": float(bound[known].mean()),
        }

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
    """Share of the possible savings: sum(idle - cost) / sum(idle - bound) over the days whose bound is known.

    NaN where none is, or where nothing can be saved.
    """
    known = bound_usd.isfinite()
    return float((idle_usd - cost_usd)[known].sum() / (idle_usd - bound_usd)[known].sum())
