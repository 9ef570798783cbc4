import dataclasses

import pytest
import torch
from torch import Tensor

from envs.composition import build_network
from envs.power import Network, solve_power_flow
from envs.power.flow import FlowSolver
from envs.power.network import BASE_MVA, Regulator
from envs.power.regulators import MAX_ROUNDS, TapSettler
from envs.power.solving import MAX_SWEEPS
from envs.scenario import Scenario
from tests.envs.operating_points import Points, scenario_points


@pytest.fixture(scope="module")
def net(scenario: Scenario) -> Network:
    return build_network(scenario)


def settler_of(net: Network) -> tuple[FlowSolver, TapSettler]:
    solver = FlowSolver(net, torch.device("cpu"), torch.float64)
    return solver, TapSettler(net, solver)


def taps_of(net: Network, **position: int) -> Tensor:
    """One row of taps by regulator, 0 where not named (`DSO_Regulator1=3`)."""
    names = [regulator.name.replace(".", "_") for regulator in net.regulators]
    assert set(position) <= set(names)
    return torch.tensor([[float(position.get(name, 0)) for name in names]]).double()


def volts(net: Network, **offset: float) -> Tensor:
    """Regulated voltages in pu: every target plus an offset."""
    names = [regulator.name.replace(".", "_") for regulator in net.regulators]
    targets = [regulator.target_pu for regulator in net.regulators]
    row = [t + offset.get(name, 0.0) for name, t in zip(names, targets, strict=True)]
    return torch.tensor([row], dtype=torch.float64)


def upstream_of(net: Network, regulator: Regulator) -> list[int]:
    above, bus = [], regulator.bus
    while bus:
        bus = int(net.parent[bus])
        above += [k for k, other in enumerate(net.regulators) if other.bus == bus]
    return above


def settle_in_a_loop(net: Network, point: Points, start: list[int]) -> tuple[list[int], int]:
    """The rule of `regulators.py` for one copy, in plain Python: final taps and power flows solved."""
    taps = list(start)
    depth = [len(upstream_of(net, regulator)) for regulator in net.regulators]
    for rounds in range(1, MAX_ROUNDS + 1):
        v = solve_power_flow(net, point.p_mw, point.q_mvar, torch.tensor([taps])).v_pu[0].abs()
        moves = [0] * len(taps)
        for k in sorted(range(len(taps)), key=lambda k: depth[k]):
            regulator = net.regulators[k]
            error = regulator.target_pu - v[regulator.bus].item()
            error -= sum(regulator.step_pu * moves[above] for above in upstream_of(net, regulator))
            if abs(error) > 1 / 120:
                wanted = taps[k] + round(error / regulator.step_pu)
                moves[k] = max(-16, min(16, wanted)) - taps[k]
        if not any(moves) or rounds == MAX_ROUNDS:
            return taps, rounds
        taps = [tap + move for tap, move in zip(taps, moves, strict=True)]
    raise AssertionError


def test_regulators_control_what_the_scenario_says(net: Network) -> None:
    found = {r.name: (net.bus_index[r.bus], r.target_pu, r.step_pu, r.tap_min, r.tap_max) for r in net.regulators}
    assert found == {
        "DSO.Regulator1": ("DSO.RG10", 1.03, 0.00625, -16, 16),
        "DSO.Regulator2": ("DSO.RG11", 1.03, 0.00625, -16, 16),
        **{f"MG{i}.Substation": (f"MG{i}.RG60", 1.01, 0.00625, -16, 16) for i in (1, 2, 3)},
    }
    assert [r.half_band_pu for r in net.regulators] == pytest.approx([1 / 120] * 5)


def test_settled_taps_equal_those_of_a_loop_over_copies(scenario: Scenario, net: Network) -> None:
    points = scenario_points(scenario, net, 40, seed=11, taps=6)
    solver, settler = settler_of(net)
    settled = settler.settle(solver.load(-points.p_mw, -points.q_mvar), points.tap, 1e-10)
    for b in range(len(points.tap)):
        taps, rounds = settle_in_a_loop(net, points.row(b), [int(tap) for tap in points.tap[b]])
        assert settled.tap[b].tolist() == taps
        assert settled.rounds[b] == rounds
    assert settled.rounds.max() > 2
    direct = solve_power_flow(net, points.p_mw, points.q_mvar, settled.tap)
    assert (solver.voltage(settled.flow) - direct.v_pu).abs().max() < 1e-9  # the flow belongs to these taps


def test_a_solution_to_start_from_is_left_as_it_is_and_leads_to_the_same_taps(scenario: Scenario, net: Network) -> None:
    points = scenario_points(scenario, net, 40, seed=11, taps=6)
    solver, settler = settler_of(net)
    load = solver.load(-points.p_mw, -points.q_mvar)
    start = solver.solve(solver.load(-0.3 * points.p_mw, -points.q_mvar), solver.tau_squared(points.tap), 1e-10)
    before = [part.clone() for part in start]
    cold, warm = settler.settle(load, points.tap, 1e-10), settler.settle(load, points.tap, 1e-10, start)
    assert torch.equal(warm.tap, cold.tap)
    assert (warm.tap != points.tap).any()
    torch.testing.assert_close(warm.flow.u, cold.flow.u, rtol=0, atol=1e-9)
    assert all(torch.equal(part, old) for part, old in zip(start, before, strict=True))


