"""The kinds of environment that `--env` can name: one registry, asked by train.py, evaluate.py and plot.py.

Data flow: `--env`, or the spec in a checkpoint -> `find_family`, `family_of` -> `Family`, which builds and describes.
"""

from collections.abc import Collection, Mapping
from typing import Any

from mappo.adapters.env_string import parse_env_string
from mappo.presets import PRESET_HELP, PRESETS

from .family import Family, Request
from .microgrid import Microgrid
from .pettingzoo import PettingZoo
from .vmas import Vmas

__all__ = ["FAMILIES", "Family", "Request", "check_flags", "check_resumed", "default_preset", "env_help", "family_of"]
__all__ += ["find_family", "is_same", "known_family", "preset_help"]

FAMILIES: dict[str, Family] = {family.name: family for family in (Microgrid(), PettingZoo(), Vmas())}

PRESET_OF = {"microgrid": "microgrid", "pettingzoo:mpe2.": "spread", "pettingzoo:simple_": "spread", "vmas:": "vmas"}
PRESET_OF |= {"": "default"}
"""What `--env` begins with -> the preset that it has unless `--preset` is given; the longest that fits."""


def find_family(text: str) -> Family:
    """The kind of environment that `--env` names.

    Raises:
        ValueError: there is none of that name, or what follows the name does not fit.
    """
    family = FAMILIES.get(text.partition(":")[0])
    if family is None:
        raise ValueError(f"--env must be {' or '.join(family.form for family in FAMILIES.values())}; got {text!r}")
    family.check_text(text)
    return family


def known_family(spec: Mapping[str, Any]) -> Family | None:
    """The kind of environment with this spec; None for an env of the user's own Python code."""
    return next((family for family in FAMILIES.values() if family.owns(spec)), None)


def family_of(spec: Mapping[str, Any], path: str) -> Family:
    """The kind of environment that a run was trained on.

    Args:
        spec: of its env, from the checkpoint or config.json at `path`.
        path: for the error.

    Raises:
        ValueError: an env that these scripts cannot build.
    """
    if (family := known_family(spec)) is not None:
        return family
    raise ValueError(
        f"{path} was not trained on an environment that --env can name; in Python load_policy(path) acts with it and "
        "Trainer.resume(path, env) trains it further"
    )


def check_flags(family: Family, text: str, given: Collection[str]) -> None:
    """Refuse flags that only other kinds of environment have.

    Args:
        family: of `text`.
        text: what `--env` says.
        given: the flags on the command line.

    Raises:
        ValueError: names both flags.
    """
    for other in FAMILIES.values():
        for flag in other.flags:
            if flag in given and flag not in family.flags:
                raise ValueError(f"{flag} is for --env {other.form}, not for --env {text}; leave it out")


def is_same(one: str, other: str) -> bool:
    """Whether two texts of `--env` name one environment with the same arguments, in whatever order."""
    return one == other or (":" in one and ":" in other and parse_env_string(one) == parse_env_string(other))


def check_resumed(typed: str, stored: str, path: str) -> None:
    """What `--env` says must be what the run was trained on; arguments that it leaves out are the run's.

    Args:
        typed: `--env`.
        stored: `--env` of the run.
        path: of its checkpoint, for the error.

    Raises:
        ValueError: another environment.
    """
    find_family(typed)
    same = typed == stored
    if not same and ":" in typed and ":" in stored:
        mine, its = parse_env_string(typed), parse_env_string(stored)
        same = mine[:2] == its[:2] and all(its.kwargs.get(key) == value for key, value in mine.kwargs.items())
    if not same:
        raise ValueError(f"--env {typed} contradicts --resume {path}, which was trained on {stored}; leave --env out")


def default_preset(text: str) -> str:
    """Name of the preset for an environment, longest match first."""
    return PRESET_OF[max((start for start in PRESET_OF if text.startswith(start)), key=len)]


def env_help() -> str:
    """What `--help` says of `--env`."""
    lines = [f"- {family.form}: {family.help}" for family in FAMILIES.values()]
    return "\n".join(["Environment:", *lines, "- values are Python literals or plain words, quoted for the shell."])


def preset_help() -> str:
    """What `--help` says of `--preset`."""
    lines = [f"- {name}: {PRESET_HELP[name]}" for name in PRESETS]
    return "\n".join(["Named settings, which every other flag overrides:", *lines, "- unless given, --env chooses."])
