"""Branches out of service against pandapower with the same elements out of service."""

from copy import deepcopy
from typing import Any

import numpy as np
import pandapower.networks as cases
import pytest
import torch

from envs.composition import build_network, scenario_tables
from envs.power import Network
from envs.power.flow import FlowSolver
from envs.power.network import BASE_MVA
from envs.power.outage import Outages
from envs.power.regulators import TapSettler
from envs.power.sweep import Load
from envs.scenario import Scenario
from tests.envs.operating_points import Judge, scenario_points
from tests.envs.pandapower_reference import solve, voltages
from tests.envs.power.pandapower_grids import MAGNETISED, RATIO, feeder

CPU, DOUBLE = torch.device("cpu"), torch.float64
OUTAGES = [
    ("DSO.800-802",),  # the head
    ("DSO.834-860",),  # a line with a microgrid behind it
    ("DSO.816-818",),  # a lateral with charging
    ("DSO.XFM-1",),  # a transformer
    ("DSO.Regulator2",),
    ("MG1.Substation",),  # a microgrid's connection
    ("MG2.632-671", "DSO.824-826"),
    ("DSO.858-834", "MG3.632-645"),  # the second is dead already
]


def open_branches(net: Network, *names: str) -> torch.Tensor:
    is_open = torch.zeros(1, net.num_buses, dtype=torch.bool)
    is_open[0, [net.branch_names.index(name) for name in names]] = True
    return is_open


def solved(net: Network, p_mw: torch.Tensor, q_mvar: torch.Tensor, tap: torch.Tensor, is_open: torch.Tensor) -> Any:
    """Complex voltages (C, N) with nan at dead buses, and the source's power; injections generation positive."""
    solver, outages = FlowSolver(net, CPU, DOUBLE), Outages(net, CPU, DOUBLE)
    unfed = outages.unfed(is_open)
    load = solver.load(*outages.drawn(-p_mw / BASE_MVA, -q_mvar / BASE_MVA, is_open, unfed))
    state = solver.solve(load, solver.tau_squared(tap), 1e-11)
    assert state.converged.all()
    assert state.u.isfinite().all()
    measured = solver.measured(state, load)
    assert (measured.i_squared_pu[unfed] == 0).all()
    v = solver.voltage(state)
    return torch.where(unfed, torch.nan, v).numpy(), torch.complex(*measured.power(solver.source))[:, 0]


def take_out(net: Any, names: tuple[str, ...]) -> None:
    found = 0
    for kind in ("line", "trafo"):
        rows = net[kind].name.isin(names)
        net[kind].loc[rows, "in_service"] = False
        found += int(rows.sum())
    assert found == len(names)


@pytest.mark.parametrize("names", OUTAGES, ids="+".join)
def test_outages_agree_with_pandapower_at_any_tap(scenario: Scenario, names: tuple[str, ...]) -> None:
    net = build_network(scenario)
    judge = Judge(scenario_tables(scenario), net)
    take_out(judge.pandapower, names)
    points = scenario_points(scenario, net, 3, seed=4)
    is_open = open_branches(net, *names)
    for b in range(3):
        point = points.row(b)
        v, source = solved(net, point.p_mw, point.q_mvar, point.tap, is_open)
        start = np.where(np.isnan(v[0]), 1.0, v[0])
        flow: Any = type("Flow", (), {"v_pu": torch.from_numpy(start)[None]})
        expected = judge.solve(point, flow, 0)
        ours = v[0][judge.position]
        assert (np.isnan(expected) == np.isnan(ours)).all()
        assert np.isnan(ours).any()
        assert np.nanmax(np.abs(expected - ours)) < 1e-7
        grid = judge.pandapower.res_ext_grid
        assert abs(complex(source[0]) - complex(grid.p_mw.item(), grid.q_mvar.item())) < 1e-6


