"""Baselines that act like a policy, and bounds on what any policy can reach.

Data flow: `MicrogridEnv` -> `make_baseline` -> `act(obs)` -> env; `Scenario`, days -> `certified_bound`.
Nothing here imports cvxpy before a baseline or bound that needs it is asked for.
"""

import importlib
import inspect
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor

from envs.baselines.extra import require_solver
from envs.microgrid import MicrogridEnv

if TYPE_CHECKING:
    from envs.baselines.bound import certified_bound
    from envs.baselines.reference import day_reference

__all__ = ["BASELINES", "Baseline", "certified_bound", "day_reference", "make_baseline"]


class Baseline(Protocol):
    """What `mappo.evaluate.evaluate` can score. A baseline acts on its env's present situation, not on `obs`."""

    def act(self, obs: Tensor, action_mask: Tensor | None = None) -> Tensor:
        """(B, A, O) -> (B, A, U) in [-1, 1]."""
        ...


class _Entry(NamedTuple):
    """Where a baseline lives and the options that its name fixes."""

    module: str
    name: str
    fixed: dict[str, Any]
    solver: bool


_REGISTRY = {
    "idle": _Entry("rules", "Idle", {}, False),
    "rule": _Entry("rules", "Rule", {}, False),
    "greedy": _Entry("rules", "Greedy", {}, False),
    "random": _Entry("rules", "RandomActions", {}, False),
    "selfish": _Entry("selfish", "Selfish", {"own_peak": True}, True),
    "selfish-no-peak": _Entry("selfish", "Selfish", {"own_peak": False}, True),
    "copper-plate": _Entry("copper_plate", "CopperPlatePlan", {}, True),
    "mpc": _Entry("mpc", "Mpc", {}, True),
}
BASELINES: tuple[str, ...] = tuple(_REGISTRY)
"""Names that `make_baseline` knows; `copper-plate` alone has perfect foresight by default."""
_LAZY = {"certified_bound": "bound", "day_reference": "reference"}


def make_baseline(name: str, env: MicrogridEnv, **options: Any) -> Baseline:
    """Build a baseline for one env.

    Args:
        name: one of `BASELINES`.
        env: whose situation it acts on.
        options: keyword arguments of its class, such as `forecast="perfect"` of `mpc` and `selfish`, `end_rule=False`
            of `greedy`, `seed=1` of `random`.

    Raises:
        ValueError: an unknown name or option, or a solver that is not installed.
    """
    if name not in _REGISTRY:
        raise ValueError(f"baseline {name!r} is unknown; use one of {', '.join(BASELINES)}")
    entry = _REGISTRY[name]
    if entry.solver:
        require_solver(f"baseline {name!r}")
    made = getattr(importlib.import_module(f"envs.baselines.{entry.module}"), entry.name)
    known = [option for option in list(inspect.signature(made).parameters)[1:] if option not in entry.fixed]
    if unknown := [option for option in options if option not in known]:
        raise ValueError(f"baseline {name!r} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    return made(env, **entry.fixed, **options)


def __getattr__(name: str) -> Any:
    """Import what needs the solver when it is first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_solver(name)
    return getattr(importlib.import_module(f"envs.baselines.{_LAZY[name]}"), name)
