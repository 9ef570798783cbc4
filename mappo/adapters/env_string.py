"""The text that names an env on the command line: `family:name[:key=value,...]`.

Data flow: `--env` -> `parse_env_string` -> the adapter of that family. Nothing is imported or evaluated here but
Python literals.
"""

import ast
import re
from typing import Any, NamedTuple

FORM = "family:name or family:name:key=value,key=value such as pettingzoo:mpe2.simple_spread_v3:N=3,local_ratio=0.5"
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_WORD = re.compile(r"[^\s'\"(),=\[\]{}]*[^\W\d_][^\s'\"(),=\[\]{}]*")  # no quotes, brackets or spaces; a letter
_LOOKALIKES = {"true": "True", "false": "False", "none": "None", "null": "None"}


class EnvString(NamedTuple):
    """The three parts of an env text."""

    family: str  # which adapter: pettingzoo, vmas
    name: str  # what it loads: a module, a task
    kwargs: dict[str, Any]  # keyword arguments of the env


def parse_env_string(text: str) -> EnvString:
    """Split `vmas:navigation:n_agents=3,collisions=False` into its family, name and keyword arguments.

    Values are Python literals (numbers, True, None, quoted strings, lists, tuples, dicts; commas inside them do not
    separate); a word without quotes is a string.

    Raises:
        ValueError: a part is missing, a key is no name or is given twice, or a value cannot be read.
    """
    family, _, rest = text.partition(":")
    name, colon, arguments = rest.partition(":")
    family, name = family.strip(), name.strip()
    if not family or not name:
        raise ValueError(f"--env {text} must be {FORM}; the {'name' if family else 'family'} is missing")
    kwargs: dict[str, Any] = {}
    for argument in _split(text, arguments) if colon else ():
        key, equals, value = (part.strip() for part in argument.partition("="))
        if not equals or not key.isidentifier() or not value:
            raise ValueError(f"--env {text}: {argument.strip()!r} must be key=value; the form is {FORM}")
        if key in kwargs:
            raise ValueError(f"--env {text}: {key} is given twice; keep one of them")
        kwargs[key] = _value(text, key, value)
    return EnvString(family, name, kwargs)


def _split(text: str, arguments: str) -> list[str]:
    """Split at the commas that stand outside brackets and quotes."""
    parts, start, awaited, quote, escaped = [], 0, [], "", False
    for position, letter in enumerate(arguments):
        if quote:
            if letter == quote and not escaped:
                quote = ""
            escaped = letter == "\\" and not escaped
        elif letter in "'\"":
            quote = letter
        elif letter in _CLOSING:
            awaited.append(_CLOSING[letter])
        elif awaited and letter == awaited[-1]:
            awaited.pop()
        elif letter == "," and not awaited:
            parts.append(arguments[start:position])
            start = position + 1
    if quote or awaited:
        raise ValueError(f"--env {text}: a {quote or awaited[-1]} is missing. Quote the whole text in a shell")
    return [*parts, arguments[start:]]


def _value(text: str, key: str, value: str) -> Any:
    if value in _LOOKALIKES:
        raise ValueError(f"--env {text}: write {key}={_LOOKALIKES[value]}, or {key}='{value}' for the word")
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        if _WORD.fullmatch(value):
            return value
        raise ValueError(
            f"--env {text}: {key}={value} is neither a Python literal (3, 0.5, True, 'text', [1, 2]) nor a plain word"
        ) from error
