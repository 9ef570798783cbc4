"""Grids for the comparison with pandapower: a small feeder, and random radial networks with everything supported."""

from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pandapower as pp

from envs.power import Network, solve_power_flow
from tests.envs.pandapower_reference import solve, voltages


def difference_pu(net: Any, ext_grid: int | None = None) -> float:
    """Largest |dV| (complex, so angles count) over the buses of the tree; NaN where pandapower sees no supply.

    Newton starts by itself. Where it ends in a collapsed solution (random network 82 of 20 buses: 0.01 pu), it starts
    again from our voltages, and leaves them if they do not solve pandapower's equations.
    """
    ours = Network.from_pandapower(net, ext_grid=ext_grid)
    result = solve_power_flow(ours, *ours.nominal_injections(), tolerance_pu=1e-12)
    assert result.converged.all()
    v = {bus: complex(result.v_pu[0, column]) for bus, column in ours.alias.items()}
    solve(net)
    if net.res_bus.vm_pu[list(v)].min() < 0.8:
        solve(net, np.array([v.get(bus, 1.0) for bus in net.bus.index]))
    theirs = dict(zip(net.bus.index, voltages(net), strict=True))
    assert min(map(abs, v.values())) > 0.8  # below, constant powers turn into impedances and the models differ
    return float(np.max([abs(v[bus] - theirs[bus]) for bus in v]))


LINE: dict[str, Any] = {"r_ohm_per_km": 0.2, "x_ohm_per_km": 0.08, "c_nf_per_km": 300.0, "max_i_ka": 0.3}


def feeder(**trafo: Any) -> Any:
    """20 kV, a transformer, 0.4 kV with a spur; keyword arguments change the transformer."""
    net = pp.create_empty_network()
    grid, hv, lv, a, b, c = (pp.create_bus(net, vn_kv=kv) for kv in (20.0, 20.0, 0.4, 0.4, 0.4, 0.4))
    pp.create_ext_grid(net, grid, vm_pu=1.02, va_degree=10.0)
    pp.create_line_from_parameters(net, grid, hv, length_km=4.0, parallel=2, g_us_per_km=3.0, **LINE)
    for start, end, km in ((lv, a, 0.2), (a, b, 0.1), (a, c, 0.3)):
        pp.create_line_from_parameters(net, start, end, length_km=km, **LINE)
    values: dict[str, Any] = {"sn_mva": 0.4, "vn_hv_kv": 20.0, "vn_lv_kv": 0.4, "vkr_percent": 1.4, "vk_percent": 6.0}
    values |= {"pfe_kw": 0.0, "i0_percent": 0.0}
    pp.create_transformer_from_parameters(net, hv, lv, **(values | trafo))
    pp.create_load(net, b, 0.08, 0.02, scaling=0.9)
    pp.create_load(net, c, 0.06, 0.01)
    pp.create_sgen(net, a, 0.03, -0.004, scaling=1.2)
    pp.create_shunt(net, a, q_mvar=-0.02, p_mw=0.001, step=2, vn_kv=0.41, max_step=3)
    return net


TAP: dict[str, Any] = {"tap_side": "hv", "tap_neutral": 0, "tap_min": -9, "tap_max": 9}
TAP |= {"tap_step_percent": 1.5, "tap_pos": -3}
RATIO: dict[str, Any] = TAP | {"tap_changer_type": "Ratio", "tap_step_degree": 0.0}
MAGNETISED: dict[str, Any] = {"pfe_kw": 6.0, "i0_percent": 8.0}


LEVELS_KV = (110.0, 20.0, 0.4)
KM = {110.0: 8.0, 20.0: 1.5, 0.4: 0.06}
SN_MVA = {110.0: 40.0, 20.0: 0.8}  # by the voltage of the hv side
LOAD_MW = {110.0: 0.5, 20.0: 0.08, 0.4: 0.015}


@cache
def _empty() -> Any:
    return pp.create_empty_network()


