"""Flows that are solved again with other taps and loads, few or most of a batch, against fresh ones."""

import cmath
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from envs.composition import build_network
from envs.power import Network, solve_power_flow, solving
from envs.power.builder import Branch, NetworkBuilder
from envs.power.flow import FlowSolver
from envs.power.network import Regulator
from envs.power.solving import Solving
from envs.power.sweep import Load, of_copies
from envs.scenario import Scenario
from tests.envs.operating_points import Points, mismatch_mva, scenario_points

CPU, COPIES, TOLERANCE_PU = torch.device("cpu"), 40, 1e-11


@pytest.fixture(scope="module")
def solver(scenario: Scenario) -> FlowSolver:
    return FlowSolver(build_network(scenario), CPU, torch.float64)


def points(scenario: Scenario, solver: FlowSolver, seed: int) -> tuple[Load, Tensor]:
    """Loads and squared ratios of copies at random taps."""
    p_mw, q_mvar, tap = scenario_points(scenario, build_network(scenario), COPIES, seed=seed)
    return solver.load(-p_mw, -q_mvar), solver.tau_squared(tap)


@pytest.mark.parametrize("count", [1, 15, 30, COPIES])
@pytest.mark.parametrize("with_load", [False, True])
@pytest.mark.parametrize("compact_from", [1, 10**9])
def test_copies_that_are_solved_again_are_where_fresh_ones_are_and_the_others_stay(
    count: int,
    with_load: bool,
    compact_from: int,
    scenario: Scenario,
    solver: FlowSolver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(solving, "COMPACT_FROM", compact_from)
    load, tau2 = points(scenario, solver, seed=1)
    other_load, other_tau2 = points(scenario, solver, seed=2)
    batch = Solving(solver, load, tau2.clone(), TOLERANCE_PU)
    before = batch.flow.u.clone()
    copies = torch.randperm(COPIES, generator=torch.Generator().manual_seed(count))[:count].sort().values
    asked = torch.zeros(COPIES, dtype=torch.bool).index_fill_(0, copies, True)
    mixed = Load(load.power.clone(), load.shunt)
    if with_load:
        mixed.power[..., copies] = other_load.power[..., copies]
    assert batch.again(asked, torch.where(asked[:, None], other_tau2, tau2), mixed if with_load else None)
    fresh = Solving(solver, mixed, batch.flow.tau2, TOLERANCE_PU)
    assert batch.flow.converged.all()
    assert torch.equal(batch.flow.tau2[copies], other_tau2[copies])
    assert (of_copies(batch.flow.u, copies) - of_copies(fresh.flow.u, copies)).abs().max() < 1e-10
    assert torch.equal(batch.flow.u[..., ~asked], before[..., ~asked])
    assert torch.equal(batch.flow.tau2[~asked], tau2[~asked])
    assert (batch.flow.sweeps[copies] > fresh.flow.sweeps[copies]).all()  # those of both rounds


def test_a_hopeless_copy_leaves_the_others_and_recovers(scenario: Scenario, solver: FlowSolver) -> None:
    load, tau2 = points(scenario, solver, seed=3)
    good = Solving(solver, load, tau2.clone(), TOLERANCE_PU).flow
    heavy = Load(load.power.clone(), load.shunt)
    heavy.power[..., 7] *= 1e4
    batch = Solving(solver, heavy, tau2.clone(), TOLERANCE_PU)
    others = torch.arange(COPIES) != 7
    assert batch.flow.converged.tolist() == others.tolist()
    assert batch.flow.sweeps[7] == solving.MAX_SWEEPS
    assert (batch.flow.u - good.u)[..., others].abs().max() < 1e-12
    batch.again(~others, tau2, load)
    assert batch.flow.converged.all()
    assert (batch.flow.u - good.u).abs().max() < 1e-10


def test_the_likely_start_is_nearer_than_no_load(scenario: Scenario, solver: FlowSolver) -> None:
    def squared_errors(load: Load, tau2: Tensor) -> list[float]:
        solution = Solving(solver, load, tau2, TOLERANCE_PU).flow.u
        starts = (solver.likely_start(load), solver.flat_start(len(tau2)))
        return [float((start - solution).square().mean()) for start in starts]

    likely, flat = squared_errors(*points(scenario, solver, seed=4))  # any load, devices and taps
    assert likely < flat
    net = build_network(scenario)
    share = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)[:, None]
    load = solver.load(share * net.load_p_mw, share * net.load_q_mvar)
    likely, flat = squared_errors(load, solver.tau_squared(share.new_zeros(9, len(net.regulators))))
    assert likely < 0.05 * flat


