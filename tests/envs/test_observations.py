from math import cos, pi, sin

import pytest
import torch
from torch import Tensor

import envs
from envs import observations
from envs.microgrid import MicrogridEnv
from envs.profiles import load_profiles
from tests.envs.fault_scenarios import RANDOM

STEPS = 9
COPY = 11


@pytest.fixture(scope="module")
def played() -> tuple[MicrogridEnv, Tensor, Tensor]:
    """An evaluation env in float64 after nine random steps: env, obs, state."""
    env = envs.make(split="test", evaluation=True, dtype="float64")
    obs, state = env.reset()
    rng = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        step = env.step(2 * torch.rand(env.action_shape, generator=rng) - 1)
        obs, state = step.obs, step.state
    return env, obs, state


def seen(env: MicrogridEnv, obs: Tensor, name: str, agent: int = 0) -> float:
    return obs[COPY, agent, env.obs_names.index(name)].item()


def test_widths_match_the_names() -> None:
    for critic_state, width in (("full", 74), ("privileged", 74 + 5 * 23)):
        env = envs.make(num_envs=3, critic_state=critic_state)
        obs, state = env.reset()
        assert obs.shape == (3, 3, len(env.obs_names))
        assert state.shape == (3, len(env.state_names))
        assert env.state_dim == len(env.state_names) == width
        assert len(set(env.obs_names)) == len(env.obs_names) == 41
        assert obs.dtype == state.dtype == torch.float32


def test_a_days_columns_do_not_depend_on_the_day_whose_table_they_overwrite() -> None:
    played, fresh = (envs.make(num_envs=4, seed=2, group_size=2) for _ in range(2))
    played.reset()
    first = played._tables
    assert first is not None
    own, state = first.own.clone(), first.state.clone()
    for env in (played, fresh):
        env._drawer._episode += env is fresh  # one episode later
        env.reset()
    assert fresh._tables is not None
    assert torch.equal(first.own, fresh._tables.own)
    assert torch.equal(first.state, fresh._tables.state)
    assert not torch.equal(first.own, own)
    assert not torch.equal(first.state, state)


def test_state_names_are_unique() -> None:
    names = envs.make(num_envs=1).state_names
    assert len(set(names)) == len(names)


def test_prices_and_clock_by_hand(played: tuple[MicrogridEnv, Tensor, Tensor]) -> None:
    env, obs, _ = played
    day = int(env.day[COPY])
    price = load_profiles(env.scenario).price[day].tolist()

    def scaled(usd: float) -> float:
        return (usd - 60) / 60

    rest = price[STEPS:]
    weekday = load_profiles(env.scenario).weekday[day].item()
    expected = {
        "day_left_share": 15 / 24,
        "hour_sin": sin(2 * pi * 9 / 24),
        "hour_cos": cos(2 * pi * 9 / 24),
        "weekday_sin": sin(2 * pi * weekday / 7),
        "weekday_cos": cos(2 * pi * weekday / 7),
        "price_usd_per_mwh": scaled(price[9]),
        "price_usd_per_mwh_plus_1h": scaled(price[10]),
        "price_usd_per_mwh_plus_12h": scaled(price[21]),
        "rest_price_mean_usd_per_mwh": scaled(sum(rest) / 15),
        "rest_price_min_usd_per_mwh": scaled(min(rest)),
        "rest_price_max_usd_per_mwh": scaled(max(rest)),
        "rest_cheaper_share": 2 * sum(p < price[9] for p in rest) / 14 - 1,
    }
    for agent in range(3):
        assert {name: seen(env, obs, name, agent) for name in expected} == pytest.approx(expected, abs=1e-5)


def test_prices_beyond_midnight_repeat_the_day() -> None:
    env = envs.make(num_envs=2, split="val", evaluation=True)
    env.reset()
    step = [env.step(torch.zeros(env.action_shape)) for _ in range(20)][-1]
    price = load_profiles(env.scenario).price[env.day[0]]
    column = env.obs_names.index("price_usd_per_mwh_plus_6h")
    assert step.obs[0, 0, column].item() == pytest.approx((price[2].item() - 60) / 60, abs=1e-5)


