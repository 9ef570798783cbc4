"""`--profiles data.csv`: one CSV of the user's own -> the scenario's keys that make it the data.

Data flow: header of the CSV, content of a scenario -> overrides of `envs.make`. The schema is in docs/data.md.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envs.profiles.days import ABSOLUTE
from envs.profiles.prices import PRICE_UNIT
from envs.profiles.series import column_names
from envs.quantities import TIME_OF_USE, constant_price
from envs.scenario import read_scenario


def own_data(path: str | Path, scenario: str | Path = "ieee34_ieee13", price: str | None = None) -> dict[str, Any]:
    """Overrides of `envs.make` that take loads, plants and price from one CSV: `make(s, **own_data(p, s))`.

    Columns `load_<area>`, `pv_<microgrid>` and `wind_<microgrid>`, or the same ending in `_mw`, belong to that area;
    an area without keeps the columns that the scenario names, which the file must hold. The price is the column
    `price_usd_per_mwh` or `price`.

    Args:
        path: of the CSV file.
        scenario: name or path, as in `envs.make`.
        price: `tou`, a number in $/MWh or the name of a price column instead of `price`.

    Raises:
        ValueError: an unreadable file, an area without a load or plant column, or no price.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise ValueError(f"--profiles {path} is missing: give the path of a CSV file")
    names = column_names(path)
    content = read_scenario(scenario)
    feeder = content.get("feeder", {})
    area = str(feeder.get("name", "DSO"))
    overrides: dict[str, Any] = {"data": {"profiles": str(path), **_price(path, names, price)}}
    overrides["feeder"] = _load(path, names, area, feeder)
    overrides["microgrids"] = {
        name: _load(path, names, name, grid) | _plants(path, names, name, grid)
        for name, grid in content.get("microgrids", {}).items()
    }
    overrides["microgrids"] = {name: keys for name, keys in overrides["microgrids"].items() if keys}
    return {key: value for key, value in overrides.items() if value}


def _price(path: Path, names: list[str], price: str | None) -> dict[str, str]:
    if price is not None and (price == TIME_OF_USE or constant_price(price) is not None):
        return {"price": price}
    wanted = price or "price"
    if not {wanted, f"{wanted}{PRICE_UNIT}"} & set(names):
        others = [name.removesuffix(PRICE_UNIT) for name in names if name.endswith(PRICE_UNIT)]
        hint = f", or choose one of {', '.join(others)}" if others else ""
        raise ValueError(
            f"{path} has no column {wanted}{PRICE_UNIT}: add it, or set the price to {TIME_OF_USE} or a number "
            f"in $/MWh{hint}"
        )
    return {"prices": str(path), "price": wanted}


def _load(path: Path, names: list[str], area: str, part: Mapping[str, Any]) -> dict[str, Any]:
    own = _column(path, names, f"load_{area}")
    if own is not None:
        return {"load_profile": {own: 1.0}}
    missing = [name for name in part.get("load_profile", {}) if name not in names]
    if missing:
        raise ValueError(
            f"{path} has no load for {area}: add a column load_{area} (multiplier of its nominal load) or "
            f"load_{area}{ABSOLUTE}; without them the scenario's {', '.join(missing)} must be in the file"
        )
    return {}


def _plants(path: Path, names: list[str], area: str, part: Mapping[str, Any]) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for kind in ("pv", "wind"):
        plant = part.get(kind, {})
        own = _column(path, names, f"{kind}_{area}")
        if own is not None:
            keys[kind] = {"profile": own}
        elif plant.get("p_max_mw", 0) and plant.get("profile") not in names:
            raise ValueError(
                f"{path} has no {kind} for {area}: add a column {kind}_{area} (share of its p_max_mw) or "
                f"{kind}_{area}{ABSOLUTE}; without them the scenario's {plant.get('profile')} must be in the file"
            )
    return keys


def _column(path: Path, names: list[str], name: str) -> str | None:
    found = [column for column in (name, name + ABSOLUTE) if column in names]
    if len(found) > 1:
        raise ValueError(f"{path} has both {found[0]} and {found[1]}: remove one of them")
    return found[0] if found else None
