import pytest
import torch
from torch import Tensor

import envs
from envs.devices import inverter
from envs.devices.options import inverters_of
from envs.scenario import load_scenario
from tests.envs.devices.all_options import VOLT_VAR, acting, of_all, random_actions


def plants(**part: object) -> inverter.Inverters:
    scenario = load_scenario("ieee34_ieee13", {"microgrids": of_all(pv={"inverter": part})})
    return inverters_of(scenario, torch.device("cpu"), torch.float64)


def six(*values: float) -> Tensor:
    """(1, 6): PV of three microgrids, then wind, which has no inverter here."""
    return torch.tensor([[*values, *[0.1] * (6 - len(values))]], dtype=torch.float64)


def test_default_droop_is_that_of_ieee_1547_category_b() -> None:
    points = plants(s_max_mva=0.5, mode="volt_var")
    for v_pu, share in (
        (0.5, 0.44),
        (0.92, 0.44),
        (0.95, 0.22),
        (0.98, 0),
        (1, 0),
        (1.02, 0),
        (1.05, -0.22),
        (1.3, -0.44),
    ):
        assert inverter.droop(six(*[v_pu] * 6), points)[0, 0].item() == pytest.approx(share, abs=1e-12)


def test_a_droop_is_a_share_of_the_apparent_power_and_gives_way_to_real_power() -> None:
    points = plants(s_max_mva=0.5, mode="volt_var")
    asked, q_mvar = inverter.reactive_power(six(0.3, 0.49, 0.5), six(0, 0, 0), six(0.92, 0.92, 0.92), points)
    assert asked[0, :3].tolist() == pytest.approx([0.22] * 3)
    assert q_mvar[0].tolist() == pytest.approx([0.22, (0.25 - 0.49**2) ** 0.5, 0, 0, 0, 0])


def test_an_action_is_a_share_of_what_real_power_leaves() -> None:
    points = plants(s_max_mva=0.5, mode="action")
    _, q_mvar = inverter.reactive_power(six(0.3, 0.3, 0.5), six(1, -0.5, 1), None, points)
    assert q_mvar[0].tolist() == pytest.approx([0.4, -0.2, 0, 0, 0, 0])


@pytest.mark.parametrize(("absorbing", "sign"), [(False, 1), (True, -1)])
def test_a_power_factor_is_held_until_the_inverter_is_full(absorbing: bool, sign: int) -> None:
    points = plants(s_max_mva=0.4, mode="power_factor", power_factor=0.8, absorbing=absorbing)
    _, q_mvar = inverter.reactive_power(six(0.2, 0.32, 0.4), six(1, 1, 1), None, points)
    assert q_mvar[0].tolist() == pytest.approx([sign * 0.15, sign * 0.24, 0, 0, 0, 0])


def test_injected_reactive_power_raises_the_voltage_and_leaves_the_microgrid() -> None:
    env = envs.make(
        num_envs=1, dtype="float64", microgrids=of_all(wind={"inverter": {"s_max_mva": 0.5, "mode": "action"}})
    )
    assert env.action_names[3:] == ("wind_q",)
    v_pu, q_mvar = [], []
    for share in (-1.0, 0.0, 1.0):
        env.reset(1)
        env.step(acting(env, wind_q=share))
        v_pu.append(env._grid_state.v_pu.mean().item())
        q_mvar.append(env._grid_state.pcc_q_mvar.sum().item())
        injected = env.applied["wind_q_mvar"]
        assert torch.allclose(injected, share * (0.25 - env.applied["wind_p_mw"] ** 2).sqrt())
    assert v_pu == sorted(v_pu)
    assert q_mvar[2] < q_mvar[1] - 1.2 < q_mvar[0] - 2.4


def test_apparent_power_never_exceeds_the_inverter() -> None:
    part = of_all(pv={"inverter": VOLT_VAR}, wind={"inverter": {"s_max_mva": 0.3, "mode": "action"}})
    env = envs.make(num_envs=16, microgrids=part)
    env.reset(1)
    for t in range(24):
        env.step(random_actions(env, t))
        for kind, s_mva in (("pv", 0.5), ("wind", 0.3)):
            used = torch.hypot(env.applied[f"{kind}_p_mw"], env.applied[f"{kind}_q_mvar"])
            assert used.max() <= s_mva + 1e-6


def test_volt_var_answers_the_voltage_that_was_observed_and_moves_it_towards_its_middle() -> None:
    steep = {**VOLT_VAR, "v_pu": [0.95, 1.0, 1.0001, 1.03]}
    env = envs.make(num_envs=4, dtype="float64", microgrids=of_all(pv={"inverter": steep}))
    plain = envs.make(num_envs=4, dtype="float64")
    obs, _ = env.reset(1)
    plain.reset(1)
    column = env.obs_names.index("pv_v_pu")
    off, plain_off = 0.0, 0.0
    for _ in range(24):
        v_pu = 1 + 0.05 * obs[..., column].double()
        obs = env.step(acting(env)).final_obs
        plain.step(plain.idle_action())
        rise = ((v_pu - 1.0001) / 0.0299).clamp(0, 1)
        fall = ((1 - v_pu) / 0.05).clamp(0, 1)
        left = (0.25 - env.applied["pv_p_mw"] ** 2).sqrt()
        expected = torch.minimum(torch.maximum(0.22 * (fall - rise), -left), left)
        assert torch.allclose(env.applied["pv_q_mvar"], expected, atol=1e-4)
        off += (env._grid.plant_voltage(env._grid_state)[:, :3] - 1).abs().mean().item()
        plain_off += (plain._grid.plant_voltage(plain._grid_state)[:, :3] - 1).abs().mean().item()
    assert off < 0.95 * plain_off


def test_the_delayed_droop_settles_when_nothing_else_changes() -> None:
    """The loop from one step to the next is a contraction on the default network, tap changers aside."""
    env = envs.make(
        num_envs=1, dtype="float64", microgrids=of_all(pv={"inverter": VOLT_VAR}, wind={"inverter": VOLT_VAR})
    )
    env.reset(1)
    now, used = env._present(12, settles=False), None
    chosen = env.action_layout.split(env.action_layout.checked(env.idle_action(), 1).double())
    state, grid, moves = env._device_state, env._grid_state, []
    for _ in range(12):
        used = env._devices.use(chosen, now, state)
        grid = env._grid.settle(used.load, used.applied, grid, 1e-10, used.plant_q_mvar)
        after = env._devices.measured(used.state, env._grid.plant_voltage(grid))
        moves.append((after.plant_v_pu - state.plant_v_pu).abs().max().item())
        state = after
    assert max(moves[-3:]) < 1e-6
