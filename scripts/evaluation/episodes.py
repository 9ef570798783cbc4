"""Play held-out episodes of any environment but the microgrid, and put the returns beside those of simple policies.

Data flow: runs -> `play_episodes` (copies side by side, every policy on the same episodes) -> `Played` -> `Row`s.
Dims: E episodes, A agents.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from environments.policies import Random
from torch import Tensor

from mappo import VecEnv
from mappo.evaluate import Acts, EndlessEpisodeError, evaluate
from mappo.parts import HELD_OUT
from mappo.statistics import Estimate, across_seeds, student_t_quantile

from .runs import Run, check_fit

BASELINES = ("random", "idle")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which episodes are played."""

    episodes: int
    """E."""
    seed: int
    """Of the episodes; others than any training plays."""
    num_workers: int = 0
    """Processes that step a PettingZoo env; 0: this one."""
    max_steps: int = 10_000
    """Env steps after which an episode counts as endless."""


@dataclass(frozen=True, kw_only=True)
class Played:
    """One policy on E episodes, float64."""

    kind: str
    """run or baseline."""
    returns: Tensor
    """(E, A) undiscounted sums of each agent's own rewards."""
    lengths: Tensor
    """(E,) env steps."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the tables. Every return is undiscounted and summed over the steps of an episode."""

    name: str
    kind: str
    """run, group or baseline."""
    summed: Estimate
    """Return summed over the agents."""
    mean: Estimate
    """Return averaged over the agents."""
    standard_error: float
    """Of `summed`; NaN for a group of seeds."""
    agents: Mapping[str, Estimate]
    """Return of each agent."""
    length: float
    """Env steps of an episode, mean."""
    across: str = ""
    """Of a group: what its values and intervals are."""


def play_episodes(
    runs: Sequence[Run], baselines: Sequence[str] | None, plan: Plan, say: Callable[[str], Any]
) -> dict[str, Played]:
    """Play every run and baseline on the same episodes.

    Args:
        runs: all of one environment.
        baselines: names, or None for those that make sense.
        plan: the episodes.
        say: shows progress.

    Raises:
        ValueError: a policy that does not fit, a baseline that is not known here, an episode that does not end.
    """
    first = runs[0]
    results: dict[str, list[tuple[Tensor, Tensor]]] = {}
    kinds: dict[str, str] = {}
    for number, begin in enumerate(range(0, plan.episodes, first.family.chunk)):
        copies = min(first.family.chunk, plan.episodes - begin)
        env = _held_out(first, copies, number, plan)  # a few copies more where --workers does not divide
        try:
            for run in runs:
                check_fit(run, env)
            for name, (kind, policy) in _policies(runs, env, baselines, random_seed(plan, number)).items():
                say(f"playing {name}, episodes {begin + 1} to {begin + copies} of {plan.episodes}")
                kinds[name] = kind
                results.setdefault(name, []).append(_play(policy, env, plan, copies))
        finally:
            env.close()
    return {
        name: Played(kind=kinds[name], returns=torch.cat(returns), lengths=torch.cat(lengths))
        for name, parts in results.items()
        for returns, lengths in [zip(*parts, strict=True)]
    }


def episode_rows(played: Mapping[str, Played], agents: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[Row]:
    """Groups of seeds first, then everything by falling return."""
    single = {name: _row(name, one, agents) for name, one in played.items()}
    together = [_group_row(name, [single[run] for run in members]) for name, members in groups.items()]
    return together + sorted(single.values(), key=lambda row: -row.summed.value)


def mean_with_interval(values: Tensor) -> Estimate:
    """Mean of E independent values (E,) and its 95 % interval, Student's t; the ends are NaN for a single value."""
    count, value = len(values), float(values.double().mean())
    if count < 2:
        return Estimate(value, math.nan, math.nan)
    half = student_t_quantile(0.975, count - 1) * standard_error(values)
    return Estimate(value, value - half, value + half)


def standard_error(values: Tensor) -> float:
    """Of the mean of independent values (E,); NaN for a single one."""
    return float(values.double().std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def random_seed(plan: Plan, number: int) -> int:
    """What the random baseline draws from in one chunk: other numbers than the env, whose seed differs."""
    return plan.seed * HELD_OUT + number


def _held_out(run: Run, copies: int, number: int, plan: Plan) -> VecEnv:
    """The env of one chunk; training has the run's seed, its evaluations `HELD_OUT` more.

    Has more copies than asked for where each worker could not have equally many.
    """
    seed = (number + 2) * HELD_OUT + plan.seed
    workers = plan.num_workers
    copies += -copies % workers if workers else 0  # an episode depends on the seed and the number of its copy only
    return run.family.held_out(run.env_keywords, copies, seed=seed, num_workers=workers)


def _policies(
    runs: Sequence[Run], env: VecEnv, baselines: Sequence[str] | None, seed: int
) -> dict[str, tuple[str, Acts]]:
    """Name -> kind and policy; the baselines are made for `env`, the random one draws from `seed`."""
    policies: dict[str, tuple[str, Acts]] = {run.name: ("run", run.policy) for run in runs}
    for name in BASELINES if baselines is None else baselines:
        policy = Random(env, seed) if name == "random" else runs[0].family.idle(runs[0].env_keywords, env)
        if policy is not None:
            policies[name] = ("baseline", policy)
        elif baselines is not None:
            raise ValueError(
                f"--baselines idle: which action does nothing is not known of {runs[0].text}; leave it out"
            )
    return policies


def _play(policy: Acts, env: VecEnv, plan: Plan, episodes: int) -> tuple[Tensor, Tensor]:
    """Returns (E, A) and lengths (E,) of one episode in each of the first E copies."""
    try:
        result = evaluate(policy, env, max_steps=plan.max_steps)
    except EndlessEpisodeError as error:
        raise ValueError(str(error)) from error
    return result.returns[:episodes].double().cpu(), result.lengths[:episodes].double().cpu()


def _row(name: str, played: Played, agents: Sequence[str]) -> Row:
    summed = played.returns.sum(-1)
    return Row(
        name=name,
        kind=played.kind,
        summed=mean_with_interval(summed),
        mean=mean_with_interval(summed / len(agents)),
        standard_error=standard_error(summed),
        agents={agent: mean_with_interval(played.returns[:, a]) for a, agent in enumerate(agents)},
        length=float(played.lengths.mean()),
    )


def _group_row(name: str, rows: Sequence[Row]) -> Row:
    """Seeds of one configuration: mean and range, or interquartile mean and interval."""

    def across(values: Sequence[float]) -> Estimate:
        return Estimate(*across_seeds(torch.tensor(values, dtype=torch.float64))[:3])

    return Row(
        name=name,
        kind="group",
        summed=across([row.summed.value for row in rows]),
        mean=across([row.mean.value for row in rows]),
        standard_error=math.nan,
        agents={agent: across([row.agents[agent].value for row in rows]) for agent in rows[0].agents},
        length=sum(row.length for row in rows) / len(rows),
        across=across_seeds(torch.tensor([row.summed.value for row in rows])).kind,
    )
