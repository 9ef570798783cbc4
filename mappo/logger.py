"""Where the numbers go: metrics.csv, TensorBoard, optionally Weights & Biases.

Data flow: trainer row -> Logger.log. A row is one flat dict; keys with a slash are `<group>/<name>`, the others
counters. The x axis is env steps.
"""

import csv
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from mappo.config import TrainConfig

Row = dict[str, float]


class Logger(Protocol):
    """A destination of rows and figures."""

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """One row at `step` env steps."""
        ...

    def log_figures(self, step: int, figures: Mapping[str, Any]) -> None:
        """Named matplotlib figures."""
        ...

    def close(self) -> None:
        """Flush and release."""
        ...


class CsvLogger:
    """One line a row. A column that first appears later is added to the header, with blanks above it."""

    def __init__(self, path: Path, *, keep_until: int) -> None:
        """A resumed run keeps the rows up to iteration `keep_until`; those after it are about to be redone."""
        self.path = path
        self.columns: list[str] = []
        if path.exists():
            with path.open(newline="") as file:
                reader = csv.DictReader(file)
                rows = [row for row in reader if float(row["iteration"]) <= keep_until]
                self.columns = list(reader.fieldnames or [])
            self._rewrite(rows)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append one line."""
        if new := [name for name in scalars if name not in self.columns]:
            rows: list[dict[str, str]] = []
            if self.path.exists():
                with self.path.open(newline="") as file:
                    rows = list(csv.DictReader(file))
            self.columns += new
            self._rewrite(rows)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns, restval="").writerow(scalars)

    def log_figures(self, step: int, figures: Mapping[str, Any]) -> None:
        """A table holds no pictures."""

    def close(self) -> None:
        """Nothing stays open."""

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(self.path)


class TensorBoardLogger:
    """TensorBoard events in the run folder; hparams in the same run, so that they meet their curves."""

    def __init__(self, folder: Path, hparams: Mapping[str, Any], *, purge_step: int | None) -> None:
        """Events at or after `purge_step` from before a resume are hidden."""
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (slow to import, and optional)
        from torch.utils.tensorboard.summary import hparams as summarise  # noqa: PLC0415

        self.writer = SummaryWriter(str(folder), purge_step=purge_step)
        if purge_step is None:
            plain = {
                name: value if isinstance(value, int | float | str) else str(value) for name, value in hparams.items()
            }
            for summary in summarise(plain, {"eval/score": 0.0}):
                self.writer._get_file_writer().add_summary(summary)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Every `<group>/<name>` becomes a curve."""
        for name, value in scalars.items():
            if "/" in name:
                self.writer.add_scalar(name, value, step)

    def log_figures(self, step: int, figures: Mapping[str, Any]) -> None:
        """Pictures, closed afterwards."""
        for name, figure in figures.items():
            self.writer.add_figure(name, figure, step, close=True)

    def close(self) -> None:
        """Flush."""
        self.writer.close()


class WandbLogger:
    """Weights & Biases."""

    def __init__(self, folder: Path, config: TrainConfig, hparams: Mapping[str, Any]) -> None:
        """One run, named after the folder."""
        require_wandb()
        import wandb  # noqa: PLC0415 (optional extra) # pyright: ignore[reportMissingImports]

        self.wandb = wandb
        self.run = wandb.init(
            project=config.wandb_project,
            entity=config.wandb_entity,
            name=folder.name,
            dir=str(folder),
            config=dict(hparams),
        )

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """One row."""
        self.run.log(dict(scalars), step=step)

    def log_figures(self, step: int, figures: Mapping[str, Any]) -> None:
        """Pictures."""
        self.run.log({name: self.wandb.Image(figure) for name, figure in figures.items()}, step=step)

    def close(self) -> None:
        """Upload what is left."""
        self.run.finish()


def require_wandb() -> None:
    """A clear error where the extra is missing."""
    if importlib.util.find_spec("wandb") is None:
        raise ValueError('--wandb needs the package wandb; install it with: pip install -e ".[wandb]"')


def default_loggers(
    config: TrainConfig, env_spec: Mapping[str, Any], folder: Path, *, iteration: int, env_steps: int
) -> list[Logger]:
    """The destinations that the config asks for; those of a run at `iteration` > 0 continue it."""
    plain = {f"env/{name}": value for name, value in env_spec.items() if not isinstance(value, Mapping)}
    hparams = config.to_dict() | plain
    loggers: list[Logger] = [CsvLogger(folder / "metrics.csv", keep_until=iteration)]
    if config.tensorboard:
        purge_step = env_steps + 1 if iteration else None
        loggers.append(TensorBoardLogger(folder, hparams, purge_step=purge_step))
    if config.wandb:
        loggers.append(WandbLogger(folder, config, hparams))
    return loggers
