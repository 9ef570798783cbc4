"""SimBench grids with their profiles (extra `simbench`; www.simbench.net, Open Database License 1.0).

Data flow: SimBench code -> pandapower net with `net.profiles` -> a folder with `net.json` and `profiles.csv`, which a
scenario names; or every bus's injection at every quarter hour, for `envs.power`.
"""

import csv
from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.power.network import Network

Column = NDArray[np.float64]
QUARTER = timedelta(minutes=15)
STANDARD_TIME = timezone(timedelta(hours=1))  # SimBench's clock is German local time
NOTICE = """This folder is a derivative of the SimBench data set, grid {code} (www.simbench.net, PyPI: simbench).
SimBench is made available under the Open Database License 1.0: http://opendatacommons.org/licenses/odbl/1.0/.
Any rights in individual contents of the database are licensed under the Database Contents License:
http://opendatacommons.org/licenses/dbcl/1.0/. Keep this notice, and the licence, with whatever you share of it.
Changes: static generators out of service; profiles in standard time (UTC+01:00); load_all, pv_all and wind_all are
means weighted by rated power; negative shares of renewables are 0.
"""


class BusInjections(NamedTuple):
    """What loads and static generators inject at every time, generation positive; the order is `Network.bus_index`."""

    times: list[datetime]  # (T,) standard time
    p_mw: Tensor  # (T, N) float64
    q_mvar: Tensor  # (T, N)


def get_simbench(code: str) -> Any:
    """The pandapower net of a SimBench code, such as 1-MV-rural--0-sw, with `net.profiles`.

    Raises:
        ValueError: the extra is not installed, or the code is unknown.
    """
    try:
        import simbench  # noqa: PLC0415  # pyright: ignore[reportMissingImports] - an extra
    except ImportError as error:
        raise ValueError(
            'SimBench grids need the extra `simbench`: pip install -c constraints.txt -e ".[simbench]"'
        ) from error
    if code not in simbench.collect_all_simbench_codes():
        raise ValueError(f"SimBench code {code!r} is unknown; one grid of the medium voltage is 1-MV-rural--0-sw")
    return simbench.get_simbench_net(code)


def save_simbench(code: str, folder: str | Path) -> dict[str, Any]:
    """`get_simbench` and `write_grid` in one; returns what `write_grid` returns."""
    return write_grid(get_simbench(code), folder, code)


