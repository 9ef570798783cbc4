"""The optional solver of the planning baselines and the bound: a clear error where it is missing."""

import importlib.util

SOLVER_PACKAGES = ("cvxpy", "clarabel", "joblib")
INSTALL = 'pip install -c constraints.txt -e ".[baselines]"'


def solver_is_missing() -> bool:
    """Whether a package of the extra `baselines` is not installed."""
    return any(importlib.util.find_spec(name) is None for name in SOLVER_PACKAGES)


def require_solver(what: str) -> None:
    """Check that the extra `baselines` is installed.

    Args:
        what: needs it, as the user knows it, such as `baseline 'mpc'`.

    Raises:
        ValueError: a package is missing; gives the command that installs them.
    """
    if solver_is_missing():
        raise ValueError(f"{what} needs {', '.join(SOLVER_PACKAGES)}; install them with: {INSTALL}")
