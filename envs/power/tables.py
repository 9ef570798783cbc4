"""Network tables: CSV files (bus, line, trafo, load, shunt, switch, source) -> typed rows.

Data flow: tables -> `Network` -> power flow. Rows keep the tables' own units (km, ohm/km, nF/km, kV, kA, MVA, %);
per unit starts in `network.py`. `compose` hangs microgrids on a feeder by pure table surgery, so that everything
behind it sees one network.
"""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar


@dataclass(frozen=True, kw_only=True)
class Line:
    """A pi-model line; `max_i_ka` is its ampacity."""

    name: str
    from_bus: str
    to_bus: str
    length_km: float
    r_ohm_per_km: float
    x_ohm_per_km: float
    c_nf_per_km: float
    max_i_ka: float


@dataclass(frozen=True, kw_only=True)
class TapChanger:
    """An automatic tap changer on the secondary side; deadband is the full width, as in the tables."""

    tap_min: int
    tap_max: int
    tap_step_percent: float
    v_target_pu: float
    deadband_pu: float


@dataclass(frozen=True, kw_only=True)
class Trafo:
    """A two-winding transformer, or a regulator when it has a tap changer."""

    name: str
    hv_bus: str
    lv_bus: str
    sn_mva: float
    vn_hv_kv: float
    vn_lv_kv: float
    vk_percent: float
    vkr_percent: float
    tap_changer: TapChanger | None = None


@dataclass(frozen=True, kw_only=True)
class Load:
    """Constant-power consumption."""

    name: str
    bus: str
    p_mw: float
    q_mvar: float


@dataclass(frozen=True, kw_only=True)
class Capacitor:
    """A capacitor bank of `n_steps` equal steps that together give `q_mvar_capacitive` at 1 pu."""

    name: str
    bus: str
    q_mvar_capacitive: float
    n_steps: int
    default_step: int


@dataclass(frozen=True, kw_only=True)
class Switch:
    """A bus-bus switch: closed ones make one bus of two."""

    name: str
    bus_a: str
    bus_b: str
    closed: bool


@dataclass(frozen=True, kw_only=True)
class Tables:
    """One network as rows. Buses map to their nominal voltage in kV."""

    source_bus: str
    source_v_pu: float
    bus_kv: dict[str, float]
    lines: tuple[Line, ...] = ()
    trafos: tuple[Trafo, ...] = ()
    loads: tuple[Load, ...] = ()
    capacitors: tuple[Capacitor, ...] = ()
    switches: tuple[Switch, ...] = ()
    frequency_hz: float = 60.0
    areas: dict[str, str] = field(default_factory=dict)
    """Bus -> area name (`DSO`, `MG1`); empty for a network that is not composed."""


Row = Mapping[str | None, Any]  # column -> text, as csv.DictReader gives it
T = TypeVar("T")
_POSITIVE = (
    *("length_km", "max_i_ka", "sn_mva", "vn_kv", "vn_hv_kv", "vn_lv_kv", "vm_pu", "n_steps"),
    *("tap_step_percent", "v_target_pu", "deadband_pu"),
)
_NOT_NEGATIVE = ("r_ohm_per_km", "x_ohm_per_km", "c_nf_per_km", "vk_percent", "vkr_percent", "default_step")


def read_tables(folder: str | Path) -> Tables:
    """Read the seven CSV files of one network folder.

    Raises:
        ValueError: a missing file or column, a cell that is no number or out of its range; names file, line and column.
    """
    folder = Path(folder)
    lines = _read(folder / "line.csv", lambda row: Line(**_pick(row, Line, "name from_bus to_bus")))
    trafos = _read(folder / "trafo.csv", _trafo)
    loads = _read(folder / "load.csv", lambda row: Load(**_pick(row, Load, "name bus")))
    capacitors = _read(folder / "shunt.csv", _capacitor)
    switches = _read(
        folder / "switch.csv",
        lambda row: Switch(name=row["name"], bus_a=row["bus_a"], bus_b=row["bus_b"], closed=_flag(row, "closed")),
    )
    buses = _read(folder / "bus.csv", lambda row: (row["name"], _number(row, "vn_kv")))
    sources = _read(folder / "source.csv", lambda row: (row["bus"], _number(row, "vm_pu")))
    if len(sources) != 1:
        raise ValueError(f"{folder / 'source.csv'} must name exactly one source bus, got {len(sources)}; keep one row")
    bus_kv = dict(buses)
    if len(bus_kv) != len(buses):
        raise ValueError(f"{folder / 'bus.csv'}: bus names must be unique")
    return Tables(
        source_bus=sources[0][0],
        source_v_pu=sources[0][1],
        bus_kv=bus_kv,
        lines=tuple(lines),
        trafos=tuple(trafos),
        loads=tuple(loads),
        capacitors=tuple(capacitors),
        switches=tuple(switches),
    )


