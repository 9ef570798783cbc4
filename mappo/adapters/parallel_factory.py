"""`--env pettingzoo:<module>[:kwargs]` -> a factory of ParallelEnvs.

Data flow: text -> `parallel_factory` -> `PettingZooVecEnv`, in this process and, pickled, in its workers.
"""

import copy
import importlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

from mappo.adapters.env_string import parse_env_string
from mappo.adapters.parallel_layout import check_parallel

_PREFIXES = ("", "pettingzoo.", "mpe2.")


@dataclass(frozen=True)
class ParallelFactory:
    """Makes the env that a text names; picklable, the module is imported where it is called."""

    text: str
    """As the user typed it after `--env`."""
    module: str
    """Full import path."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of `parallel_env`."""

    def __call__(self) -> Any:
        """A new ParallelEnv.

        Raises:
            ValueError: `parallel_env` does not take these keyword arguments, or raises anything when given them.
        """
        module = _imported(self.module)
        make = _maker(self.text, module)
        given = ", ".join(f"{name}={value!r}" for name, value in self.kwargs.items())
        try:
            return make(**self.kwargs)
        except TypeError as error:
            raise ValueError(
                f"--env {self.text}: {self.module}.parallel_env does not take {given or 'no arguments'}: {error}"
                f"{_signature(make, module)}"
            ) from error
        except Exception as error:
            if not self.kwargs:  # not the user's values: the env's own error, as it is
                raise
            raise ValueError(
                f"--env {self.text}: {self.module}.parallel_env({given}) failed: {type(error).__name__}: {error}"
            ) from error


def parallel_factory(text: str) -> ParallelFactory:
    """Factory of the env that `pettingzoo:<module>[:key=value,...]` names.

    The module is a full import path, or one below `pettingzoo` or `mpe2`; it must have `parallel_env(**kwargs)`.
    One env is made and closed, so that a mistake shows here.

    Raises:
        ValueError: no such module, it makes no ParallelEnv, or it does not take the arguments.
    """
    parsed = parse_env_string(text)
    if parsed.family != "pettingzoo":
        raise ValueError(f"--env {text} must begin with pettingzoo:")
    factory = ParallelFactory(text, _find(text, parsed.name), parsed.kwargs)
    env = factory()
    try:
        check_parallel(env)
    except ValueError as error:
        raise ValueError(f"--env {text}: {error}") from error
    env.close()
    return factory


def own_envs(factory: Callable[[], Any]) -> tuple[Any, Callable[[], Any]]:
    """An env to look at, and a factory whose every env is another object: this one, or one that copies its only env.

    Raises:
        ValueError: it gives the same object at each call, which cannot be copied.
    """
    env, other = factory(), factory()
    if env is not other:
        if hasattr(other, "close"):
            other.close()
        return env, factory
    try:
        own = copy.deepcopy(env)
    except Exception as error:  # whatever an env's parts raise
        raise ValueError(
            f"the factory gives the same object at each call, and it cannot be copied ({error}); "
            "write lambda: MyEnv(...), not lambda: env"
        ) from error
    return own, partial(copy.deepcopy, env)


def _find(text: str, name: str) -> str:
    """Full path of the module, which is imported."""
    for prefix in _PREFIXES:
        path = prefix + name
        try:
            _imported(path)
        except ModuleNotFoundError as error:
            # Not found itself, or one that it imports? Only the former lets the next place be tried.
            if error.name is not None and (path == error.name or path.startswith(f"{error.name}.")):
                continue
            raise ValueError(f"--env {text}: {path} needs {error.name}, which is not installed ({error})") from error
        except ImportError as error:
            raise ValueError(f"--env {text}: {path} cannot be imported ({error})") from error
        return path
    tried = ", ".join(prefix + name for prefix in _PREFIXES)
    raise ValueError(
        f"--env {text}: no such module (tried {tried}). Name one with parallel_env, such as "
        "pettingzoo:mpe2.simple_spread_v3 (pip install mpe2), and have it on PYTHONPATH if it is your own"
    )


def _imported(path: str) -> ModuleType:
    with warnings.catch_warnings():
        # PettingZoo asks users to write make(...) in place of the import that the text names.
        warnings.filterwarnings("ignore", message="The old environment creation API", category=DeprecationWarning)
        return importlib.import_module(path)


def _maker(text: str, module: ModuleType) -> Callable[..., Any]:
    make = getattr(module, "parallel_env", None)
    if callable(make):
        return make
    path = module.__name__
    if callable(getattr(module, "env", None)):
        raise ValueError(
            f"--env {text}: {path} has only env(), whose agents act in turn. In a module of your own, define "
            f"parallel_env(**kwargs) that returns pettingzoo.utils.aec_to_parallel({path}.env(**kwargs)), or "
            "turn_based_aec_to_parallel for a game played in turns, and name that module"
        )
    raise ValueError(f"--env {text}: {path} must define parallel_env(**kwargs), which returns a ParallelEnv")


def _signature(make: Callable[..., Any], module: ModuleType) -> str:
    """What can be given, for an error message; PettingZoo's own `parallel_env(**kwargs)` hands it to `raw_env`."""
    raw = getattr(module, "raw_env", None)
    try:
        signature = inspect.signature(make)
        kinds = [parameter.kind for parameter in signature.parameters.values()]
        if kinds != [inspect.Parameter.VAR_KEYWORD] or not callable(raw):
            return f"; it is parallel_env{signature}"
        signature = inspect.signature(raw).replace(return_annotation=inspect.Signature.empty)
        return f"; the arguments are those of raw_env{signature}"
    except (TypeError, ValueError):  # made in C
        return ""
