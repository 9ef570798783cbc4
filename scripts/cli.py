"""What the command-line scripts share: parsing, one-line errors with exit code 2, what a checkpoint says of its run."""

import contextlib
import io
import json
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

import tyro

import mappo
from mappo.checkpoint import read_file, unpacking
from mappo.distributed import AgreedError
from mappo.run_folder import find_checkpoint

LIBRARY = Path(mappo.__file__).parent
USER_ERROR = 2
WORKER_REPORT = "\n\n"  # between what a worker process says of an error, and its traceback
SEED_OR_TIME = re.compile(r"[-_. ]+(s|seed)?[-_. \d]*$")  # what the names of seeds end with
IN_EVERY_SEED = ("seed", "device", "experiment_name", "runs_dir", "checkpoint_dir", "checkpoint_freq", "stop_after")
IN_EVERY_SEED += ("num_workers", "tensorboard", "wandb", "wandb_project", "wandb_entity")
"""Settings that seeds of one configuration may differ in; the others must be the same."""
STDOUT, STDERR = 1, 2  # file descriptors
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
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
    text = " ".join(line for line in lines if line).replace("Error parsing train: ", "")
    raise ValueError(re.sub(r"\.? For full", ". For full", text))


def spelt(word: str) -> str:
    """A word of the command line, with hyphens for the underscores in a flag's name."""
    name, equals, value = word.partition("=")
    return (name.replace("_", "-") if name.startswith("--") else name) + equals + value


def flags_in(argv: Sequence[str]) -> set[str]:
    """The flags that the command line gives."""
    return {word.partition("=")[0] for word in argv if word.startswith("--")}


def value_of(argv: Sequence[str], flag: str) -> str | None:
    """The value that the command line gives a flag, for what must be known before the others get their defaults."""
    for i, word in enumerate(argv):
        if word == flag:
            return argv[i + 1] if i + 1 < len(argv) else ""
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def _is_about_a_setting(error: ValueError) -> bool:
    """Whether this project raised it, as it does for wrong settings, and not a library or an env that it called."""
    _, _, report = str(error).partition(WORKER_REPORT)
    files = re.findall(r'^  File "(.+)", line', report, re.MULTILINE)
    raised_in = Path(files[-1] if files else traceback.extract_tb(error.__traceback__)[-1].filename)
    ours = [Path(str(sys.modules[name].__file__)).parent for name in ("mappo", "envs") if name in sys.modules]
    return any(raised_in.is_relative_to(folder) for folder in (*ours, Path(__file__).parent))


def run_command(command: Callable[[], None]) -> None:
    """Run a script; a wrong setting, or a place that cannot be written, becomes one line on stderr and exit code 2."""
    try:
        command()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's own flush at exit complains
        raise SystemExit(1) from None
    except (ValueError, OSError) as error:
        cause = error.__cause__ if isinstance(error, AgreedError) else error  # None: only other ranks refused
        if isinstance(cause, ValueError) and not _is_about_a_setting(cause):
            raise  # a defect, which needs its traceback
        if isinstance(error, AgreedError) and os.environ.get("RANK", "0") != "0":
            raise SystemExit(USER_ERROR) from None  # the first rank says it
        message = str(error).partition(WORKER_REPORT)[0].removeprefix("ValueError: ")
        print("error:", " ".join(message.split()), file=sys.stderr)
        raise SystemExit(USER_ERROR) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


@contextlib.contextmanager
def warnings_as_notes(say: Callable[[str], None]) -> Iterator[None]:
    """Show what the library warns of as one line without a place in the source; other warnings stay as they are."""
    show = warnings.showwarning

    def note(message: Warning | str, category: type[Warning], filename: str, *more: Any) -> None:
        if category is UserWarning and Path(filename).is_relative_to(LIBRARY):
            say(str(message))
        else:
            show(message, category, filename, *more)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=UserWarning, module=r"mappo\.")
        warnings.showwarning = note
        yield


@contextlib.contextmanager
def kept_stdout(alone: bool) -> Iterator[TextIO]:
    """Yield stdout; if `alone`, whatever else prints meanwhile, worker processes too, prints to stderr."""
    shown = sys.stdout
    if not alone:
        yield shown
        return
    with contextlib.redirect_stdout(sys.stderr):
        if shown is not sys.__stdout__ or shown.fileno() != STDOUT:  # no file that other processes share
            yield shown
            return
        shown.flush()
        with os.fdopen(os.dup(STDOUT), "w") as kept:
            os.dup2(STDERR, STDOUT)
            try:
                yield kept
            finally:
                os.dup2(kept.fileno(), STDOUT)


def read_checkpoint(path: str, names: Sequence[str] = ("best", "latest")) -> dict[str, Any]:
    """A run's checkpoint: a file, or of a run folder the first of `names` that exists.

    Raises:
        ValueError: no such file, or a file that is no checkpoint of a run.
    """
    if not path:
        raise ValueError("a checkpoint or a run folder must be given, got an empty name; see the folders in runs/")
    file = find_checkpoint(path, names)
    content = read_file(file)
    if "config" not in content:
        raise ValueError(f"{file} holds only a policy; give a checkpoint of a run, such as latest.pt")
    return content | {"path": str(file)}


def configuration_key(config: Mapping[str, Any], env: Mapping[str, Any]) -> str:
    """Equal for seeds of one configuration.

    Args:
        config: fields of `TrainConfig`.
        env: spec of its env.
    """
    settings = [{k: v for k, v in part.items() if k not in IN_EVERY_SEED} for part in (config, env)]
    return json.dumps(settings, sort_keys=True, default=str)


def common_stem(names: Sequence[str]) -> str:
    """What the names of several runs begin with, without a seed or time; may be empty."""
    first, last = min(names), max(names)  # what these two share, all share
    same = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return SEED_OR_TIME.sub("", first[: next(same, len(first))])


def env_keywords(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The spec of the training env: what rebuilds it. Which family it is of, `environments.family_of` knows."""
    with unpacking(checkpoint["path"]):
        return dict(checkpoint["env"]["spec"])
