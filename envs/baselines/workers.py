"""Many days solved at once in worker processes, each with its own compiled problems.

Data flow: scenario, `DayData` of every day -> `solve_all` -> one result a day, in order. Workers are joblib's (loky):
they need no `if __name__ == "__main__"` in a user's script, and end when idle or when the parent exits.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import joblib

from envs.baselines.distflow import DayData, DistFlow
from envs.scenario import Scenario

Result = TypeVar("Result")
CHUNKS_PER_WORKER = 4  # so that a slow chunk does not hold up the others


def solve_all(
    solve: Callable[..., Result],
    scenario: Scenario,
    days: Sequence[DayData],
    *extra: Sequence[Any],
    workers: int | None,
) -> list[Result]:
    """`solve(model, day, *extra of this day)` for every day; all days have the same number of steps.

    Args:
        solve: a function of a module, which processes can import.
        scenario: to compile.
        days: what to solve.
        extra: further arguments, one of each for every day.
        workers: processes; None: one a core; 1: this process.

    Raises:
        ValueError: `workers` is not positive.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    jobs = list(zip(days, *extra, strict=True))
    workers = min(workers or joblib.cpu_count(), len(jobs))
    content = scenario.model_dump_json()
    if workers <= 1:
        return _solve_chunk(solve, content, jobs)
    size = -(-len(jobs) // (CHUNKS_PER_WORKER * workers))
    chunks = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    parallel = joblib.Parallel(n_jobs=workers)
    results: Any = parallel(joblib.delayed(_solve_chunk)(solve, content, chunk) for chunk in chunks)
    return [result for chunk in results for result in chunk]


def _solve_chunk(solve: Callable[..., Result], content: str, jobs: Sequence[tuple[Any, ...]]) -> list[Result]:
    return [solve(compiled(content, len(day.price)), day, *extra) for day, *extra in jobs]


@lru_cache(maxsize=128)
def compiled(content: str, steps: int) -> DistFlow:
    """The problem of a scenario (its JSON) for some steps; compiled once in each process."""
    return DistFlow(Scenario.model_validate_json(content), steps)