def test_loads_renewables_and_forecast_by_hand(played: tuple[MicrogridEnv, Tensor, Tensor]) -> None:
    env, obs, _ = played
    profiles, day = load_profiles(env.scenario), int(env.day[COPY])
    ratings_mw = ((0.4, 0.1), (0.3, 0.2), (0.3, 0.3))
    nominal_mw = 0.15 * 3.466
    for agent, (pv_mw, wind_mw) in enumerate(ratings_mw):
        load, before = (profiles.load[d, 1 + agent].tolist() for d in (day, day - 1))
        assert seen(env, obs, "load_mw", agent) == pytest.approx(2 * load[9] - 1, abs=1e-5)
        for name, row in (("pv_available_mw", agent), ("wind_available_mw", 3 + agent)):
            assert seen(env, obs, name, agent) == pytest.approx(profiles.renewables[day, row, 9].item(), abs=1e-5)
        for k in (1, 4):
            load_mw = nominal_mw * (before[9 + k] + 0.8**k * (load[9] - before[9]))
            plants = profiles.renewables[day - 1, :, 9 + k].tolist()
            net_mw = load_mw - pv_mw * plants[agent] - wind_mw * plants[3 + agent]
            found = seen(env, obs, f"net_load_mw_plus_{k}h", agent)
            assert found == pytest.approx(net_mw / nominal_mw, abs=1e-4)


def test_forecast_beyond_midnight_uses_the_present_day() -> None:
    """Yesterday of tomorrow's hour is today: nothing of tomorrow is looked at."""
    env = envs.make(split="test", evaluation=True)
    env.reset()
    step = [env.step(torch.zeros(env.action_shape)) for _ in range(22)][-1]
    profiles, day = load_profiles(env.scenario), int(env.day[0])
    today, yesterday = profiles.load[day, 1], profiles.load[day - 1, 1]
    load = today[1] + 0.8**3 * (today[22] - yesterday[22])
    net_mw = 0.5199 * load - 0.4 * profiles.renewables[day, 0, 1] - 0.1 * profiles.renewables[day, 3, 1]
    found = step.obs[0, 0, env.obs_names.index("net_load_mw_plus_3h")].item()
    assert found == pytest.approx(net_mw.item() / 0.5199, abs=1e-3)


def test_grid_and_storage_columns_are_those_of_the_last_step(played: tuple[MicrogridEnv, Tensor, Tensor]) -> None:
    env, obs, _ = played
    grid, account, net = env._grid_state, env._account, env.network
    total_mw = net.load_p_mw.sum()
    expected = {
        "head_p_mw": grid.head_p_mw[COPY] / total_mw,
        "peak_mw": account.peak_mw[COPY] / total_mw,
    }
    buses = ("830", "848", "840")
    paths = (("DSO.Regulator1", "MG1.Substation"), *(("DSO.Regulator1", "DSO.Regulator2", f"{m}") for m in ("", "")))
    names = [regulator.name for regulator in net.regulators]
    for agent, (bus, name) in enumerate(zip(buses, env.agents, strict=True)):
        inside = torch.tensor([area == name for area in net.areas])
        v_pu = grid.v_pu[COPY]
        path = [*paths[agent][:-1], f"{name}.Substation"]
        expected |= {
            "energy_mwh": 2 * (account.energy_mwh[COPY, agent] - 0.2) / 1.8 - 1,
            "initial_energy_mwh": torch.tensor(2 * 0.8 / 1.8 - 1),
            "pcc_p_mw": grid.party_p_mw[COPY, 1 + agent] / (0.15 * 3.466 + 0.5),
            "pcc_q_mvar": grid.pcc_q_mvar[COPY, agent] / (0.15 * 3.466 + 0.5),
            "pcc_v_pu": (v_pu[net.position(f"DSO.{bus}")] - 1) / 0.05,
            "area_v_min_pu": (v_pu[inside].min() - 1) / 0.05,
            "area_v_max_pu": (v_pu[inside].max() - 1) / 0.05,
            **{f"tap_{k}_of_path": grid.tap[COPY, names.index(key)] / 16 for k, key in enumerate(path)},
        }
        if len(path) == 2:
            expected["tap_2_of_path"] = torch.tensor(0.0)
        for key, value in expected.items():
            assert seen(env, obs, key, agent) == pytest.approx(value.item(), abs=1e-4), (name, key)
    assert account.peak_mw[COPY] >= grid.head_p_mw[COPY]


