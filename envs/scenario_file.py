"""Scenario files as plain mappings: reading YAML, finding the files it names, merging overrides, wording problems.

Data flow: YAML -> nested dicts -> `scenario.py`, which validates them.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

DATA = Path(str(files("envs") / "data"))
_PACKAGED = {
    "network": "networks/{}",
    "profiles": "profiles/{}_hourly.csv.gz",
    "prices": "profiles/{}_hourly.csv.gz",
}  # keys that name a file or folder -> where a packaged one lies
_IN_OTHER_WORDS = {
    "float_parsing": "must be a number without unit",
    "int_parsing": "must be a whole number without unit",
    "string_type": "must be text",
    "dict_type": "must be a mapping of keys",
    "model_type": "must be a mapping of keys",
}  # where pydantic's own text speaks of Python
_WHOLE = ("load_profile",)  # a weighted sum: an override replaces it, other mappings are merged key by key


class _Loader(yaml.SafeLoader):
    """Refuses a key that a mapping holds twice; PyYAML would silently keep the last one."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"key {key.value!r} is given twice: remove one of them"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(str(key.value))
        return node


def scenario_key(name_or_path: str | Path) -> str:
    """A packaged name as it is, the path of a YAML file made absolute."""
    path = Path(name_or_path)
    return str(path.resolve()) if path.suffix in (".yaml", ".yml") else str(name_or_path)


def read_yaml(path: Path) -> dict[str, Any]:
    """The content of a scenario file, its relative paths made absolute.

    Raises:
        ValueError: a file that cannot be read, is no YAML or no mapping, or holds a key twice.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"scenario {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"scenario {path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"scenario {path} must be a mapping of keys, got {type(content).__name__}")
    return located(content, path.resolve().parent)


def read_extended(name_or_path: str, known: Sequence[str], below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A scenario file with the scenario that its key `extends` names underneath.

    Args:
        name_or_path: packaged name or path of a YAML file.
        known: packaged names, for the error.
        below: files that extend this one, the first first.

    Raises:
        ValueError: an unknown name, an unreadable file, files that extend each other.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = DATA / "scenarios" / f"{name_or_path}.yaml"
    path = path.resolve()
    key = f"scenario {below[-1]}: extends:" if below else "--scenario"
    if not path.is_file():
        raise ValueError(f"{key} {name_or_path} is unknown; use one of {', '.join(known)} or the path of a .yaml file")
    if path in below:
        raise ValueError(f"{key} {name_or_path} extends itself: {' -> '.join(map(str, (*below, path)))}")
    content = read_yaml(path)
    if "extends" not in content:
        return content
    base = content.pop("extends")
    if not isinstance(base, str):
        raise ValueError(f"scenario {path}: extends must be a packaged name or the path of a .yaml file, got {base!r}")
    return merged(read_extended(base, known, (*below, path)), content)


def located(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Relative paths of table folders and CSV files made absolute; packaged names and what is not found stay.

    Args:
        content: a scenario or a part of one.
        folder: where to look first; the working folder comes second.
    """
    result = dict(content)
    for key, value in content.items():
        if isinstance(value, Mapping):
            result[key] = located(value, folder)
        elif key == "extends" and isinstance(value, str) and Path(value).suffix in (".yaml", ".yml"):
            result[key] = str((folder / value).resolve())
        elif key in _PACKAGED and isinstance(value, str) and not (DATA / _PACKAGED[key].format(value)).exists():
            found = (place / value for place in (folder, Path.cwd()) if (place / value).exists())
            result[key] = str(next(found, value))
    return result


def merged(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the overrides' keys replaced, nested mappings key by key; null removes a mapping."""
    result = dict(base)
    for key, value in overrides.items():
        if isinstance(old := result.get(key), Mapping) and key not in _WHOLE and isinstance(value, Mapping):
            result[key] = merged(old, value)
        elif isinstance(old, Mapping) and value is None:
            del result[key]
        else:
            result[key] = value
    return result


def problems(error: ValidationError) -> str:
    """Every problem on one line: where, what is wrong, what was given."""
    texts = []
    for item in error.errors():
        where = ".".join(map(str, item["loc"]))
        if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            texts.append(f"unknown key {where!r}: remove it or correct its spelling")
        elif item["type"] == "missing":
            texts.append(f"key {where!r} is missing: add it")
        else:
            rule = item["msg"].removeprefix("Value error, ").replace("Input should", "must")
            rule = _IN_OTHER_WORDS.get(item["type"], rule)
            got = "" if isinstance(item["input"], dict) else f", got {item['input']!r}"
            if item["type"].startswith("greater_than") and str(item["input"]).startswith("-"):
                got += ": correct its sign"
            texts.append(f"{where}: {rule}{got}" if where else f"{rule}{got}")
    return "; ".join(texts)
