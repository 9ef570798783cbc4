"""Deterministic evaluation: every copy of the env plays exactly one episode, or one in each of several turns.

Data flow: Policy, VecEnv -> evaluate -> EvalResult -> logger, best checkpoint, scripts. Any object with the policy's
`act(obs)` can be scored, a baseline for one. Dims: E episodes, A agents.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mappo.advantages import shape_rewards
from mappo.distributed import Ranks
from mappo.episodes import EpisodeTotals, Totals, metric_specs
from mappo.rollout import ended_episodes, next_starts, reset_env, step_env
from mappo.spaces import EnvSpec, check_step
from mappo.vec_env import VecEnv


class EndlessEpisodeError(ValueError):
    """An episode that does not end has no return."""


class Acts(Protocol):
    """What can be evaluated."""

    def act(self, obs: Tensor, action_mask: Tensor | None = None) -> Tensor:
        """(B, A, O) -> (B, A, U) in [-1, 1]."""
        ...


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """E episodes: one of each copy, in each turn."""

    returns: Tensor
    """(E, A) each agent's own return."""
    lengths: Tensor
    """(E,) env steps."""
    totals: dict[str, Tensor]
    """Each (E,): the env's metrics, reduced over the episode."""
    summary: dict[str, float]
    """Means over the episodes: `return` (the team's), `return/<agent>`, `episode_length`, the metrics, `score`."""

    @property
    def score(self) -> float:
        """Higher is better; chooses the best checkpoint."""
        return self.summary["score"]


@torch.no_grad()
def evaluate(
    policy: Acts, env: VecEnv, *, reward_mode: str = "mean", max_steps: int = 10_000, ranks: Ranks | None = None
) -> EvalResult:
    """Play one episode in every copy from `env.reset()`; what a copy does after its first episode does not count.

    An env that has more `num_episodes` than copies plays them in turns, so that memory is that of its copies. With
    several ranks each plays the episodes of its env, and all get the result of all episodes.

    Raises:
        EndlessEpisodeError: an episode did not end within `max_steps`.
    """
    spec = EnvSpec.of(env)
    reset = getattr(policy, "reset", lambda _=None: None)  # only policies with a memory need one
    totals, endless = None, None
    try:
        totals = _play_all(policy, reset, env, spec, max_steps)
    except EndlessEpisodeError as error:
        endless = str(error)
    finally:
        reset()  # nothing of these episodes stays with the policy
    if ranks is not None:
        endless = ranks.told_by_any(endless)
    if totals is None or endless is not None:
        raise EndlessEpisodeError(endless)
    return _summarise(totals if ranks is None else _of_all(totals, ranks), env, spec, reward_mode)


def _play_all(policy: Acts, reset: Callable[..., None], env: VecEnv, spec: EnvSpec, max_steps: int) -> Totals:
    """All episodes of an env, in turns."""
    episodes, turns = getattr(env, "num_episodes", env.num_envs), list[Totals]()
    for turn in range(-(-episodes // env.num_envs)):
        reset()  # nothing of other episodes stays with the policy
        if begin_turn := getattr(env, "begin_turn", None):
            begin_turn(turn)
        turns.append(_play(policy, reset, env, spec, max_steps))
    return _first_rows(turns, episodes)


def _first_rows(turns: list[Totals], episodes: int) -> Totals:
    """The rows of all turns, without those of copies that had no episode left in the last one."""
    returns, lengths, metrics = zip(*turns, strict=True)
    joined = {name: torch.cat([turn[name] for turn in metrics])[:episodes] for name in metrics[0]}
    return Totals(torch.cat(returns)[:episodes], torch.cat(lengths)[:episodes], joined)


def _play(policy: Acts, reset: Callable[[Tensor], None], env: VecEnv, spec: EnvSpec, max_steps: int) -> Totals:
    """The first episode of every copy; `reset` lets the policy forget agents (B, A) that begin anew."""
    device = getattr(policy, "device", torch.device(env.device))
    now = reset_env(env, spec, device)
    running = torch.ones(env.num_envs, dtype=torch.bool, device=device)
    episodes, result = None, None
    for _ in range(max_steps):
        step = step_env(env, policy.act(now.obs, now.action_mask).to(device))
        if episodes is None:
            check_step(step, env, spec)
            episodes = EpisodeTotals(metric_specs(env, step.metrics), (env.num_envs, len(spec.agents)), device)
        episodes.add(step)
        ended = ended_episodes(env, step, now.alive)
        result = _keep(result, episodes.read(), running & ended)
        episodes.reset(ended)
        reset(next_starts(step, now.alive))
        running &= ~ended
        now = now._replace(obs=step.obs, state=step.state, alive=step.alive, action_mask=step.action_mask)
        if not running.any():
            return result
    raise EndlessEpisodeError(
        f"evaluation: {int(running.sum())} of {env.num_envs} copies did not end an episode within "
        f"--eval-max-steps {max_steps}; give the env a time limit, or raise it."
    )


def _keep(result: Totals | None, now: Totals, rows: Tensor) -> Totals:
    """`result` with the rows (E,) that have just ended taken from `now`."""
    if result is None:
        return now
    metrics = {name: torch.where(rows, now.metrics[name], value) for name, value in result.metrics.items()}
    returns = torch.where(rows.unsqueeze(-1), now.returns, result.returns)
    return Totals(returns, torch.where(rows, now.length, result.length), metrics)


def _of_all(totals: Totals, ranks: Ranks) -> Totals:
    """Rows of all ranks, in their order."""
    if ranks.count == 1:
        return totals
    device = totals.returns.device
    metrics = {name: value.cpu() for name, value in totals.metrics.items()}
    parts: list[Totals] = ranks.gather(Totals(totals.returns.cpu(), totals.length.cpu(), metrics))
    rows = {name: torch.cat([part.metrics[name] for part in parts]).to(device) for name in metrics}
    returns, length = ([getattr(part, name) for part in parts] for name in ("returns", "length"))
    return Totals(torch.cat(returns).to(device), torch.cat(length).to(device), rows)


def _summarise(totals: Totals, env: VecEnv, spec: EnvSpec, reward_mode: str) -> EvalResult:
    team = "mean" if reward_mode == "individual" else reward_mode
    team_return = shape_rewards(totals.returns, team).mean()
    names = [f"return/{agent}" for agent in spec.agents]
    values = torch.stack([team_return, totals.length.mean(), *totals.returns.mean(0)]).tolist()  # one transfer
    summary = dict(zip(["return", "episode_length", *names], values, strict=True))
    summary |= {name: value.mean().item() for name, value in totals.metrics.items()}
    summary["score"] = summary["return"]
    if episode_score := getattr(env, "episode_score", None):
        summary |= episode_score(totals.metrics)
    return EvalResult(returns=totals.returns, lengths=totals.length, totals=totals.metrics, summary=summary)