class RandomGrid:
    """A random radial network that mixes everything `Network.from_pandapower` supports.

    Buses hang on earlier ones by a line, a transformer (fed from either side) or a closed switch. On top come parallel
    lines and transformers, open ties, branches open at one end, and elements out of service.
    """

    def __init__(self, seed: int, buses: int = 14, trees: int = 1) -> None:
        self.rng = np.random.default_rng(seed)
        self.net: Any = deepcopy(_empty())  # half as long as making one
        self.net.f_hz, self.net.sn_mva = float(self.rng.choice([50.0, 60.0])), float(self.rng.choice([1.0, 100.0]))
        self._leakage_split = self._chance(0.4)
        self.trees = [self._tree(buses // trees) for _ in range(trees)]
        self._ties()
        self._dead_parts()

    def _uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def _chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def _kv(self, bus: int) -> float:
        return float(self.net.bus.at[bus, "vn_kv"])

    def _tree(self, count: int) -> list[int]:
        start_kv = float(self.rng.choice(LEVELS_KV[:2]))
        tree = [int(pp.create_bus(self.net, vn_kv=start_kv))]
        pp.create_ext_grid(self.net, tree[0], vm_pu=self._uniform(0.98, 1.05), va_degree=self._uniform(-30, 30))
        while len(tree) < count:
            above = int(self.rng.choice(tree))
            kind = self.rng.choice(["line", "trafo", "switch"], p=[0.6, 0.25, 0.15])
            kv = self._kv(above)
            if kind == "trafo":
                level = LEVELS_KV.index(kv) + int(self.rng.choice([-1, 1], p=[0.2, 0.8]))
                if not 0 <= level < len(LEVELS_KV):
                    continue
                kv = LEVELS_KV[level]
            bus = int(pp.create_bus(self.net, vn_kv=kv))
            tree.append(bus)
            self._connect(str(kind), above, bus)
            self._injections(bus)
        return tree

    def _connect(self, kind: str, above: int, bus: int) -> None:
        twice = self._chance(0.2)
        if kind == "switch":
            for ends in ((above, bus), (bus, above))[: 1 + twice]:  # two switches in parallel are one connection
                pp.create_switch(self.net, *ends, et="b", z_ohm=0.0)
        elif kind == "line":
            for ends in ((above, bus), (bus, above))[: 1 + twice]:
                line = self.add_line(*ends)
                if self._chance(0.3):
                    pp.create_switch(self.net, ends[0], line, et="l", closed=True)
        else:
            values = self._trafo_values(above, bus)
            trafos = [pp.create_transformer_from_parameters(self.net, **values) for _ in range(1 + twice)]
            if self._chance(0.3):
                pp.create_switch(self.net, above, trafos[-1], et="t", closed=True)

    def add_line(self, a: int, b: int, **more: Any) -> int:
        """A line of random parameters; its index."""
        values = {
            "length_km": KM[self._kv(a)] * self._uniform(0.2, 1.5),
            "r_ohm_per_km": self._uniform(0.05, 0.5),
            "x_ohm_per_km": self._uniform(0.05, 0.4),
            "c_nf_per_km": self._uniform(0.0, 300.0),
            "g_us_per_km": self._uniform(0.0, 5.0) * self._chance(0.3),
            "max_i_ka": 0.3,
            "parallel": int(self.rng.integers(1, 4)),
        }
        return int(pp.create_line_from_parameters(self.net, a, b, **(values | more)))

    def _trafo_values(self, a: int, b: int) -> dict[str, Any]:
        hv, lv = (a, b) if self._kv(a) > self._kv(b) else (b, a)
        sn_mva = SN_MVA[self._kv(hv)]
        vk_percent = self._uniform(4.0, 12.0)
        iron = self._chance(0.7)
        values: dict[str, Any] = {
            "hv_bus": hv,
            "lv_bus": lv,
            "sn_mva": sn_mva,
            "vn_hv_kv": self._kv(hv) * self._uniform(0.98, 1.03),
            "vn_lv_kv": self._kv(lv) * self._uniform(0.99, 1.03),
            "vk_percent": vk_percent,
            "vkr_percent": vk_percent * self._uniform(0.05, 0.9),
            "pfe_kw": iron * sn_mva * self._uniform(0.2, 3.0),
            "i0_percent": iron * self._uniform(0.05, 3.0),
            "shift_degree": float(self.rng.choice([0.0, 30.0, 150.0, -30.0])),
            "parallel": int(self.rng.integers(1, 3)),
            **self._tap_changer("tap"),
            **(self._tap_changer("tap2") if self._chance(0.3) else {}),
        }
        if self._leakage_split:  # all or none: pandapower takes no missing value in these columns
            values |= {f"leakage_{kind}_ratio_hv": self._uniform(0.1, 0.9) for kind in ("resistance", "reactance")}
        return values

    def _tap_changer(self, tap: str) -> dict[str, Any]:
        kind = [None, "Ratio", "Symmetrical", "Ideal"][int(self.rng.integers(4))]
        percent, degree = self._uniform(0.5, 1.5), float(self.rng.choice([0.0, 60.0, 90.0]))
        if kind == "Ideal":
            percent, degree = (percent, 0.0) if self._chance(0.5) else (0.0, self._uniform(0.5, 3.0))
        neutral = int(self.rng.integers(-1, 2))
        return {
            f"{tap}_side": str(self.rng.choice(["hv", "lv"])),
            f"{tap}_neutral": neutral,
            f"{tap}_min": neutral - 9,
            f"{tap}_max": neutral + 9,
            f"{tap}_pos": neutral + int(self.rng.integers(-3, 4)),
            f"{tap}_step_percent": percent,
            f"{tap}_step_degree": degree,
            f"{tap}_changer_type": kind,
        }

    def _injections(self, bus: int) -> None:
        size, off = LOAD_MW[self._kv(bus)], not self._chance(0.15)
        if self._chance(0.8):
            p, q = size * self._uniform(0.2, 1.0), size * self._uniform(-0.1, 0.4)
            pp.create_load(self.net, bus, p, q, scaling=self._uniform(0.5, 1.2), in_service=off)
        if self._chance(0.3):
            p, q = size * self._uniform(0.2, 1.0), size * self._uniform(-0.3, 0.3)
            pp.create_sgen(self.net, bus, p, q, scaling=self._uniform(0.5, 1.2), in_service=off)
        if self._chance(0.3):
            values: dict[str, Any] = {"q_mvar": size * self._uniform(-0.4, 0.2), "p_mw": size * self._uniform(0, 0.1)}
            rated_kv = self._kv(bus) * self._uniform(0.95, 1.05) if self._chance(0.5) else None
            step = int(self.rng.integers(0, 3))
            pp.create_shunt(self.net, bus, **values, step=step, max_step=3, vn_kv=rated_kv, in_service=off)

    def _ties(self) -> None:
        """Branches that would close loops or join the trees, each with an open switch or out of service."""
        buses = [bus for tree in self.trees for bus in tree]
        for _ in range(4):
            a, b = (int(bus) for bus in self.rng.choice(buses, 2, replace=False))
            how = str(self.rng.choice(["one end", "both ends", "out of service"]))
            if self._kv(a) == self._kv(b):
                if self._chance(0.2):
                    pp.create_switch(self.net, a, b, et="b", closed=False)
                    continue
                element, et = self.add_line(a, b, in_service=how != "out of service"), "l"
            else:
                if abs(LEVELS_KV.index(self._kv(a)) - LEVELS_KV.index(self._kv(b))) != 1:
                    continue
                values = self._trafo_values(a, b)
                values["in_service"] = how != "out of service"
                element, et = pp.create_transformer_from_parameters(self.net, **values), "t"
            open_at = {"one end": [a], "both ends": [a, b], "out of service": []}[how]
            for bus in open_at:
                pp.create_switch(self.net, bus, element, et=et, closed=False)
            if how == "one end" and self._chance(0.5):
                pp.create_switch(self.net, b, element, et=et, closed=True)

    def _dead_parts(self) -> None:
        """Buses out of service, with a line, a switch, a transformer and a load that lead to them."""
        for tree in self.trees:
            live = int(self.rng.choice(tree))
            dead = int(pp.create_bus(self.net, vn_kv=self._kv(live), in_service=False))
            self.add_line(*((live, dead) if self._chance(0.5) else (dead, live)))
            pp.create_load(self.net, dead, 1.0, 1.0)
            if self._chance(0.5):
                pp.create_switch(self.net, live, dead, et="b", closed=True)
            below = LEVELS_KV.index(self._kv(live)) + 1
            if below < len(LEVELS_KV):
                lower = int(pp.create_bus(self.net, vn_kv=LEVELS_KV[below], in_service=False))
                pp.create_transformer_from_parameters(self.net, **self._trafo_values(live, lower))
