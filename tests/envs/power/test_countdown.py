"""A device that runs behind the host, played by the CPU: the same results, with counts that the host learns of late."""

import pytest
import torch
from torch import Tensor

from envs.composition import build_network
from envs.power import Network, solving
from envs.power.countdown import Countdown
from envs.power.flow import FlowSolver
from envs.power.regulators import TapSettler
from envs.power.solving import FlowState, Solving
from envs.power.sweep import Load
from envs.scenario import Scenario
from tests.envs.operating_points import scenario_points

CPU, COPIES, TOLERANCE_PU = torch.device("cpu"), 60, 1e-11


@pytest.fixture(scope="module")
def net(scenario: Scenario) -> Network:
    return build_network(scenario)


def solver_of(net: Network, *, behind: bool) -> FlowSolver:
    solver = FlowSolver(net, CPU, torch.float64)
    solver.behind = behind
    return solver


def mixed_load(scenario: Scenario, solver: FlowSolver, net: Network) -> tuple[Load, Tensor]:
    """Light and heavy copies, the tenth hopeless, and their taps."""
    p_mw, q_mvar, tap = scenario_points(scenario, net, COPIES, seed=5, taps=6)
    share = torch.linspace(0.01, 1.0, COPIES, dtype=torch.float64)[:, None]
    share[9] = 1e4
    return solver.load(-share * p_mw, -share * q_mvar), tap


def assert_same(late: FlowState, known: FlowState) -> None:
    assert torch.equal(late.sweeps, known.sweeps)
    assert torch.equal(late.converged, known.converged)
    assert torch.equal(late.tau2, known.tau2)
    # a product of fewer columns may round otherwise
    assert (late.u - known.u)[..., known.converged].abs().max() < 1e-12


def test_a_host_that_waits_knows_all_and_one_that_runs_ahead_what_was_told_before() -> None:
    known, late = Countdown(5, behind=False), Countdown(5, behind=True)
    seen = []
    for done in ([0, 1, 0, 0, 0], [1, 0, 0, 0, 1], [0, 0, 1, 1, 0]):
        for countdown in (known, late):
            countdown.post(torch.tensor(done).bool())
        seen.append((known.learn(), late.learn()))
    assert seen == [(4, 5), (2, 4), (0, 2)]
    assert late.learn() == 0
    late.post(torch.ones(5).bool())
    late.start(3)  # forgets it
    assert [late.learn(), late.learn()] == [3, 3]


@pytest.fixture(params=[1, 10**9])
def solvers(net: Network, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[FlowSolver]:
    """Of a device that runs behind, and of one that does not; copies that are left are gathered always, or late."""
    monkeypatch.setattr(solving, "COMPACT_FROM", request.param)
    return [solver_of(net, behind=behind) for behind in (True, False)]


def test_flows_are_those_of_a_host_that_waits(scenario: Scenario, net: Network, solvers: list[FlowSolver]) -> None:
    load, tap = mixed_load(scenario, solvers[0], net)
    tau2 = solvers[0].tau_squared(tap)
    late, known = (Solving(solver, load, tau2, TOLERANCE_PU) for solver in solvers)
    assert_same(late.flow, known.flow)
    assert known.flow.converged.sum() == COPIES - 1
    assert len(known.flow.sweeps.unique()) > 3
    for asked in (torch.arange(COPIES) == 9, torch.arange(COPIES) % 7 == 2, torch.arange(COPIES) % 7 != 2):
        tap = torch.where(asked[:, None], tap - 1, tap)
        tau2 = solvers[0].tau_squared(tap)
        assert late.again(asked, tau2)
        assert known.again(asked, tau2)
        assert_same(late.flow, known.flow)
    none = torch.zeros(COPIES, dtype=torch.bool)
    before = late.flow
    assert not late.again(none, tau2)
    assert late.flow is before


def test_taps_are_those_of_a_host_that_waits(scenario: Scenario, net: Network, solvers: list[FlowSolver]) -> None:
    load, tap = mixed_load(scenario, solvers[0], net)
    late, known = (TapSettler(net, solver).settle(load, tap, TOLERANCE_PU) for solver in solvers)
    assert torch.equal(late.tap, known.tap)
    assert torch.equal(late.rounds, known.rounds)
    assert known.rounds.max() > 2
    assert_same(late.flow, known.flow)