def _read(path: Path, parse: Callable[[Row], T]) -> list[T]:
    if not path.is_file():
        raise ValueError(
            f"network table {path} is missing; a network folder holds bus, line, trafo, load, shunt, "
            "switch and source .csv files"
        )
    rows: list[T] = []
    line = 1
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            for row in reader:
                line = reader.line_num
                if None in row or None in row.values():
                    raise ValueError(f"every row must have {len(reader.fieldnames or ())} cells, as the header")
                rows.append(parse(row))
    except KeyError as error:
        raise ValueError(f"{path} has no column {error}") from error
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{path} line {line}: {error}; correct the table") from error
    return rows


def _number(row: Row, column: str) -> float:
    """A cell as a finite number within its column's range."""
    try:
        value = float(row[column])
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise ValueError(f"{column} must be a finite number, got {row[column]!r}")
    if (column in _POSITIVE and value <= 0) or (column in _NOT_NEGATIVE and value < 0):
        rule = "be positive" if column in _POSITIVE else "not be negative"
        raise ValueError(f"{column} must {rule}, got {row[column]}")
    return value


def _whole(row: Row, column: str) -> int:
    value = _number(row, column)
    if value != int(value):
        raise ValueError(f"{column} must be a whole number, got {row[column]}")
    return int(value)


def _flag(row: Row, column: str) -> bool:
    value = _whole(row, column)
    if value not in (0, 1):
        raise ValueError(f"{column} must be 0 or 1, got {row[column]}")
    return bool(value)


def _pick(row: Row, kind: type, text_columns: str) -> dict[str, Any]:
    """The columns of `row` that are fields of `kind`: text as it is, all others as numbers."""
    text = text_columns.split()
    names = [column.name for column in fields(kind) if column.name != "tap_changer"]
    return {name: row[name] if name in text else _number(row, name) for name in names}


def _trafo(row: Row) -> Trafo:
    tap_changer = None
    if _number(row, "vk_percent") < _number(row, "vkr_percent"):
        raise ValueError(f"vk_percent must be at least vkr_percent {row['vkr_percent']}, got {row['vk_percent']}")
    if _flag(row, "is_regulator"):
        if row["tap_side"] != "lv" or row["control_bus"] != row["lv_bus"]:
            raise ValueError(f"regulator {row['name']} must tap and control its lv side")
        tap_changer = TapChanger(
            tap_min=_whole(row, "tap_min"),
            tap_max=_whole(row, "tap_max"),
            tap_step_percent=_number(row, "tap_step_percent"),
            v_target_pu=_number(row, "v_target_pu"),
            deadband_pu=_number(row, "deadband_pu"),
        )
        if not tap_changer.tap_min <= 0 <= tap_changer.tap_max:
            raise ValueError(f"tap_min and tap_max must enclose 0, got {tap_changer.tap_min} and {tap_changer.tap_max}")
    return Trafo(**_pick(row, Trafo, "name hv_bus lv_bus"), tap_changer=tap_changer)


def _capacitor(row: Row) -> Capacitor:
    bank = Capacitor(
        name=row["name"],
        bus=row["bus"],
        q_mvar_capacitive=_number(row, "q_mvar_capacitive"),
        n_steps=_whole(row, "n_steps"),
        default_step=_whole(row, "default_step"),
    )
    if bank.default_step > bank.n_steps:
        raise ValueError(f"default_step must not exceed n_steps {bank.n_steps}, got {bank.default_step}")
    return bank


