"""Write docs/scenario-reference.md: every key of a scenario file, from the models that check it.

`python scripts/scenario_reference.py` after a change of `envs/scenario.py`, `scenario_parts.py`, `device_options.py`,
`events.py` or `quantities.py`.
"""

import ast
import inspect
import re
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from textwrap import dedent
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import annotated_types
from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

from envs.scenario import Scenario

PAGE = Path(__file__).parents[1] / "docs" / "scenario-reference.md"
UNITS = {
    "usd_per_mw2h": "$/MW²h",
    "usd_per_mwh_h": "$/MWh per h",
    "usd_per_mwh": "$/MWh",
    "usd_per_mw": "$/MW",
    "usd_per_h": "$/h",
    "per_h": "1/h",
    "usd": "$",
    "mwh": "MWh",
    "mvar": "MVAr",
    "mva": "MVA",
    "mw": "MW",
    "pu": "per unit",
    "kv": "kV",
    "h": "h",
}  # a name's ending -> its unit; the longest ending counts
BOUNDS = (
    (annotated_types.Gt, "gt", ">"),
    (annotated_types.Ge, "ge", ">="),
    (annotated_types.Lt, "lt", "<"),
    (annotated_types.Le, "le", "<="),
)
HEADER = """# Scenario file reference

Written by `python scripts/scenario_reference.py` from the models that check a file; do not edit. Unknown keys are
errors, and so is what breaks a rule; every error names the key. Shipped scenarios and how to write one's own:
`scenarios.md`. Options of the devices, with their equations: `devices.md`. Events: `faults.md`.

One more key stands beside those of the first table: `extends`, the name of a packaged scenario or the path of a YAML
file that this one changes. Mappings are merged key by key (a `load_profile` is replaced), so an extension can add a
microgrid or change a key, but not remove one.
"""


def reference_page() -> str:
    """The page's text."""
    sections, seen = [HEADER], set[type]()
    waiting: list[tuple[str, type]] = [("", Scenario)]
    while waiting:
        prefix, model = waiting.pop(0)
        if model in seen:
            continue
        seen.add(model)
        sections.append(_section(prefix, model))
        for name, info in _fields(model).items():
            for inner, many in _models(info.annotation):
                waiting.append((f"{prefix}{name}.{'<name>.' if many else ''}", inner))
    return "\n".join(sections)


def unit_of(name: str) -> str:
    """The unit that a field's name ends with; empty without one."""
    endings = [end for end in UNITS if name == end or name.endswith(f"_{end}")]
    return UNITS[max(endings, key=len)] if endings else ""


def _fields(model: type) -> dict[str, FieldInfo]:
    """The keys of a model or of a dataclass that a file may hold."""
    if issubclass(model, BaseModel):
        return model.model_fields
    hints = get_type_hints(model)
    return {
        item.name: FieldInfo.from_annotation(hints[item.name])
        if item.default is MISSING
        else FieldInfo.from_annotated_attribute(hints[item.name], item.default)
        for item in fields(model)
    }


def _section(prefix: str, model: type) -> str:
    title = f"`{prefix.rstrip('.')}`" if prefix else "Top level"
    texts = _docstrings(model)
    rows = [
        f"| `{name}` | {_type(info.annotation)} | {unit_of(name)} | {', '.join(_rules(info))} | {_default(info)} | "
        f"{texts.get(name, '')} |"
        for name, info in _fields(model).items()
    ]
    head = "| key | type | unit | rule | default | meaning |\n|---|---|---|---|---|---|"
    about = _oneline((inspect.getdoc(model) or "").partition("Raises:")[0])
    return f"## {title}\n\n{about}\n\n{head}\n" + "\n".join(rows) + "\n"


def _docstrings(model: type) -> dict[str, str]:
    """Field -> the string below it in the source, on one line."""
    body = ast.parse(dedent(inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for before, now in zip(body.body, body.body[1:], strict=False):
        if not (isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name)):
            continue
        if isinstance(now, ast.Expr) and isinstance(now.value, ast.Constant) and isinstance(now.value.value, str):
            found[before.target.id] = _oneline(now.value.value).replace("|", "\\|")
    return found


def _type(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin is tuple and inner[-1] is Ellipsis:
        return f"list of {_type(inner[0])}"
    if origin in (Annotated, dict, tuple):
        parts = [_type(part) for part in (inner[:1] if origin is Annotated else inner)]
        return {Annotated: parts[0], dict: f"mapping of {parts[-1]}", tuple: f"[{', '.join(parts)}]"}[origin]
    if origin in (Union, UnionType):
        return " or ".join(_type(part) for part in inner if part is not NoneType)
    if _is_model(annotation):
        return f"{annotation.__name__} (below)"
    return {"str": "text", "float": "number", "int": "whole number", "bool": "true or false"}[annotation.__name__]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation))


def _models(annotation: Any) -> list[tuple[type, bool]]:
    """Models inside an annotation, and whether there are many by name."""
    if _is_model(annotation):
        return [(annotation, False)]
    many = get_origin(annotation) is dict
    return [(model, many or more) for part in get_args(annotation) for model, more in _models(part)]


def _rules(info: FieldInfo) -> list[str]:
    """What a value must meet: of the field, else of the parts of its type."""
    rules = [text for item in info.metadata if (text := _rule(item))]
    return rules or _inner_rules(info.annotation)


def _inner_rules(annotation: Any) -> list[str]:
    if get_origin(annotation) is Annotated:
        first, *metadata = get_args(annotation)
        found: list[str] = _inner_rules(first)
        for item in metadata:
            parts = item.metadata if isinstance(item, FieldInfo) else [item]
            found += [text for part in parts if (text := _rule(part))]
        return found
    return list(dict.fromkeys(rule for part in get_args(annotation) for rule in _inner_rules(part)))


def _rule(item: Any) -> str:
    for kind, name, sign in BOUNDS:
        if isinstance(item, kind):
            return f"{sign} {getattr(item, name)}"
    if isinstance(item, annotated_types.MinLen):
        return f"at least {item.min_length}"
    return getattr(item.func, "rule", "") if isinstance(item, AfterValidator) else ""


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    default = info.get_default(call_default_factory=True, validated_data={})
    if isinstance(default, BaseModel):
        return "the defaults below"
    if default in (None, {}, (), []):
        return "none"
    return f"`{default}`" if default != "" else "empty"


def _oneline(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


if __name__ == "__main__":
    PAGE.write_text(reference_page(), encoding="utf-8")
    print(f"wrote {PAGE}")
