"""The server that worker processes are forked from: it has imported what they need, and has no threads.

Data flow: `start_server` -> server -> processes of `Workers`.
"""

import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver
from types import ModuleType

PRELOADED = "mappo.adapters.worker"

# Read by OpenMP, OpenBLAS and MKL when they are loaded: one thread each, the workers are the parallelism.
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


def start_server() -> str:
    """Start the server, unless it runs, and do not wait for it.

    Returns:
        How multiprocessing calls this way of starting processes; "spawn", without a server, where there is no fork.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    multiprocessing.get_context("forkserver").set_forkserver_preload([PRELOADED])
    with environment(ONE_THREAD):
        forkserver.ensure_running()
    return "forkserver"


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the processes that are started inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def no_main_module() -> Iterator[None]:
    """Processes that are started inside do not run the user's script again, as multiprocessing would have them do.

    They need nothing of it: cloudpickle sends what is defined there by value. So a script needs no
    `if __name__ == "__main__"`, and none need exist (a notebook, standard input).
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
