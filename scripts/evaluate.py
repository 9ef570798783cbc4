"""How good is a policy? Compare runs with baselines on held-out days (microgrid) or episodes (everything else).

`python scripts/evaluate.py runs/<run>` prints tables and writes JSON and CSV, for microgrids report.html too. Several
runs of one configuration are summarised across seeds.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import tyro
from cli import flags_in, kept_stdout, parse, run_command, spelt
from evaluation import episode_tables
from evaluation.compare import Comparison, Row, example_days
from evaluation.episodes import BASELINES as EPISODE_BASELINES
from evaluation.episodes import Plan, episode_rows, play_episodes
from evaluation.output import reserved, write_all
from evaluation.play import Played, episodes_to_play, play
from evaluation.reference import Reference, find_reference
from evaluation.report import html_report
from evaluation.report_figures import report_pngs
from evaluation.runs import Run, check_fit, groups_of_seeds, load_runs
from evaluation.tables import as_json, days_csv, footnotes, summary_csv, terminal_tables
from rich.console import Console
from rich.table import Table

import envs
from envs.baselines import BASELINES, make_baseline
from envs.microgrid import DAYS_PER_WEEK
from mappo.parts import HELD_OUT

DEFAULT_BASELINES = tuple(name for name in BASELINES if name != "mpc")
OPTIMUM = "optimum, replayed"
WIDTH_IN_A_PIPE = 150


FLAGS_OF = {"days": ("--split", "--days", "--forecast"), "episodes": ("--episodes", "--seed", "--eval-max-steps")}
"""What is played -> the flags that only it has."""


@dataclass(frozen=True, kw_only=True)
class Args:
    """Compare runs with baselines; episodes are held-out, policies deterministic."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Run folders (their best checkpoints) or checkpoints, all of one environment; several seeds are summarised."""
    split: Literal["val", "test", "train"] = "test"
    """Microgrid: days to play, each one episode."""
    days: int | None = None
    """Microgrid: play only the first so many days of the split, or weeks where the scenario runs over weeks."""
    forecast: Literal["persistence", "perfect"] = "persistence"
    """Microgrid: what mpc expects of loads and renewables."""
    episodes: int = 1000
    """Other environments: episodes to play."""
    seed: int = 0
    """Other environments: seed of the episodes, which are others than those of any training."""
    eval_max_steps: int = 10_000
    """Other environments: env steps after which an evaluation gives up on an episode."""
    baselines: tuple[str, ...] | None = None
    """Baselines beside the runs, or none; unless given, for the microgrid all but mpc, which takes minutes, else random
    and, where it is known which action does nothing, idle."""
    workers: int | None = None
    """Processes that solve days (microgrid; one a core unless given) or step a PettingZoo env (none unless given)."""
    out: Path | None = None
    """Folder to write to; in the first run's folder evaluation-<split>, with --days evaluation-<split>-<n>-days, or
    evaluation-<n>-episodes, with --seed evaluation-<n>-episodes-seed-<seed>."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object and nothing else; what an environment prints goes to stderr."""


def main(argv: Sequence[str] | None = None) -> None:
    """Load, play, compare, print, write."""
    argv = [spelt(word) for word in (sys.argv[1:] if argv is None else argv)]
    args = parse(Args, argv, description=__doc__)
    if args.workers is not None and args.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {args.workers}")
    runs = load_runs(args.runs)
    plays = runs[0].family.plays
    for other, flags in FLAGS_OF.items():
        if other != plays and (wrong := sorted(flags_in(argv) & set(flags))):
            raise ValueError(
                f"{wrong[0]} is not for runs on --env {runs[0].text}, which have {', '.join(FLAGS_OF[plays])}"
            )
    with kept_stdout(args.json) as output:
        {"days": evaluate_days, "episodes": evaluate_episodes}[plays](args, runs, output)


