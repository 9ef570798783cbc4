"""Files of tensors and plain values: written atomically, read with `weights_only`, checked against an env.

Data flow: trainer and policy -> dict -> file, and back. This module knows files; what goes in is its callers' business.
"""

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from mappo.spaces import EnvSpec

FORMAT = 2


def write_file(content: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write so that `path` holds either the old or the whole new content, even if the process dies."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_file(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `write_file` wrote, running no code from it; a ValueError says what is wrong with the file."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no checkpoint at {path}; a run keeps them in checkpoints/latest.pt, best.pt, iteration_*.pt")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch's unpickler raises anything on foreign bytes
        raise ValueError(f"{path} is damaged or no checkpoint of this library ({type(error).__name__})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} must have format {FORMAT}; got {found}. It was written by another version or program")
    return content


@contextlib.contextmanager
def unpacking(path: str | os.PathLike[str]) -> Iterator[None]:
    """For code that takes a file's content apart: parts that lack or do not fit become a ValueError that names it."""
    try:
        yield
    except (AttributeError, KeyError, IndexError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged or was written by another version: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """One line; the text of a KeyError is only the key."""
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    return next(iter(str(error).splitlines()), type(error).__name__)


def check_fits(stored: EnvSpec, env: EnvSpec, path: str | os.PathLike[str], *, ignoring: Collection[str] = ()) -> None:
    """Raise a ValueError that names every difference between the checkpoint's env and this one."""
    if lines := stored.differences(env, ignoring=ignoring):
        details = "\n".join(f"  {line}" for line in lines)
        raise ValueError(f"{path} does not fit this env (checkpoint -> env):\n{details}\nMake the env as for training")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what a result depends on, and the git commit where there is one."""
    found = {name: metadata.version(name) for name in ("torch", "numpy", "gymnasium")}
    return {"python": sys.version.split()[0], **found, "commit": git_commit()}


def git_commit() -> str:
    """The commit of the source that runs, with `+` after it if files changed since; empty outside a clone."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
