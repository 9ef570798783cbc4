"""Worker processes: gymnasium's AsyncVectorEnv, each of whose envs is a whole `ParallelBatch`.

Data flow: actions -> `Workers` -> pipe -> `BatchEnv` in each process -> shared memory -> arrays of all copies.
An error in a worker travels in the info dict, so that the others stay in step until all are closed.
Dims: W workers, k copies in each, B = W k.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from types import ModuleType
from typing import Any, NamedTuple

import cloudpickle
import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from mappo.adapters.parallel_batch import BatchArrays, OutsideSpaceWarning, ParallelBatch
from mappo.adapters.parallel_layout import ParallelLayout

Array = np.ndarray[Any, np.dtype[Any]]

# Read by OpenMP, OpenBLAS and MKL when they are loaded: one thread each, the workers are the parallelism.
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


class _Plan(NamedTuple):
    """All that a worker needs to make its batch; picklable where the factory and the encoder are."""

    factory: Callable[[], Any]
    layout: ParallelLayout
    copies: range
    """Numbers of this worker's copies among all, here and elsewhere."""
    first: int
    """Number of the first copy here."""
    seed: int
    environment: Mapping[str, str]
    """Environment variables: the server that workers are forked from keeps those of its own start."""


class _Pickled(NamedTuple):
    """A plan by value, so that it is made outside `_no_main_module`."""

    plan: bytes

    def __call__(self) -> gymnasium.Env[Any, Array]:
        """The env of the worker, as AsyncVectorEnv asks for it."""
        return BatchEnv(pickle.loads(self.plan))


class BatchEnv(gymnasium.Env[Any, Array]):
    """A `ParallelBatch` as one gymnasium env that never ends; it makes its envs at the first reset.

    Actions are (k, A, U). The observation holds the fields of `BatchArrays`, bools as int8, without empty ones.
    """

    def __init__(self, plan: _Plan) -> None:
        """Cheap: AsyncVectorEnv makes one in the parent process too, only to read the spaces."""
        self._plan = plan
        self._batch: ParallelBatch | None = None
        self._warned: set[str] = set()
        layout, copies = plan.layout, len(plan.copies)
        self._arrays = BatchArrays.zeros(layout, copies)
        self.action_space = spaces.Box(-np.inf, np.inf, (copies, len(layout.agents), layout.columns), np.float32)
        self.observation_space = spaces.Dict([(name, _box(array)) for name, array in _filled(self._arrays).items()])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Begin the episodes `options["episodes"]` (B,), of which the plan's copies are ours."""
        del seed  # the episodes have seeds of their own
        start, stop = (copy - self._plan.first for copy in (self._plan.copies.start, self._plan.copies.stop))
        episodes = (options or {})["episodes"][start:stop]
        return self._told(lambda: self._made().reset(episodes))

    def step(self, action: Array) -> tuple[dict[str, Array], float, bool, bool, dict[str, Any]]:
        """Advance every copy."""
        obs, info = self._told(lambda: self._made().step(action))
        return obs, 0.0, False, False, info

    def close(self) -> None:
        """Close the envs."""
        if self._batch is not None:
            self._batch.close()

    def _made(self) -> ParallelBatch:
        if self._batch is None:
            # Ctrl-C reaches the whole process group; the parent decides when the workers end.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            plan = self._plan
            os.environ.update(plan.environment)
            torch.set_num_threads(1)  # where the server was started by someone else, without _ONE_THREAD
            self._batch = ParallelBatch(plan.factory, plan.layout, copies=plan.copies, seed=plan.seed)
        return self._batch

    def _told(self, call: Callable[[], BatchArrays]) -> tuple[dict[str, Array], dict[str, Any]]:
        """What `call` returns, and an info dict that holds its error and its new warnings, if any."""
        info: dict[str, Any] = {}
        with warnings.catch_warnings(record=True) as caught:
            try:
                self._arrays = call()
            except (Exception, SystemExit) as error:  # noqa: BLE001, raised again in the parent process
                info = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
                info["invalid"] = isinstance(error, ValueError)
        if caught:
            told = [_told_warning(warning) for warning in caught]
            if new := [(key, text) for key, text in told if key not in self._warned]:
                info["warnings"] = new
                self._warned.update(key for key, _ in new)
        return {name: _plain(array) for name, array in _filled(self._arrays).items()}, info


