"""What an operator knows, and the forecast rule by hand."""

import pytest
import torch
from torch import Tensor

import envs
from envs.exogenous import ExogenousDay
from envs.situation import Situation, outlook


def situation(step: int = 1) -> Situation:
    """One copy, one microgrid, 4 steps a day."""

    def column(*values: float) -> Tensor:
        return torch.tensor([[values]], dtype=torch.float64)

    today = ExogenousDay(
        price=torch.tensor([[10.0, 20.0, 30.0, 40.0]], dtype=torch.float64),
        load=torch.cat([column(1.0, 1.0, 9.0, 9.0), column(0.2, 0.1, 9.0, 9.0)], 1),
        renewables_mw=torch.cat([column(0.0, 0.3, 9.0, 9.0), column(0.1, 0.2, 9.0, 9.0)], 1),
        yesterday_load=torch.cat([column(0.8, 0.5, 0.6, 0.7), column(0.5, 0.5, 0.3, 0.4)], 1),
        yesterday_renewables_mw=torch.cat([column(0.0, 0.1, 0.4, 0.2), column(0.3, 0.3, 0.5, 0.6)], 1),
        weekday=torch.tensor([0]),
    )
    one = torch.ones(1, 1, dtype=torch.float64)
    return Situation(step, today, one, one, torch.zeros(1, dtype=torch.float64))


def test_the_forecast_rule_by_hand() -> None:
    ahead = outlook(situation(), "persistence", 1)
    assert ahead.price.tolist() == [[20.0, 30.0, 40.0]]
    # the feeder's load stands 0.5 above yesterday, the microgrid's 0.4 below
    feeder = [1.0, 0.6 + 0.8 * 0.5, 0.7 + 0.64 * 0.5]
    microgrid = [0.1, max(0.3 - 0.8 * 0.4, 0.0), 0.4 - 0.64 * 0.4]
    assert ahead.load[0, 0].tolist() == pytest.approx(feeder)
    assert ahead.load[0, 1].tolist() == pytest.approx(microgrid)
    assert ahead.pv_mw[0, 0].tolist() == pytest.approx([0.3, 0.4, 0.2])
    assert ahead.wind_mw[0, 0].tolist() == pytest.approx([0.2, 0.5, 0.6])


def test_a_deviation_fades_by_the_hour_not_by_the_step() -> None:
    ahead = outlook(situation(), "persistence", 4)
    assert ahead.load[0, 0].tolist() == pytest.approx([1.0, 0.6 + 0.8**0.25 * 0.5, 0.7 + 0.8**0.5 * 0.5])


def test_perfect_foresight_is_the_day_itself() -> None:
    now = situation(2)
    ahead = outlook(now, "perfect", 1)
    assert torch.equal(ahead.load, now.today.load[..., 2:])
    assert torch.equal(ahead.pv_mw, now.today.renewables_mw[:, :1, 2:])
    assert torch.equal(ahead.wind_mw, now.today.renewables_mw[:, 1:, 2:])


def test_the_last_step_needs_no_forecast() -> None:
    for forecast in ("persistence", "perfect"):
        ahead = outlook(situation(3), forecast, 1)
        assert ahead.load[0, :, 0].tolist() == [9.0, 9.0]
        assert ahead.price.tolist() == [[40.0]]


def test_the_forecast_is_that_of_the_observation() -> None:
    env = envs.make(num_envs=3, split="test", evaluation=True, dtype="float64")
    obs, _ = env.reset()
    for _ in range(5):
        obs = env.step(env.idle_action()).obs
    ahead = outlook(env.situation(), "persistence", 1)
    nominal_mw = env._grid.area_load_mw[1:]
    for k in range(1, 5):
        column = env.obs_names.index(f"net_load_mw_plus_{k}h")
        net_mw = ahead.load[:, 1:, k] * nominal_mw - ahead.pv_mw[..., k] - ahead.wind_mw[..., k]
        torch.testing.assert_close(obs[..., column].double(), net_mw / nominal_mw, atol=1e-6, rtol=1e-6)


def test_a_situation_is_what_the_env_measured() -> None:
    env = envs.make(num_envs=2, split="val", evaluation=True, dtype="float64")
    with pytest.raises(ValueError, match=r"call reset\(\) before situation\(\)"):
        env.situation()
    env.reset()
    start = env.situation()
    assert start.step == 0
    assert start.energy_mwh.tolist() == start.initial_energy_mwh.tolist() == [[1.0] * 3] * 2
    assert start.peak_mw.tolist() == [0.0, 0.0]
    actions = env.idle_action().clone()
    actions[0, 0] = 1.0
    peak = torch.zeros(2, dtype=torch.float64)
    for step in range(2):
        metrics = env.step(actions).metrics
        peak = torch.maximum(peak, metrics["head_peak_mw"])
        assert env.situation().step == step + 1
        torch.testing.assert_close(env.situation().peak_mw, peak)
    now = env.situation()
    assert now.energy_mwh[:, 0].tolist() == pytest.approx([1.98] * 2)
    assert now.initial_energy_mwh.tolist() == [[1.0] * 3] * 2


def test_a_situation_is_double_precision_and_stays_what_it_was() -> None:
    env = envs.make(num_envs=2)
    env.reset()
    before = env.situation()
    assert before.energy_mwh.dtype == before.peak_mw.dtype == before.today.load.dtype == torch.float64
    kept = before.energy_mwh.clone()
    env.step(torch.ones(env.action_shape))
    assert torch.equal(before.energy_mwh, kept)
