"""From table rows to per-unit branches, shunts and loads.

Data flow: `Tables` (read or composed) -> `NetworkBuilder` -> `Network`.
"""

from math import pi, sqrt

from envs.power.builder import Branch, NetworkBuilder
from envs.power.network import BASE_MVA, Network
from envs.power.tables import Line, Tables, Trafo

LINE_FIT = 0.1  # nominal voltages of a line's ends may differ by this share


def network_from_tables(tables: Tables) -> Network:
    """Build the tree of read or composed tables (`from_tables` for a folder). Raises ValueError as `from_tables`."""
    builder = NetworkBuilder(tables.source_bus, tables.source_v_pu)
    for bus, kv in tables.bus_kv.items():
        builder.add_bus(bus, kv, tables.areas.get(bus, ""))
    for switch in tables.switches:
        if switch.closed:
            builder.fuse(switch.bus_a, switch.bus_b)
    for line in tables.lines:
        from_kv, to_kv = (builder.base_kv(bus) for bus in (line.from_bus, line.to_bus))
        if abs(from_kv / to_kv - 1) > LINE_FIT:
            raise ValueError(
                f"line {line.name} joins bus {line.from_bus} of {from_kv:g} kV and bus {line.to_bus} of {to_kv:g} kV: "
                "correct vn_kv in bus.csv, or put a transformer between them"
            )
        builder.add_branch(_line_branch(line, builder.base_kv(line.from_bus), tables.frequency_hz))
    for trafo in tables.trafos:
        builder.add_branch(_trafo_branch(trafo, builder.base_kv(trafo.hv_bus), builder.base_kv(trafo.lv_bus)))
    for load in tables.loads:
        builder.add_load(load.bus, load.p_mw, load.q_mvar)
    for capacitor in tables.capacitors:
        share = capacitor.default_step / capacitor.n_steps
        builder.add_shunt(capacitor.bus, 1j * capacitor.q_mvar_capacitive * share / BASE_MVA)
    return builder.build()


def _line_branch(line: Line, base_kv: float, frequency_hz: float) -> Branch:
    z_base_ohm = base_kv**2 / BASE_MVA
    charging_pu = 1j * 2 * pi * frequency_hz * line.c_nf_per_km * 1e-9 * line.length_km * z_base_ohm
    return Branch(
        name=line.name,
        a=line.from_bus,
        b=line.to_bus,
        z_pu=complex(line.r_ohm_per_km, line.x_ohm_per_km) * line.length_km / z_base_ohm,
        y_a_pu=charging_pu / 2,
        y_b_pu=charging_pu / 2,
        rating_pu=sqrt(3) * base_kv * line.max_i_ka / BASE_MVA,
    )


def _trafo_branch(trafo: Trafo, hv_kv: float, lv_kv: float) -> Branch:
    """Short-circuit impedance on the lv side, as pandapower places it; ratio from the rated voltages."""
    r_percent = trafo.vkr_percent
    x_percent = sqrt(trafo.vk_percent**2 - r_percent**2)
    lv_turns = trafo.vn_lv_kv / lv_kv
    changer = trafo.tap_changer
    return Branch(
        name=trafo.name,
        a=trafo.hv_bus,
        b=trafo.lv_bus,
        z_pu=complex(r_percent, x_percent) / 100 * BASE_MVA / trafo.sn_mva * lv_turns**2,
        ratio=(trafo.vn_hv_kv / hv_kv) / lv_turns,
        rating_pu=trafo.sn_mva / BASE_MVA,
        is_trafo=True,
        regulator=None
        if changer is None
        else {
            "target_pu": changer.v_target_pu,
            "half_band_pu": changer.deadband_pu / 2,
            "step_pu": changer.tap_step_percent / 100,
            "tap_min": changer.tap_min,
            "tap_max": changer.tap_max,
        },
    )
