import pytest
import torch

import envs
from envs.devices import demand
from tests.envs.devices.all_options import SHEDDING, SHIFTABLE, acting, of_all, random_actions


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_shift_by_hand() -> None:
    rule = demand.Flexibility(
        row(1, 1, 1)[0], row(0, 0, 0)[0], row(0, 0, 0)[0], row(0.4, 0.4, 0)[0], row(0.3, 0.3, 0)[0]
    )
    load_mw, backlog = row(0.5, 0.5, 0.5), row(0.0, 0.2, 0.0)
    later = demand.shift(row(0.5, 1, 1), load_mw, backlog, rule, dt_h=0.5, all_=False)
    assert later.deferred_mw[0].tolist() == pytest.approx([0.1, 0.2, 0])  # within the room of 0.1 MWh in half an hour
    assert later.backlog_mwh[0].tolist() == pytest.approx([0.05, 0.3, 0])
    early = demand.shift(row(-1, -0.5, -1), load_mw, backlog, rule, dt_h=0.5, all_=False)
    assert early.served_mw[0].tolist() == pytest.approx([0, 0.2, 0])
    assert early.backlog_mwh[0].tolist() == pytest.approx([0, 0.1, 0])
    last = demand.shift(row(1, 1, 1), load_mw, backlog, rule, dt_h=0.5, all_=True)
    assert (last.deferred_mw.sum().item(), last.served_mw.sum().item()) == (0, pytest.approx(0.4))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("dt_h", [1.0, 0.25])
def test_shifted_energy_is_served_to_the_last_bit_of_the_day(dt_h: float, dtype: str) -> None:
    env = envs.make(num_envs=8, dtype=dtype, dt_h=dt_h, microgrids=of_all(shiftable=SHIFTABLE))
    nominal_mw = env._grid.area_load_mw[1:]
    obs, _ = env.reset(2)
    column = env.obs_names.index("backlog_mwh")
    balance = torch.zeros(8, 3, dtype=torch.float64)
    for t in range(env.episode_length):
        last = t == env.episode_length - 1
        before, load = env._device_state.backlog_mwh, env._today.load[t, :, 1:]
        assert torch.allclose(obs[..., column], (before / 0.3).float())
        step = env.step(random_actions(env, t))
        shift_mw = env.applied["shift_mw"].double()
        balance += dt_h * shift_mw
        assert (shift_mw <= 0.4 * load * nominal_mw + 1e-6).all()
        if not last:
            state = env._device_state.backlog_mwh
            assert torch.allclose(state.double(), balance, atol=1e-5)
            assert state.min() >= 0
            assert state.max() <= 0.3 + 1e-7
        obs = step.final_obs
    assert balance.abs().max() < 1e-5
    assert not obs[..., column].any()


def test_a_week_carries_deferred_load_over_midnight() -> None:
    env = envs.make(num_envs=2, horizon="week", microgrids=of_all(shiftable=SHIFTABLE))
    env.reset(1)
    for _ in range(24):
        env.step(acting(env, shift=1.0))
    assert env._device_state.backlog_mwh.min() > 0.1


def test_shed_load_lowers_p_and_q_alike_and_costs_its_price() -> None:
    part = of_all(load_shedding=SHEDDING)
    shed = envs.make(num_envs=4, dtype="float64", microgrids=part, episode={"reward_scale_usd": 1.0})
    kept = envs.make(num_envs=4, dtype="float64", microgrids=part, episode={"reward_scale_usd": 1.0})
    shed.reset(1)
    kept.reset(1)
    load = shed._today.load[0].clone()
    metrics, none = shed.step(acting(shed, shed=1.0)).metrics, kept.step(kept.idle_action()).metrics
    shed_mw = 0.3 * load[:, 1:] * shed._grid.area_load_mw[1:]
    assert torch.allclose(shed.applied["shed_mw"], shed_mw)
    assert torch.allclose(metrics["shed_mwh"], shed_mw.sum(-1))
    assert torch.allclose(metrics["shedding_usd"], 900 * shed_mw.sum(-1))
    assert not none["shed_mwh"].any()
    p_mw = kept._grid_state.party_p_mw[:, 1:] - shed._grid_state.party_p_mw[:, 1:]
    q_mvar = kept._grid_state.pcc_q_mvar - shed._grid_state.pcc_q_mvar
    assert torch.allclose(p_mw, shed_mw, rtol=0.05)  # losses aside
    nominal_q = torch.tensor([_nominal_q(shed, name) for name in shed.agents], dtype=torch.float64)
    assert torch.allclose(q_mvar, 0.3 * load[:, 1:] * nominal_q, rtol=0.1)


def _nominal_q(env: envs.MicrogridEnv, area: str) -> float:
    member = torch.tensor([name == area for name in env.network.areas])
    return float(env.network.load_q_mvar[member].sum())


def test_idle_sheds_and_shifts_nothing() -> None:
    env = envs.make(num_envs=4, microgrids=of_all(load_shedding=SHEDDING, shiftable=SHIFTABLE))
    plain = envs.make(num_envs=4)
    env.reset(5)
    plain.reset(5)
    for _ in range(24):
        assert torch.equal(env.step(env.idle_action()).rewards, plain.step(plain.idle_action()).rewards)


def test_shifted_load_comes_after_what_is_shed() -> None:
    part = of_all(
        load_shedding={"max_share": 1.0, "usd_per_mwh": 1.0}, shiftable={"share": 1.0, "max_backlog_mwh": 1.0}
    )
    env = envs.make(num_envs=2, dtype="float64", microgrids=part)
    env.reset(1)
    env.step(acting(env, shed=1.0, shift=1.0))
    assert not env.applied["shift_mw"].any()
    load_mw = env._today.load[1, :, 1:] * env._grid.area_load_mw[1:]
    env.step(acting(env, shed=0.0, shift=1.0))
    assert torch.allclose(env.applied["shed_mw"], load_mw / 2)
    assert torch.allclose(env.applied["shift_mw"], load_mw / 2)
