"""The stage peers: other libraries on the same machine in the same run, where they are installed.

Power flows: pandapower, lightsim2grid and power-grid-model solve the points that ours solves, on the same network, and
are timed only where their voltages agree with ours. Training: RLlib on the PettingZoo view of the default env, and
BenchMARL on a VMAS task, each in an environment of its own. What is missing is said, with how to install it.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarking.flow_case import CLOSE_PU, FAST_PU, FlowCase, flow_case, largest_error
from benchmarking.peers.flow_peer import INSTALL, FlowPeer, is_installed
from benchmarking.peers.lightsim2grid_flows import lightsim2grid_peers
from benchmarking.peers.pandapower_flows import FLOWS, pandapower_peers
from benchmarking.peers.power_grid_model_flows import power_grid_model_peers
from benchmarking.peers.training import rllib_rates
from benchmarking.rates import Rate, Settings, relative_to, repeated, side_by_side, spread
from benchmarking.vmas_stage import benchmarl_rates
from envs.power import PowerFlow, solve_power_flow

PRECISE_PU = 1e-8
TARGETS_PU = (CLOSE_PU, PRECISE_PU)
THREADS = (1, 2)[: os.cpu_count()]
ROUNDS = 3  # of all libraries in turn, in each repetition
TURN_S = 0.03
"""A turn lasts so long at least: a batch of ours takes a tenth, and would find threads asleep and caches cold."""
PACKAGES = {"numba": "numba", "lightsim2grid": "lightsim2grid", "power-grid-model": "power_grid_model"}
"""Package -> module; pandapower's numba is optional too."""


def peers(settings: Settings) -> list[Rate]:
    """Power flows, then training."""
    for package, module in PACKAGES.items():
        if not is_installed(module):
            settings.notes.append(f"peers: {package} is missing; install it with: {INSTALL}")
    rates = []
    case = flow_case(settings.scenario, settings.num_envs)
    for threads in THREADS:
        rates += _flows(settings, case, threads)
    return [*rates, *rllib_rates(settings), *benchmarl_rates(settings, "peers", ("balance",))]


def _flows(settings: Settings, case: FlowCase, threads: int) -> list[Rate]:
    """All libraries on so many threads, in turn; pandapower, which has one, is the reference."""
    with _torch_threads(threads):
        ours = _ours(case, settings.device, threads)
        others = _others(settings, case, threads)
        found = {peer.what: peer for peer in [*ours, *others]}
        rounds, turn_s = (1, 0.0) if settings.small else (ROUNDS, TURN_S)
        turns = {what: repeated(settings, peer.work, turn_s) for what, peer in found.items()}
        seconds = side_by_side(settings, {what: turn for what, (turn, _) in turns.items()}, rounds=rounds)
    flows = {what: rounds * calls * found[what].flows for what, (_, calls) in turns.items()}
    values = {what: [count / spent for spent in seconds[what]] for what, count in flows.items()}
    rates = [
        replace(spread("peers", what, "flows/s", own), error_pu=found[what].error_pu) for what, own in values.items()
    ]
    reference = next(rate for rate in rates if found[rate.what].library == "pandapower")
    return [*relative_to(reference, rates), *_beside_fastest(found, values, threads)]


def _beside_fastest(found: dict[str, FlowPeer], values: dict[str, list[float]], threads: int) -> list[Rate]:
    """Ours over the fastest other library at the same accuracy, repetition by repetition."""
    rates = []
    for target in TARGETS_PU:
        close = [what for what, peer in found.items() if peer.target_pu == target]
        ours = [what for what in close if found[what].library == "ours"]
        others = [what for what in close if found[what].library not in ("ours", "pandapower")]
        if not others:
            continue
        fastest = max(others, key=lambda what: sorted(values[what])[len(values[what]) // 2])
        ratios = [own / other for own, other in zip(values[ours[0]], values[fastest], strict=True)]
        what = f"ours / fastest other ({found[fastest].library}), within {target:.0e}, threads {threads}"
        rates.append(spread("peers", what, "times", ratios))
    return rates


def _ours(case: FlowCase, device: str, threads: int) -> list[FlowPeer]:
    """One batch, for its voltages, as of other libraries, and once for loadings, losses and power at the source too.

    By default it starts from the likely drop of the loads; the last one is given a flat start, as other libraries take.
    """
    fast, precise = (torch.float32, FAST_PU, CLOSE_PU), (torch.float64, PRECISE_PU, PRECISE_PU)
    flat = torch.full((1, case.net.num_buses), complex(case.net.slack_v_pu), dtype=torch.complex64, device=device)
    exact = case.exact()

    def peer(
        kind: str, accuracy: tuple[torch.dtype, float, float], work: Callable[..., PowerFlow], **start: Tensor
    ) -> FlowPeer:
        dtype, tolerance_pu, target_pu = accuracy
        p_mw, q_mvar = case.injections(device, dtype)
        solve = partial(work, case.net, p_mw, q_mvar, tolerance_pu=tolerance_pu, **start)
        return FlowPeer(
            library="ours",
            what=f"ours{kind}, {str(dtype).removeprefix('torch.')}, within {target_pu:.0e}, threads {threads}",
            target_pu=target_pu,
            error_pu=largest_error(solve().v_pu, exact),
            flows=case.copies,
            work=solve,
        )

    return [
        peer("", fast, solve_power_flow),
        peer("", precise, solve_power_flow),
        peer(" with loadings and losses", fast, _with_everything),
        peer(" from a flat start", fast, solve_power_flow, v_init=flat),
    ]


def _with_everything(*args: Any, **kwargs: Any) -> PowerFlow:
    """`solve_power_flow`, and all that it tells besides voltages."""
    flow = solve_power_flow(*args, **kwargs)
    _ = flow.line_loading, flow.trafo_loading, flow.source_p_mw, flow.source_q_mvar, flow.losses_mw
    return flow


def _others(settings: Settings, case: FlowCase, threads: int) -> list[FlowPeer]:
    beside = f", beside threads {threads}"
    found = [replace(peer, what=peer.what + beside) for peer in pandapower_peers(case, 1 if settings.small else FLOWS)]
    kinds = {"lightsim2grid": lightsim2grid_peers, "power_grid_model": power_grid_model_peers}
    for module, library_peers in kinds.items():
        if is_installed(module):
            new, notes = library_peers(case, TARGETS_PU, threads)
            found += new
            settings.notes.extend(f"peers: {note}" for note in notes)
    return found


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
