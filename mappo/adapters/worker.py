"""Worker processes: gymnasium's AsyncVectorEnv, each of whose envs is a whole `Batch` of copies.

Data flow: actions -> `Workers` -> pipe -> `BatchEnv` in each process -> shared memory -> arrays of all copies.
An error in a worker travels in the info dict, so that the others stay in step until all are closed.
Dims: W workers, k copies in each, B = W k.
"""

import os
import pickle
import signal
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple, TypeVar

import cloudpickle
import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from mappo.adapters.batch import Array, Batch, BatchArrays, Sizes
from mappo.adapters.parallel_batch import OutsideSpaceWarning
from mappo.adapters.server import ONE_THREAD, environment, no_main_module, start_server

Answer = TypeVar("Answer")


class _Plan(NamedTuple):
    """All that a worker needs to make its batch; picklable where `make` is."""

    make: Callable[[range], Batch]
    sizes: Sizes
    copies: range
    """Numbers of this worker's copies among all, here and elsewhere."""
    rows: slice
    """Where they stand among the copies here."""
    environment: Mapping[str, str]
    """Environment variables: the server that workers are forked from keeps those of its own start."""


class _Pickled(NamedTuple):
    """A plan by value, so that it is made outside `no_main_module`."""

    plan: bytes

    def __call__(self) -> gymnasium.Env[Any, Array]:
        """The env of the worker, as AsyncVectorEnv asks for it."""
        return BatchEnv(pickle.loads(self.plan))


