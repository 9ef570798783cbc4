"""The stage power-flow: one batch of ours beside pandapower, one point after another."""

from dataclasses import replace

import torch

from benchmarking.flow_case import CLOSE_PU, FAST_PU, flow_case, largest_error
from benchmarking.peers.pandapower_flows import FLOWS, PandapowerRuns, default_options
from benchmarking.rates import Rate, Settings, measured, relative_to
from envs.power import solve_power_flow

PRECISE_PU = 1e-8
SOLVES = 10  # of the batch, in each repetition


def power_flow(settings: Settings) -> list[Rate]:
    """Voltages of random loads, neutral taps, no start; max |dV| against float64 to 1e-10 pu. Reference: `runpp`."""
    case = flow_case(settings.scenario, settings.num_envs)
    exact = case.exact()
    rates = []
    kinds = ((torch.float32, FAST_PU, CLOSE_PU), (torch.float64, PRECISE_PU, PRECISE_PU))
    for dtype, tolerance_pu, promised_pu in kinds:
        p_mw, q_mvar = case.injections(settings.device, dtype)

        def solve(p: torch.Tensor = p_mw, q: torch.Tensor = q_mvar, tolerance_pu: float = tolerance_pu) -> None:
            for _ in range(SOLVES):
                solve_power_flow(case.net, p, q, tolerance_pu=tolerance_pu)

        what = f"batch, {str(dtype).removeprefix('torch.')}, within {promised_pu:.0e} pu"
        rate = measured(settings, "power-flow", what, "flows/s", settings.num_envs * SOLVES, solve)
        found = solve_power_flow(case.net, p_mw, q_mvar, tolerance_pu=tolerance_pu)
        rates.append(replace(rate, error_pu=largest_error(found.v_pu, exact)))
    options, numba = default_options()
    runs = PandapowerRuns(case, **options)
    flows = 2 if settings.small else FLOWS
    what = f"pandapower runpp, default, {numba}"
    reference = measured(settings, "power-flow", what, "flows/s", flows, lambda: runs.next_points(flows), guarded=False)
    return [*relative_to(reference, rates), reference]
