"""The folders of a run: made once, found again from a checkpoint or from the command line.

Data flow: TrainConfig -> RunFolder -> trainer and loggers, which write into it; scripts look for checkpoints by it.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, Self

from mappo.checkpoint import versions
from mappo.config import TrainConfig

CONFIG = "config.json"
CONFIG_KEYS = {"config", "env", "versions"}


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Paths of one run; nothing is created before `create`."""

    path: Path
    checkpoint_dir: Path | None = None
    """Holds the folder of checkpoints, which has the run's name; None: they go into the run folder."""
    is_new: bool = True
    """Whether the folder must not exist before `create`."""

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.checkpoint_dir / self.path.name if self.checkpoint_dir else self.path / "checkpoints"

    @classmethod
    def new(cls, config: TrainConfig, env_name: str) -> Self:
        """A folder of its own below --runs-dir, with the env in its name; a name that is taken is an error."""
        time = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
        name = config.experiment_name or f"{config.algo}_{config.sharing}_{env_name}_{time}"
        run = cls.at(Path(config.runs_dir) / name, config.checkpoint_dir, is_new=True)
        if config.experiment_name is None:
            return run
        for taken in (run.path, run.checkpoints):
            if taken.exists():
                raise ValueError(
                    f"--experiment-name {name}: {taken} exists already; "
                    f"choose another name, or continue that run with --resume {run.path}"
                )
        return run

    @classmethod
    def at(cls, path: Path, checkpoint_dir: str | None, *, is_new: bool = False) -> Self:
        """The run at `path` with a config's `checkpoint_dir`."""
        return cls(path=path, checkpoint_dir=Path(checkpoint_dir) if checkpoint_dir else None, is_new=is_new)

    @classmethod
    def of_checkpoint(cls, file: Path, recorded: str, checkpoint_dir: str | None) -> Self | None:
        """The run that a checkpoint belongs to: where it was recorded, else around the file; None if that is gone."""
        for path in (Path(recorded), file.resolve().parent.parent):
            if read_config(path) is not None:
                return cls.at(path, checkpoint_dir)
        return None

    def resume_notes(self, file: Path, recorded: str) -> list[str]:
        """What a user should know who resumes from `file`, whose run was at `recorded`."""
        if self.is_new:
            return [f"the run folder {recorded} is gone: a new one is begun, {self.path}"]
        if file.resolve() != (self.checkpoints / "latest.pt").resolve():
            replaced = f"later rows and checkpoints of {self.path} are replaced"
            return [f"{file} is not the latest checkpoint of its run: {replaced}"]
        return []

    def create(self, config: TrainConfig, env_spec: Mapping[str, Any]) -> Self:
        """Make the folders and write config.json; returns the folder as it was created.

        Where another run took the name in the meantime, such as a second seed started in the same second, a number
        is appended. Where that fails, nothing is left behind.
        """
        content = {"config": config.to_dict(), "env": dict(env_spec), "versions": versions()}
        run = self
        for number in count(2):
            with contextlib.ExitStack() as undo:
                try:
                    run._make_folders(undo)
                except FileExistsError:
                    run = replace(self, path=self.path.with_name(f"{self.path.name}_{number}"))
                    continue
                with _writing(run.path, "--runs-dir"):
                    (run.path / CONFIG).write_text(json.dumps(content, indent=2) + "\n")
                undo.pop_all()
                break
        return replace(run, is_new=False)

    def _make_folders(self, undo: contextlib.ExitStack) -> None:
        """`undo` removes what this made; FileExistsError where a new run's name is taken."""
        setting = "--checkpoint-dir" if self.checkpoint_dir else "--runs-dir"
        for folder, name in ((self.path, "--runs-dir"), (self.checkpoints, setting)):
            for path in (*reversed(folder.parents), folder):
                with _writing(path, name):
                    existed = path.exists()
                    if not existed or path == folder:
                        path.mkdir(exist_ok=path != folder or not self.is_new)
                if not existed:
                    undo.callback(_remove, path)


def find_checkpoint(path: str | os.PathLike[str], names: Sequence[str]) -> Path:
    """The checkpoint that a path stands for: itself, or in a run folder the first of `names` that exists."""
    path = Path(path)
    if not path.is_dir():
        return path
    config = read_config(path)
    run = RunFolder.at(path, config["config"].get("checkpoint_dir") if config else None)
    files = [folder / f"{name}.pt" for folder in (run.checkpoints, path) for name in names]
    return next((file for file in files if file.is_file()), files[0])


def read_config(path: Path) -> dict[str, Any] | None:
    """The config.json of a run folder; None for any other folder, though it may hold a file of that name."""
    try:
        content = json.loads((path / CONFIG).read_text())
    except (OSError, ValueError):
        return None
    is_run = isinstance(content, dict) and set(content) >= CONFIG_KEYS and isinstance(content["config"], dict)
    return content if is_run else None


def _remove(folder: Path) -> None:
    with contextlib.suppress(OSError):  # another run may have come to use it
        (folder / CONFIG).unlink(missing_ok=True)
        folder.rmdir()


@contextlib.contextmanager
def _writing(path: Path, setting: str) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        rule = "must be a folder that can be written to"
        raise ValueError(f"{setting} {rule}; got {path}: {error.strerror}. Choose another") from error
