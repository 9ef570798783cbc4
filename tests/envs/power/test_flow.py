import cmath
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from envs.composition import build_network, scenario_tables
from envs.power import Network, blocks, flow, solve_power_flow, sweep, tree_sums
from envs.power.builder import Branch, NetworkBuilder
from envs.power.flow import FlowSolver
from envs.power.from_tables import network_from_tables
from envs.power.network import BASE_MVA
from envs.power.solving import LEAST_SWEEPS, MAX_SWEEPS
from envs.power.tables import Tables, read_tables
from envs.power.tree_sums import BlockSums
from envs.scenario import DATA, Scenario
from tests.envs.operating_points import (
    Judge,
    Points,
    largest_difference,
    mismatch_mva,
    scenario_points,
)

CPU = torch.device("cpu")
VALUES = ("v_pu", "line_loading", "trafo_loading", "source_p_mw", "source_q_mvar", "losses_mw")
RESULTS = ("converged", "iterations", *VALUES)


@pytest.fixture(scope="module")
def net(scenario: Scenario) -> Network:
    return build_network(scenario)


@pytest.fixture(scope="module")
def judge(scenario: Scenario, net: Network) -> Judge:
    return Judge(scenario_tables(scenario), net)


def two_buses(z_pu: complex = 0.1 + 0.2j) -> Network:
    builder = NetworkBuilder("slack", 1.0)
    builder.add_bus("slack", 10.0)
    builder.add_bus("load", 10.0)
    builder.add_branch(Branch(name="line", a="slack", b="load", z_pu=z_pu, rating_pu=2.0))
    return builder.build()


def injection(consumed: complex) -> tuple[Tensor, Tensor]:
    p_mw, q_mvar = torch.zeros(2, 2, dtype=torch.float64)
    p_mw[1], q_mvar[1] = -consumed.real, -consumed.imag
    return p_mw, q_mvar


def chain(buses: int) -> Network:
    builder = NetworkBuilder(0, 1.02)
    for bus in range(buses):
        builder.add_bus(bus, 10.0)
    for bus in range(1, buses):  # every seventh bus is the end of a spur
        parent = bus - 2 if bus % 7 == 1 and bus > 2 else bus - 1
        builder.add_branch(Branch(name=f"{bus}", a=parent, b=bus, z_pu=2e-3 + 1e-3j, y_b_pu=1e-5j))
    return builder.build()


def table_points(net: Network, count: int, *, load: tuple[float, float], taps: int) -> Points:
    rng = torch.Generator().manual_seed(1)
    p_mw, q_mvar = net.nominal_injections()
    scale = load[0] + (load[1] - load[0]) * torch.rand(count, net.num_buses, generator=rng, dtype=torch.float64)
    tap = torch.randint(0, taps + 1, (count, len(net.regulators)), generator=rng).double()
    return Points(p_mw * scale, q_mvar * scale, tap)


@pytest.mark.parametrize(
    ("name", "load", "taps"),
    [("ieee13", (0.2, 1.2), 8), ("ieee123", (0.2, 1.2), 8), ("ieee34", (0.2, 0.8), 8)],
)
def test_ieee_tables_agree_with_pandapower(name: str, load: tuple[float, float], taps: int) -> None:
    tables = read_tables(DATA / "networks" / name)
    net = network_from_tables(tables)
    points = table_points(net, 6, load=load, taps=taps)
    result = solve_power_flow(net, *points)
    assert result.converged.all()
    assert result.v_pu.abs().min() > sweep.LOW_VOLTAGE_PU
    assert largest_difference(Judge(tables, net), points, result) <= 1e-8


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_default_network_agrees_with_pandapower_in_both_precisions(
    scenario: Scenario, net: Network, judge: Judge, count: int
) -> None:
    points = scenario_points(scenario, net, count, seed=3)
    double = solve_power_flow(net, *points)
    single = solve_power_flow(net, *(value.float() for value in points))
    assert double.converged.all()
    assert single.converged.all()
    assert double.v_pu.abs().min() > sweep.LOW_VOLTAGE_PU
    assert largest_difference(judge, points, double) <= 1e-8
    assert single.v_pu.dtype == torch.complex64
    assert (single.v_pu - double.v_pu).abs().max() <= 2e-5


