"""Every shipped scenario: its contract, its safety, its place beside the default one; and pandapower feeders."""

import json
import warnings
from typing import Any

import numpy as np
import pandapower as pp
import pandapower.networks as pn
import pytest
import torch

import envs
from envs.composition import build_network, capacitor_buses, scenario_tables
from envs.devices import Applied, Devices
from envs.grid import Grid
from envs.power import Network, solve_power_flow
from envs.profiles import SPLITS, load_profiles
from envs.scenario import load_scenario
from tests.envs.operating_points import Judge, largest_difference, scenario_points
from tests.envs.pandapower_reference import solve, voltages

with warnings.catch_warnings():  # importing the contract tests imports PettingZoo's own deprecated games
    warnings.filterwarnings("ignore", category=DeprecationWarning, message="The old environment creation API")
    from pettingzoo.test import parallel_api_test

SHIPPED = {  # name -> agents, buses, steps of a day
    "case33bw": (3, 69, 24),
    "cigre_mv": (3, 51, 24),
    "ieee123": (8, 164, 24),
    "ieee34_ieee13": (3, 72, 24),
    "ieee34_ieee13_96": (3, 72, 96),
    "p2p_trading_3mg": (3, 22, 24),
    "simple_2mg": (2, 17, 24),
    "substation": (6, 143, 24),
}


