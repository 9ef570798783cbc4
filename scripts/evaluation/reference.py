"""What the score refers to: the cost of doing nothing and the certified bound of each day.

Data flow: env, idle's J -> `find_reference` -> `Reference` (idle, bound, how good the bound is) -> `compare.py`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from envs import MicrogridEnv
from envs.baselines.extra import require_solver
from envs.devices import Applied
from envs.profiles import Split, load_profiles
from envs.reference import DayReference


@dataclass(frozen=True, kw_only=True)
class BoundQuality:
    """How tight the bound is, each (D,) float64; NaN on days that were not solved."""

    width_usd: Tensor
    """J of the optimum's own schedule, replayed through the env, less the bound."""
    primal_usd: Tensor
    """The relaxation's own optimum: what the certificate gives away is this less the bound."""
    cone_residual: Tensor
    """Largest v l - P^2 - Q^2, in per unit squared; 0 where the relaxation is exact."""
    phantom_loss_mwh: Tensor
    """Losses of currents that no power needs."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Both ends of the score, (D,) float64; the bound is NaN on days that were not solved."""

    idle_usd: Tensor
    bound_usd: Tensor
    source: str
    unsolved: tuple[str, ...] = ()
    """Dates of the days without a bound; no score, gap or interval contains them."""
    quality: BoundQuality | None = None
    schedule: Applied | None = None
    """(D, A, H) set-points of the optimum."""

    @property
    def scored(self) -> Tensor:
        """(D,) bool: days with a bound."""
        return torch.isfinite(self.bound_usd)


def find_reference(
    env: MicrogridEnv, idle_usd: Tensor, *, split: Split, workers: int | None
) -> tuple[Reference | None, list[str]]:
    """The bound of the days that `env` plays, certified here or shipped; None where there is none, and notes on why.

    Args:
        env: evaluation env; copy b plays day b of the split.
        idle_usd: (D,) J of doing nothing.
        split: of the env.
        workers: processes; None: one a core.
    """
    if env.scenario.horizon != "day":
        return None, ["bounds are for days that are settled at midnight: a run over weeks has a J but no score"]
    try:
        require_solver("certifying the bounds here")
    except ValueError as missing:
        return _shipped(env, idle_usd, str(missing))
    from envs.baselines import certified_bound  # noqa: PLC0415 - needs the extra
    from envs.baselines.tree import check_provable  # noqa: PLC0415

    try:
        check_provable(env.scenario, env.network)
    except ValueError as refused:
        return None, [f"no score: {refused}"]
    found = certified_bound(env.scenario, split=split, days=len(idle_usd), cache=True, workers=workers)
    assert torch.equal(found.day.cpu(), env.day.cpu()), "the bound must be of the days that are played"
    unsolved = tuple(str(date) for date in found.unsolved)
    reference = Reference(
        idle_usd=idle_usd,
        bound_usd=found.usd,
        source="certified by this program",
        unsolved=unsolved,
        quality=BoundQuality(
            width_usd=found.width,
            primal_usd=found.primal_usd,
            cone_residual=found.cone_residual,
            phantom_loss_mwh=found.phantom_loss_mwh,
        ),
        schedule=found.schedule,
    )
    if not reference.scored.any():
        return None, [f"no day could be solved ({', '.join(unsolved)}): no score"]
    if not unsolved:
        return reference, []
    rule = "days without a bound count in J, but not in score and gap, and the replayed optimum does nothing on them"
    return reference, [f"{rule}: {', '.join(unsolved)}"]


def _shipped(env: MicrogridEnv, idle_usd: Tensor, missing: str) -> tuple[Reference | None, list[str]]:
    """The bounds in the package, where they are of this scenario; `missing` says what computing them needs."""
    stored = DayReference.of(env.scenario, load_profiles(env.scenario).num_days)
    if stored is None:
        return None, [f"no score: no bounds are shipped for this scenario; {missing}"]
    _, bound_usd = stored.of_days(env.day.cpu())
    reference = Reference(idle_usd=idle_usd, bound_usd=bound_usd, source="shipped with the scenario")
    return reference, [f"bounds are those shipped with the scenario; {missing}"]
