"""Put policies that played the same days beside each other, and beside the certified bound.

Data flow: `Played`, `Reference` -> `Comparison` -> `Row` (one for each policy and group of seeds) -> tables, report.
Intervals are paired: all policies and both ends of the score belong to the same days.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from math import nan
from typing import Any

import torch
from torch import Tensor

from envs.profiles import Split
from mappo.statistics import Estimate, SeedSummary, across_seeds, mean_of_days, ratio_of_sums

from .play import DAYS_PER_EPISODE, Played
from .reference import Reference

GRID_FIELDS = ("violating_share", "violating_h", "overloaded_h", "failed_h", "v_min_pu", "v_max_pu")
NONE = Estimate(nan, nan, nan)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the tables; dollars per day, NaN where there is no bound."""

    name: str
    kind: str
    """run, group, baseline, optimum or bound."""
    j_usd: float
    parts_usd: Mapping[str, float]
    violating_share: float
    violating_h: float
    """All days together, as the next two."""
    overloaded_h: float
    failed_h: float
    v_min_pu: float
    v_max_pu: float
    score: Estimate
    gap_usd: Estimate
    gap_share: Estimate
    seconds_per_decision: float
    j_range_usd: Estimate = NONE
    """Of a group: across seeds."""
    across: str = ""
    """Of a group: what its values and intervals are."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that the outputs show."""

    scenario: str
    split: Split
    horizon: str
    dates: tuple[date, ...]
    """(D,) first day of each episode."""
    weeks: Tensor
    """(D,) number of the data's week."""
    played: Mapping[str, Played]
    reference: Reference | None
    groups: Mapping[str, Sequence[str]]
    """Name -> names of its runs."""
    notes: Sequence[str] = ()
    runs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name of a run -> checkpoint, seed, algo."""

    @property
    def first_run(self) -> Played:
        """The run that the report is about."""
        return self.played[next(iter(self.runs))]

    def gap_usd(self, name: str) -> Tensor:
        """(D,) J above the bound; NaN without one."""
        played = self.played[name]
        return torch.full_like(played.j_usd, nan) if self.reference is None else played.j_usd - self.reference.bound_usd

    def row(self, name: str) -> Row:
        """One policy."""
        played, days = self.played[name], DAYS_PER_EPISODE[self.horizon]
        score, gap_usd, gap_share = self._against_bound(played)
        violating_h = float(played.violating_h.sum()) * days
        return Row(
            name=name,
            kind=played.kind,
            j_usd=float(played.j_usd.mean()),
            parts_usd={part: float(values.mean()) for part, values in played.parts_usd.items()},
            violating_share=violating_h / (24 * len(self.dates) * days),
            violating_h=violating_h,
            overloaded_h=float(played.overloaded_h.sum()) * days,
            failed_h=float(played.failed_h.sum()) * days,
            v_min_pu=float(played.v_min_pu.min()),
            v_max_pu=float(played.v_max_pu.max()),
            score=score,
            gap_usd=gap_usd,
            gap_share=gap_share,
            seconds_per_decision=played.seconds_per_decision,
        )

    def _against_bound(self, played: Played) -> tuple[Estimate, Estimate, Estimate]:
        """Score, gap in $/day and gap as a share of the bound, over the days that have one."""
        if (reference := self.reference) is None:
            return NONE, NONE, NONE
        days = reference.scored
        j, idle, bound = (values[days] for values in (played.j_usd, reference.idle_usd, reference.bound_usd))
        weeks = self.weeks[days]
        return (
            ratio_of_sums(idle - j, idle - bound, weeks),
            mean_of_days(j - bound, weeks),
            ratio_of_sums(j - bound, bound, weeks),
        )

    def group_row(self, name: str) -> Row:
        """Several seeds of one configuration: mean and range, or interquartile mean and interval."""
        rows = [self.row(run) for run in self.groups[name]]

        def mean(attribute: str) -> float:
            return sum(getattr(row, attribute) for row in rows) / len(rows)

        def summary(values: Sequence[float]) -> SeedSummary:
            return across_seeds(torch.tensor(values, dtype=torch.float64))

        j = summary([row.j_usd for row in rows])
        score, gap_usd, gap_share = (
            Estimate(*summary([getattr(row, attribute).value for row in rows])[:3])
            for attribute in ("score", "gap_usd", "gap_share")
        )
        return Row(
            name=name,
            kind="group",
            j_usd=j.value,
            parts_usd={part: sum(row.parts_usd[part] for row in rows) / len(rows) for part in rows[0].parts_usd},
            violating_share=mean("violating_share"),
            violating_h=mean("violating_h"),
            overloaded_h=mean("overloaded_h"),
            failed_h=mean("failed_h"),
            v_min_pu=min(row.v_min_pu for row in rows),
            v_max_pu=max(row.v_max_pu for row in rows),
            score=score,
            gap_usd=gap_usd,
            gap_share=gap_share,
            seconds_per_decision=mean("seconds_per_decision"),
            j_range_usd=Estimate(*j[:3]),
            across=j.kind,
        )

    def bound_row(self) -> Row | None:
        """The bound itself, of the days that have one; no policy, so it has only a J."""
        if self.reference is None:
            return None
        bound_usd = self.reference.bound_usd[self.reference.scored]
        return Row(
            name="certified bound",
            kind="bound",
            j_usd=float(bound_usd.mean()),
            parts_usd={},
            **dict.fromkeys(GRID_FIELDS, nan),
            score=Estimate(1.0, nan, nan),
            gap_usd=Estimate(0.0, nan, nan),
            gap_share=Estimate(0.0, nan, nan),
            seconds_per_decision=nan,
        )

    def rows(self) -> list[Row]:
        """Groups of seeds first, then everything by rising J, the bound included."""
        single = [self.row(name) for name in self.played]
        if bound := self.bound_row():
            single.append(bound)
        return [self.group_row(name) for name in self.groups] + sorted(single, key=lambda row: row.j_usd)


def example_days(usd: Tensor) -> dict[str, int]:
    """Which days to draw: of the median, the least and the largest gap, or J; positions in (D,), without repeats."""
    order = torch.argsort(torch.where(torch.isfinite(usd), usd, torch.inf), stable=True).tolist()
    count = int(torch.isfinite(usd).sum())
    if not count:
        return {}
    wanted = {"typical": order[(count - 1) // 2], "best": order[0], "worst": order[count - 1]}
    chosen: dict[str, int] = {}
    for label, day in wanted.items():
        if day not in chosen.values():
            chosen[label] = day
    return chosen
