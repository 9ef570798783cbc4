"""What the command-line scripts share: parsing, one-line errors with exit code 2, envs rebuilt from a checkpoint."""

import contextlib
import io
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from mappo.checkpoint import read_file

USER_ERROR = 2
Args = TypeVar("Args")


def parse(kind: type[Args], argv: Sequence[str], *, default: Args | None = None, description: str | None) -> Args:
    """Parse flags with tyro.

    Raises:
        ValueError: an unknown flag or a value that does not fit, on one line instead of in tyro's box.
    """
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            if default is None:
                return tyro.cli(kind, args=argv, description=description)
            return tyro.cli(kind, args=argv, default=default, description=description)
    except SystemExit as stop:
        if stop.code != USER_ERROR:
            raise
    lines = [re.sub(r"^[│╭╰─\s]+|[│╮╯─\s]+$", "", line) for line in box.getvalue().splitlines()[1:]]
    text = " ".join(line for line in lines if line)
    raise ValueError(text.replace("Error parsing train: ", "").replace(" For full", ". For full"))


def run_command(command: Callable[[], None]) -> None:
    """Run a script; a wrong setting becomes one line on stderr and exit code 2."""
    try:
        command()
    except ValueError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(USER_ERROR) from None


def read_checkpoint(path: str) -> dict[str, Any]:
    """A run's checkpoint: a file, or the best one of a run folder.

    Raises:
        ValueError: no such file, or a file that is no checkpoint of a run.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "checkpoints" / "best.pt"
    content = read_file(file)
    if "config" not in content:
        raise ValueError(f"{file} holds only a policy; give a checkpoint of a run, such as latest.pt")
    return content | {"path": str(file)}


def env_keywords(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `envs.make` that rebuild the training env.

    Raises:
        ValueError: the run was trained on an env that is not built by `envs.make`.
    """
    spec = dict(checkpoint["env"]["spec"])
    if "scenario" not in spec:
        raise ValueError(f"{checkpoint['path']} was not trained on a microgrid scenario; load it in Python instead")
    return spec
