"""The relaxation holds everything that the env can do: trajectories of the env are put into its constraints."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from envs.baselines.day_data import day_data
from envs.baselines.distflow import DistFlow, bill_pieces
from envs.baselines.parties import billed_parties
from envs.baselines.tree import Tree, check_provable
from envs.composition import build_network
from envs.devices import Applied
from envs.grid import GridState
from envs.microgrid import MicrogridEnv
from envs.scenario import Scenario, load_scenario
from envs.settings import EnvSettings
from envs.situation import outlook


def put_into(model: DistFlow, env: MicrogridEnv, policy: Any) -> float:
    """Play one day of a one-copy env and give its physics to the model's variables; returns J in $."""
    env.reset()
    now = env.situation()
    model.set_day(day_data(now, outlook(now, "perfect", env.scenario.steps_per_hour))[0])
    grid, cost, settle = env._grid, 0.0, env._grid.settle
    branches = grid._solver.meters(torch.arange(1, env.network.num_buses))
    rows: dict[str, list[Tensor]] = {}
    settled: list[GridState] = []  # the env's own state is that of the next day after the last step

    def record(*inputs: Any) -> GridState:
        settled.append(settle(*inputs))
        return settled[-1]

    grid.settle = record  # pyright: ignore[reportAttributeAccessIssue]
    for step in range(env.scenario.steps_per_day):
        metrics = env.step(policy(env, step)).metrics
        cost += float(metrics["cost_usd"] + metrics["penalty_usd"])
        applied, state = env.applied, settled[step]
        assert bool(state.converged.all())
        devices = Applied(**{name: applied[name] for name in Applied._fields})
        drawn = grid.drawn(now.today.load[:, :, step], devices, None)
        measured = grid._solver.measured(state.flow, grid._solver.load(*drawn))
        flow_p, flow_q = measured.power(branches)
        values = {"p": flow_p, "q": flow_q, "l": measured.i_squared_pu[:, 1:], "v": state.v_pu[:, 1:].square()}
        values |= {"head_p": state.head_p_mw, "party": state.party_p_mw, "battery": applied["battery_p_mw"]}
        values |= {"battery_q": applied["battery_q_mvar"], "generator_p": applied["generator_p_mw"]}
        values |= {"pv": applied["pv_p_mw"], "wind": applied["wind_p_mw"]}
        values["energy"] = now.energy_mwh if step == 0 else rows["energy_after"][-1]
        eta = env._devices.efficiency
        battery = applied["battery_p_mw"]
        values["energy_after"] = values["energy"] + env.scenario.dt_h * (
            battery.clamp(min=0) * eta - (-battery).clamp(min=0) / eta
        )
        for name, value in values.items():
            rows.setdefault(name, []).append(value)
    found = {name: torch.cat(column).numpy() for name, column in rows.items()}
    _assign(model, found)
    return cost


def _assign(model: DistFlow, found: dict[str, np.ndarray]) -> None:
    scenario, limits = model.scenario, model.scenario.safety
    for name in ("p", "q", "l", "v", "head_p", "battery_q", "generator_p", "pv", "wind"):
        getattr(model, name).value = found[name]
    model.charge.value, model.discharge.value = found["battery"].clip(min=0), (-found["battery"]).clip(min=0)
    model.energy.value = found["energy_after"]
    model.under.value = (limits.v_min_pu**2 - found["v"]).clip(min=0)
    model.over.value = (found["v"] - limits.v_max_pu**2).clip(min=0)
    model.overload.value = (found["l"] / model.tree.rating2_pu - 1).clip(min=0)
    model.peak.value = max(float(found["head_p"].max()), 0.0)
    model.shortfall.value = (model.day.initial_energy_mwh - found["energy_after"][-1]).clip(min=0)
    power = found["party"] @ billed_parties(scenario).T
    rate = np.where(power > 0, 1.0, scenario.tariff.export_share)
    model.bill.value = scenario.dt_h * model.day.price[:, None] * rate * power


def violation(constraints: Any) -> float:
    """Largest violation of some constraints by the variables' values."""
    return max(float(np.max(constraint.violation(), initial=0.0)) for constraint in constraints)


def one_copy(scenario: Scenario, split: Any = "test") -> MicrogridEnv:
    return MicrogridEnv(scenario, EnvSettings(num_envs=1, split=split, evaluation=True, dtype="float64"))


def random_policy(seed: int) -> Any:
    rng = torch.Generator().manual_seed(seed)
    return lambda env, _step: 2 * torch.rand(env.action_shape, generator=rng, dtype=torch.float64) - 1


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"settlement": "individual", "tariff": {"export_share": 1.0}},
        {"curtailment": True, "feeder": {"slack_v_pu": 1.06}},
        {"feeder": {"load_scale": 0.7}, "tariff": {"demand_charge_usd_per_mw": 0.0}},
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_what_the_env_does_is_feasible_in_the_relaxation_and_costs_the_same(
    overrides: dict[str, Any], seed: int
) -> None:
    scenario = load_scenario("ieee34_ieee13", overrides)
    model = DistFlow(scenario, scenario.steps_per_day)
    cost_usd = put_into(model, one_copy(scenario), random_policy(seed))
    assert violation(model.problem.constraints) < 1e-7
    assert float(model.problem.objective.value) == pytest.approx(cost_usd, abs=1e-6)  # pyright: ignore


def test_quarter_hours_are_feasible_in_the_relaxation_and_cost_the_same() -> None:
    scenario = load_scenario("ieee34_ieee13", {"dt_h": 0.25})
    model = DistFlow(scenario, 96)
    cost_usd = put_into(model, one_copy(scenario), random_policy(0))
    assert violation(model.problem.constraints) < 1e-7
    assert float(model.problem.objective.value) == pytest.approx(cost_usd, abs=1e-6)  # pyright: ignore


