"""Hooks into a training run, and the one that shows it on the console.

Data flow: trainer -> Callback. A callback may read the trainer and call `request_stop`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mappo.vec_env import MetricSpec, VecEnv

if TYPE_CHECKING:
    from mappo.trainer import Trainer


class Callback(Protocol):
    """Called by the trainer; every method must exist."""

    def on_train_start(self, trainer: "Trainer") -> None:
        """Before the first rollout; nothing is on disk yet."""
        ...

    def on_iteration_end(self, trainer: "Trainer", row: Mapping[str, float]) -> None:
        """After each iteration, and for the evaluation at iteration 0, with the row that was logged."""
        ...

    def on_train_end(self, trainer: "Trainer") -> None:
        """After the last checkpoint; also if an error ends the training."""
        ...


class ConsoleCallback:
    """A progress bar on a terminal, and one aligned row an iteration everywhere."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False, as_json: bool = False) -> None:
        """`quiet` shows only the last line; `as_json` prints each row as one JSON object instead."""
        self.console = console or Console()
        self.quiet = quiet
        self.as_json = as_json
        self.columns: list[tuple[str, str, str]] = []  # heading, key of the row, format
        columns = (TextColumn("{task.completed}/{task.total}"), BarColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=self.console, transient=True)

    def on_train_start(self, trainer: "Trainer") -> None:
        """Notes, heading, bar."""
        if self.as_json or self.quiet:
            return
        for note in trainer.notes:
            self.console.print(f"note: {note}", soft_wrap=True, highlight=False)
        self.columns = table_columns(console_specs(trainer.env))
        heading = " | ".join(name.rjust(column_width(name)) for name, _, _ in self.columns)
        self.console.print(heading, soft_wrap=True, highlight=False, style="bold")
        if self.console.is_terminal:
            self.progress.add_task("train", total=trainer.config.iterations, completed=trainer.iteration)
            self.progress.start()

    def on_iteration_end(self, trainer: "Trainer", row: Mapping[str, float]) -> None:
        """One row; an evaluation gets a line of its own."""
        if self.as_json:
            self.console.file.write(json.dumps(dict(row)) + "\n")
            self.console.file.flush()
        if self.as_json or self.quiet:
            return
        if row["iteration"]:
            cells = (format_cell(name, row.get(key), spec) for name, key, spec in self.columns)
            self.console.print(" | ".join(cells), soft_wrap=True, highlight=False)
        if "eval/score" in row:
            star = "  best so far" if trainer.best_iteration == row["iteration"] else ""
            parts = [f"score {row['eval/score']:.4f}"] if score_name(trainer.eval_env) == "score" else []
            parts += [f"return {row['eval/return']:.4f}"]
            parts += [
                f"{spec.column} {row[f'eval/{spec.name}']:{spec.format}}" for spec in console_specs(trainer.eval_env)
            ]
            text = f"evaluation at iteration {int(row['iteration'])}: {', '.join(parts)}{star}"
            self.console.print(text, soft_wrap=True, highlight=False)
        for task in self.progress.task_ids:
            self.progress.update(task, completed=row["iteration"])

    def on_train_end(self, trainer: "Trainer") -> None:
        """The best evaluation, and where its checkpoint is."""
        if self.progress.live.is_started:
            self.progress.stop()
        if self.as_json or trainer.best_iteration < 0:
            return
        best = f"score {trainer.best_score:.4f}"
        if score_name(trainer.eval_env) == "return":
            team = "sum" if trainer.config.reward_mode == "sum" else "mean"
            best = f"return {trainer.best_score:.4f} ({team} of the agents, summed over steps)"
        text = f"best evaluation: {best} at iteration {trainer.best_iteration}"
        self.console.print(f"{text}; {trainer.run.checkpoints / 'best.pt'}", soft_wrap=True, highlight=False)


def console_specs(env: VecEnv | None) -> list[MetricSpec]:
    """The metrics that the env wants on the console."""
    return [spec for spec in getattr(env, "metric_specs", ()) if spec.column]


def score_name(env: VecEnv | None) -> str:
    """What chooses the best checkpoint: the env's own score, or the return."""
    return "score" if hasattr(env, "episode_score") else "return"


def table_columns(specs: Sequence[MetricSpec]) -> list[tuple[str, str, str]]:
    """Heading, row key and number format of each console column; without metrics the length of episodes is one."""
    metrics = [(spec.column, f"{spec.group}/{spec.name}", spec.format) for spec in specs]
    metrics = metrics or [("Length", "train/episode_length", ".1f")]
    return [
        ("Iter", "iteration", ".0f"),
        ("Reward", "train/return", ".3f"),
        *metrics,
        ("Episodes", "train/episodes", ".0f"),
        ("Env steps", "env_steps", ",.0f"),
        ("Steps/s", "time/steps_per_s", ",.0f"),
        ("Time", "time/elapsed_s", ".1f"),
    ]


def column_width(name: str) -> int:
    """Wide enough for the heading and its numbers."""
    return max(len(name), 4 if name == "Iter" else 9)


def format_cell(name: str, value: float | None, spec: str) -> str:
    """Right-aligned; a dash where there is no value, such as the return before an episode ended."""
    return ("-" if value is None else format(value, spec)).rjust(column_width(name))


def banner(console: Console, title: str, facts: Mapping[str, str]) -> None:
    """A title and aligned `name  value` lines."""
    width = max(len(name) for name in facts)
    console.rule(title)
    for name, value in facts.items():
        console.print(f"{name.ljust(width)}  {value}", soft_wrap=True, highlight=False)
    console.rule()
