"""Tables as a pandapower network: to look at a scenario's grid in other tools, and to compare speed and results.

Data flow: `Tables` (for a scenario: `envs.composition.scenario_tables`) -> pandapower. Nothing of `Network` is used, so
that a comparison of the two is one of independent models.
"""

from typing import Any

import pandapower as pp

from envs.power.tables import Tables


def to_pandapower(tables: Tables) -> pp.pandapowerNet:
    """Build a pandapower net; tap changers at neutral, of type `Ratio` (pandapower >= 3 ignores untyped ones)."""
    net = pp.create_empty_network(f_hz=tables.frequency_hz, sn_mva=1.0)
    bus = {name: pp.create_bus(net, vn_kv=kv, name=name) for name, kv in tables.bus_kv.items()}
    pp.create_ext_grid(net, bus[tables.source_bus], vm_pu=tables.source_v_pu)
    for line in tables.lines:
        pp.create_line_from_parameters(
            net,
            bus[line.from_bus],
            bus[line.to_bus],
            length_km=line.length_km,
            r_ohm_per_km=line.r_ohm_per_km,
            x_ohm_per_km=line.x_ohm_per_km,
            c_nf_per_km=line.c_nf_per_km,
            max_i_ka=line.max_i_ka,
            name=line.name,
        )
    for trafo in tables.trafos:
        changer = trafo.tap_changer
        taps: dict[str, Any] = {}
        if changer is not None:
            # pandapower >= 3 ignores tap_pos without a type
            taps = {"tap_side": "lv", "tap_neutral": 0, "tap_pos": 0, "tap_changer_type": "Ratio"}
            taps |= {"tap_step_percent": changer.tap_step_percent, "tap_step_degree": 0.0}
        pp.create_transformer_from_parameters(
            net,
            bus[trafo.hv_bus],
            bus[trafo.lv_bus],
            sn_mva=trafo.sn_mva,
            vn_hv_kv=trafo.vn_hv_kv,
            vn_lv_kv=trafo.vn_lv_kv,
            vkr_percent=trafo.vkr_percent,
            vk_percent=trafo.vk_percent,
            pfe_kw=0.0,
            i0_percent=0.0,
            name=trafo.name,
            **taps,
        )
    for load in tables.loads:
        pp.create_load(net, bus[load.bus], load.p_mw, load.q_mvar, name=load.name)
    for capacitor in tables.capacitors:
        if capacitor.default_step:
            q_mvar = -capacitor.q_mvar_capacitive * capacitor.default_step / capacitor.n_steps
            pp.create_shunt(net, bus[capacitor.bus], q_mvar=q_mvar, name=capacitor.name)
    for switch in tables.switches:
        pp.create_switch(net, bus[switch.bus_a], bus[switch.bus_b], et="b", closed=switch.closed)
    return net
