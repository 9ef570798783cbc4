"""What protocols change on held-out days: `python scripts/protocol_table.py <runs without> <runs with> ...`.

Unlike evaluate.py it takes runs of different scenarios and shows who pays: each microgrid's bill, the feeder's, what
the protocols moved. Data flow: runs, each played in its own scenario -> `Row`, seeds averaged -> tables or JSON.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import nan
from typing import Annotated, Any, Literal

import torch
import tyro
from cli import parse, run_command
from evaluation.runs import Run, check_fit, groups_of_seeds, load_runs
from evaluation.text import Column, number, table, without_nan
from rich.console import Console

import envs
from envs import baselines
from envs.day_trace import PlayedDay
from envs.tariff import utility_bill
from mappo.evaluate import evaluate

SHARES = ("violating", "closed", "reached")
COMMUNITY = {"settlement": "community", "protocols": {"vertical": "none", "horizontal": "none"}}


@dataclass(frozen=True, kw_only=True)
class Args:
    """Put runs without and with protocols beside each other; seeds of one configuration are one line, their mean."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Run folders (their best checkpoints) or checkpoints of microgrids; begin with those without protocol."""
    split: Literal["val", "test", "train"] = "test"
    """Days to play."""
    days: int | None = None
    """Play only the first so many days of the split."""
    bound: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also the community optimum (certified, one meter, no protocol): `closed`, how much of the way to it a line goes
    from the first line's J, and `reached`, from doing nothing."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object instead of tables."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line; values are means over days, then over seeds."""

    name: str
    kind: str
    money: Mapping[str, float]
    protocol: Mapping[str, float]
    seeds_j_usd: Sequence[float] = ()


def main(argv: Sequence[str] | None = None) -> None:
    """Load, play, print."""
    args = parse(Args, list(sys.argv[1:] if argv is None else argv), description=__doc__)
    if not args.runs:
        raise ValueError("give at least one run folder: python scripts/protocol_table.py runs/<run>")
    runs = [run for path in args.runs for run in load_runs([path])]
    if len({run.name for run in runs}) < len(runs):
        raise ValueError(f"runs must have different names, got {', '.join(run.name for run in runs)}")
    rows = mean_rows({run.name: play(run, args) for run in runs}, groups_of_seeds(runs)[0])
    if args.bound:
        rows = with_optimum(rows, make_env(runs[0], args, COMMUNITY), args)
    if args.json:
        print(json.dumps(without_nan({"split": args.split, "rows": [asdict(row) for row in rows]})))
        return
    console = Console(highlight=False, width=150)
    for heading, part in (("Money ($/day) and limits", "money"), ("Protocols, per day", "protocol")):
        console.print(heading, style="bold")
        console.print(table(columns(rows, part), rows))


def make_env(run: Run, args: Args, changes: Mapping[str, Any]) -> envs.MicrogridEnv:
    """The run's scenario with one copy for each day that is played.

    Raises:
        ValueError: no microgrid, or a horizon without daily bills.
    """
    if run.family.plays != "days":
        raise ValueError(f"only microgrids have protocols; {run.name} is of --env {run.text}")
    settings = {"num_envs": args.days, "split": args.split, "evaluation": True, "device": "cpu", "penalty": 0.0}
    env = envs.make(**{**run.env_keywords, **settings, **changes})
    if env.scenario.horizon != "day":
        raise ValueError(f"bills are of days that are settled at midnight; {run.name} has horizon: week")
    return env


def play(run: Run, args: Args) -> Row:
    """One run on the days of its own scenario."""
    env = make_env(run, args, {})
    check_fit(run, env)
    summary = evaluate(run.policy, env).summary
    day = env.last_day()
    assert day is not None
    j_usd, feeder_usd = summary["j_usd_per_day"], summary["feeder_usd"]
    # at --penalty 0 a return is minus the own energy, peak, generator and terminal dollars, and 1/A of the feeder's
    scale_usd, microgrids = env.scenario.episode.reward_scale_usd, list(env.scenario.microgrids)
    common_usd = 0.0 if env.scenario.dso_agent else feeder_usd / len(microgrids)  # a DSO that is an agent pays itself
    money = {agent: -scale_usd * summary[f"return/{agent}"] - common_usd for agent in microgrids}
    money = {"J": j_usd, **money, "microgrids": sum(money.values()), "feeder": feeder_usd}
    money |= {name: summary[f"{name}_usd"] for name in ("demand", "penalty")} | {"violating": summary["violating"]}
    money["one meter"] = j_usd - summary["energy_usd"] + head_bill_usd(day)
    protocol = {spec.name: summary[spec.name] for spec in env.metric_specs if spec.group == "protocol"}
    return Row(name=run.name, kind="run", money=money, protocol=protocol, seeds_j_usd=[j_usd])


def head_bill_usd(day: PlayedDay) -> float:
    """$/day of the same operation's energy where the whole community has one meter, at the feeder head."""
    price, p_mw = (torch.from_numpy(values).double().flatten() for values in (day.price, day.head_p_mw))
    export_share = day.scenario.tariff.export_share
    return float(utility_bill(p_mw, price, export_share=export_share, dt_h=day.scenario.dt_h).sum()) / len(day.dates)


def mean_rows(played: Mapping[str, Row], groups: Mapping[str, Sequence[str]]) -> list[Row]:
    """One row a group of seeds, at the place of its first run; runs of no group as they are."""
    group_of = {member: name for name, members in groups.items() for member in members}
    lines: dict[str, list[Row]] = {}
    for name, row in played.items():
        lines.setdefault(group_of.get(name, name), []).append(row)

    def mean(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
        return {name: sum(value[name] for value in values) / len(values) for name in values[0]}

    return [
        Row(
            name=name,
            kind="group" if name in groups else "run",
            money=mean([row.money for row in rows]),
            protocol=mean([row.protocol for row in rows]),
            seeds_j_usd=[j for row in rows for j in row.seeds_j_usd],
        )
        for name, rows in lines.items()
    ]


def with_optimum(rows: Sequence[Row], community: envs.MicrogridEnv, args: Args) -> list[Row]:
    """The rows with how near to the optimum each comes, and the optimum itself; `community` has no protocol."""
    optimum_usd = float(baselines.certified_bound(community.scenario, split=args.split, days=args.days).usd.nanmean())
    idle_usd = evaluate(baselines.make_baseline("idle", community), community).summary["j_usd_per_day"]

    def nearness(j_usd: float) -> dict[str, float]:
        starts = {"closed": rows[0].money["J"], "reached": idle_usd}
        return {name: (start_usd - j_usd) / (start_usd - optimum_usd) for name, start_usd in starts.items()}

    optimum = Row(name="community optimum", kind="bound", money={"J": optimum_usd}, protocol={})
    return [replace(row, money={**row.money, **nearness(row.money["J"])}) for row in (*rows, optimum)]


def columns(rows: Sequence[Row], part: str) -> list[Column]:
    """One column for each value of any row."""

    def cell(name: str) -> Column:
        form = ".2%" if name in SHARES else ".2f"
        return name, lambda row: number(getattr(row, part).get(name, nan), form)

    return [cell(name) for name in dict.fromkeys(name for row in rows for name in getattr(row, part))]


if __name__ == "__main__":
    run_command(main)