def test_solution_satisfies_the_nodal_equations(scenario: Scenario, net: Network) -> None:
    points = scenario_points(scenario, net, 20, seed=3)
    assert mismatch_mva(net, points, solve_power_flow(net, *points, tolerance_pu=1e-13)).max() < 1e-7


def test_currents_source_and_losses_agree_with_pandapower(scenario: Scenario, net: Network, judge: Judge) -> None:
    points = scenario_points(scenario, net, 5, seed=4)
    result = solve_power_flow(net, *points)
    lines = [name for name, trafo in zip(net.branch_names, net.is_trafo.tolist(), strict=True) if not trafo][1:]
    trafos = [name for name, trafo in zip(net.branch_names, net.is_trafo.tolist(), strict=True) if trafo]
    for b in range(len(points.p_mw)):
        v = judge.solve(points.row(b), result, b)
        other = judge.pandapower
        line, trafo = other.line.set_index("name"), other.trafo.set_index("name")
        z_ohm = (line.r_ohm_per_km + 1j * line.x_ohm_per_km) * line.length_km
        drop_kv = np.abs(v[line.from_bus] - v[line.to_bus]) * other.bus.vn_kv[line.from_bus].to_numpy()
        series_ka = drop_kv / 3**0.5 / np.abs(z_ohm)
        rated_ka = trafo.sn_mva / 3**0.5 / trafo.vn_hv_kv
        hv_ka = other.res_trafo.set_index(trafo.index).i_hv_ka
        assert np.abs(result.line_loading[b].numpy() - (series_ka / line.max_i_ka)[lines].to_numpy()).max() < 1e-7
        assert np.abs(result.trafo_loading[b].numpy() - (hv_ka / rated_ka)[trafos].to_numpy()).max() < 1e-7
        grid = other.res_ext_grid.iloc[0]
        assert abs(result.source_p_mw[b] - grid.p_mw) < 1e-7
        assert abs(result.source_q_mvar[b] - grid.q_mvar) < 1e-7
        assert abs(result.losses_mw[b] - other.res_line.pl_mw.sum() - other.res_trafo.pl_mw.sum()) < 1e-7


def test_source_covers_consumption_and_losses(scenario: Scenario, net: Network) -> None:
    points = scenario_points(scenario, net, 200, seed=5)
    result = solve_power_flow(net, *points)
    assert (result.source_p_mw + points.p_mw.sum(-1) - result.losses_mw).abs().max() < 1e-8
    assert result.losses_mw.min() > 0


def test_two_bus_solution_is_the_root_of_the_quadratic() -> None:
    z, s = 0.1 + 0.2j, 0.3 + 0.1j
    result = solve_power_flow(two_buses(z), *injection(s), tolerance_pu=1e-13)
    # |V|^4 - (1 - 2 Re(z* S)) |V|^2 + |z S|^2 = 0
    b, c = 1 - 2 * (z.conjugate() * s).real, abs(z * s) ** 2
    v2 = (b + (b * b - 4 * c) ** 0.5) / 2
    assert result.v_pu[0, 1].abs().item() == pytest.approx(v2**0.5, abs=1e-9)
    assert result.line_loading.item() == pytest.approx(abs(s) / v2**0.5 / 2.0, abs=1e-9)
    assert result.losses_mw.item() == pytest.approx(0.1 * abs(s) ** 2 / v2, abs=1e-9)


def test_below_080_pu_an_injection_is_a_constant_impedance() -> None:
    z, s = 0.1 + 0.2j, 1.2 + 0.3j
    result = solve_power_flow(two_buses(z), *injection(s), tolerance_pu=1e-13)
    expected = 1 / (1 + z * s.conjugate() / 0.8**2)  # I = conj(S) V / 0.64
    assert result.converged.all()
    assert abs(expected) < 0.8
    assert abs(result.v_pu[0, 1].item() - expected) < 1e-9
    assert result.source_p_mw.item() == pytest.approx((1 / (z + 0.64 / s.conjugate())).real, abs=1e-9)