def evaluate_days(args: Args, runs: Sequence[Run], output: TextIO) -> None:
    """Microgrid: every day of the split is one episode; what is found is printed to `output`."""
    names = _baselines(args.baselines, tuple(BASELINES), DEFAULT_BASELINES)
    if args.forecast != "persistence" and "mpc" not in names:
        raise ValueError(f"--forecast {args.forecast} is for mpc, which is not played; add --baselines mpc")
    env = _make_env(runs[0], args)
    for run in runs:
        check_fit(run, env)
    part = "" if args.days is None else f"-{args.days}-days"
    out = args.out if args.out is not None else runs[0].folder / f"evaluation-{args.split}{part}"
    progress = Console(stderr=True)
    with reserved(out), progress.status("evaluating", spinner="line") as status:
        started = time.perf_counter()
        comparison = compare(runs, env, names, args, status.update)
        status.update("drawing the report")
        rows = comparison.rows()
        content = as_json(comparison, rows) | {"out": str(out), "wall_s": round(time.perf_counter() - started, 2)}
        write_all(out, _files(comparison, rows, content))
    if args.json:
        print(json.dumps(content), file=output, flush=True)
        return
    where = f"report: {out / 'report.html'}; beside it evaluation.json, days.csv, summary.csv, figures/"
    _print(terminal_tables(comparison, rows), [*footnotes(comparison, rows), where])


def evaluate_episodes(args: Args, runs: Sequence[Run], output: TextIO) -> None:
    """Any other environment: episodes with seeds of their own; what is found is printed to `output`."""
    given = None if args.baselines is None else _baselines(args.baselines, EPISODE_BASELINES, ())
    plan = _plan(args, runs)
    part = f"-seed-{args.seed}" if args.seed else ""
    out = args.out if args.out is not None else runs[0].folder / f"evaluation-{args.episodes}-episodes{part}"
    with reserved(out), Console(stderr=True).status("evaluating", spinner="line") as status:
        started = time.perf_counter()
        played = play_episodes(runs, given, plan, status.update)
        agents, (groups, notes) = runs[0].policy.spec.agents, groups_of_seeds(runs)
        results = episode_tables.Results(
            text=runs[0].text,
            agents=agents,
            plan=plan,
            played=played,
            rows=episode_rows(played, agents, groups),
            groups=groups,
            runs={run.name: run.facts for run in runs},
            notes=notes,
        )
        wall_s = round(time.perf_counter() - started, 2)
        content = episode_tables.as_json(results) | {"out": str(out), "wall_s": wall_s}
        files = {
            "evaluation.json": json.dumps(content, indent=2) + "\n",
            "episodes.csv": episode_tables.episodes_csv(results),
            "summary.csv": episode_tables.summary_csv(results),
        }
        write_all(out, {name: text.encode() for name, text in files.items()})
    if args.json:
        print(json.dumps(content), file=output, flush=True)
        return
    where = f"written: {out / 'evaluation.json'}; beside it episodes.csv, summary.csv"
    _print(episode_tables.terminal_tables(results), [*episode_tables.footnotes(results), where])


def _plan(args: Args, runs: Sequence[Run]) -> Plan:
    """The episodes that are played.

    Raises:
        ValueError: a number out of range, or workers for an env that has none.
    """
    for name, value, low, high in (
        ("--episodes", args.episodes, 1, None),
        ("--eval-max-steps", args.eval_max_steps, 1, None),
        ("--seed", args.seed, 0, HELD_OUT - 1),
    ):
        if value < low or (high is not None and value > high):
            rule = f"at least {low}" if high is None else f"from {low} to {high}"
            raise ValueError(f"{name} must be {rule}; got {value}")
    if args.workers is not None and not runs[0].family.has_workers:
        raise ValueError(f"--workers is not for --env {runs[0].text}, whose copies are one batch; leave it out")
    workers = args.workers or 0
    return Plan(episodes=args.episodes, seed=args.seed, num_workers=workers, max_steps=args.eval_max_steps)