class BatchEnv(gymnasium.Env[Any, Array]):
    """A `Batch` as one gymnasium env that never ends; it is made when it is first asked something.

    Actions are (k, A, U). The observation holds the fields of `BatchArrays`, bools as int8, without empty ones.
    """

    def __init__(self, plan: _Plan) -> None:
        """Cheap: AsyncVectorEnv makes one in the parent process too, only to read the spaces."""
        self._plan = plan
        self._batch: Batch | None = None
        self._warned: set[str] = set()
        sizes, copies = plan.sizes, len(plan.copies)
        self._arrays = BatchArrays.zeros(copies, sizes)
        self.action_space = spaces.Box(-np.inf, np.inf, (copies, sizes.agents, sizes.actions), np.float32)
        self.observation_space = spaces.Dict([(name, _box(array)) for name, array in _filled(self._arrays).items()])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Begin episodes; `options["rows"]` are the batch's arguments, with an entry for each copy of all workers."""
        del seed  # the batch has seeds of its own
        given = [row[self._plan.rows] for row in (options or {})["rows"]]
        return self._written(lambda: self._made().reset(*given))

    def step(self, action: Array) -> tuple[dict[str, Array], float, bool, bool, dict[str, Any]]:
        """Advance every copy."""
        obs, info = self._written(lambda: self._made().step(action))
        return obs, 0.0, False, False, info

    def answer(self, method: str, arguments: bytes) -> tuple[bytes, dict[str, Any]]:
        """What a method of the batch returns, pickled: tensors by value; `arguments` holds those of each worker.

        The name `made` only makes the batch.
        """

        def call() -> bytes:
            batch = self._made()
            if method == "made":
                return b""
            mine = pickle.loads(arguments)[self._plan.rows.start // len(self._plan.copies)]
            return pickle.dumps(getattr(batch, method)(*mine))

        answer, info = self._told(call)
        return answer or b"", info

    def close(self) -> None:
        """Close the batch."""
        if self._batch is not None:
            self._batch.close()

    def _made(self) -> Batch:
        if self._batch is None:
            # Ctrl-C reaches the whole process group; the parent decides when the workers end.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            os.environ.update(self._plan.environment)
            torch.set_num_threads(1)  # where the server was started by someone else, without ONE_THREAD
            self._batch = self._plan.make(self._plan.copies)
        return self._batch

    def _written(self, call: Callable[[], BatchArrays]) -> tuple[dict[str, Array], dict[str, Any]]:
        """The arrays that `call` returns, those of before if it fails, and as `_told`."""
        arrays, info = self._told(call)
        self._arrays = self._arrays if arrays is None else arrays
        return {name: _plain(array) for name, array in _filled(self._arrays).items()}, info

    def _told(self, call: Callable[[], Answer]) -> tuple[Answer | None, dict[str, Any]]:
        """What `call` returns, and an info dict that holds its error and its new warnings, if any."""
        answer, info = None, dict[str, Any]()
        with warnings.catch_warnings(record=True) as caught:
            try:
                answer = call()
            except (Exception, SystemExit) as error:  # noqa: BLE001, raised again in the parent process
                info |= {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
                info["invalid"] = isinstance(error, ValueError)
        if caught:
            told = [_told_warning(warning) for warning in caught]
            if new := [(key, text) for key, text in told if key not in self._warned]:
                info["warnings"] = new
                self._warned.update(key for key, _ in new)
        return answer, info


class Workers:
    """W processes that step B copies between them, equally many each: a `Batch` of all of them.

    What they warn of becomes a warning here, each text once.

    Processes are forked from a server that has no threads, never from this process: a fork would copy the locks of
    torch's threads as they stand. The server imports this module once, so that each worker starts at once. Workers end
    with `close`, with this object, and with the parent process, whatever ends it.
    """

    def __init__(self, make: Callable[[range], Batch], sizes: Sizes, *, copies: range, num_workers: int) -> None:
        """Start the processes.

        Args:
            make: makes the batch of some copies, in a worker.
            sizes: of every batch's arrays.
            copies: numbers of all copies; divisible by `num_workers`.
            num_workers: W.

        Raises:
            ValueError: `make` cannot be sent to another process.
            RuntimeError: a process ended while it started.
        """
        size = len(copies) // num_workers
        variables = {**os.environ, **ONE_THREAD}
        rows = [slice(start, start + size) for start in range(0, len(copies), size)]
        self._plans = [_Plan(make, sizes, copies[mine], mine, variables) for mine in rows]
        try:
            pickled = [_Pickled(cloudpickle.dumps(plan)) for plan in self._plans]
        except Exception as error:
            raise ValueError(
                f"--num-workers {num_workers}: the env's factory or encoder cannot be sent to another process "
                f"({type(error).__name__}: {error}); make the env inside the factory, or use --num-workers 0"
            ) from error
        try:
            with environment(ONE_THREAD), no_main_module():
                self._processes = _Processes(pickled)
        except (EOFError, OSError) as error:
            raise RuntimeError(
                f"--num-workers {num_workers}: a worker process ended while it started; its own message is on stderr"
            ) from error
        self._processes.ask("made", b"")  # in the background; the first call waits for it
        self._is_made = self._busy = False
        self._warned: set[str] = set()
        shared = {name: _shared(array) for name, array in self._processes.observations.items()}
        self.arrays = replace(BatchArrays.zeros(len(copies), sizes), **shared)

    def reset(self, *rows: Sequence[Any]) -> BatchArrays:
        """Begin an episode in every copy; each argument of the batches has an entry for each copy."""
        self._call(lambda: self._processes.reset(options={"rows": rows})[1])
        return self.arrays

    def step(self, actions: Array) -> BatchArrays:
        """Advance every copy with actions (B, A, U).

        Raises:
            ValueError: as the batch's, with the worker's traceback.
            RuntimeError: an env raised something else, or a worker process ended.
        """
        parts = actions.reshape(len(self._plans), -1, *actions.shape[1:])
        self._call(lambda: self._processes.step(parts)[4])
        return self.arrays

    def ask(self, method: str, *arguments: Sequence[Any]) -> list[Any]:
        """Call a method of every batch; each argument has an entry for each worker. Returns what each returned."""
        answers: list[bytes] = []
        by_worker = list(zip(*arguments, strict=True)) if arguments else [()] * len(self._plans)

        def call() -> Mapping[str, Any]:
            self._processes.ask(method, pickle.dumps(by_worker))
            answers[:], infos = self._processes.answers()
            return infos

        self._call(call)
        return [pickle.loads(answer) for answer in answers]

    def close(self) -> None:
        """End the processes; envs are closed first, unless a step is under way."""
        try:
            if not self._is_made:
                self._is_made = True
                self._processes.answers()
            self._processes.close(terminate=self._busy)
        except (EOFError, OSError):  # one has ended already
            self._processes.close(terminate=True)

    def _call(self, call: Callable[[], Mapping[str, Any]]) -> None:
        """Let the processes work, and pass on what they warn of or raise."""
        if not self._is_made:
            self._is_made = True
            self._call(lambda: self._processes.answers()[1])
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


# generic since gymnasium 1.3
_Vector = AsyncVectorEnv[Any, Any] if hasattr(AsyncVectorEnv, "__class_getitem__") else AsyncVectorEnv


class _Processes(_Vector):
    """Leaves no process behind, whatever state they are in."""

    def __init__(self, plans: Sequence[_Pickled]) -> None:
        try:
            super().__init__(plans, copy=False, context=start_server(), autoreset_mode=AutoresetMode.DISABLED)
        except BaseException:
            self.close(terminate=True)
            raise

    def ask(self, method: str, arguments: bytes) -> None:
        """Let `BatchEnv.answer` be called in every process."""
        self.call_async("answer", method, arguments)

    def answers(self) -> tuple[list[bytes], dict[str, Any]]:
        """What each process answers, and their info dicts put together as those of a step."""
        answers, infos = [], dict[str, Any]()
        for index, (answer, info) in enumerate(self.call_wait()):
            answers.append(answer)
            infos = self._add_info(infos, info, index)
        return answers, infos

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
