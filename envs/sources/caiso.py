"""The CAISO-style file: hourly load, solar and wind fractions and a day-ahead price, by UTC time, with a split.

Data flow: a path that the user gives -> keys of a scenario (`caiso_data`); `envs.profiles` reads the file as it is.
The file has no data licence: it is never shipped, copied or cached.
"""

from itertools import cycle
from pathlib import Path
from typing import Any

from envs.profiles.series import column_names
from envs.scenario import read_scenario

PRICE = "lmp"
FEEDER_LOAD = "load_CA_ISO-TAC"
LOAD_WEIGHT = 0.75
"""The columns are fractions of each area's peak; so weighted, their means (0.32-0.40) are those of the default data."""


def caiso_data(
    path: str | Path,
    scenario: str | Path = "ieee34_ieee13",
    *,
    price_floor_usd_per_mwh: float = 5.0,
    price_cap_usd_per_mwh: float = 250.0,
) -> dict[str, Any]:
    """Overrides of `envs.make` that take everything from a CAISO-style file: `make(s, **caiso_data(path, s))`.

    The feeder takes the system's load, the microgrids take the other areas' loads, the solar and the wind columns in
    turn. Days are those of the time zone whose midnight the first row is (Pacific Standard Time). The file's `split`
    column holds: 2023 is training, of which each fifth week is validation, and 2024 is test.

    Args:
        path: of the file, packed or not.
        scenario: name or path, as in `envs.make`.
        price_floor_usd_per_mwh: lower prices are raised to it; the file goes down to -57, which a floor of -60 lets in.
        price_cap_usd_per_mwh: higher prices are cut to it; the file goes up to 1100.

    Raises:
        ValueError: no such file, or a column that the format has is missing.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise ValueError(f"CAISO-style file {path} is missing: give its path; it is not part of the package")
    names = column_names(path)
    groups = {kind: [name for name in names if name.startswith(f"{kind}_")] for kind in ("load", "solar", "wind")}
    for wanted in [f"{kind}_..." for kind, found in groups.items() if not found] + (
        [] if f"{PRICE}_usd_per_mwh" in names else [f"{PRICE}_usd_per_mwh"]
    ):
        raise ValueError(f"{path} has no column {wanted}, which a CAISO-style file has; columns are {', '.join(names)}")
    feeder_load = FEEDER_LOAD if FEEDER_LOAD in names else groups["load"][-1]
    others = [name for name in groups["load"] if name != feeder_load] or groups["load"]
    columns = zip(read_scenario(scenario)["microgrids"], cycle(others), cycle(groups["solar"]), cycle(groups["wind"]))
    return {
        "feeder": {"load_profile": {feeder_load: LOAD_WEIGHT}},
        "microgrids": {
            name: {"load_profile": {load: LOAD_WEIGHT}, "pv": {"profile": solar}, "wind": {"profile": wind}}
            for name, load, solar, wind in columns
        },
        "data": {
            "profiles": str(path),
            "prices": str(path),
            "price": PRICE,
            "price_floor_usd_per_mwh": price_floor_usd_per_mwh,
            "price_cap_usd_per_mwh": price_cap_usd_per_mwh,
        },
    }
