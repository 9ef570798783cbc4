"""The DSO as an agent: capacitor banks and regulator targets of each copy, its observation, its reward."""

import io
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

import envs
from envs.baselines import BASELINES, make_baseline
from envs.baselines.tree import check_provable
from envs.composition import build_network, scenario_tables
from envs.microgrid import MicrogridEnv
from envs.power import solve_power_flow
from envs.scenario import load_scenario
from mappo import TrainConfig, Trainer
from tests.envs.operating_points import Judge, Points

with warnings.catch_warnings():  # importing the contract tests imports PettingZoo's own deprecated games
    warnings.filterwarnings("ignore", category=DeprecationWarning, message="The old environment creation API")
    from pettingzoo.test import parallel_api_test, parallel_seed_test

ALL: Mapping[str, Any] = {}


def make(dso_agent: Mapping[str, Any] | None = ALL, *, num_envs: int = 6, **settings: Any) -> MicrogridEnv:
    env = envs.make(num_envs=num_envs, seed=3, dtype="float64", dso_agent=dso_agent, **settings)
    env.reset()
    return env


def chosen(env: MicrogridEnv, *choices: int) -> Tensor:
    """Idle actions (B, A, U) with these choices of the DSO in every copy."""
    actions = env.idle_action().repeat(env.num_envs, 1, 1)
    actions[:, -1, -len(choices) :] = torch.tensor(choices, dtype=actions.dtype)
    return actions


def test_it_chooses_steps_of_every_bank_and_targets_of_every_regulator() -> None:
    env = make()
    assert env.agents == ("MG1", "MG2", "MG3", "DSO")
    assert env.action_spaces["DSO"] == gymnasium.spaces.MultiDiscrete([2, 2, 5, 5])
    assert env.action_names[3:] == ("DSO.C844", "DSO.C848", "DSO.Regulator1", "DSO.Regulator2")
    assert env.idle_action()[-1].tolist() == [0, 0, 0, 1, 0, 2, 2]  # the scenario's C844 on, C848 off
    one = make({"capacitors": ["C848"], "regulators": [], "offsets": 1})
    assert one.action_spaces["DSO"] == gymnasium.spaces.MultiDiscrete([2])


def test_an_idle_dso_changes_nothing() -> None:
    env, plain = make(), make(None)
    for _ in range(24):
        step, other = env.step(env.idle_action()), plain.step(plain.idle_action())
        for name, value in other.metrics.items():
            assert torch.equal(step.metrics[name], value), name
        assert torch.equal(step.final_obs[:, :3, : other.obs.shape[-1]], other.final_obs)
        assert torch.equal(step.final_state[:, : other.state.shape[-1]], other.final_state)


@pytest.mark.parametrize(("c844", "c848", "first", "second"), [(0, 1, 0, 4), (1, 1, 4, 2), (0, 0, 1, 1)])
def test_the_grid_is_that_of_a_scenario_with_these_settings_and_of_pandapower(
    c844: int, c848: int, first: int, second: int
) -> None:
    targets = {f"Regulator{i}": {"target_pu": 1.03 + (k - 2) * 0.00625} for i, k in ((1, first), (2, second))}
    feeder = {"capacitors": {"C844": c844, "C848": c848}, "regulators": targets}
    env, fixed = make(), make(None, feeder=feeder)
    fixed._grid_state = env._grid_state  # where taps come to rest depends on where they were
    for _ in range(8):
        env.step(chosen(env, c844, c848, first, second))
        fixed.step(fixed.idle_action())
        mine, its = env._grid_state, fixed._grid_state
        assert torch.equal(mine.tap, its.tap)
        assert (mine.v_pu - its.v_pu).abs().max() < 1e-9
        assert (mine.head_p_mw - its.head_p_mw).abs().max() < 1e-8
    scenario = load_scenario("ieee34_ieee13", {"feeder": feeder})
    net = build_network(scenario)
    p_mw, q_mvar = (0.4 * part[None] for part in net.nominal_injections())
    point = Points(p_mw, q_mvar, env._grid_state.tap[:1])
    flow = solve_power_flow(net, p_mw, q_mvar, point.tap)
    judge = Judge(scenario_tables(scenario), net)
    expected = judge.solve(point, flow, 0)
    plain = make(None)
    solver = plain._grid._solver  # the network of the default scenario with the DSO's susceptances
    control = env._dso.control(torch.tensor([[c844, c848, first, second]]))
    assert control is not None
    capacitors = torch.stack([torch.zeros_like(control.b_pu), control.b_pu]).mT
    load = solver.load(-p_mw, -q_mvar, solver.shunt - capacitors)
    state = solver.solve(load, solver.tau_squared(point.tap), 1e-11)
    assert np.abs(expected - solver.voltage(state)[0, judge.position].numpy()).max() < 1e-7


