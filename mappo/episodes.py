"""Sums over episodes: returns, lengths and the env's own metrics, kept on the device.

Data flow: Step -> EpisodeTotals -> rollout statistics and evaluation. Episodes run on across iterations.
Dims: B envs, A agents, X metrics.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mappo.distributed import Add, alone
from mappo.vec_env import MetricSpec, Step, VecEnv

REDUCTIONS = ("sum", "mean", "max", "min", "last")


def metric_specs(env: VecEnv, metrics: Mapping[str, Tensor]) -> tuple[MetricSpec, ...]:
    """The env's specs, and for metrics without one the default: averaged, no console column."""
    known: Sequence[MetricSpec] = getattr(env, "metric_specs", ())
    if missing := sorted({spec.name for spec in known} - set(metrics)):
        raise ValueError(f"env.metric_specs names {', '.join(missing)}, which Step.metrics does not hold")
    named = {spec.name for spec in known}
    rest = [MetricSpec(name=name, unit="1", reduce="mean") for name in metrics if name not in named]
    return (*known, *rest)


def surely_none(flags: Tensor) -> bool:
    """Whether no flag is set, where that is known at once: on a GPU the question would wait for all work before it."""
    return flags.device.type == "cpu" and not flags.any()


class Totals(NamedTuple):
    """Reduced over the episode so far, one row for each copy."""

    returns: Tensor  # (B, A) sum of each agent's own rewards
    length: Tensor  # (B,) env steps
    metrics: dict[str, Tensor]  # each (B,)


class EpisodeTotals:
    """Running totals of the current episode of every copy."""

    def __init__(self, specs: Sequence[MetricSpec], shape: tuple[int, int], device: torch.device) -> None:
        """`shape` is (B, A)."""
        # Sorted by reduction, so that one operation serves a contiguous block of metrics.
        self.specs = tuple(sorted(specs, key=lambda spec: REDUCTIONS.index(spec.reduce)))
        self._sizes = [sum(spec.reduce == kind for spec in self.specs) for kind in REDUCTIONS]
        first = {"sum": 0.0, "mean": 0.0, "max": -torch.inf, "min": torch.inf, "last": 0.0}
        start = [first[spec.reduce] for spec in self.specs]
        self._start = torch.tensor(start, device=device).unsqueeze(-1)  # (X, 1)
        self._metrics = self._start.repeat(1, shape[0])  # (X, B)
        self._returns = torch.zeros(shape, device=device)
        self._length = torch.zeros(shape[0], device=device)

    def add(self, step: Step) -> None:
        """Take in one step."""
        self._returns += step.rewards
        self._length += 1
        if not self.specs:
            return
        values = torch.stack([step.metrics[spec.name].float() for spec in self.specs])  # (X, B)
        sums, means, highs, lows, lasts = (part for part in self._metrics.split(self._sizes))
        new_sums, new_means, new_highs, new_lows, new_lasts = values.split(self._sizes)
        sums += new_sums
        means += new_means
        torch.maximum(highs, new_highs, out=highs)
        torch.minimum(lows, new_lows, out=lows)
        lasts.copy_(new_lasts)

    def blank_sum(self) -> Tensor:
        """(2 + A + X,) zeros: number of episodes, their lengths, returns and metrics."""
        return torch.zeros(2 + self._returns.shape[-1] + len(self.specs), device=self._returns.device)

    def read(self) -> Totals:
        """Totals of the episodes as they stand."""
        values = self._metrics.clone()
        before, means = self._sizes[:2]
        values[before : before + means] /= self._length.clamp(min=1)
        named = {spec.name: row for spec, row in zip(self.specs, values, strict=True)}
        return Totals(self._returns.clone(), self._length.clone(), named)

    def reset(self, ended: Tensor) -> None:
        """Start over in the copies where `ended` (B,) is True."""
        self._returns.masked_fill_(ended.unsqueeze(-1), 0)
        self._length.masked_fill_(ended, 0)
        self._metrics = torch.where(ended, self._start, self._metrics)

    def state_dict(self) -> dict[str, Any]:
        """For an exact resume."""
        return {"metrics": self._metrics, "returns": self._returns, "length": self._length}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._metrics, self._returns, self._length = (
            state[name].to(self._start.device) for name in ("metrics", "returns", "length")
        )


class CompletedEpisodes:
    """Sums over the episodes that ended, added up without asking the device how many did."""

    def __init__(self, totals: EpisodeTotals) -> None:
        """`totals` are the running episodes."""
        self.totals = totals
        self._sum = totals.blank_sum()

    def add(self, step: Step, ended: Tensor) -> None:
        """Take in one step; `ended` (B,) says which copies it finished."""
        self.totals.add(step)
        if surely_none(ended):
            return
        returns, length, metrics = self.totals.read()
        rows = torch.stack([torch.ones_like(length), length, *returns.unbind(-1), *metrics.values()])
        # where, not a product: a metric of a copy that goes on may still be infinite
        self._sum += torch.where(ended, rows, 0.0).sum(-1)
        self.totals.reset(ended)

    def drain(self, agents: Sequence[str], reward_mode: str, add: Add = alone) -> dict[str, float]:
        """Means over the episodes that ended since the last call, one transfer; empty if none did.

        `add` sums over the ranks that play the other copies.
        """
        count, length, *rest = add(self._sum).tolist()
        self._sum = self.totals.blank_sum()
        if not count:
            return {"train/episodes": 0.0}
        means = [value / count for value in rest]
        returns, metrics = means[: len(agents)], means[len(agents) :]
        row = {"train/return": sum(returns) if reward_mode == "sum" else sum(returns) / len(returns)}
        row |= {f"train/return/{agent}": value for agent, value in zip(agents, returns, strict=True)}
        row |= {f"{spec.group}/{spec.name}": value for spec, value in zip(self.totals.specs, metrics, strict=True)}
        return row | {"train/episodes": count, "train/episode_length": length / count}