def test_results_asked_for_later_are_those_of_the_points_that_were_solved(scenario: Scenario, net: Network) -> None:
    points = scenario_points(scenario, net, 8, seed=6)
    wanted = solve_power_flow(net, *points)
    wanted = {name: getattr(wanted, name).clone() for name in RESULTS}
    later = solve_power_flow(net, *points)
    later.v_pu.zero_()
    for value in points:
        value.add_(1.0)
    for name in set(RESULTS) - {"v_pu"}:
        assert torch.equal(getattr(later, name), wanted[name]), name


@pytest.mark.parametrize("start", [None, 1.02 + 0.01j])
def test_one_row_of_taps_is_for_all_copies(scenario: Scenario, net: Network, start: complex | None) -> None:
    copies = 600  # most stop early and are left out of the last sweeps
    points = scenario_points(scenario, net, copies, seed=8)
    tap = points.tap[:1] + 1.0
    level = torch.ones(copies, 1, dtype=torch.float64)
    level[: copies // 4] = 2.0
    v_init = None if start is None else torch.full((net.num_buses,), start, dtype=torch.complex128)
    one, all_rows = (
        solve_power_flow(net, points.p_mw * level, points.q_mvar, rows, v_init=v_init)
        for rows in (tap, tap.expand(copies, -1))
    )
    assert len(one.iterations.unique()) > 2
    assert one.converged.all()
    for name in VALUES:
        assert torch.allclose(getattr(one, name), getattr(all_rows, name), rtol=1e-13, atol=1e-13), name


def test_overload_is_flagged_without_nan_and_leaves_its_neighbours_alone(scenario: Scenario, net: Network) -> None:
    points = scenario_points(scenario, net, 8, seed=6)
    alone = solve_power_flow(net, *points)
    overload = points.p_mw.clone()
    overload[3] *= 1e4
    result = solve_power_flow(net, overload, points.q_mvar, points.tap)
    others = torch.arange(8) != 3
    assert not result.converged[3]
    assert result.converged[others].all()
    for name in RESULTS:
        value = getattr(result, name)
        assert torch.isfinite(torch.view_as_real(value) if value.is_complex() else value).all(), name
        # some go on in a smaller batch, with copy 3 in it: another BLAS kernel may add in another order
        assert torch.allclose(value[others], getattr(alone, name)[others], rtol=1e-12, atol=1e-12), name
    assert torch.equal(result.iterations[others], alone.iterations[others])
    assert result.iterations[3] == MAX_SWEEPS


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_copy_does_not_depend_on_batch_size_or_neighbours(
    scenario: Scenario, net: Network, dtype: torch.dtype
) -> None:
    points = Points(*(value.to(dtype) for value in scenario_points(scenario, net, 64, seed=7)))
    full = solve_power_flow(net, *points)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    permuted = solve_power_flow(net, *(value[order] for value in points))
    # at another place, or in another shape, another BLAS kernel may add in another order
    rounding = {torch.float64: 1e-13, torch.float32: 2e-6}[dtype]
    assert (permuted.v_pu - full.v_pu[order]).abs().max() <= rounding
    assert torch.equal(permuted.iterations, full.iterations[order])
    for size in (1, 2, 7):
        part = solve_power_flow(net, *(value[:size] for value in points))
        assert (part.v_pu - full.v_pu[:size]).abs().max() <= rounding


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("start", [None, 1.035])
@pytest.mark.parametrize(("tolerance_pu", "share"), [(3e-5, 0.93), (1e-10, 0.98)])
def test_stretched_sweeps_give_the_same_flow_in_fewer(
    net: Network, monkeypatch: pytest.MonkeyPatch, sign: float, start: float | None, tolerance_pu: float, share: float
) -> None:
    level = sign * torch.linspace(0.3, 0.9, 64, dtype=torch.float64)[:, None]
    points = (-level * net.load_p_mw, -level * net.load_q_mvar)
    v_init = None if start is None else torch.full((net.num_buses,), start, dtype=torch.complex128)
    stretched = solve_power_flow(net, *points, v_init=v_init, tolerance_pu=tolerance_pu)
    monkeypatch.setattr(sweep, "STRETCH", 0.0)
    plain = solve_power_flow(net, *points, v_init=v_init, tolerance_pu=tolerance_pu)
    assert stretched.converged.all()
    assert (stretched.v_pu - plain.v_pu).abs().max() < tolerance_pu
    assert stretched.iterations.sum() < share * plain.iterations.sum()


def test_sweeps_at_low_voltage_are_not_stretched(monkeypatch: pytest.MonkeyPatch) -> None:
    net, points = two_buses(), injection((1.2 + 0.9j) * BASE_MVA)
    stretched = solve_power_flow(net, *points)
    monkeypatch.setattr(sweep, "STRETCH", 0.0)
    plain = solve_power_flow(net, *points)
    assert plain.converged.all()
    assert plain.v_pu.abs().min() < 0.75
    assert torch.equal(stretched.v_pu, plain.v_pu)
    assert torch.equal(stretched.iterations, plain.iterations)


def test_stretching_costs_no_solution_where_loads_and_generators_stand_side_by_side(
    net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = torch.Generator().manual_seed(3)
    p_mw, q_mvar = 6.0 * torch.randn(2, 400, net.num_buses, generator=rng, dtype=torch.float64)
    points = (p_mw * net.load_p_mw, q_mvar * net.load_q_mvar)
    stretched = solve_power_flow(net, *points, tolerance_pu=1e-9)
    monkeypatch.setattr(sweep, "STRETCH", 0.0)
    plain = solve_power_flow(net, *points, tolerance_pu=1e-9)
    assert 0.5 < plain.converged.double().mean() < 0.98
    assert (plain.converged & ~stretched.converged).sum() <= 1  # near the limit of 60 sweeps


def test_an_angle_of_the_source_turns_all_voltages_and_costs_no_sweep(net: Network) -> None:
    points = (-0.8 * net.load_p_mw, -0.8 * net.load_q_mvar)
    turn = cmath.exp(2.5j)
    upright = solve_power_flow(net, *points)
    turned = solve_power_flow(replace(net, slack_v_pu=net.slack_v_pu * turn), *points)
    assert torch.equal(turned.iterations, upright.iterations)
    assert (turned.v_pu - turn * upright.v_pu).abs().max() < 1e-12
    for name in set(VALUES) - {"v_pu"}:
        assert torch.allclose(getattr(turned, name), getattr(upright, name), rtol=1e-12, atol=1e-12), name
    again = solve_power_flow(replace(net, slack_v_pu=net.slack_v_pu * turn), *points, v_init=turned.v_pu)
    assert again.iterations.max() == LEAST_SWEEPS


def test_a_warm_start_gives_the_same_solution_in_fewer_sweeps(scenario: Scenario, net: Network) -> None:
    points = scenario_points(scenario, net, 16, seed=8)
    cold = solve_power_flow(net, *points)
    warm = solve_power_flow(net, *points, v_init=cold.v_pu)
    assert (warm.v_pu - cold.v_pu).abs().max() < 1e-9
    assert (warm.iterations == LEAST_SWEEPS).all()
    assert (cold.iterations > LEAST_SWEEPS).all()


def test_one_dimensional_injections_are_one_copy(net: Network) -> None:
    p_mw, q_mvar = net.nominal_injections()
    one, batch = solve_power_flow(net, p_mw, q_mvar), solve_power_flow(net, p_mw[None], q_mvar[None])
    assert one.v_pu.shape == (1, net.num_buses)
    assert torch.equal(one.v_pu, batch.v_pu)


@pytest.mark.parametrize("size", [1, 2, 4, 72])
@pytest.mark.parametrize("dense_nodes", [4, 128])
def test_blocks_of_any_size_give_the_same_flow(
    size: int, dense_nodes: int, scenario: Scenario, net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = scenario_points(scenario, net, 8, seed=9)
    usual = solve_power_flow(net, *points)
    monkeypatch.setattr(flow, "_solver", FlowSolver)
    monkeypatch.setattr(blocks, "SIZES", (size,))
    monkeypatch.setattr(tree_sums, "DENSE_NODES", dense_nodes)  # sums over the blocks in blocks
    monkeypatch.setattr(tree_sums, "BLOCK_NODES", 3)
    result = solve_power_flow(net, *points)
    single = solve_power_flow(net, *(value.float() for value in points))
    for name in VALUES[1:]:
        assert (getattr(result, name) - getattr(usual, name)).abs().max() < 1e-10, name
    assert (result.v_pu - usual.v_pu).abs().max() < 1e-12
    assert (single.v_pu - usual.v_pu).abs().max() < 2e-5


def test_a_network_of_many_blocks_satisfies_the_nodal_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_sums, "DENSE_NODES", 16)
    monkeypatch.setattr(flow, "_solver", FlowSolver)
    net = chain(700)
    assert isinstance(FlowSolver(net, CPU, torch.float64).layout.sums, BlockSums)
    p_mw = torch.full((2, 700), -2e-4, dtype=torch.float64)
    points = Points(p_mw, p_mw / 3, torch.zeros(2, 0, dtype=torch.float64))
    result = solve_power_flow(net, *points, tolerance_pu=1e-12)
    assert result.converged.all()
    assert result.v_pu.abs().min() < 0.98  # a drop worth measuring
    assert mismatch_mva(net, points, result).max() < 1e-7


@pytest.mark.parametrize(
    ("p_mw", "q_mvar", "options", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(3, 3), {}, r"q_mvar must have shape \(3, 2\), got \(3, 3\)"),
        (torch.zeros(3, 5), torch.zeros(3, 5), {}, r"p_mw must have shape \(3, 2\), got \(3, 5\)"),
        (torch.zeros(3, 2), torch.zeros(3, 2), {"tap": torch.zeros(3, 1)}, r"tap must have shape \(3, 0\)"),
        (torch.zeros(3, 2).half(), torch.zeros(3, 2).half(), {}, "p_mw must be float32 or float64, got torch.float16"),
        (torch.zeros(3, 2), torch.zeros(3, 2), {"tolerance_pu": 0.0}, "tolerance_pu must be positive, got 0.0"),
    ],
)
def test_wrong_input_is_refused(p_mw: Tensor, q_mvar: Tensor, options: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve_power_flow(two_buses(), p_mw, q_mvar, **options)  # pyright: ignore[reportArgumentType]


def test_tables_without_a_tap_changer_need_no_taps() -> None:
    net = network_from_tables(Tables(source_bus="a", source_v_pu=1.01, bus_kv={"a": 1.0}))
    result = solve_power_flow(net, torch.zeros(2, 1), torch.zeros(2, 1))
    assert result.v_pu.abs().flatten().tolist() == pytest.approx([1.01, 1.01])


def test_one_row_of_injections_or_taps_is_for_all_copies(scenario: Scenario, net: Network) -> None:
    points = scenario_points(scenario, net, 3, seed=5)
    p_mw, q_mvar = points.p_mw[0], points.q_mvar[0]
    many_taps = solve_power_flow(net, p_mw, q_mvar, points.tap)
    one_by_one = [solve_power_flow(net, p_mw, q_mvar, tap).v_pu for tap in points.tap]
    assert torch.allclose(many_taps.v_pu, torch.cat(one_by_one), atol=1e-10)
    one_tap = solve_power_flow(net, points.p_mw, points.q_mvar, points.tap[0])
    assert one_tap.v_pu.shape == (3, net.num_buses)


def test_a_finished_copy_is_not_swept_on_while_others_still_run(scenario: Scenario, net: Network) -> None:
    """A loose tolerance shows it: one sweep more would move the voltages by about that much."""
    light, heavy = torch.full((2, 1), 0.02), torch.full((10, 1), 1.0)
    p_mw, q_mvar = ((torch.cat([light, heavy]) * nominal).double() for nominal in net.nominal_injections())
    together = solve_power_flow(net, p_mw, q_mvar, tolerance_pu=1e-3)
    alone = solve_power_flow(net, p_mw[:2], q_mvar[:2], tolerance_pu=1e-3)
    assert int(together.iterations[:2].max()) + 1 < int(together.iterations[2:].min())
    assert torch.equal(together.iterations[:2], alone.iterations)
    assert torch.allclose(together.v_pu[:2], alone.v_pu, rtol=0, atol=1e-12)


def test_two_threads_may_solve_at_once(scenario: Scenario, net: Network) -> None:
    batches = [scenario_points(scenario, net, 20 + 10 * k, seed=k) for k in range(8)]
    alone = [solve_power_flow(net, *points) for points in batches]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda points: solve_power_flow(net, *points), batches * 3))
    for k, result in enumerate(together):
        assert torch.equal(result.iterations, alone[k % 8].iterations)
        assert torch.equal(result.v_pu, alone[k % 8].v_pu)
