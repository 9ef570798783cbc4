"""Returns of episodes as text: tables for the terminal, one JSON object, and CSV.

Data flow: `Played`, `Row`s of `episodes.py` -> cells -> rich tables, `episodes.csv`, `summary.csv`, `evaluation.json`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from mappo.checkpoint import versions
from mappo.statistics import Estimate

from .episodes import Plan, Played, Row
from .text import Column, cell, csv_text, interval, number, table, without_nan

MOST_AGENTS = 8  # that a terminal has columns for
SCALE = "undiscounted and summed over the steps of an episode; sum: summed over the agents, mean: their mean"
ENDS = ("", "_low", "_high")


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that the outputs show."""

    text: str
    """What `--env` says of the environment."""
    agents: Sequence[str]
    plan: Plan
    played: Mapping[str, Played]
    rows: Sequence[Row]
    groups: Mapping[str, Sequence[str]]
    """Name -> names of its runs."""
    runs: Mapping[str, Mapping[str, Any]]
    """Name of a run -> checkpoint, seed, algo."""
    notes: Sequence[str] = field(default_factory=tuple)


def terminal_tables(results: Results) -> list[tuple[str, Table]]:
    """Headings and tables: all agents together, then each."""
    plan, agents = results.plan, results.agents
    together: list[Column] = [
        (f"sum of the {len(agents)} agents", lambda row: interval(row.summed, ".2f")),
        ("standard error", lambda row: number(row.standard_error, ".2f")),
        ("mean of the agents", lambda row: interval(row.mean, ".2f")),
        ("steps", lambda row: number(row.length, ".1f")),
    ]
    each: list[Column] = [
        (agent, lambda row, agent=agent: number(row.agents[agent].value, ".2f")) for agent in agents[:MOST_AGENTS]
    ]
    title = f"{results.text}: returns of {plan.episodes} held-out episodes, --seed {plan.seed}"
    tables = [(title, table(together, results.rows))]
    if len(agents) > 1:
        of = f"{MOST_AGENTS} of {len(agents)} agents" if len(agents) > MOST_AGENTS else "each agent"
        tables.append((f"Return of {of}", table(each, results.rows)))
    return tables


def footnotes(results: Results) -> list[str]:
    """What the numbers mean, as far as the tables need it."""
    lines = [f"returns: {SCALE}. Runs act deterministically"]
    if results.plan.episodes > 1:
        lines.append("[low, high]: 95 % interval of the mean over episodes; all policies play the same ones")
    if "random" in results.played:
        lines.append("random: uniform over the allowed actions (standard normal where there is no bound)")
    if "idle" in results.played:
        lines.append("idle: does nothing")
    lines += sorted({f"rows of several seeds: {row.across} across seeds" for row in results.rows if row.across})
    return [*lines, *results.notes]


def as_json(results: Results) -> dict[str, Any]:
    """Plain numbers, lists and dicts; what does not exist is null."""
    content = {
        "env": results.text,
        "episodes": results.plan.episodes,
        "seed": results.plan.seed,
        "agents": list(results.agents),
        "returns": SCALE,
        "runs": {name: dict(facts) for name, facts in results.runs.items()},
        "policies": {row.name: _row_json(row) for row in results.rows if row.kind != "group"},
        "groups": {
            row.name: _row_json(row) | {"runs": list(results.groups[row.name]), "across": row.across}
            for row in results.rows
            if row.kind == "group"
        },
        "notes": list(results.notes),
        "versions": versions(),
    }
    return without_nan(content)


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "kind": row.kind,
        "return_summed_over_agents": row.summed._asdict() | {"standard_error": row.standard_error},
        "return_mean_of_agents": row.mean._asdict(),
        "return_of_agent": {agent: estimate._asdict() for agent, estimate in row.agents.items()},
        "episode_length": row.length,
    }


def episodes_csv(results: Results) -> str:
    """One row for each policy and episode."""
    agents = [f"return_{agent}" for agent in results.agents]
    heading = ["policy", "kind", "episode", "return_summed_over_agents", "return_mean_of_agents", *agents, "length"]
    rows: list[list[Any]] = []
    for name, played in results.played.items():
        summed = played.returns.sum(-1, keepdim=True)
        lengths = played.lengths.unsqueeze(-1)
        values = [summed, summed / len(results.agents), played.returns, lengths]
        for episode in range(len(played.returns)):
            rows.append([name, played.kind, episode, *(cell(x) for part in values for x in part[episode].tolist())])
    return csv_text(heading, rows)


def summary_csv(results: Results) -> str:
    """One row for each line of the tables."""
    named = ["return_summed_over_agents", "return_mean_of_agents", *(f"return_{agent}" for agent in results.agents)]
    heading = ["policy", "kind", *(f"{name}{end}" for name in named for end in ENDS)]
    rows: list[list[Any]] = []
    for row in results.rows:
        estimates: list[Estimate] = [row.summed, row.mean, *row.agents.values()]
        values = [cell(value) for estimate in estimates for value in estimate]
        rows.append([row.name, row.kind, *values, cell(row.standard_error), cell(row.length), row.across])
    return csv_text([*heading, "standard_error_of_sum", "episode_length", "across_seeds"], rows)
