"""The same tables as a pandapower network: an independent model to compare the batched sweep with."""

import warnings

import numpy as np
import pandapower as pp

from envs.power.tables import Tables


def to_pandapower(tables: Tables) -> pp.pandapowerNet:
    """Build a pandapower net from tables, tap changers as `Ratio`, 60 Hz."""
    net = pp.create_empty_network(f_hz=tables.frequency_hz, sn_mva=1.0)
    bus = {name: pp.create_bus(net, vn_kv=kv, name=name) for name, kv in tables.bus_kv.items()}
    pp.create_ext_grid(net, bus[tables.source_bus], vm_pu=tables.source_v_pu)
    for line in tables.lines:
        pp.create_line_from_parameters(
            net, bus[line.from_bus], bus[line.to_bus], line.length_km, line.r_ohm_per_km, line.x_ohm_per_km,
            line.c_nf_per_km, line.max_i_ka, name=line.name,
        )  # fmt: skip
    for trafo in tables.trafos:
        changer = trafo.tap_changer
        taps = {} if changer is None else {
            "tap_side": "lv", "tap_neutral": 0, "tap_min": changer.tap_min, "tap_max": changer.tap_max,
            "tap_step_percent": changer.tap_step_percent, "tap_step_degree": 0.0, "tap_pos": 0,
            "tap_changer_type": "Ratio",
        }  # fmt: skip
        pp.create_transformer_from_parameters(
            net, bus[trafo.hv_bus], bus[trafo.lv_bus], trafo.sn_mva, trafo.vn_hv_kv, trafo.vn_lv_kv,
            trafo.vkr_percent, trafo.vk_percent, pfe_kw=0.0, i0_percent=0.0, name=trafo.name, **taps,
        )  # fmt: skip
    for load in tables.loads:
        pp.create_load(net, bus[load.bus], load.p_mw, load.q_mvar, name=load.name)
    for capacitor in tables.capacitors:
        steps = capacitor.default_step
        if steps:
            q_mvar = -capacitor.q_mvar_capacitive * steps / capacitor.n_steps
            pp.create_shunt(net, bus[capacitor.bus], q_mvar=q_mvar, name=capacitor.name)
    for switch in tables.switches:
        pp.create_switch(net, bus[switch.bus_a], bus[switch.bus_b], et="b", closed=switch.closed)
    return net


def solve(net: pp.pandapowerNet, v_init: np.ndarray | None = None) -> None:
    """Newton to 1e-10 MVA; `v_init` (complex, by pandapower bus) is only a starting point."""
    start = {}
    if v_init is not None:
        start = {"init_vm_pu": np.abs(v_init), "init_va_degree": np.angle(v_init, deg=True)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pp.runpp(net, tolerance_mva=1e-10, numba=False, calculate_voltage_angles=True, max_iteration=50, **start)


def voltages(net: pp.pandapowerNet) -> np.ndarray:
    """Complex voltages by pandapower bus."""
    return net.res_bus.vm_pu.to_numpy() * np.exp(1j * np.deg2rad(net.res_bus.va_degree.to_numpy()))
