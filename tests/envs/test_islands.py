"""Islands against pandapower, and who survives against a plain loop."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandapower as pp
import pytest
import torch

from envs.composition import build_network, scenario_tables
from envs.islands import MARGIN_MW, Demand, Island, Living
from envs.power.network import Network
from envs.power.to_pandapower import to_pandapower
from envs.scenario import Scenario, load_scenario
from tests.envs.fault_scenarios import FORMING
from tests.envs.pandapower_reference import solve, voltages

CPU, DOUBLE = torch.device("cpu"), torch.float64


@pytest.fixture(scope="module")
def forming() -> Scenario:
    return load_scenario("ieee34_ieee13", {"microgrids": FORMING})


def demands(island: Island, copies: int, *, seed: int, open_share: float = 0.0) -> Demand:
    rng = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=rng, dtype=DOUBLE)

    scale = uniform(copies, 1) * 1.2
    p, q = island.net.load_p_mw, island.net.load_q_mvar
    is_open = uniform(copies, island.net.num_buses) < open_share
    is_open[:, 0] = False
    return Demand(
        p * scale,
        q * scale,
        uniform(copies, 3) * torch.tensor([0.5, 0.4, 0.3], dtype=DOUBLE) * (uniform(copies, 1) < 0.7),
        is_open,
        0.2 + 1.8 * uniform(copies),
    )


def island_of(scenario: Scenario, name: str) -> tuple[Island, Network]:
    net = build_network(scenario)
    island = Island(scenario, net, name, CPU, DOUBLE)
    # nominal loads of the microgrid at the island's buses
    for attribute in ("load_p_mw", "load_q_mvar"):
        object.__setattr__(island.net, attribute, getattr(net, attribute)[island.buses])
    return island, net


def settled(island: Island, demand: Demand) -> Living:
    return island.settle(demand, 1e-11)


@pytest.mark.parametrize("name", ["MG1", "MG2"])
@pytest.mark.parametrize("open_branch", [None, "632-671", "632-645", "XFM-1"])
def test_an_island_agrees_with_pandapower(forming: Scenario, name: str, open_branch: str | None) -> None:
    island, net = island_of(forming, name)
    grid: Any = to_pandapower(scenario_tables(forming))
    names = list(grid.bus.name)
    index = {bus: grid.bus.index[names.index(bus)] for bus in names}
    grid.ext_grid.drop(grid.ext_grid.index, inplace=True)
    pp.create_ext_grid(grid, index[f"{name}.{forming.microgrids[name].battery.bus}"], vm_pu=1.0)
    out = [f"{name}.Substation"] + ([f"{name}.{open_branch}"] if open_branch else [])
    for kind in ("line", "trafo"):
        grid[kind].loc[grid[kind].name.isin(out), "in_service"] = False
    grid.load.drop(grid.load.index, inplace=True)
    for j in island.buses.tolist():
        pp.create_load(grid, index[net.bus_index[j]], 0.0, 0.0)
    demand = demands(island, 6, seed=3)
    if open_branch:
        branch = net.branch_names.index(f"{name}.{open_branch}")
        demand.is_open[:, island.branches.tolist().index(branch)] = True
    living = settled(island, demand)
    assert living.alive.any()
    for b in torch.nonzero(living.alive).flatten().tolist():
        consumed = demand.p[b] - living.plants[b] @ island._place
        grid.load["p_mw"], grid.load["q_mvar"] = consumed.numpy(), demand.q[b].numpy()
        solve(grid)
        expected = np.abs(voltages(grid))[[index[net.bus_index[j]] for j in island.buses.tolist()]]
        dead = living.dead[b].numpy()
        assert (np.isnan(expected) == dead).all()
        assert dead.any() == (open_branch is not None)
        assert np.abs(expected - living.v_pu[b].numpy())[~dead].max() < 1e-7
        battery = -complex(living.battery_p_mw[b], living.battery_q_mvar[b])
        assert abs(battery - complex(grid.res_ext_grid.p_mw.item(), grid.res_ext_grid.q_mvar.item())) < 1e-6


def balance(island: Island, demand: Demand, b: int, kept: float) -> tuple[float, float]:
    """Battery P and Q of one copy whose plants give a share of their power, by a plain loop of sweeps."""
    net = island.net
    parent, ratio, z = net.parent.tolist(), net.ratio.tolist(), net.z_pu.tolist()
    is_open, y, own = demand.is_open[b].tolist(), net.y_pu.tolist(), net.y_parent_pu.tolist()
    s = torch.complex(demand.p[b], demand.q[b]).tolist()
    buses = range(net.num_buses)
    dead = [False for _ in buses]
    for j in buses[1:]:
        dead[j] = dead[parent[j]] or is_open[j]
        y[parent[j]] -= own[j] * is_open[j]
    for k, bus in enumerate(island._plant_buses.tolist()):
        s[bus] -= kept * float(demand.plants[b, k])
    v = [1.0 + 0j for _ in buses]
    current = [0j for _ in buses]
    for _ in range(60):
        current = [0j if dead[j] else (s[j] / v[j]).conjugate() + y[j] * v[j] for j in buses]
        for j in reversed(buses[1:]):
            current[parent[j]] += ratio[j].conjugate() * current[j]
        for j in buses[1:]:
            v[j] = ratio[j] * (v[parent[j]] - z[j] * ratio[j].conjugate() * current[j])
    return -current[0].real, current[0].imag


def brute(island: Island, demand: Demand, b: int) -> tuple[bool, float, float]:
    """Whether copy b survives, the battery's P and the share of the plants that is kept."""
    rule, energy = island.limits, float(demand.energy_mwh[b])
    most_out = min(rule.p_max_mw, (energy - rule.energy_min_mwh) * rule.efficiency / rule.dt_h)

    def most_in(q: float) -> float:
        room = (rule.energy_max_mwh - energy) / rule.efficiency / rule.dt_h
        return min(rule.p_max_mw, room, max(rule.s_max_mva**2 - q**2, 0.0) ** 0.5)

    p, q = balance(island, demand, b, 1.0)
    kept = 1.0
    if p > most_in(q):
        low, high = 0.0, 1.0
        for _ in range(40):
            kept = (low + high) / 2
            p, q = balance(island, demand, b, kept)
            low, high = (low, kept) if p > most_in(q) else (kept, high)
        kept = low
        p, q = balance(island, demand, b, kept)
    return -p <= most_out and p <= most_in(q) and p * p + q * q <= rule.s_max_mva**2, p, kept


