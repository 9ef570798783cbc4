"""lightsim2grid's sweep over injections: Newton-Raphson in C++, every point from the same start."""

import warnings
from typing import Any

import numpy as np

from benchmarking.flow_case import FlowCase
from benchmarking.peers.flow_peer import FlowPeer, exact_by_table, loosest, too_far
from envs.power.to_pandapower import to_pandapower

LIBRARY = "lightsim2grid"
MAX_ITERATIONS = 20


class Lightsim2gridBatch:
    """The points of a case; voltages only, without flows on branches."""

    def __init__(self, case: FlowCase, threads: int) -> None:
        from lightsim2grid.injectionSweep import (  # noqa: PLC0415 - optional  # pyright: ignore[reportMissingImports]
            InjectionSweepCPP,
        )
        from lightsim2grid.network import (  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
            init_from_pandapower,
        )

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on columns of transformers without a tap changer
            grid = init_from_pandapower(to_pandapower(case.tables))
        self._sweep: Any = InjectionSweepCPP(grid)
        self._sweep.nb_thread = threads
        self._loads = np.ascontiguousarray(case.loads_p_mw.numpy()), np.ascontiguousarray(case.loads_q_mvar.numpy())
        self._start = np.full(len(case.tables.bus_kv), complex(case.net.slack_v_pu))

    def solve(self, tolerance: float) -> np.ndarray:
        """(B, n) complex voltages; `tolerance` on power mismatches in pu."""
        self._sweep.modify_load_p(self._loads[0])
        self._sweep.modify_load_q(self._loads[1])
        self._sweep.compute(self._start, MAX_ITERATIONS, tolerance)
        return self._sweep.get_voltages()


def lightsim2grid_peers(
    case: FlowCase, targets_pu: tuple[float, ...], threads: int
) -> tuple[list[FlowPeer], list[str]]:
    """Within each target; and what could not be timed."""
    batch, exact = Lightsim2gridBatch(case, threads), exact_by_table(case)
    peers, notes = [], []
    for target in targets_pu:
        found = loosest(batch.solve, exact, target)
        if found is None:
            notes.append(too_far(LIBRARY, "Newton-Raphson", [target]))
            continue
        tolerance, error = found

        def work(tolerance: float = tolerance) -> None:
            batch.solve(tolerance)

        what = f"{LIBRARY}, within {target:.0e}, threads {threads}"
        peers.append(
            FlowPeer(library=LIBRARY, what=what, target_pu=target, error_pu=error, flows=case.copies, work=work)
        )
    return peers, notes
