"""Pandapower as the judge of the batched sweep."""

from typing import Any

import numpy as np
import pandapower as pp


def solve(net: pp.pandapowerNet, v_init: np.ndarray | None = None) -> None:
    """Newton to 1e-10 MVA; `v_init` (complex, by pandapower bus) is only a starting point."""
    options: dict[str, Any] = {"max_iteration": 50}  # typed as text in pandapower
    if v_init is not None:
        options |= {"init_vm_pu": np.abs(v_init), "init_va_degree": np.angle(v_init, deg=True)}
    pp.runpp(net, tolerance_mva=1e-10, numba=False, calculate_voltage_angles=True, **options)


def voltages(net: pp.pandapowerNet) -> np.ndarray:
    """Complex voltages by pandapower bus."""
    return net.res_bus.vm_pu.to_numpy() * np.exp(1j * np.deg2rad(net.res_bus.va_degree.to_numpy()))
