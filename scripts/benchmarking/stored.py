"""Medians as ratios to the reference loop: written by `--store`, judged by `--compare`. No timing.

Data flow: `Rate.per_loop` of a run -> `Record` -> file; a later run's `Record` and the file's -> `compared` -> lines.

Only ratios are kept: a slower or busier machine slows the loop as well. The settings that change what is measured are
kept beside them, and a run with others is refused.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from benchmarking.rates import Rate

SEPARATOR = ": "
Verdict = Literal["ok", "regressed", "new", "missing"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one run measured, in multiples of the reference loop."""

    settings: dict[str, str | int]
    """What a run must share to be compared: flag without hyphens -> value."""
    ratios: dict[str, float]
    """`<stage>: <what>` -> median of rate over loop rate."""
    machine: dict[str, str] = field(default_factory=dict)
    """Where it was measured; for the reader."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One figure beside its stored value."""

    figure: str
    stored: float | None
    now: float | None
    verdict: Verdict

    @property
    def share(self) -> float | None:
        """Now over stored."""
        return None if self.stored is None or self.now is None else self.now / self.stored


def record_of(rates: Sequence[Rate], settings: Mapping[str, str | int], machine: Mapping[str, str]) -> Record:
    """The guarded figures of a run."""
    ratios = {f"{rate.stage}{SEPARATOR}{rate.what}": rate.per_loop for rate in rates if rate.per_loop is not None}
    return Record(settings=dict(settings), ratios=ratios, machine=dict(machine))


def write(record: Record, path: Path) -> None:
    """One JSON object; four digits are more than a run can repeat."""
    rounded = {figure: float(f"{ratio:.4g}") for figure, ratio in record.ratios.items()}
    path.write_text(json.dumps(asdict(record) | {"ratios": rounded}, indent=2) + "\n")


def read(path: Path) -> Record:
    """What `write` wrote.

    Raises:
        ValueError: no such file, or another kind of file.
    """
    try:
        content = json.loads(path.read_text())
        return Record(
            settings=dict(content["settings"]),
            ratios={str(figure): float(ratio) for figure, ratio in content["ratios"].items()},
            machine=dict(content["machine"]),
        )
    except OSError as error:
        raise ValueError(f"--compare {path} cannot be read: {error.strerror}; write it with --store {path}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"--compare {path} must be a file that --store wrote, got another; write it anew") from error


def check_settings(stored: Record, now: Record, path: Path) -> None:
    """The run must measure what the file holds.

    Raises:
        ValueError: a setting differs; the message names each.
    """
    names = sorted(stored.settings.keys() | now.settings.keys())
    other = [name for name in names if stored.settings.get(name) != now.settings.get(name)]
    if other:
        found = ", ".join(f"--{name} {now.settings.get(name)} instead of {stored.settings.get(name)}" for name in other)
        raise ValueError(f"--compare {path} needs the settings it was stored with, got {found}; give those")


def compared(stored: Record, now: Record, stages: Sequence[str], tolerance: float) -> list[Comparison]:
    """Each figure of the stages that ran: regressed below `tolerance` of its stored ratio, missing, new or ok.

    Args:
        stored: the file.
        now: the run.
        stages: that were measured; stored figures of others are left out.
        tolerance: smallest share of the stored ratio that passes, in (0, 1].
    """
    expected = [figure for figure in stored.ratios if figure.partition(SEPARATOR)[0] in stages]
    comparisons = []
    for figure in dict.fromkeys([*expected, *now.ratios]):
        before, after = stored.ratios.get(figure), now.ratios.get(figure)
        if before is None:
            verdict: Verdict = "new"
        elif after is None:
            verdict = "missing"
        else:
            verdict = "ok" if after >= tolerance * before else "regressed"
        comparisons.append(Comparison(figure=figure, stored=before, now=after, verdict=verdict))
    return comparisons


def failures(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """What must end a run with an error: a slower figure, and one that is stored but no longer measured."""
    return [item for item in comparisons if item.verdict in ("regressed", "missing")]
