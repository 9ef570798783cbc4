import pytest
import torch
from torch import Tensor

import envs
from envs.devices import Devices
from envs.scenario import Scenario, load_scenario

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def devices(scenario: Scenario) -> Devices:
    return Devices(scenario, CPU, torch.float64)


def random_actions(*shape: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(shape, generator=rng, dtype=torch.float64) - 1


def ones(copies: int = 1) -> Tensor:
    return torch.ones(copies, 3, dtype=torch.float64)


@pytest.mark.parametrize("dt_h", [1.0, 0.25])
def test_energy_stays_in_bounds_and_is_accounted_for(dt_h: float) -> None:
    devices = Devices(load_scenario("ieee34_ieee13", {"dt_h": dt_h}), CPU, torch.float64)
    energy, clipped = ones(64), 0
    for t in range(300):
        requested = devices.requested(random_actions(64, 3, 3, seed=t).sign(), ones(64), ones(64))
        applied = devices.feasible(requested, energy)
        after = devices.next_energy(energy, applied.battery_p_mw)
        p = applied.battery_p_mw
        book = energy + dt_h * torch.where(p > 0, 0.98 * p, p / 0.98)
        assert (after - book).abs().max() < 1e-12
        assert after.min() >= 0.2
        assert after.max() <= 2.0
        assert (p.abs() <= requested.battery_p_mw.abs() + 1e-15).all()
        assert (p * requested.battery_p_mw >= 0).all()  # clipping never turns the direction
        clipped += int((p != requested.battery_p_mw).sum())
        energy = after
    assert clipped > 1000


def test_battery_power_is_clipped_at_its_energy_bounds_by_hand(devices: Devices) -> None:
    energy = torch.tensor([[1.951, 0.249, 1.0]], dtype=torch.float64)
    actions = torch.tensor([[[1.0, -1, 0], [-1, -1, 0], [0.5, -1, 0]]], dtype=torch.float64)
    applied = devices.feasible(devices.requested(actions, ones(), ones()), energy)
    assert applied.battery_p_mw[0].tolist() == pytest.approx([0.049 / 0.98, -0.049 * 0.98, 0.25])
    after = devices.next_energy(energy, applied.battery_p_mw)
    assert after[0].tolist() == pytest.approx([2.0, 0.2, 1.245])


def test_reactive_power_gets_its_share_of_what_the_inverter_has_left(devices: Devices) -> None:
    actions = torch.tensor([[[1.0, -1, 1.0], [0.0, -1, -1.0], [-0.6, -1, 0.5]]], dtype=torch.float64)
    applied = devices.feasible(devices.requested(actions, ones(), ones()), ones())
    expected = [(0.36 - 0.25) ** 0.5, -0.6, 0.5 * (0.36 - 0.09) ** 0.5]
    assert applied.battery_q_mvar[0].tolist() == pytest.approx(expected)


def test_apparent_power_never_exceeds_the_inverter(devices: Devices) -> None:
    actions = random_actions(2000, 3, 3)
    energy = 0.2 + 1.8 * torch.rand(2000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    applied = devices.feasible(devices.requested(3 * actions, ones(2000), ones(2000)), energy)
    s_mva = torch.hypot(applied.battery_p_mw, applied.battery_q_mvar)
    assert s_mva.max() <= 0.6 + 1e-12
    assert s_mva.max() > 0.59


def test_generator_power_and_cost_by_hand(devices: Devices) -> None:
    actions = torch.zeros(1, 3, 3, dtype=torch.float64)
    actions[..., 1] = torch.tensor([-1.0, 0.0, 1.0])
    p_mw = devices.requested(actions, ones(), ones()).generator_p_mw
    assert p_mw[0].tolist() == pytest.approx([0.0, 0.3, 0.5])
    expected = [0.5011, 100 * 0.09 + 51.6 * 0.3 + 0.4615, 100 * 0.25 + 51.6 * 0.5 + 0.4615]
    assert devices.generator_cost(p_mw)[0].tolist() == pytest.approx(expected)


def test_idle_generators_cost_their_constant(devices: Devices) -> None:
    assert 24 * devices.generator_cost(0 * ones()).sum().item() == pytest.approx(34.18, abs=0.005)


def test_cost_of_a_quarter_hour_is_a_quarter() -> None:
    quarter = Devices(load_scenario("ieee34_ieee13", {"dt_h": 0.25}), CPU, torch.float64)
    assert quarter.generator_cost(0 * ones())[0, 0].item() == pytest.approx(0.5011 / 4)


def test_actions_beyond_the_box_are_clipped(devices: Devices) -> None:
    actions = random_actions(50, 3, 3)
    far = torch.where(actions > 0, 7.0, -7.0).double()
    edge = torch.where(actions > 0, 1.0, -1.0).double()
    for one, other in zip(
        devices.requested(far, ones(50), ones(50)), devices.requested(edge, ones(50), ones(50)), strict=True
    ):
        assert torch.equal(one, other)


def test_without_curtailment_everything_available_is_used(devices: Devices) -> None:
    pv, wind = random_actions(50, 3, seed=1).abs(), random_actions(50, 3, seed=2).abs()
    requested = devices.requested(random_actions(50, 3, 3), pv, wind)
    assert devices.action_names == ("battery_p", "generator_p", "battery_q")
    assert torch.equal(requested.pv_p_mw, pv)
    assert torch.equal(requested.wind_p_mw, wind)


def test_curtailment_adds_two_actions_bounded_by_what_is_available() -> None:
    devices = Devices(load_scenario("ieee34_ieee13", {"curtailment": True}), CPU, torch.float64)
    assert devices.action_names[3:] == ("pv_share", "wind_share")
    actions = random_actions(50, 3, 5)
    actions[0, :, 3], actions[0, :, 4] = torch.tensor([-1.0, 0.0, 1.0]), 9.0
    available = random_actions(50, 3).abs()
    requested = devices.requested(actions, available, available)
    assert requested.pv_p_mw[0].tolist() == pytest.approx([0.0, available[0, 1].item() / 2, available[0, 2].item()])
    assert torch.equal(requested.wind_p_mw[0], available[0])
    for used in (requested.pv_p_mw, requested.wind_p_mw):
        assert (used >= 0).all()
        assert (used <= available).all()
    idle = devices.requested(devices.idle_action()[None].double(), available[:1], available[:1])
    assert torch.equal(idle.pv_p_mw, available[:1])


def test_idle_action_asks_for_nothing(devices: Devices) -> None:
    requested = devices.requested(devices.idle_action()[None].double(), ones(), ones())
    for value in (requested.battery_p_mw, requested.battery_q_mvar, requested.generator_p_mw):
        assert not value.any()


def test_a_microgrid_without_a_battery_runs() -> None:
    none = {"p_max_mw": 0.0, "s_max_mva": 0.0}
    env = envs.make(num_envs=4, microgrids={"MG1": {"battery": none}})
    env.reset()
    step = env.step(torch.ones(4, 3, 3))
    assert torch.isfinite(step.obs).all()
    assert not env.applied["battery_p_mw"][:, 0].any()
    assert not env.applied["battery_q_mvar"][:, 0].any()


def test_env_uses_no_more_sun_and_wind_than_the_profiles_have() -> None:
    env = envs.make(num_envs=16, curtailment=True)
    env.reset(3)
    for t in range(24):
        available = env._today.pv_mw[t], env._today.wind_mw[t]
        env.step(random_actions(16, 3, 5, seed=t))
        for used, most in zip((env.applied["pv_p_mw"], env.applied["wind_p_mw"]), available, strict=True):
            assert (used >= 0).all()
            assert (used <= most).all()
        assert available[0].max() <= 0.4 + 1e-6
        assert available[1].max() <= 0.3 + 1e-6