def test_below_0_8_pu_only_the_balances_are_violated_and_by_no_more_than_the_share_of_the_largest_draw() -> None:
    scenario = load_scenario("ieee34_ieee13", {"feeder": {"slack_v_pu": 0.78}})
    model = DistFlow(scenario, 24)
    cost_usd = put_into(model, one_copy(scenario), random_policy(0))
    balances = (model.p_balance, model.q_balance)
    assert violation([c for c in model.problem.constraints if c not in balances]) < 1e-7
    assert float(model.problem.objective.value) == pytest.approx(cost_usd, abs=1e-6)  # pyright: ignore
    share = (1 - np.asarray(model.v.value) / 0.64).clip(min=0)
    assert share.max() > 0.05
    for balance, largest in zip(balances, model.tree.largest_draw(scenario, model.day.load), strict=True):
        missing = np.abs(balance.violation())
        assert missing.max() > 1e-4
        assert (missing <= share * largest + 1e-9).all()


@pytest.mark.parametrize("settlement", ["community", "individual"])
def test_no_power_falls_below_the_lowest_that_a_negative_price_reckons_with(settlement: str) -> None:
    scenario = load_scenario("ieee34_ieee13", {"settlement": settlement})
    model = DistFlow(scenario, 24)
    env = one_copy(scenario)
    produce = torch.tensor([-1.0, 1.0, 0.0], dtype=torch.float64).expand(1, 3, 3)
    put_into(model, env, lambda _env, _step: produce)
    lowest = model._lowest_power(model.day)
    power = np.asarray(model.head_p.value)[:, None]
    if settlement == "individual":
        inside = np.asarray(model.p.value)[:, model.tree.pcc]
        power = np.hstack([power - inside.sum(1, keepdims=True), inside])
    assert (power >= lowest - 1e-9).all()
    assert (lowest <= 0).all()


def test_bill_pieces_are_the_bill_at_prices_that_are_not_negative() -> None:
    power = np.linspace(-3, 3, 25)
    for price in (0.0, 40.0):
        for share in (0.0, 0.5, 1.0):
            (slope, offset), (second, other) = bill_pieces(np.array([[price]]), np.array([[-3.0]]), share)
            found = np.maximum(slope * power + offset, second * power + other)[0]
            np.testing.assert_allclose(found, price * np.where(power > 0, 1.0, share) * power, atol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_bill_pieces_lie_below_the_bill_at_negative_prices_and_touch_it_at_the_lowest_power(share: float) -> None:
    power = np.linspace(-2, 5, 29)
    (slope, offset), (second, other) = bill_pieces(np.array([[-30.0]]), np.array([[-2.0]]), share)
    found = np.maximum(slope * power + offset, second * power + other)[0]
    bill = -30.0 * np.where(power > 0, 1.0, share) * power
    assert (found <= bill + 1e-9).all()
    assert found[0] == pytest.approx(bill[0])


def test_the_tree_is_the_scenarios_network(scenario: Scenario) -> None:
    tree = Tree.of(scenario)
    env = one_copy(scenario)
    net = env.network
    assert len(tree.r_pu) == 71
    assert (tree.ratio2_min < tree.ratio2_max).sum() == 5
    changers = [regulator.bus - 1 for regulator in net.regulators]
    ratio2 = net.ratio.abs().numpy()[1:] ** 2
    np.testing.assert_allclose(tree.ratio2_min[changers], 0.81 * ratio2[changers])
    np.testing.assert_allclose(tree.ratio2_max[changers], 1.21 * ratio2[changers])
    parents = tree.from_parent @ np.arange(71) + tree.at_slack * -1
    np.testing.assert_array_equal(parents, net.parent.numpy()[1:] - 1)
    assert [net.areas[branch + 1] for branch in tree.pcc] == ["MG1", "MG2", "MG3"]
    np.testing.assert_allclose(tree.load_pu.sum(0).real, net.load_p_mw.numpy())


def test_the_largest_draw_covers_loads_and_every_device(scenario: Scenario) -> None:
    p, q = Tree.of(scenario).largest_draw(scenario, np.ones((1, 4)))
    env = one_copy(scenario)
    at = env.network.position("MG1.645") - 1
    load = env.network.load_p_mw[at + 1].item(), env.network.load_q_mvar[at + 1].item()
    assert p[0, at] == pytest.approx(abs(load[0]) + 0.5)
    assert q[0, at] == pytest.approx(abs(load[1]) + 0.6)
    assert p.sum() == pytest.approx(env.network.load_p_mw.abs().sum().item() + 1.5 + 1.76 + 1.0 + 0.6)


def test_networks_for_which_the_proof_does_not_hold_are_refused() -> None:
    scenario = load_scenario("ieee34_ieee13")
    net = build_network(scenario)
    load_p_mw = net.load_p_mw.clone()
    load_p_mw[0] = 0.1
    check_provable(scenario, replace(net, load_p_mw=load_p_mw))
    check_provable(scenario, replace(net, slack_v_pu=0.79 + 0j))
    with pytest.raises(ValueError, match=r"feeder\.slack_v_pu of at least 0\.8 where loads .* got 0\.79"):
        check_provable(scenario, replace(net, slack_v_pu=0.79 + 0j, load_p_mw=load_p_mw))
    areas = list(net.areas)
    areas[net.position("MG1.645")] = "DSO"  # as if a closed switch made them one bus
    with pytest.raises(ValueError, match=r"MG1's battery\.bus MG1\.645 is one with a bus of the feeder"):
        check_provable(scenario, replace(net, areas=tuple(areas)))