def write_grid(net: Any, folder: str | Path, code: str) -> dict[str, Any]:
    """Write `net.json`, `profiles.csv` and `NOTICE.txt` and return the keys of a scenario that name them.

    The env drives an area's loads by one multiplier and has plants in microgrids only. So the feeder's multiplier is
    `load_all`, and static generators are put out of service: make them PV or wind of microgrids, with the columns
    `pv_all`, `wind_all` or a plant's own profile. `bus_injections` keeps every element's own profile.

    Args:
        net: pandapower net in SimBench's format: `net.profiles` and columns `profile`. It is not changed.
        folder: made if it does not exist.
        code: for the notice.

    Raises:
        ValueError: profiles that are missing or irregular, or storages.
    """
    import pandapower  # noqa: PLC0415 - heavy

    times = _times(net)
    columns = profile_columns(net)
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    net = deepcopy(net)
    for key in ("profiles", "loadcases"):
        net.pop(key, None)
    net.sgen["in_service"] = False
    pandapower.to_json(net, str(folder / "net.json"))
    with (folder / "profiles.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["time", *columns])
        rows = zip(*(values.tolist() for values in columns.values()), strict=True)
        writer.writerows([time.isoformat(timespec="minutes"), *row] for time, row in zip(times, rows, strict=True))
    (folder / "NOTICE.txt").write_text(NOTICE.format(code=code), encoding="utf-8")
    return {
        "feeder": {
            "network": str(folder / "net.json"),
            "slack_v_pu": float(net.ext_grid[net.ext_grid.in_service].vm_pu.iloc[0]),
            "load_scale": 1.0,
            "load_profile": {"load_all": 1.0},
        },
        "data": {"profiles": str(folder / "profiles.csv")},
    }


def profile_columns(net: Any) -> dict[str, Column]:
    """Columns of `profiles.csv`, each (T,): `load_all`, `pv_all`, `wind_all`, then each profile in use.

    Loads are multipliers of the nominal active power (`load_<profile>`), renewables shares of rated power under
    SimBench's names (PV1, WP4, ...), negative ones 0. The `_all` columns weigh the elements in service by their rated
    power.

    Raises:
        ValueError: no profiles, a profile that is missing, or storages.
    """
    loads = _weights(net, "load")
    load = {name: _profile(net, "load", f"{name}_pload") for name in loads}
    columns = {"load_all": _mean(load, loads)}
    plants = _weights(net, "sgen")
    # WP profiles fall to -1e-5 in calm hours; a share is not negative
    renewables = {name: _profile(net, "sgen", name).clip(min=0.0) for name in plants}
    for column, prefix in (("pv_all", "PV"), ("wind_all", "WP")):
        kind = {name: weight for name, weight in plants.items() if name.startswith(prefix)}
        if sum(kind.values()) > 0:
            columns[column] = _mean(renewables, kind)
    return columns | {f"load_{name}": values for name, values in load.items()} | renewables


def bus_injections(net: Any, network: Network) -> BusInjections:
    """Every bus's injection at every time, each load and static generator by its own profile, P and Q apart.

    Args:
        net: as in `write_grid`, static generators in service or not as they stand.
        network: `Network.from_pandapower(net)`.

    Raises:
        ValueError: profiles that are missing or irregular, or storages.
    """
    times = _times(net)
    p_mw = torch.zeros(len(times), network.num_buses, dtype=torch.float64)
    q_mvar = torch.zeros_like(p_mw)
    # a static generator's Q stands still, as in simbench's own absolute values
    for table, sign, p_suffix, q_suffix in (("load", -1.0, "_pload", "_qload"), ("sgen", 1.0, "", None)):
        for row in net[table][net[table].in_service].itertuples():
            bus = network.alias[row.bus]
            p_mw[:, bus] += sign * row.scaling * row.p_mw * _of_element(net, table, row.profile, p_suffix)
            q = 1.0 if q_suffix is None else _of_element(net, table, row.profile, q_suffix)
            q_mvar[:, bus] += sign * row.scaling * row.q_mvar * q
    return BusInjections(times, p_mw, q_mvar)


def standard_times(clock: Sequence[str]) -> list[datetime]:
    """SimBench's times (`01.01.2016 00:00`, local time), counted evenly in standard time from the first.

    Raises:
        ValueError: times that advance by something else than a quarter hour, daylight saving aside, or no whole days.
    """
    local = [datetime.strptime(text, "%d.%m.%Y %H:%M") for text in clock]
    hour = timedelta(hours=1)
    for row, (before, now) in enumerate(pairwise(local), start=1):
        if now - before not in (QUARTER, QUARTER + hour, QUARTER - hour):
            raise ValueError(f"net.profiles['load'] row {row}: times must advance by {QUARTER}, got {before} -> {now}")
    if not local or local[0].time() != datetime.min.time() or len(local) % 96:
        raise ValueError(f"net.profiles['load'] must hold whole days from midnight, got {len(local)} rows")
    first = local[0].replace(tzinfo=STANDARD_TIME)
    return [first + step * QUARTER for step in range(len(local))]


def _times(net: Any) -> list[datetime]:
    if "load" not in net.get("profiles", {}):
        raise ValueError("the net has no net.profiles['load']: get it by simbench.get_simbench_net")
    return standard_times(list(net.profiles["load"]["time"]))


def _weights(net: Any, table: str) -> dict[str, float]:
    """Profile -> rated power in MW of the elements in service that follow it."""
    if len(net.storage):
        raise ValueError(
            f"the grid has {len(net.storage)} storages: take one of scenario 0 (`--0-`), or remove them and model them "
            "as batteries of microgrids"
        )
    frame = net[table][net[table].in_service]
    if "profile" not in frame or bool(frame.profile.isna().any()):
        raise ValueError(f"every {table} needs a `profile`, as SimBench's grids have them")
    rated = frame.p_mw * frame.scaling
    return {str(name): float(power) for name, power in rated.groupby(frame.profile).sum().items()}


def _profile(net: Any, table: str, name: str) -> Column:
    kinds = {"load": ("load",), "sgen": ("renewables", "powerplants")}[table]
    for kind in kinds:
        if kind in net.profiles and name in net.profiles[kind]:
            return net.profiles[kind][name].to_numpy(np.float64)
    raise ValueError(f"profile {name!r} of a {table} is not in net.profiles[{' or '.join(map(repr, kinds))}]")


def _of_element(net: Any, table: str, profile: str, suffix: str) -> Tensor:
    return torch.from_numpy(_profile(net, table, profile + suffix).copy())


def _mean(profiles: Mapping[str, Column], weights: Mapping[str, float]) -> Column:
    total = sum(weights.values())
    if total <= 0:
        raise ValueError("the grid's loads in service have no active power: there is no mean profile")
    weighted = [weight * profiles[name] for name, weight in weights.items()]
    return np.sum(weighted, axis=0) / total
