"""power-grid-model's batch calculation: the fastest of its methods that is close enough."""

import time
from typing import Any

import numpy as np

from benchmarking.flow_case import FlowCase
from benchmarking.peers.flow_peer import FlowPeer, exact_by_table, loosest, too_far
from envs.power.tables import Tables

LIBRARY = "power-grid-model"
METHODS = ("newton_raphson", "iterative_current", "linear_current", "linear")
TRIES = 3  # of each method, to find the fastest
NO_IMPEDANCE_VA = 1e20  # short-circuit power of a source that holds its voltage
BRANCH_ENDS = {"from_status": 1, "to_status": 1}


class PowerGridModelBatch:
    """The points of a case; node voltages only."""

    def __init__(self, case: FlowCase, threads: int) -> None:
        import power_grid_model as pgm  # noqa: PLC0415 - optional  # pyright: ignore[reportMissingImports]

        self._model: Any = pgm.PowerGridModel(input_data(case.tables), system_frequency=case.tables.frequency_hz)
        update = pgm.initialize_array("update", "sym_load", case.loads_p_mw.shape)
        update["id"] = _ids(case.tables)["sym_load"]
        update["p_specified"] = case.loads_p_mw.numpy() * 1e6
        update["q_specified"] = case.loads_q_mvar.numpy() * 1e6
        self._update = {"sym_load": update}
        self._threading = threads if threads > 1 else -1  # -1: without a thread pool
        self._errors: Any = pgm.errors.PowerGridError

    def solve(self, method: str, tolerance: float) -> np.ndarray:
        """(B, n) complex voltages; `tolerance` on voltages in pu."""
        output = self._model.calculate_power_flow(
            update_data=self._update,
            calculation_method=method,
            error_tolerance=tolerance,
            max_iterations=60,
            threading=self._threading,
            output_component_types={"node": ["u_pu", "u_angle"]},
        )["node"]
        return output["u_pu"] * np.exp(1j * output["u_angle"])

    def solve_or_nothing(self, method: str, tolerance: float) -> np.ndarray:
        """As `solve`; not-a-number where a method does not converge."""
        try:
            return self.solve(method, tolerance)
        except self._errors:
            return np.full((1, 1), np.nan)


def power_grid_model_peers(
    case: FlowCase, targets_pu: tuple[float, ...], threads: int
) -> tuple[list[FlowPeer], list[str]]:
    """The fastest method within each target; and what could not be timed."""
    batch, exact = PowerGridModelBatch(case, threads), exact_by_table(case)
    peers, notes = [], []
    for target in targets_pu:
        choices: list[tuple[float, str, float, float]] = []
        for method in METHODS:
            found = loosest(lambda tolerance, method=method: batch.solve_or_nothing(method, tolerance), exact, target)
            if found is not None:
                choices.append((_seconds(batch, method, found[0]), method, *found))
        if not choices:
            notes.append(too_far(LIBRARY, "each method", [target]))
            continue
        _, method, tolerance, error = min(choices)

        def work(method: str = method, tolerance: float = tolerance) -> None:
            batch.solve(method, tolerance)

        what = f"{LIBRARY}, {method}, within {target:.0e}, threads {threads}"
        peers.append(
            FlowPeer(library=LIBRARY, what=what, target_pu=target, error_pu=error, flows=case.copies, work=work)
        )
    return peers, notes


def input_data(tables: Tables) -> dict[str, np.ndarray]:
    """The network in power-grid-model's units: V, W, var, ohm, F; taps at neutral."""
    ids = _ids(tables)
    node = {name: i for i, name in enumerate(tables.bus_kv)}
    banks = [bank for bank in tables.capacitors if bank.default_step]
    return {
        "node": _array("node", id=ids["node"], u_rated=[kv * 1e3 for kv in tables.bus_kv.values()]),
        "source": _array(
            "source",
            id=ids["source"],
            node=[node[tables.source_bus]],
            status=1,
            u_ref=tables.source_v_pu,
            sk=NO_IMPEDANCE_VA,
        ),
        "line": _array(
            "line",
            id=ids["line"],
            from_node=[node[line.from_bus] for line in tables.lines],
            to_node=[node[line.to_bus] for line in tables.lines],
            **BRANCH_ENDS,
            r1=[line.r_ohm_per_km * line.length_km for line in tables.lines],
            x1=[line.x_ohm_per_km * line.length_km for line in tables.lines],
            c1=[line.c_nf_per_km * line.length_km * 1e-9 for line in tables.lines],
            tan1=0.0,
        ),
        "transformer": _transformers(tables, ids["transformer"], node),
        "sym_load": _array(
            "sym_load",
            id=ids["sym_load"],
            node=[node[load.bus] for load in tables.loads],
            status=1,
            type=0,  # constant power
            p_specified=[load.p_mw * 1e6 for load in tables.loads],
            q_specified=[load.q_mvar * 1e6 for load in tables.loads],
        ),
        "shunt": _array(
            "shunt",
            id=ids["shunt"],
            node=[node[bank.bus] for bank in banks],
            status=1,
            g1=0.0,
            b1=[
                bank.q_mvar_capacitive * bank.default_step / bank.n_steps / tables.bus_kv[bank.bus] ** 2
                for bank in banks
            ],
        ),
    }


def _transformers(tables: Tables, ids: list[int], node: dict[str, int]) -> np.ndarray:
    rows = tables.trafos
    return _array(
        "transformer",
        id=ids,
        from_node=[node[row.hv_bus] for row in rows],
        to_node=[node[row.lv_bus] for row in rows],
        **BRANCH_ENDS,
        u1=[row.vn_hv_kv * 1e3 for row in rows],
        u2=[row.vn_lv_kv * 1e3 for row in rows],
        sn=[row.sn_mva * 1e6 for row in rows],
        uk=[row.vk_percent / 100 for row in rows],
        pk=[row.vkr_percent / 100 * row.sn_mva * 1e6 for row in rows],
        i0=0.0,
        p0=0.0,
        winding_from=1,
        winding_to=1,
        clock=0,
        tap_side=1,
        tap_pos=0,
        tap_min=0,
        tap_max=0,
        tap_nom=0,
        tap_size=0.0,
    )


def _ids(tables: Tables) -> dict[str, list[int]]:
    """Running numbers over all components."""
    banks = sum(bool(bank.default_step) for bank in tables.capacitors)
    counts = {"node": len(tables.bus_kv), "source": 1, "line": len(tables.lines), "transformer": len(tables.trafos)}
    counts |= {"sym_load": len(tables.loads), "shunt": banks}
    ids, first = {}, 0
    for component, count in counts.items():
        ids[component] = list(range(first, first + count))
        first += count
    return ids


def _array(component: str, *, id: list[int], **columns: Any) -> np.ndarray:
    import power_grid_model as pgm  # noqa: PLC0415 - optional  # pyright: ignore[reportMissingImports]

    array = pgm.initialize_array("input", component, len(id))
    for name, values in {"id": id, **columns}.items():
        array[name] = values
    return array


def _seconds(batch: PowerGridModelBatch, method: str, tolerance: float) -> float:
    spent = []
    for _ in range(TRIES):
        started = time.perf_counter()
        batch.solve(method, tolerance)
        spent.append(time.perf_counter() - started)
    return min(spent)
