"""Evaluate a run on held-out days against doing nothing: `python scripts/evaluate.py runs/<run>`."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from cli import env_keywords, parse, read_checkpoint, run_command
from rich.console import Console
from rich.table import Table
from torch import Tensor

import envs
from mappo import load_policy
from mappo.checkpoint import check_fits, unpacking
from mappo.evaluate import evaluate
from mappo.spaces import EnvSpec

ROWS = (
    ("J", "j_usd_per_day", "$/day", ".2f"),
    ("  energy", "energy_usd", "$/day", ".2f"),
    ("  generators", "generator_usd", "$/day", ".2f"),
    ("  demand charge", "demand_usd", "$/day", ".2f"),
    ("  terminal shortfall", "terminal_usd", "$/day", ".2f"),
    ("  penalty", "penalty_usd", "$/day", ".2f"),
    ("score", "score", "0 idle, 1 bound", ".4f"),
    ("certified bound", "bound_usd_per_day", "$/day", ".2f"),
    ("hours violating", "violating", "share", ".4%"),
    ("failed flows", "not_converged", "share", ".4%"),
    ("mean of lowest voltage", "v_min_pu", "pu", ".4f"),
    ("mean of highest voltage", "v_max_pu", "pu", ".4f"),
    ("mean of highest loading", "loading_max", "of rating", ".3f"),
)


@dataclass(frozen=True, kw_only=True)
class Args:
    """Evaluate one run; every day of the split is one deterministic episode."""

    run: Annotated[str, tyro.conf.Positional]
    """Run folder (its best checkpoint) or a checkpoint."""
    split: Literal["test", "val", "train"] = "test"
    """Days to play."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object instead of a table."""


class Idle:
    """Does nothing in every copy; the reference of the score."""

    def __init__(self, action: Tensor) -> None:
        self._action = action

    def act(self, obs: Tensor, action_mask: Tensor | None = None) -> Tensor:
        """(B, A, U), the same for every observation."""
        del action_mask
        return self._action.expand(len(obs), -1, -1)


def main(argv: Sequence[str] | None = None) -> None:
    """Load, play, print."""
    args = parse(Args, list(sys.argv[1:] if argv is None else argv), description=__doc__)
    checkpoint = read_checkpoint(args.run)
    keywords = env_keywords(checkpoint) | {"num_envs": None, "split": args.split, "evaluation": True, "device": "cpu"}
    env = envs.make(**keywords)
    with unpacking(checkpoint["path"]):
        check_fits(EnvSpec.from_dict(checkpoint["policy"]["spec"]), EnvSpec.of(env), checkpoint["path"])
    policies = {"policy": load_policy(checkpoint["path"]), "idle": Idle(env.idle_action())}
    results = {name: evaluate(policy, env).summary for name, policy in policies.items()}
    if args.json:
        print(json.dumps({"checkpoint": checkpoint["path"], "split": args.split, "days": env.num_envs, **results}))
        return
    title = f"{Path(checkpoint['path'])}: {env.scenario.name}, {env.num_envs} {args.split} {env.scenario.horizon}s"
    Console().print(_table(title, results))


def _table(title: str, results: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table("", *results, "unit", title=title, title_justify="left")
    for column in table.columns[1:-1]:
        column.justify = "right"
    for name, key, unit, form in ROWS:
        if any(key in summary for summary in results.values()):
            cells = [format(summary[key], form) if key in summary else "-" for summary in results.values()]
            table.add_row(name, *cells, unit)
    return table


if __name__ == "__main__":
    run_command(main)