def compare(
    runs: Sequence[Run], env: envs.MicrogridEnv, baselines: Sequence[str], args: Args, say: Callable[[str], Any]
) -> Comparison:
    """Play everything on the env's days."""
    notes = []
    played: dict[str, Played] = {}
    for run in runs:
        say(f"playing {run.name}")
        played[run.name] = play(run.name, "run", run.policy, env)
    for name in baselines:
        say(f"playing {name}")
        label = "mpc, perfect forecast" if name == "mpc" and args.forecast == "perfect" else name
        try:
            policy = make_baseline(name, env, **_options(name, args))
        except ValueError as error:
            if args.baselines is not None:
                raise
            notes.append(f"{name} left out: {error}")
            continue
        played[label] = play(label, "baseline", policy, env)
        if (unsolved := getattr(policy, "unsolved_steps", None)) is not None and unsolved.any():
            dates = ", ".join(str(env.dates[b]) for b in unsolved.nonzero().flatten().tolist())
            notes.append(f"{label}: {int(unsolved.sum())} decisions were not solved and did nothing instead: {dates}")
    say("certifying the bounds")
    idle = played.get("idle") or play("idle", "baseline", make_baseline("idle", env), env)
    reference, more = find_reference(env, idle.j_usd, split=args.split, workers=args.workers)
    if reference is not None and reference.schedule is not None:
        played[OPTIMUM] = _replayed(env, reference)
    groups, also = groups_of_seeds(runs)
    return Comparison(
        scenario=env.scenario.name,
        split=args.split,
        horizon=env.scenario.horizon,
        dates=env.dates,
        weeks=env.day.cpu() // DAYS_PER_WEEK,
        played=played,
        reference=reference,
        groups=groups,
        notes=[*notes, *more, *also],
        runs={run.name: run.facts for run in runs},
    )


def _replayed(env: envs.MicrogridEnv, reference: Reference) -> Played:
    from envs.baselines.schedule import Schedule  # noqa: PLC0415 - only where there is a bound

    assert reference.schedule is not None
    played = play(OPTIMUM, "optimum", Schedule(env, reference.schedule), env)
    return replace(played, seconds_per_decision=float("nan"))  # it was decided before


def _make_env(run: Run, args: Args) -> envs.MicrogridEnv:
    """One copy for each day (or week) that is played."""
    keywords: dict[str, Any] = {
        **run.env_keywords,
        "num_envs": None,
        "split": args.split,
        "evaluation": True,
        "device": "cpu",
    }
    env = envs.make(**keywords)
    episodes = episodes_to_play(env.num_envs, args.days, args.split)
    return env if episodes == env.num_envs else envs.make(**{**keywords, "num_envs": episodes})


def _baselines(given: Sequence[str] | None, known: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
    """Names to play, each once.

    Raises:
        ValueError: an unknown name; lists those there are.
    """
    if given is None:
        return tuple(default)
    if tuple(given) == ("none",):
        return ()
    for name in given:
        if name not in known:
            choices = ", ".join(known)
            raise ValueError(f"--baselines must be none or some of {choices}; got {name!r}. Runs stand before it")
    return tuple(dict.fromkeys(given))


def _options(name: str, args: Args) -> dict[str, Any]:
    return {"forecast": args.forecast, "workers": args.workers} if name == "mpc" else {}


def _files(comparison: Comparison, rows: Sequence[Row], content: Mapping[str, Any]) -> dict[str, bytes]:
    """Relative name -> content of every file."""
    run = comparison.first_run
    days = example_days(comparison.gap_usd(run.name) if comparison.reference is not None else run.j_usd)
    pictures = report_pngs(comparison, rows, days)
    return {
        "evaluation.json": (json.dumps(content, indent=2) + "\n").encode(),
        "days.csv": days_csv(comparison).encode(),
        "summary.csv": summary_csv(rows).encode(),
        "report.html": html_report(comparison, rows, pictures, days).encode(),
        **{f"figures/{name}.png": data for name, data in pictures.items()},
    }


def _print(tables: Sequence[tuple[str, Table]], lines: Sequence[str]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH_IN_A_PIPE
    for heading, table in tables:
        console.print(heading, style="bold", soft_wrap=True, markup=False)
        console.print(table)
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


if __name__ == "__main__":
    run_command(main)