def test_state_holds_the_agents_columns_and_the_future(played: tuple[MicrogridEnv, Tensor, Tensor]) -> None:
    env, obs, state = played
    row = dict(zip(env.state_names, state[COPY].tolist(), strict=True))
    for name in ("price_usd_per_mwh", "day_left_share", "head_p_mw", "peak_mw"):
        assert row[name] == pytest.approx(seen(env, obs, name), abs=1e-6)
    for i, agent in enumerate(env.agents):
        for name in ("load_mw", "pcc_p_mw", "pcc_v_pu", "energy_mwh", "initial_energy_mwh"):
            assert row[f"{agent}.{name}"] == pytest.approx(seen(env, obs, name, i), abs=1e-6), name
        assert row[f"{agent}.v_min_pu"] == pytest.approx(seen(env, obs, "area_v_min_pu", i), abs=1e-6)
    profiles, day = load_profiles(env.scenario), int(env.day[COPY])
    assert row["future_price_usd_per_mwh_plus_14h"] == pytest.approx(
        (profiles.price[day, 23].item() - 60) / 60, abs=1e-5
    )
    assert row["future_price_usd_per_mwh_plus_15h"] == 0.0  # beyond midnight
    assert row["DSO.load_mw"] == pytest.approx(2 * profiles.load[day, 0, 9].item() - 1, abs=1e-5)
    assert row["future_DSO.load_mw_plus_3h"] == pytest.approx(2 * profiles.load[day, 0, 12].item() - 1, abs=1e-5)
    names = [regulator.name for regulator in env.network.regulators]
    assert row["tap_DSO.Regulator2"] == pytest.approx(
        env._grid_state.tap[COPY, names.index("DSO.Regulator2")].item() / 16
    )


def test_the_full_state_shows_no_future_but_the_known_prices() -> None:
    full = envs.make(num_envs=1, critic_state="full").state_names
    privileged = envs.make(num_envs=1).state_names
    future = [name for name in privileged if name.startswith("future_DSO.load_mw_plus")]
    assert future == [f"future_DSO.load_mw_plus_{k}h" for k in range(1, 24)]
    assert not set(future) & set(full)
    assert "future_MG1.net_load_mw_plus_5h" not in full
    assert "future_price_usd_per_mwh_plus_13h" not in full


def test_observations_stay_finite_and_scaled_under_random_play() -> None:
    env = envs.make(num_envs=256, seed=8)
    obs, state = env.reset()
    rng = torch.Generator().manual_seed(1)
    for _ in range(30):
        for values in (obs, state):
            assert torch.isfinite(values).all()
            assert values.abs().max() < 4
            assert values.abs().mean() < 1
        step = env.step(2 * torch.rand(env.action_shape, generator=rng) - 1)
        obs, state = step.obs, step.state


def test_the_last_observation_of_a_day_says_that_no_time_is_left() -> None:
    env = envs.make(num_envs=2)
    env.reset()
    left = env.obs_names.index("day_left_share")
    steps = [env.step(torch.zeros(env.action_shape)) for _ in range(24)]
    assert [step.final_obs[0, 0, left].item() for step in steps] == pytest.approx([1 - h / 24 for h in range(1, 25)])
    assert steps[-1].obs[0, 0, left] == 1.0


def test_tables_of_some_copies_at_a_time_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    env = envs.make(num_envs=5, seed=1, events=RANDOM)
    env.reset()
    together = env._observer.day_tables(env._exogenous, 1)
    monkeypatch.setattr(observations, "TABLE_ENTRIES", 2 * 24 * len(env._observer.state_names))  # two copies
    apart = env._observer.day_tables(env._exogenous, 1)
    assert torch.equal(together.own, apart.own)
    assert torch.equal(together.state, apart.state)


def test_copies_that_play_the_same_day_share_its_tables() -> None:
    env = envs.make(num_envs=6, group_size=3, seed=1, events=RANDOM)
    env.reset()
    each, shared = (env._observer.day_tables(env._exogenous, size) for size in (1, 3))
    assert shared.own.shape[1] == 2
    for step in (0, 13, 24):
        for one, other in zip(each.rows(step), shared.rows(step), strict=True):
            assert torch.equal(one, other)
    assert not torch.equal(each.rows(0)[1][0], each.rows(0)[1][3])