def test_a_capacitor_raises_the_voltage_in_its_own_copy_only() -> None:
    env = make({"regulators": []})
    actions = chosen(env, 1, 0)
    actions[2, -1, -1] = 1  # C848 of copy 2
    other = make({"regulators": []})
    env.step(actions)
    other.step(chosen(other, 1, 0))
    bus = env.network.position("DSO.848")
    difference = env._grid_state.v_pu[:, bus] - other._grid_state.v_pu[:, bus]
    assert difference[2] != 0
    layout = env._grid._solver.layout  # u is the voltage before the regulators answer
    mine, its = (layout.at(e._grid_state.flow.u, layout.rows(torch.tensor([bus])))[0, 0, 2] for e in (env, other))
    assert mine > its
    assert difference[[0, 1, 3, 4, 5]].abs().max() < 1e-12


def test_switching_costs_by_the_step_and_is_the_dsos() -> None:
    env = make({"switching_usd": 4.0, "regulators": []})
    first = env.step(chosen(env, 0, 1))
    assert first.metrics["switching_usd"].eq(8.0).all()
    assert first.metrics["capacitor_switchings"].eq(2.0).all()
    again = env.step(chosen(env, 0, 1))
    assert again.metrics["switching_usd"].eq(0.0).all()


def test_the_dso_pays_what_is_the_feeders_and_the_mean_is_the_shared_reward() -> None:
    env, plain = make({"switching_usd": 1.0}), make(None)
    random = make_baseline("random", env)
    for _ in range(24):
        actions = random.act(torch.zeros(env.num_envs, 4, 1))
        step = env.step(actions)
        total = step.metrics["cost_usd"] + step.metrics["penalty_usd"]
        torch.testing.assert_close(step.rewards.double().sum(-1), -total / 100, rtol=1e-5, atol=1e-5)
    step, other = env.step(env.idle_action()), plain.step(plain.idle_action())
    assert step.rewards.shape == step.terminated.shape == step.alive.shape == (6, 4)
    assert other.rewards.shape == (6, 3)


def test_it_observes_what_a_network_operator_measures_and_nothing_private() -> None:
    env = make(protocols={"vertical": "price_signal"})
    names = env.obs_names_of("DSO")
    assert len(names) == len(set(names))
    private = ("energy_mwh", "initial_energy", "available", "net_load", "MG1.load_mw")
    assert not [name for name in names if any(word in name for word in private)]
    wanted = {"head_p_mw", "DSO.load_mw", "MG2.pcc_p_mw", "MG3.v_min_pu", "tap_DSO.Regulator1", "DSO.C848.steps"}
    assert wanted | {"DSO.Regulator2.target_offset", "MG1.dso_adder_usd_per_mwh"} <= set(names)
    step = env.step(chosen(env, 1, 1, 2, 4))
    row = dict(zip(names, step.obs[0, -1].tolist(), strict=False))
    assert (row["DSO.C848.steps"], row["DSO.Regulator1.target_offset"], row["DSO.Regulator2.target_offset"]) == (
        1,
        0,
        1,
    )
    state = dict(zip(env.state_names, step.state[0].tolist(), strict=True))
    assert row["head_p_mw"] == state["head_p_mw"] != 0
    assert step.obs.shape[-1] == len(env.obs_names) == max(len(names), len(env.obs_names_of("MG1")))


