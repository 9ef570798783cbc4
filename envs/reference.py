"""Per-day reference costs of shipped scenarios: doing nothing, and the certified lower bound (environment.md 9).

Data flow: `data/reference/<scenario>_days.csv` -> `DayReference` -> `MicrogridEnv.episode_score`.
"""

import csv
from dataclasses import dataclass

import torch
from torch import Tensor

from envs.scenario import DATA, Scenario, load_scenario, scenario_names


@dataclass(frozen=True)
class DayReference:
    """J in $ of every day of the data under two references."""

    idle_usd: Tensor  # (days,) float64
    bound_usd: Tensor  # (days,) float64

    @classmethod
    def of(cls, scenario: Scenario) -> "DayReference | None":
        """The reference of a shipped scenario; None where anything in the scenario was changed or none is shipped."""
        path = DATA / "reference" / f"{scenario.name}_days.csv"
        if scenario.name not in scenario_names() or not path.is_file() or scenario != load_scenario(scenario.name):
            return None
        with path.open(newline="") as file:
            rows = [(float(row["idle_usd"]), float(row["bound_usd"])) for row in csv.DictReader(file)]
        idle, bound = torch.tensor(rows, dtype=torch.float64).T
        return cls(idle, bound)

    def of_days(self, days: Tensor) -> tuple[Tensor, Tensor]:
        """Idle cost and bound of some days, in their order."""
        return self.idle_usd[days], self.bound_usd[days]


def score(cost_usd: Tensor, idle_usd: Tensor, bound_usd: Tensor) -> float:
    """Share of the possible savings: sum(idle - cost) / sum(idle - bound) over the same days."""
    return float((idle_usd - cost_usd).sum() / (idle_usd - bound_usd).sum())