def compose(feeder: Tables, microgrids: Mapping[str, tuple[Tables, str]], feeder_name: str = "DSO") -> Tables:
    """Hang each microgrid's source bus on a bus of the feeder.

    Args:
        feeder: tables of the feeder; its buses become `<feeder_name>.<bus>`.
        microgrids: name -> (tables, feeder bus). Buses become `<name>.<bus>`; the source bus becomes the feeder bus.
        feeder_name: prefix and area name of the feeder.

    Raises:
        ValueError: a feeder bus that does not exist.
    """
    parts = [_prefixed(feeder, feeder_name, {})]
    for name, (tables, feeder_bus) in microgrids.items():
        if feeder_bus not in feeder.bus_kv:
            raise ValueError(
                f"microgrid {name}: feeder bus {feeder_bus!r} does not exist; buses are {', '.join(feeder.bus_kv)}"
            )
        as_microgrid = _with_load_tap_changer(tables, feeder.bus_kv[feeder_bus])
        parts.append(_prefixed(as_microgrid, name, {tables.source_bus: f"{feeder_name}.{feeder_bus}"}))
    joined = {
        kind: tuple(row for part in parts for row in getattr(part, kind))
        for kind in ("lines", "trafos", "loads", "capacitors", "switches")
    }
    bus_kv, areas = dict[str, float](), dict[str, str]()
    for part in reversed(parts):  # the feeder last: a shared bus keeps the feeder's voltage and area
        bus_kv.update(part.bus_kv)
        areas.update(part.areas)
    ordered = [bus for part in parts for bus in part.bus_kv]
    return replace(parts[0], bus_kv={bus: bus_kv[bus] for bus in ordered}, areas=areas, **joined)


def _with_load_tap_changer(tables: Tables, feeder_kv: float) -> Tables:
    """Give the substation transformer the feeder's voltage and the tap changer of the regulator right behind it.

    As a microgrid the substation transformer carries a load-tap changer; the regulator's near-ideal impedance
    and the bus between the two vanish.
    """
    substations = [t for t in tables.trafos if t.hv_bus == tables.source_bus]
    if len(substations) != 1:
        raise ValueError(
            f"a microgrid needs exactly one transformer at its source bus {tables.source_bus!r}, got {len(substations)}"
        )
    substation = substations[0]
    middle = substation.lv_bus
    behind = [t for t in tables.trafos if t.hv_bus == middle and t.tap_changer is not None]
    others = [bus for line in tables.lines for bus in (line.from_bus, line.to_bus) if bus == middle]
    merged = replace(substation, vn_hv_kv=feeder_kv)
    removed = {substation.name}
    bus_kv = tables.bus_kv | {tables.source_bus: feeder_kv}
    if len(behind) == 1 and not others:
        merged = replace(merged, lv_bus=behind[0].lv_bus, tap_changer=behind[0].tap_changer)
        removed.add(behind[0].name)
        bus_kv.pop(middle)
    kept = tuple(t for t in tables.trafos if t.name not in removed)
    return replace(tables, trafos=(merged, *kept), bus_kv=bus_kv)


def _prefixed(tables: Tables, prefix: str, alias: Mapping[str, str]) -> Tables:
    def bus(name: str) -> str:
        return alias.get(name, f"{prefix}.{name}")

    def rows(kind: tuple[Any, ...], *columns: str) -> tuple[Any, ...]:
        renamed = ({c: bus(getattr(row, c)) for c in columns} | {"name": f"{prefix}.{row.name}"} for row in kind)
        return tuple(replace(row, **names) for row, names in zip(kind, renamed, strict=True))

    return replace(
        tables,
        source_bus=bus(tables.source_bus),
        bus_kv={bus(name): kv for name, kv in tables.bus_kv.items()},
        lines=rows(tables.lines, "from_bus", "to_bus"),
        trafos=rows(tables.trafos, "hv_bus", "lv_bus"),
        loads=rows(tables.loads, "bus"),
        capacitors=rows(tables.capacitors, "bus"),
        switches=rows(tables.switches, "bus_a", "bus_b"),
        areas={bus(name): prefix for name in tables.bus_kv},
    )