def test_resuming_equals_not_stopping() -> None:
    env, other = make(), make()
    random = make_baseline("random", env)
    actions = [random.act(torch.zeros(6, 4, 1)) for _ in range(30)]
    for row in actions[:7]:
        env.step(row)
    file = io.BytesIO()
    torch.save(env.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for row in actions[7:]:
        one, two = env.step(row), other.step(row)
        assert torch.equal(one.obs, two.obs)
        assert torch.equal(one.rewards, two.rewards)


def test_the_pettingzoo_view_tells_steps_and_targets() -> None:
    env = envs.parallel_env(dso_agent={})
    parallel_api_test(env, num_cycles=30)
    parallel_seed_test(lambda: envs.parallel_env(dso_agent={}))
    env.reset(seed=1)
    idle = {agent: np.zeros(3, np.float32) for agent in ("MG1", "MG2", "MG3")}
    observations, *_, infos = env.step({**idle, "DSO": np.array([0, 1, 2, 3])})
    assert infos["DSO"]["capacitor_steps"] == {"DSO.C844": 0, "DSO.C848": 1}
    assert infos["DSO"]["target_pu"] == pytest.approx({"DSO.Regulator1": 1.03, "DSO.Regulator2": 1.03625})
    assert {agent: len(row) for agent, row in observations.items()} == {
        "MG1": 41,
        "MG2": 41,
        "MG3": 41,
        "DSO": len(env.unwrapped_env.obs_names_of("DSO")),
    }


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "random"])
def test_baselines_leave_the_dso_idle_and_do_with_microgrids_what_they_do_without_it(name: str) -> None:
    unit = {"generator": {"commitment": {"p_min_mw": 0.1}}}
    keys: dict[str, Any] = {"num_envs": 1, "split": "test", "evaluation": True, "microgrids": {"MG2": unit}}
    env, plain = envs.make(**keys, dso_agent={}), envs.make(**keys)
    policy, other = make_baseline(name, env), make_baseline(name, plain)
    obs, plain_obs = env.reset()[0], plain.reset()[0]
    for _ in range(2):
        actions, plain_actions = policy.act(obs), other.act(plain_obs)
        assert torch.equal(actions[:, -1], env.idle_action()[None, -1])
        assert plain_actions.shape[-1] == 4  # with the choice to commit, of which the DSO has four
        assert torch.equal(actions[:, :-1, :4], plain_actions)
        obs, plain_obs = env.step(actions).obs, plain.step(plain_actions).obs


def test_each_feeder_of_a_substation_has_its_own_devices() -> None:
    env = envs.make("substation", num_envs=2, seed=1, dso_agent={"regulators": ["Regulator1"]})
    env.reset()
    assert env.agents[-1] == "DSO"
    wanted = ["F1.DSO.C844", "F1.DSO.C848", "F2.DSO.C844", "F2.DSO.C848", "F1.DSO.Regulator1", "F2.DSO.Regulator1"]
    assert list(env.action_names[3:]) == wanted
    env.step(env.idle_action())


@pytest.mark.parametrize("sharing", ["grouped", "independent", "shared"])
def test_it_is_trained_beside_the_microgrids(sharing: Any, tmp_path: Any) -> None:
    env = envs.make(num_envs=8, seed=1, dso_agent={})
    config = TrainConfig(iterations=1, num_envs=8, policy_sharing=sharing, num_minibatches=4, runs_dir=str(tmp_path))
    held_out = envs.make(num_envs=2, split="val", evaluation=True, dso_agent={})
    history = Trainer(env, config, held_out).train()
    assert np.isfinite(history[-1]["eval/score"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"capacitors": ["C1"]}, r"dso_agent.capacitors: 'C1' does not exist on the feeder ieee34; it has C844, C848"),
        ({"regulators": ["C844"]}, r"dso_agent.regulators: 'C844' does not exist .* it has Regulator1, Regulator2"),
        ({"capacitors": [], "regulators": []}, r"must not both be empty"),
        ({"offset_pu": 0.05}, r"dso_agent.offsets: target_pu of DSO.Regulator1, 1.03, .* must stay within safety"),
        ({"capacitors": ["C844", "C844"]}, r"capacitors must name each device once, got C844, C844"),
        ({"switching_usd": -1}, r"dso_agent.switching_usd: .*got -1"),
        ({"offset": 1}, r"unknown key 'dso_agent.offset'"),
    ],
)
def test_what_cannot_be_controlled_is_named(settings: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        envs.make(dso_agent=settings)


def test_a_bound_covers_targets_but_not_capacitors() -> None:
    net = build_network(load_scenario("ieee34_ieee13"))
    check_provable(load_scenario("ieee34_ieee13", {"dso_agent": {"capacitors": []}}), net)
    with pytest.raises(ValueError, match=r"a bound does not cover dso_agent.capacitors"):
        check_provable(load_scenario("ieee34_ieee13", {"dso_agent": {}}), net)


def test_faults_are_observed_and_dead_capacitors_draw_nothing() -> None:
    head = {"kind": "outage", "start_h": [1, 1], "duration_h": [1, 1], "targets": ["DSO.800-802"]}
    env = make(events=[head])
    names = env.obs_names_of("DSO")
    assert "event_outage_DSO.800-802" in names
    env.step(chosen(env, 1, 1, 2, 2))
    step = env.step(chosen(env, 1, 1, 2, 2))
    assert env._grid_state.head_p_mw.abs().max() < 1e-12
    assert env._grid_state.converged.all()
    assert step.metrics["de_energised"].eq(1.0).all()
    back = env.step(chosen(env, 1, 1, 2, 2))
    assert back.metrics["de_energised"].eq(0.0).all()
