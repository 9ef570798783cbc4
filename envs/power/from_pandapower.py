"""Convert a radial pandapower network to a `Network`.

Supported: lines (parallel, shunt conductance), two-winding transformers (off-nominal taps, phase shift, parallel,
magnetising branch as pandapower's T model with its leakage split as given), shunts, constant-power loads, static
generators, one external grid, closed and open switches, elements out of service. Every other non-empty element table
is refused by name. The transformers' tap positions are taken as they stand: the result has no regulators.
"""

from cmath import exp, phase
from math import asin, degrees, inf, isnan, pi, radians
from typing import Any

from envs.power.builder import Branch, NetworkBuilder
from envs.power.network import BASE_MVA, Network

SUPPORTED = ("bus", "line", "trafo", "load", "sgen", "shunt", "ext_grid", "switch")
IGNORED = ("measurement", "pwl_cost", "poly_cost", "controller", "group", "bus_geodata", "line_geodata")


def network_from_pandapower(net: Any) -> Network:
    """Convert `net`; bus ids of the result are pandapower's bus indices.

    Raises:
        ValueError: an unsupported element (named), a loop, a bus without supply, not exactly one external grid.
    """
    _refuse_unsupported(net)
    grids = net.ext_grid[net.ext_grid.in_service]
    if len(grids) != 1:
        raise ValueError(f"the network must have exactly one external grid in service, got {len(grids)}")
    grid = grids.iloc[0]
    builder = NetworkBuilder(int(grid.bus), complex(grid.vm_pu * exp(1j * radians(grid.va_degree))))
    in_service = net.bus[net.bus.in_service]
    for bus, row in in_service.iterrows():
        builder.add_bus(int(bus), float(row.vn_kv))
    for switch in net.switch[(net.switch.et == "b") & net.switch.closed].itertuples():
        if not {switch.bus, switch.element} <= set(in_service.index):
            continue
        if getattr(switch, "z_ohm", 0.0):
            raise ValueError(f"switch {switch.Index} has an impedance (z_ohm); only ideal switches are supported")
        builder.fuse(int(switch.bus), int(switch.element))
    _add_lines(net, builder, set(in_service.index))
    _add_trafos(net, builder, set(in_service.index))
    for shunt in _connected(net.shunt, in_service.index):
        base_kv = builder.base_kv(int(shunt.bus))
        s_mva = complex(shunt.p_mw, shunt.q_mvar) * shunt.step * (base_kv / shunt.vn_kv) ** 2
        builder.add_shunt(int(shunt.bus), s_mva.conjugate() / BASE_MVA)
    for load in _connected(net.load, in_service.index):
        builder.add_load(int(load.bus), load.p_mw * load.scaling, load.q_mvar * load.scaling)
    for sgen in _connected(net.sgen, in_service.index):
        builder.add_generation(int(sgen.bus), sgen.p_mw * sgen.scaling, sgen.q_mvar * sgen.scaling)
    return builder.build()


def _refuse_unsupported(net: Any) -> None:
    import pandas as pd  # noqa: PLC0415 - comes with pandapower, which is imported only where it is used

    for table in net:
        frame = net[table]
        if not isinstance(frame, pd.DataFrame) or table.startswith(("_", "res_")) or table in (*SUPPORTED, *IGNORED):
            continue
        if "in_service" in frame and frame.in_service.any():
            raise ValueError(
                f"pandapower table {table!r} is not supported ({int(frame.in_service.sum())} elements in "
                f"service); supported are {', '.join(SUPPORTED)}"
            )
    for column in [name for name in net.load if name.startswith(("const_z", "const_i"))]:
        if net.load.loc[net.load.in_service, column].any():
            raise ValueError(f"loads with {column} are not supported; set it to 0 (constant power)")
    if "tap_dependency_table" in net.trafo and net.trafo.tap_dependency_table.fillna(False).astype(bool).any():
        raise ValueError("trafo.tap_dependency_table is not supported; set it to False")
    if "step_dependency_table" in net.shunt and net.shunt.step_dependency_table.fillna(False).astype(bool).any():
        raise ValueError("shunt.step_dependency_table is not supported; set it to False")


def _connected(table: Any, buses: Any) -> Any:
    return table[table.in_service & table.bus.isin(buses)].itertuples()


