"""pandapower's Newton-Raphson, one point after another."""

import itertools
from typing import Any

import numpy as np
import pandapower as pp

from benchmarking.flow_case import CLOSE_PU, FlowCase, largest_error
from benchmarking.peers.flow_peer import FlowPeer, exact_by_table, is_installed
from envs.power.to_pandapower import to_pandapower

FLOWS = 20  # of the batch, in each repetition: it is slow
RECYCLE = {"trafo": False, "gen": False, "bus_pq": True}
"""Only loads change: the admittances are kept."""


class PandapowerRuns:
    """`runpp` at the points of a case, each with its loads."""

    def __init__(self, case: FlowCase, **options: Any) -> None:
        self.net = to_pandapower(case.tables)
        self._options = options
        self._loads = case.loads_p_mw.numpy(), case.loads_q_mvar.numpy()
        self._points = itertools.cycle(range(case.copies))

    def run(self, point: int) -> None:
        """Solve one point."""
        self.net.load["p_mw"], self.net.load["q_mvar"] = (loads[point] for loads in self._loads)
        pp.runpp(self.net, **self._options)

    def next_points(self, count: int) -> None:
        """Solve the next points of the batch."""
        for _ in range(count):
            self.run(next(self._points))

    def voltages(self) -> np.ndarray:
        """(n,) complex voltages in pu of the point solved last."""
        results = self.net.res_bus
        return results.vm_pu.to_numpy() * np.exp(1j * np.deg2rad(results.va_degree.to_numpy()))


def default_options() -> tuple[dict[str, Any], str]:
    """What `runpp` does by itself with the packages at hand, said openly: without numba it would only warn.

    Where lightsim2grid is installed, pandapower would hand it the solution; that is a peer of its own here.
    """
    numba = is_installed("numba")
    return {"numba": numba, "lightsim2grid": False}, "with numba" if numba else "no numba"


def pandapower_peers(case: FlowCase, flows: int) -> list[FlowPeer]:
    """Default and `recycle`, to pandapower's own 1e-8 MVA; `flows` at a call."""
    options, numba = default_options()
    exact = exact_by_table(case)
    peers = []
    for name, more in (("default", {}), ("recycle", {"recycle": RECYCLE})):
        runs = PandapowerRuns(case, calculate_voltage_angles=True, **options, **more)
        points = range(min(3, case.copies))
        error = 0.0
        for point in points:
            runs.run(point)
            error = max(error, largest_error(runs.voltages(), exact[point]))
        if error > CLOSE_PU:
            raise RuntimeError(
                f"pandapower's voltages differ from ours by {error:.1e} pu: the networks are not the same"
            )
        what = f"pandapower runpp, {name}, {numba}"

        def work(runs: PandapowerRuns = runs) -> None:
            runs.next_points(flows)

        peers.append(FlowPeer(library="pandapower", what=what, target_pu=1e-8, error_pu=error, flows=flows, work=work))
    return peers