def test_the_list_of_shipped_scenarios_is_complete() -> None:
    assert envs.scenarios() == sorted(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_scenario_meets_the_parallel_contract_and_its_size(name: str) -> None:
    env = envs.make(name)
    assert (len(env.agents), env.network.num_buses, env.episode_length) == SHIPPED[name]
    parallel_api_test(envs.parallel_env(name, seed=1), num_cycles=3)


@pytest.mark.parametrize("name", SHIPPED)
def test_random_actions_never_fail_a_power_flow(name: str) -> None:
    env = envs.make(name, num_envs=32, seed=3)
    env.reset()
    rng = torch.Generator().manual_seed(0)
    for _ in range(24):
        metrics = env.step(2 * torch.rand(env.action_shape, generator=rng) - 1).metrics
        assert not metrics["not_converged"].any()


def idle_hours(name: str, split: str) -> tuple[int, float]:
    """Violating steps and the dearest penalty of doing nothing on every day of a split."""
    env = envs.make(name, split=split, evaluation=True)
    env.reset()
    violating, penalty_usd = 0, 0.0
    for _ in range(env.episode_length):
        metrics = env.step(env.idle_action()).metrics
        violating += int(metrics["violating"].sum())
        penalty_usd = max(penalty_usd, float(metrics["penalty_usd"].max()))
    return violating, penalty_usd


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", SHIPPED)
def test_doing_nothing_is_feasible_in_every_hour_of_the_data(name: str, split: str) -> None:
    assert idle_hours(name, split) == (0, 0.0)


@pytest.mark.parametrize("name", SHIPPED)
def test_all_batteries_charging_at_once_violates_where_doing_nothing_does_not(name: str) -> None:
    scenario, cpu = load_scenario(name), torch.device("cpu")
    grid = Grid(scenario, build_network(scenario), cpu, torch.float32)
    devices, profiles = Devices(scenario, cpu, torch.float32), load_profiles(scenario)
    day = int(profiles.load.sum(1).amax(-1).argmax())  # with the highest load
    load = profiles.load[day].T.float()  # (H, 1 + A): the hours of the day as copies
    nothing = torch.zeros(len(load), len(scenario.microgrids))
    pv, wind = profiles.renewables[day].T.float().chunk(2, -1)
    renewables = pv * devices.pv_p_max_mw, wind * devices.wind_p_max_mw
    idle = grid.settle(load, Applied(nothing, nothing, nothing, *renewables), None, 1e-6)
    charging = Applied(nothing + devices.battery_p_max_mw, nothing, nothing, *renewables)
    assert not grid.violating(idle).any()
    assert grid.violating(grid.settle(load, charging, None, 1e-6)).any()


def test_one_copy_of_the_substation_is_the_default_scenario() -> None:
    one, default = envs.make("substation", num_envs=4, seed=2, feeder={"copies": 1}), envs.make(num_envs=4, seed=2)
    assert (one.agents, one.network.bus_index) == (default.agents, default.network.bus_index)
    one.reset()
    default.reset()
    rng = torch.Generator().manual_seed(0)
    for _ in range(5):
        actions = 2 * torch.rand(one.action_shape, generator=rng) - 1
        a, b = one.step(actions).metrics, default.step(actions).metrics
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_copies_of_a_feeder_have_the_voltages_of_one_and_add_their_powers() -> None:
    one = envs.make("substation", feeder={"copies": 1}, split="test", evaluation=True, num_envs=2, dtype="float64")
    three = envs.make("substation", feeder={"copies": 3}, split="test", evaluation=True, num_envs=2, dtype="float64")
    assert three.agents == tuple(f"F{i}.{name}" for i in (1, 2, 3) for name in one.agents)
    assert set(three.network.areas) == {"DSO", *three.agents}
    one.reset()
    three.reset()
    a, b = one.step(one.idle_action()).metrics, three.step(three.idle_action()).metrics
    for key in ("v_min_pu", "v_max_pu", "loading_max"):
        assert torch.allclose(a[key], b[key], atol=1e-9)
    assert torch.allclose(3 * a["head_peak_mw"], b["head_peak_mw"], atol=1e-8)
    assert torch.allclose(3 * a["cost_usd"], b["cost_usd"], atol=1e-6)


def test_a_copied_scenario_survives_its_spec() -> None:
    env = envs.make("substation", num_envs=2, feeder={"copies": 2})
    again = envs.make(**json.loads(json.dumps(env.spec)))
    assert again.scenario == env.scenario
    assert load_scenario("substation").on_every_feeder() == load_scenario("substation")


@pytest.mark.parametrize("name", ["simple_2mg", "ieee123", "substation"])
def test_the_composed_network_solves_as_pandapower(name: str) -> None:
    scenario = load_scenario(name)
    net = build_network(scenario)
    points = scenario_points(scenario, net, 2, seed=5, taps=3)
    flow = solve_power_flow(net, points.p_mw, points.q_mvar, tap=points.tap, tolerance_pu=1e-12)
    assert largest_difference(Judge(scenario_tables(scenario), net), points, flow) < 1e-7


@pytest.mark.parametrize(("name", "maker"), [("case33bw", pn.case33bw), ("cigre_mv", pn.create_cigre_network_mv)])
def test_a_pandapower_feeder_with_idle_microgrids_solves_as_pandapower(name: str, maker: Any) -> None:
    """With the microgrids as plain loads at their connections, the feeder must have pandapower's voltages."""
    scenario = load_scenario(name)
    net = build_network(scenario)
    p_mw, q_mvar = (value[None] for value in net.nominal_injections())
    flow = solve_power_flow(net, p_mw, q_mvar, tolerance_pu=1e-12)
    judge: Any = maker()
    judge.ext_grid["vm_pu"] = scenario.feeder.slack_v_pu
    judge.load["scaling"] = scenario.feeder.load_scale
    for grid in scenario.microgrids.values():
        at = net.position(f"DSO.{grid.bus}")
        head = next(j for j in range(at, net.num_buses) if net.parent[j] == at and net.areas[j] != "DSO")
        v, k = flow.v_pu[0], net.ratio[head]
        current = (v[at] - v[head] / k) / net.z_pu[head]
        power = v[at] * current.conj()
        pp.create_load(judge, int(grid.bus), float(power.real), float(power.imag))
    solve(judge)
    ours = np.array([flow.v_pu[0, net.position(f"DSO.{bus}")].abs().item() for bus in judge.bus.index])
    assert np.abs(ours - np.abs(voltages(judge))).max() < 1e-7


def test_a_json_file_of_ones_own_is_the_packaged_network(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mine_net: Any = pn.case33bw()
    pp.to_json(mine_net, str(tmp_path / "mine.json"))
    monkeypatch.chdir(tmp_path)
    mine = load_scenario("case33bw", {"feeder": {"network": "mine.json"}})
    assert mine.feeder.network == str(tmp_path / "mine.json")
    own, packaged = build_network(mine), build_network(load_scenario("case33bw"))
    assert own.bus_index == packaged.bus_index
    assert torch.equal(own.z_pu, packaged.z_pu)
    assert torch.equal(own.load_p_mw, packaged.load_p_mw)


def test_a_pandapower_feeder_takes_capacitors_regulators_and_copies(tmp_path: Any) -> None:
    net: Any = pn.case33bw()
    pp.create_shunt(net, 10, q_mvar=-0.2, name="bank", step=0, max_step=2)
    trafo = pp.create_transformer_from_parameters(
        *(net, 5, pp.create_bus(net, 12.66), 5.0, 12.66, 12.66, 0.1, 1.0, 0.0, 0.0),
        name="booster",
        **{"tap_side": "lv", "tap_neutral": 0, "tap_min": -8, "tap_max": 8, "tap_pos": 0, "tap_step_percent": 0.625},
        tap_changer_type="Ratio",
    )
    path = str(tmp_path / "grid.json")
    pp.to_json(net, path)
    settings = {"target_pu": 1.01, "deadband_pu": 0.02}
    feeder = {"network": path, "copies": 2, "capacitors": {"bank": 2}, "regulators": {"booster": settings}}
    joined = build_network(load_scenario("case33bw", {"feeder": feeder}))
    plain = Network.from_pandapower(pn.case33bw())
    for prefix in ("F1", "F2"):
        at = joined.position(f"{prefix}.DSO.10")
        assert joined.y_pu[at] == plain.y_pu[plain.position(10)] + 0.4j
    boosters = [r for r in joined.regulators if r.name.endswith("booster")]
    assert [(r.name, r.target_pu, r.half_band_pu) for r in boosters] == [
        ("F1.DSO.booster", 1.01, 0.01),
        ("F2.DSO.booster", 1.01, 0.01),
    ]
    assert net.trafo.name[trafo] == "booster"


@pytest.mark.parametrize(
    ("feeder", "message"),
    [
        ({"network": "pandapower:case33"}, "pandapower.networks has no 'case33'; near names are .*case33bw"),
        ({"network": "missing.json"}, "file missing.json does not exist; write one with pandapower.to_json"),
        ({"capacitors": {"C1": 1}}, "feeder.capacitors.C1: 1 is not possible in pandapower:case33bw; it has none"),
        ({"network": "pandapower:create_kerber_landnetz_freileitung_1"}, "microgrids.MG1.bus: "),
        ({"regulators": {"T9": {"target_pu": 1.0, "deadband_pu": 0.02}}}, "feeder.network pandapower:case33bw: .*T9"),
    ],
)
def test_an_impossible_pandapower_feeder_is_an_error(feeder: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        envs.make("case33bw", feeder=feeder)


def test_a_feeder_is_the_tree_of_the_chosen_external_grid(tmp_path: Any) -> None:
    net: Any = pn.case33bw()
    other, end = pp.create_bus(net, 12.66), pp.create_bus(net, 12.66)
    pp.create_ext_grid(net, other, name="north")
    pp.create_line_from_parameters(net, other, end, 1.0, 0.2, 0.3, 0.0, 0.4)
    pp.create_shunt(net, end, q_mvar=-0.2, name="bank", step=1)
    pp.to_json(net, str(tmp_path / "two.json"))
    feeder = {"network": str(tmp_path / "two.json")}
    with pytest.raises(ValueError, match=r"several external grids .*; choose the tree of one with feeder\.ext_grid: 0"):
        envs.make("case33bw", feeder=feeder)
    chosen, plain = (build_network(load_scenario("case33bw", {"feeder": f})) for f in (feeder | {"ext_grid": 0}, {}))
    assert chosen.bus_index == plain.bus_index
    assert torch.equal(chosen.load_p_mw, plain.load_p_mw)
    assert capacitor_buses(load_scenario("case33bw", {"feeder": feeder | {"ext_grid": 0}}), chosen) == capacitor_buses(
        load_scenario("case33bw"), plain
    ), "the other tree's bank is left out"
    at_end = {name: {"bus": str(end)} for name in ("MG1", "MG2", "MG3")}
    north = load_scenario("case33bw", {"feeder": feeder | {"ext_grid": "north"}, "microgrids": at_end})
    assert [bus for bus in build_network(north).bus_index if str(bus).startswith("DSO.")] == [
        f"DSO.{other}",
        f"DSO.{end}",
    ]


def test_static_generators_of_a_feeder_are_refused_not_dropped(tmp_path: Any) -> None:
    net: Any = pn.case33bw()
    pp.create_sgen(net, 4, p_mw=0.1)
    pp.to_json(net, str(tmp_path / "pv.json"))
    with pytest.raises(ValueError, match="static generators at buses 4, which no profile drives"):
        envs.make("case33bw", feeder={"network": str(tmp_path / "pv.json")})