def test_every_outage_kills_its_subtree_and_nothing_else(scenario: Scenario) -> None:
    net = build_network(scenario)
    outages, path = Outages(net, CPU, DOUBLE), net.below(torch.arange(net.num_buses)).double()
    rng = torch.Generator().manual_seed(0)
    is_open = torch.rand(200, net.num_buses, generator=rng) < 0.03
    is_open[:, 0] = False
    assert torch.equal(outages.unfed(is_open), is_open.double() @ path > 0)
    assert torch.equal(outages.unfed(torch.eye(net.num_buses).bool())[1:], path[1:] > 0)


def test_without_an_outage_the_load_is_the_plain_one(scenario: Scenario) -> None:
    net = build_network(scenario)
    solver, outages = FlowSolver(net, CPU, DOUBLE), Outages(net, CPU, DOUBLE)
    points = scenario_points(scenario, net, 4, seed=1)
    none = torch.zeros(4, net.num_buses, dtype=torch.bool)
    mine = solver.load(*outages.drawn(points.p_mw, points.q_mvar, none, none))
    plain = solver.load(points.p_mw, points.q_mvar)
    for one, two in zip(mine, plain, strict=True):
        assert torch.equal(one, two.expand_as(one))


def pandapower_case(name: str) -> Any:
    if name == "magnetised":
        return feeder(**RATIO, **MAGNETISED)
    return getattr(cases, name)()


@pytest.mark.parametrize("name", ["create_cigre_network_mv", "magnetised", "simple_four_bus_system", "case33bw"])
def test_outages_in_networks_of_pandapower_agree(name: str) -> None:
    grid = pandapower_case(name)
    net = Network.from_pandapower(grid)
    p_mw, q_mvar = net.nominal_injections()
    compared = 0
    rows = {"line": len(grid.line), "trafo": len(grid.trafo)}
    for kind, count in rows.items():
        for index in range(0, count, max(1, count // 5)):
            row = grid[kind].iloc[index]
            ends = [int(row[key]) for key in (("from_bus", "to_bus") if kind == "line" else ("hv_bus", "lv_bus"))]
            where = [net.alias.get(bus) for bus in ends]
            found = [j for j in where if j is not None and net.parent[j] in where and j > 0]
            if len(found) != 1 or not row.in_service:
                continue  # an open line, or one beyond an open switch
            other = deepcopy(grid)
            other[kind].loc[grid[kind].index[index], "in_service"] = False
            compared += 1
            is_open = torch.zeros(1, net.num_buses, dtype=torch.bool)
            is_open[0, found[0]] = True
            v, _ = solved(net, p_mw[None], q_mvar[None], p_mw.new_zeros(1, 0), is_open)
            solve(other)
            expected = voltages(other)
            position = [net.alias[int(bus)] for bus in other.bus.index]
            assert (np.isnan(expected) == np.isnan(v[0][position])).all(), (kind, index)
            below = np.array(position) > 0  # pandapower forgets the slack bus's angle where nothing else lives
            assert np.nanmax(np.abs(expected - v[0][position])[below], initial=0.0) < 1e-7, (kind, index)
    assert compared > 2


def test_a_dead_regulator_keeps_its_taps(scenario: Scenario) -> None:
    net = build_network(scenario)
    solver, outages = FlowSolver(net, CPU, DOUBLE), Outages(net, CPU, DOUBLE)
    settler = TapSettler(net, solver)
    points = scenario_points(scenario, net, 20, seed=2)
    is_open = open_branches(net, "DSO.RG11-832").expand(20, -1)
    unfed = outages.unfed(is_open)
    frozen = unfed[:, [regulator.bus for regulator in net.regulators]]
    load = solver.load(*outages.drawn(-points.p_mw, -points.q_mvar, is_open, unfed))
    settled = settler.settle(load, points.tap, 1e-10, frozen=frozen)
    assert frozen[0].tolist() == [False, False, True, True, False]
    assert torch.equal(settled.tap[frozen], points.tap[frozen])
    assert not torch.equal(settled.tap[~frozen], points.tap[~frozen])
    fourth = Load(*(part[..., 3:4] for part in load))
    one = settler.settle(fourth, points.tap[3:4], 1e-10, frozen=frozen[3:4])
    assert torch.equal(one.tap[0], settled.tap[3])
