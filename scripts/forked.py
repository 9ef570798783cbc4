"""Processes that train together on this machine without torchrun: `--processes`.

Data flow: command line -> `count_of` -> `forked` -> the environment variables that `Ranks.from_environment` reads. They
are forked once everything is imported and before torch has computed anything, so that they cost no time to start.
"""

import contextlib
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence

import torch
from cli import flags_in, read_checkpoint, value_of
from environments import FAMILIES, default_preset
from environments.microgrid import DEFAULT_GROUP_SIZE

from mappo.presets import PRESETS
from mappo.shared_sums import suits
from mappo.threads import shared_threads

LEAST_COPIES = 256
"""Of each process that is chosen: with fewer, what a step costs in any case is most of it."""
MOST_CHOSEN = 2
"""More have not been measured; each has its share of the cores as threads."""
LAST_WORDS_S = 10.0
"""How long the others may take to end after the first."""
ALONE = {"--help", "-h", "--test", "--threads", "--num-workers", "--group-size"}
"""Flags with which none are chosen: they ask for something else, or must fit into the part of each."""


def count_of(argv: Sequence[str]) -> int:
    """How many processes the command line asks for, or suit the microgrid on the CPU; 1 where it is one of torchrun's.

    A run that goes on has as many as it had, where there are cores for them.

    Raises:
        ValueError: a number that is none, or several where they cannot be started.
    """
    given = value_of(argv, "--processes")
    if given not in (None, "0"):
        return _checked(given)
    free = "WORLD_SIZE" not in os.environ and "OMP_NUM_THREADS" not in os.environ and suits()
    plain = not ALONE.intersection(flags_in(argv)) and value_of(argv, "--env") in (None, "microgrid")
    on_cpu = value_of(argv, "--device") == "cpu" or "--no-cuda" in argv or not torch.cuda.is_available()
    if not (free and plain and on_cpu):
        return 1
    cores = shared_threads(1)
    if (path := value_of(argv, "--resume")) is not None:
        before = _processes_before(path)
        return before if before <= cores else 1
    copies = _copies(argv)
    most = min(cores, MOST_CHOSEN, copies // LEAST_COPIES)
    return most if most > 1 and copies % (DEFAULT_GROUP_SIZE * most) == 0 else 1


def _checked(given: str) -> int:
    if not given.isdecimal() or int(given) < 1:
        raise ValueError(f"--processes must be at least 0, got {given!r}; 0 chooses by the machine")
    if int(given) > 1 and "WORLD_SIZE" in os.environ:
        raise ValueError(f"--processes {given} contradicts torchrun, which has started them; leave it out")
    if int(given) > 1 and sys.platform != "linux":
        raise ValueError(f"--processes {given} needs Linux, which can fork a process that uses torch; use torchrun")
    return int(given)


def _processes_before(path: str) -> int:
    """Of the microgrid's run at `path`; 1 where that cannot be told, which an error will say later."""
    torch.set_num_threads(1)  # a fork does not copy threads, and those there were would be waited for
    with contextlib.suppress(ValueError, OSError, KeyError):
        stored = read_checkpoint(path, ("latest",))
        return stored.get("ranks", 1) if FAMILIES["microgrid"].owns(stored["env"]["spec"]) else 1
    return 1


def _copies(argv: Sequence[str]) -> int:
    """Of a new training; 0 where that cannot be told, which an error will say later."""
    with contextlib.suppress(ValueError, KeyError):
        if (copies := value_of(argv, "--num-envs")) is not None:
            return int(copies)
        return PRESETS[value_of(argv, "--preset") or default_preset("microgrid")].num_envs or 0
    return 0


@contextlib.contextmanager
def forked(count: int, run: Callable[[], None]) -> Iterator[None]:
    """The body is the first of `count` ranks; the others are processes that `run`."""
    if count == 1:
        yield
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    before = dict(os.environ)
    os.environ.update(WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    os.environ.update(RANK="0", LOCAL_RANK="0")
    for name, value in (("OMP_NUM_THREADS", "1"), ("GLOO_SOCKET_IFNAME", "lo")):
        os.environ.setdefault(name, value)

    def other(rank: int) -> None:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        run()

    fork = multiprocessing.get_context("fork")
    others = [fork.Process(target=other, args=(rank,)) for rank in range(1, count)]
    try:
        for process in others:
            process.start()
        yield
        for process in others:
            process.join(LAST_WORDS_S)
    finally:
        for process in others:
            process.kill()
            process.join()
        os.environ.clear()
        os.environ.update(before)