class Workers:
    """W processes that step B copies between them, equally many each. Same calls as `ParallelBatch`.

    What they warn of becomes a warning here, each text once.

    Processes are forked from a server that has no threads, never from this process: a fork would copy the locks of
    torch's threads as they stand. The server imports this module once, so that each worker starts at once. Workers end
    with `close`, with this object, and with the parent process, whatever ends it.
    """

    def __init__(
        self, factory: Callable[[], Any], layout: ParallelLayout, *, copies: range, num_workers: int, seed: int
    ) -> None:
        """Start the processes.

        Raises:
            ValueError: the factory or the encoder cannot be sent to another process.
            RuntimeError: a process ended while it started.
        """
        size, first = len(copies) // num_workers, copies.start
        environment = {**os.environ, **_ONE_THREAD}
        shares = [copies[start : start + size] for start in range(0, len(copies), size)]
        self._plans = [_Plan(factory, layout, share, first, seed, environment) for share in shares]
        try:
            pickled = [_Pickled(cloudpickle.dumps(plan)) for plan in self._plans]
        except Exception as error:
            raise ValueError(
                f"--num-workers {num_workers}: the env's factory or encoder cannot be sent to another process "
                f"({type(error).__name__}: {error}); make the env inside the factory, or use --num-workers 0"
            ) from error
        try:
            with _environment(_ONE_THREAD), _no_main_module():
                self._processes = _Processes(pickled)
        except (EOFError, OSError) as error:
            raise RuntimeError(
                f"--num-workers {num_workers}: a worker process ended while it started; its own message is on stderr"
            ) from error
        self._busy = False
        self._warned: set[str] = set()
        shared = {name: _shared(array) for name, array in self._processes.observations.items()}
        self.arrays = replace(BatchArrays.zeros(layout, len(copies)), **shared)

    def reset(self, episodes: Sequence[int]) -> BatchArrays:
        """Begin these episodes, one number for each copy."""
        return self._call(lambda: self._processes.reset(options={"episodes": list(episodes)})[1])

    def step(self, actions: Array) -> BatchArrays:
        """Advance every copy with actions (B, A, U).

        Raises:
            ValueError: as `ParallelBatch.step`, with the worker's traceback.
            RuntimeError: an env raised something else, or a worker process ended.
        """
        parts = actions.reshape(len(self._plans), -1, *actions.shape[1:])
        return self._call(lambda: self._processes.step(parts)[4])

    def close(self) -> None:
        """End the processes; envs are closed first, unless a step is under way."""
        try:
            self._processes.close(terminate=self._busy)
        except (EOFError, OSError):  # one has ended already
            self._processes.close(terminate=True)

    def _call(self, call: Callable[[], Mapping[str, Any]]) -> BatchArrays:
        self._busy = True
        try:
            infos = call()
        except (EOFError, OSError) as error:
            self.close()
            codes = [process.exitcode for process in self._processes.processes]
            raise RuntimeError(
                f"a worker process ended unexpectedly (exit codes {codes}; -9 is what the kernel does when memory "
                "runs out, -11 a crash in compiled code). All workers are closed"
            ) from error
        self._busy = False
        for key, text in [warning for own in infos.get("warnings", ()) for warning in own or ()]:
            if key not in self._warned:
                self._warned.add(key)
                warnings.warn(text, OutsideSpaceWarning if key == OutsideSpaceWarning.__name__ else None, stacklevel=2)
        if "error" in infos:
            self.close()
            worker = int(np.argmax(infos["_error"]))
            copies = self._plans[worker].copies
            kind = ValueError if infos["invalid"][worker] else RuntimeError
            raise kind(
                f"{infos['error'][worker]}\n\nin worker {worker} (copies {copies.start} to {copies.stop - 1}); all "
                f"workers are closed. The worker's traceback:\n{infos['traceback'][worker]}"
            )
        return self.arrays


# generic since gymnasium 1.3
_Vector = AsyncVectorEnv[Any, Any] if hasattr(AsyncVectorEnv, "__class_getitem__") else AsyncVectorEnv


class _Processes(_Vector):
    """Leaves no process behind, whatever state they are in."""

    def __init__(self, plans: Sequence[_Pickled]) -> None:
        try:
            super().__init__(plans, copy=False, context=_context(), autoreset_mode=AutoresetMode.DISABLED)
        except BaseException:
            self.close(terminate=True)
            raise

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """As gymnasium's, but `terminate` does not first wait for the step under way, which may never end."""
        if not terminate:
            super().close_extras(timeout)
            return
        for process in getattr(self, "processes", ()):
            if process.is_alive():
                process.terminate()
                process.join()
        for pipe in getattr(self, "parent_pipes", ()):
            pipe.close()


def _context() -> str:
    """How processes are started; Windows has no fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
    return "forkserver"


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
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
def _no_main_module() -> Iterator[None]:
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


def _told_warning(warning: warnings.WarningMessage) -> tuple[str, str]:
    """What makes it the same as another, and its text."""
    name, text = warning.category.__name__, str(warning.message)
    if warning.category is OutsideSpaceWarning:  # the text has the copy and the value
        return name, text
    text = f"{name} in a worker: {text} ({warning.filename}:{warning.lineno})"
    return text, text


def _filled(arrays: BatchArrays) -> dict[str, Array]:
    """By name, without empty ones, which shared memory cannot hold."""
    named = {field.name: getattr(arrays, field.name) for field in fields(arrays)}
    return {name: array for name, array in named.items() if array.size}


def _box(array: Array) -> spaces.Box:
    dtype = np.int8 if array.dtype == np.bool_ else np.float32
    low, high = (0, 1) if dtype == np.int8 else (-np.inf, np.inf)
    return spaces.Box(low, high, array.shape, dtype)


def _plain(array: Array) -> Array:
    return array.view(np.int8) if array.dtype == np.bool_ else array


def _shared(array: Array) -> Array:
    """(W, k, ...) in shared memory -> (B, ...), a view."""
    joined = array.reshape(-1, *array.shape[2:])
    return joined.view(np.bool_) if array.dtype == np.int8 else joined