def _name(row: Any, kind: str) -> str:
    return row.name if isinstance(row.name, str) else f"{kind} {row.Index}"


def _open_ends(net: Any, kind: str) -> dict[int, set[int]]:
    """Element -> its buses with an open switch."""
    ends: dict[int, set[int]] = {}
    for switch in net.switch[(net.switch.et == kind) & ~net.switch.closed].itertuples():
        ends.setdefault(int(switch.element), set()).add(int(switch.bus))
    return ends


def _add_lines(net: Any, builder: NetworkBuilder, buses: set[int]) -> None:
    open_ends = _open_ends(net, "l")
    for line in net.line[net.line.in_service].itertuples():
        ends = [int(line.from_bus), int(line.to_bus)]
        open_at = open_ends.get(int(line.Index), set()) | (set(ends) - buses)
        live = [bus for bus in ends if bus not in open_at]
        if not live:
            continue
        z_base = builder.base_kv(live[0]) ** 2 / BASE_MVA
        length = line.length_km
        z = complex(line.r_ohm_per_km, line.x_ohm_per_km) * length / line.parallel / z_base
        y_siemens = complex(line.g_us_per_km * 1e-6, 2 * pi * net.f_hz * line.c_nf_per_km * 1e-9)
        half = y_siemens * length * line.parallel * z_base / 2
        if len(live) == 1:  # charged from one end: the open end's half in series with the line
            builder.add_shunt(live[0], half + (half / (1 + z * half)))
            continue
        rating = 3**0.5 * builder.base_kv(ends[0]) * line.max_i_ka * line.df * line.parallel / BASE_MVA
        rating = inf if isnan(rating) else rating  # NaN: unknown
        name = _name(line, "line")
        builder.add_branch(Branch(name=name, a=ends[0], b=ends[1], z_pu=z, y_a_pu=half, y_b_pu=half, rating_pu=rating))


def _add_trafos(net: Any, builder: NetworkBuilder, buses: set[int]) -> None:
    open_ends = _open_ends(net, "t")
    for trafo in net.trafo[net.trafo.in_service].itertuples():
        ends = {int(trafo.hv_bus), int(trafo.lv_bus)}
        if not ends <= buses:
            continue  # pandapower takes such a transformer out of service
        branch, open_at = _trafo_branch(trafo, builder), open_ends.get(int(trafo.Index), set())
        if not open_at:
            builder.add_branch(branch)
        elif ends - open_at:  # magnetised from the closed end: the open end's shunt in series with the impedance
            turns = abs(branch.ratio) ** 2
            y_a, y_b = branch.y_a_pu * turns, branch.y_b_pu  # both behind the ratio
            if branch.b in open_at:
                builder.add_shunt(branch.a, (y_a + y_b / (1 + branch.z_pu * y_b)) / turns)
            else:
                builder.add_shunt(branch.b, y_b + y_a / (1 + branch.z_pu * y_a))


def _trafo_branch(trafo: Any, builder: NetworkBuilder) -> Branch:
    """The T model of pandapower turned into an equivalent pi behind an ideal ratio at the hv bus."""
    vn_hv, vn_lv, shift = _tapped_voltages(trafo)
    lv_turns = vn_lv / builder.base_kv(int(trafo.lv_bus))
    ratio = (vn_hv / builder.base_kv(int(trafo.hv_bus))) / lv_turns * exp(1j * radians(shift))
    per_unit = BASE_MVA / trafo.sn_mva * lv_turns**2 / trafo.parallel
    r = trafo.vkr_percent / 100
    x = ((trafo.vk_percent / 100) ** 2 - r**2) ** 0.5
    # the star's arms: how much of r and x lies on the hv side
    z_hv = complex(r * _share_hv(trafo, "resistance"), x * _share_hv(trafo, "reactance")) * per_unit
    z_lv = complex(r, x) * per_unit - z_hv
    # iron losses refer to the rated voltage, and the magnetising current is what remains of the no-load current
    g = trafo.pfe_kw * 1e-3 / trafo.sn_mva
    b = max((trafo.i0_percent / 100) ** 2 - g**2, 0.0) ** 0.5
    y = complex(g, -b) / per_unit
    z = z_hv + z_lv + z_hv * z_lv * y  # star to delta
    y_hv, y_lv = (z_lv * y / z, z_hv * y / z) if y else (0j, 0j)
    return Branch(
        name=_name(trafo, "trafo"),
        a=int(trafo.hv_bus),
        b=int(trafo.lv_bus),
        z_pu=z,
        ratio=ratio,
        y_a_pu=y_hv / abs(ratio) ** 2,
        y_b_pu=y_lv,
        rating_pu=trafo.sn_mva * trafo.parallel * trafo.df / BASE_MVA,
        is_trafo=True,
    )