def test_without_a_nominal_load_a_flow_starts_from_no_load() -> None:
    builder = NetworkBuilder("slack", 1.0)
    for bus in ("slack", "load"):
        builder.add_bus(bus, 10.0)
    builder.add_branch(Branch(name="line", a="slack", b="load", z_pu=0.1 + 0.2j, rating_pu=2.0))
    net = builder.build()
    solver = FlowSolver(net, CPU, torch.float64)
    p = torch.full((3, net.num_buses), 0.01, dtype=torch.float64)
    assert torch.equal(solver.likely_start(solver.load(p, p)), solver.flat_start(3))


def random_network(seed: int, *, reach: int) -> Network:
    """A tree of 25 buses with charging, complex ratios and, on one branch of three, regulators."""
    rng = np.random.default_rng(seed)
    builder = NetworkBuilder(0, 1.02)
    for bus in range(25):
        builder.add_bus(bus, 10.0)
    for bus in range(1, 25):
        ratio = cmath.rect(rng.uniform(0.97, 1.03), rng.uniform(-0.5, 0.5)) if rng.random() < 0.3 else 1.0
        branch = Branch(
            name=f"{bus}",
            a=max(0, bus - int(rng.integers(1, reach + 1))),
            b=bus,
            z_pu=complex(*rng.uniform(1e-3, 2e-2, 2)),
            ratio=ratio,
            y_b_pu=complex(0, rng.uniform(0, 1e-2)),
        )
        builder.add_branch(branch)
    net = builder.build()
    buses = [bus for bus in range(1, 25) if rng.random() < 1 / 3] if seed else [1]
    shape = {"target_pu": 1.0, "half_band_pu": 0.01, "step_pu": 0.00625, "tap_min": -16, "tap_max": 16}
    return replace(net, regulators=tuple(Regulator(name=f"r{bus}", bus=bus, **shape) for bus in buses))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("reach", [1, 3, 25])
def test_trees_with_regulators_on_any_branch_satisfy_the_nodal_equations(seed: int, reach: int) -> None:
    net = random_network(seed, reach=reach)
    rng = torch.Generator().manual_seed(seed)
    p_mw, q_mvar = 0.03 * torch.rand(2, 5, net.num_buses, generator=rng, dtype=torch.float64) - 0.02
    tap = torch.randint(-8, 9, (5, len(net.regulators)), generator=rng).double()
    result = solve_power_flow(net, p_mw, q_mvar, tap)
    assert result.converged.all()
    assert (result.v_pu[:, :1] - result.v_pu).abs().max() > 1e-3
    assert mismatch_mva(net, Points(p_mw, q_mvar, tap), result).max() < 1e-8


def test_no_copies_are_solved_at_once() -> None:
    net = random_network(1, reach=3)
    none = torch.zeros(0, net.num_buses)
    result = solve_power_flow(net, none, none, torch.zeros(0, len(net.regulators)))
    assert result.v_pu.shape == (0, net.num_buses)
    assert result.line_loading.shape[0] == 0


@pytest.mark.parametrize(
    ("p_mw", "q_mvar"),
    [(-1.0, 0.3), (torch.nan, 0.3), (1e-310, 1.0), (1e4, 1.0)],
    ids=["negative", "nan", "none", "much"],
)
def test_a_nominal_load_that_tells_nothing_is_left_alone(p_mw: float, q_mvar: float) -> None:
    net = random_network(0, reach=3)
    at_end = torch.zeros(25, dtype=torch.float64)
    at_end[-1] = 1.0
    solver = FlowSolver(replace(net, load_p_mw=p_mw * at_end, load_q_mvar=q_mvar * at_end), CPU, torch.float64)
    p = torch.full((3, 25), 1e-3, dtype=torch.float64)
    load = solver.load(p, p)
    assert torch.equal(solver.likely_start(load), solver.flat_start(3))
    assert Solving(solver, load, solver.tau_squared(p[:, :1]), TOLERANCE_PU).flow.converged.all()