def test_who_survives_and_what_is_curtailed_is_that_of_a_plain_loop(forming: Scenario) -> None:
    island, _ = island_of(forming, "MG3")
    demand = demands(island, 60, seed=11, open_share=0.05)
    # poles apart: an empty and a full battery, plants alone, load alone
    demand.energy_mwh[:8], demand.energy_mwh[8:16] = 0.2, 2.0
    demand = demand._replace(p=torch.where(torch.arange(60)[:, None] % 7 == 0, 0.1 * demand.p, demand.p))
    living = settled(island, demand)
    counts = {"alive": 0, "dark": 0, "curtailed": 0}
    for b in range(60):
        lives, p_mw, kept = brute(island, demand, b)
        assert bool(living.alive[b]) == lives, b
        counts["alive" if lives else "dark"] += 1
        if not lives:
            assert living.dead[b].all()
            assert living.battery_p_mw[b] == living.battery_q_mvar[b] == 0
            assert (living.plants[b] == 0).all()
            assert (living.v_pu[b] == 0).all()
            continue
        assert abs(float(living.battery_p_mw[b]) - p_mw) < 2 * MARGIN_MW
        on = demand.plants[b] * ~living.dead[b, island._plant_buses]
        assert torch.allclose(living.plants[b], kept * on, atol=2 * MARGIN_MW)
        counts["curtailed"] += kept < 0.999 and bool(on.sum() > 0)
    assert min(counts.values()) >= 5, counts


def test_a_copy_does_not_depend_on_the_others(forming: Scenario) -> None:
    island, _ = island_of(forming, "MG1")
    demand = demands(island, 40, seed=5, open_share=0.05)
    demand.energy_mwh[::2] = 1.98
    together = settled(island, demand)
    assert 0 < together.alive.sum() < 40
    for b in range(0, 40, 3):
        alone = settled(island, Demand(*(part[b : b + 1] for part in demand)))
        for one, two in zip(together, alone, strict=True):
            torch.testing.assert_close(one[b], two[0], rtol=0.0, atol=1e-12)


def test_a_hopeless_load_is_dark_and_no_number_is_lost(forming: Scenario) -> None:
    island, _ = island_of(forming, "MG1")
    demand = demands(island, 3, seed=5)
    demand = demand._replace(p=demand.p + 50.0)
    living = settled(island, demand)
    assert not living.alive.any()
    for part in living:
        assert part.isfinite().all()


def test_what_an_island_does_not_model_is_refused(forming: Scenario) -> None:
    net = build_network(forming)
    outside = replace(net, alias={**net.alias, "MG2.652": 0})
    with pytest.raises(ValueError, match=r"microgrids.MG2.battery.grid_forming needs every device .* pv.bus 652"):
        Island(forming, outside, "MG2", CPU, DOUBLE)
    inner = replace(net.regulators[0], name="MG2.XFM-1", bus=net.position("MG2.634"))
    with pytest.raises(ValueError, match=r"does not model tap changers inside an island: MG2\.XFM-1"):
        Island(forming, replace(net, regulators=(*net.regulators, inner)), "MG2", CPU, DOUBLE)


def test_a_turned_branchs_loading_counts_at_the_end_towards_the_feeder() -> None:
    """With a neutral ratio nothing changes; a ratio of 0.9 lets 0.9 of the battery's side current count."""
    scenario = load_scenario("ieee34_ieee13", {"microgrids": {"MG1": {"battery": {"grid_forming": True}}}})
    net = build_network(scenario)
    plain = Island(scenario, net, "MG1", torch.device("cpu"), torch.float64)
    path = [int(bus) for bus, branch in zip(plain.buses, plain.branches, strict=True) if int(bus) != int(branch)]
    turned = int(plain.branches[plain.buses.tolist().index(path[1])])
    net.ratio[turned] *= 0.9
    other = Island(scenario, net, "MG1", torch.device("cpu"), torch.float64)
    factor = other._loading_per_i2 / plain._loading_per_i2
    at = other.branches.tolist().index(turned)
    assert factor[at].item() == pytest.approx(0.81)
    assert factor[[i for i in range(len(factor)) if i != at and factor[i].isfinite()]].sub(1).abs().max() < 1e-12