def _share_hv(trafo: Any, kind: str) -> float:
    """Share of the leakage resistance or reactance on the hv side; pandapower's default is one half."""
    share = float(getattr(trafo, f"leakage_{kind}_ratio_hv", 0.5))
    return 0.5 if isnan(share) else share


def _tapped_voltages(trafo: Any) -> tuple[float, float, float]:
    """Rated voltages in kV with the tap applied, and the phase shift in degrees."""
    voltages = {"hv": float(trafo.vn_hv_kv), "lv": float(trafo.vn_lv_kv)}
    shift = float(trafo.shift_degree)
    second = _number(trafo, "tap2_pos")
    if not isnan(second) and second != _number(trafo, "tap2_neutral"):
        raise ValueError(f"trafo {trafo.Index}: a second tap changer is not supported; set tap2_pos to tap2_neutral")
    kind = getattr(trafo, "tap_changer_type", None)
    if trafo.tap_side not in voltages or isnan(_number(trafo, "tap_pos")) or not isinstance(kind, str):
        return voltages["hv"], voltages["lv"], shift  # no tap changer: pandapower >= 3 needs its type
    if kind not in ("Ratio", "Symmetrical", "Ideal"):
        raise ValueError(f"trafo {trafo.Index}: tap_changer_type {kind!r} is not supported; use Ratio or Ideal")
    steps = _number(trafo, "tap_pos") - _number(trafo, "tap_neutral")
    if isnan(steps):
        raise ValueError(f"trafo {trafo.Index}: tap_neutral must be a number where tap_changer_type is set, got NaN")
    if not steps:
        return voltages["hv"], voltages["lv"], shift
    direction = 1 if trafo.tap_side == "hv" else -1
    if kind == "Ideal":
        return voltages["hv"], voltages["lv"], shift + direction * _ideal_angle_degree(trafo, steps)
    step = _number(trafo, "tap_step_percent") / 100 * steps
    if isnan(step):
        raise ValueError(f"trafo {trafo.Index}: tap_step_percent must be a number for a {kind} tap changer, got NaN")
    angle = _number(trafo, "tap_step_degree")
    turned = 1 + step * exp(1j * radians(0.0 if isnan(angle) else angle))
    voltages[trafo.tap_side] *= abs(turned)
    return voltages["hv"], voltages["lv"], shift + direction * degrees(phase(turned))


def _ideal_angle_degree(trafo: Any, steps: float) -> float:
    """Angle of an ideal phase shifter: steps of an angle, or of a voltage of tap_step_percent across the arc."""
    percent, degree = _number(trafo, "tap_step_percent"), _number(trafo, "tap_step_degree")
    by_degree = not isnan(degree) and degree != 0
    if by_degree and not isnan(percent) and percent != 0:
        raise ValueError(
            f"trafo {trafo.Index}: an Ideal tap changer has tap_step_percent {percent} and tap_step_degree {degree}; "
            "set one of them to 0"
        )
    if by_degree:
        return steps * degree
    if isnan(percent):
        raise ValueError(f"trafo {trafo.Index}: an Ideal tap changer needs tap_step_percent or tap_step_degree")
    half_chord = steps * percent / 200
    if abs(half_chord) > 1:
        raise ValueError(f"trafo {trafo.Index}: {steps:g} taps of tap_step_percent {percent} exceed 200 %")
    return 2 * degrees(asin(half_chord))


def _number(row: Any, column: str) -> float:
    """A cell as float; NaN where the column or its value is missing."""
    try:
        return float(getattr(row, column, float("nan")))
    except TypeError:  # None or pandas.NA
        return float("nan")