def test_settled_voltages_lie_in_their_bands_unless_a_tap_is_at_its_end(scenario: Scenario, net: Network) -> None:
    points = scenario_points(scenario, net, 300, seed=12)
    solver, settler = settler_of(net)
    settled = settler.settle(solver.load(-points.p_mw, -points.q_mvar), torch.zeros_like(points.tap), 1e-10)
    buses = [regulator.bus for regulator in net.regulators]
    target = torch.tensor([regulator.target_pu for regulator in net.regulators], dtype=torch.float64)
    error = (solver.voltage(settled.flow)[:, buses].abs() - target).abs()
    assert settled.tap.abs().max() <= 16
    assert (error <= 1 / 120 + 1e-9)[settled.tap.abs() < 16].all()
    assert settled.rounds.max() < MAX_ROUNDS


def test_no_tap_moves_inside_the_deadband(net: Network) -> None:
    _, settler = settler_of(net)
    tap = taps_of(net, DSO_Regulator1=3, MG2_Substation=-2)
    names = [regulator.name.replace(".", "_") for regulator in net.regulators]
    for sign in (1, -1):
        assert torch.equal(settler.moved(tap, volts(net, **dict.fromkeys(names, sign * 0.00833))), tap)
        assert (settler.moved(tap, volts(net, DSO_Regulator1=sign * 0.00834)) != tap).sum() > 0


@pytest.mark.parametrize(
    ("offset_pu", "moved"),
    [
        (-0.0124, 2),  # 1.984 steps
        (-0.0090, 1),  # 1.44 steps
        (0.0100, -2),  # 1.6 steps
        (-0.5, 16),  # clipped
        (0.5, -16),
    ],
)
def test_a_regulator_moves_by_the_rounded_error_within_its_range(net: Network, offset_pu: float, moved: int) -> None:
    _, settler = settler_of(net)
    expected = taps_of(net, MG3_Substation=moved)
    assert torch.equal(settler.moved(taps_of(net), volts(net, MG3_Substation=offset_pu)), expected)


def test_moves_upstream_are_discounted_downstream(net: Network) -> None:
    _, settler = settler_of(net)
    names = [regulator.name.replace(".", "_") for regulator in net.regulators]
    # Regulator1 raises everything by 3 steps = 0.01875, which leaves 0.00125 elsewhere: within the band
    low = volts(net, **dict.fromkeys(names, -0.02))
    assert torch.equal(settler.moved(taps_of(net), low), taps_of(net, DSO_Regulator1=3))
    # 0.04 - 3 steps = 0.02125: Regulator2 moves 3 more, and MG2 sees both; MG3, at its target, undoes them
    low = volts(net, DSO_Regulator1=-0.02, DSO_Regulator2=-0.04, MG2_Substation=-0.05, MG1_Substation=-0.02)
    expected = taps_of(net, DSO_Regulator1=3, DSO_Regulator2=3, MG2_Substation=2, MG3_Substation=-6)
    assert torch.equal(settler.moved(taps_of(net), low), expected)


def test_only_moves_that_were_possible_are_discounted(net: Network) -> None:
    _, settler = settler_of(net)
    tap = taps_of(net, DSO_Regulator1=15)
    low = volts(net, DSO_Regulator1=-0.02, MG1_Substation=-0.02)  # Regulator1 has one step left of three
    moved = settler.moved(tap, low) - tap
    names = [regulator.name for regulator in net.regulators]
    assert moved[0, names.index("DSO.Regulator1")] == 1
    assert moved[0, names.index("MG1.Substation")] == 2  # (0.02 - 0.00625) / 0.00625 = 2.2


def test_a_failed_copy_moves_no_tap_and_leaves_its_neighbours_alone(scenario: Scenario, net: Network) -> None:
    points = scenario_points(scenario, net, 6, seed=13)
    solver, settler = settler_of(net)
    alone = settler.settle(solver.load(-points.p_mw, -points.q_mvar), points.tap, 1e-10)
    overload = points.p_mw.clone()
    overload[2] *= 1e4
    settled = settler.settle(solver.load(-overload, -points.q_mvar), points.tap, 1e-10)
    others = torch.arange(6) != 2
    assert not settled.flow.converged[2]
    assert settled.flow.sweeps[2] == MAX_SWEEPS
    assert torch.equal(settled.tap[2], points.tap[2])
    assert torch.equal(settled.tap[others], alone.tap[others])
    assert (solver.voltage(settled.flow) - solver.voltage(alone.flow))[others].abs().max() < 1e-12


def test_a_network_without_regulators_is_solved_once(net: Network) -> None:
    plain = dataclasses.replace(net, regulators=())
    solver, settler = settler_of(plain)
    p_mw, q_mvar = (part[None] for part in plain.nominal_injections())
    settled = settler.settle(solver.load(-p_mw / BASE_MVA, -q_mvar / BASE_MVA), p_mw.new_zeros(1, 0), 1e-10)
    assert settled.tap.shape == (1, 0)
    assert settled.rounds.tolist() == [1]
    assert settled.flow.converged.all()
