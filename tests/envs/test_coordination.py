"""Protocols inside the env: they move money between parties, are observed, and resume exactly."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import envs
from envs.microgrid import MicrogridEnv
from envs.observations import PRICE_SCALE_USD_PER_MWH
from mappo.vec_env import Step

PRICE = {"vertical": "price_signal"}
LIMIT = {"vertical": "setpoint", "setpoint": {"capacity_mw": 1.2}}
TRADE = {"horizontal": "p2p"}
BIDS = {"horizontal": "p2p", "p2p": {"bids": "action", "fee_usd_per_mwh": 0.0}}
AGREE = {"horizontal": "consensus"}
BOTH = {"vertical": "price_signal", "horizontal": "consensus"}


def make(protocols: Mapping[str, Any], settlement: str = "community", **settings: Any) -> MicrogridEnv:
    return envs.make(num_envs=16, seed=3, dtype="float64", settlement=settlement, protocols=protocols, **settings)


def play(env: MicrogridEnv, first: int = 0, last: int = 24) -> list[Step]:
    """Random actions, the same for every env; what a bid says is drawn after the devices' actions."""
    steps = []
    for t in range(first, last):
        generator = torch.Generator().manual_seed(t)
        devices = torch.rand(16, 3, 3, generator=generator) * 2 - 1
        bids = torch.rand(16, 3, env.action_shape[-1] - 3, generator=generator) * 2 - 1
        steps.append(env.step(torch.cat([devices, bids], -1)))
    return steps


def total(steps: list[Step], name: str) -> Tensor:
    """(B,) sum over the steps."""
    return torch.stack([step.metrics[name] for step in steps]).sum(0)


@pytest.mark.parametrize("protocols", [PRICE, LIMIT, AGREE, BOTH])
def test_under_a_community_bill_protocols_only_move_money_between_parties(protocols: dict[str, Any]) -> None:
    plain, coordinated = make({}), make(protocols)
    plain.reset()
    coordinated.reset()
    without, with_it = play(plain), play(coordinated)
    torch.testing.assert_close(total(with_it, "cost_usd"), total(without, "cost_usd"), rtol=0, atol=1e-8)
    moved = torch.stack([a.rewards - b.rewards for a, b in zip(with_it, without, strict=True)])  # (24, B, A)
    assert moved.abs().max() > 1e-3, "each agent pays something else"
    torch.testing.assert_close(moved.mean(-1), torch.zeros_like(moved[..., 0]), atol=2e-6, rtol=0)


@pytest.mark.parametrize("protocols", [TRADE, BIDS, AGREE])
def test_trading_lowers_what_separately_billed_microgrids_pay_together(protocols: dict[str, Any]) -> None:
    alone, trading = make({}, "individual"), make(protocols, "individual")
    alone.reset()
    trading.reset()
    without, with_it = play(alone), play(trading)
    assert total(with_it, "traded_mwh").mean() > 0.1
    saved = total(without, "cost_usd") - total(with_it, "cost_usd")
    gained = total(with_it, "trade_saving_usd")
    if protocols["horizontal"] == "p2p":
        gained = gained + total(with_it, "trade_fee_usd")  # the feeder's
    torch.testing.assert_close(saved, gained, rtol=0, atol=1e-8)
    assert saved.min() > -1e-9
    assert saved.mean() > 0
    better = torch.stack([a.rewards - b.rewards for a, b in zip(with_it, without, strict=True)])
    assert better.min() > -1e-6, "nobody is worse off in any step"


def test_the_posted_price_is_observed_before_it_is_paid() -> None:
    env = make(PRICE)
    obs, _ = env.reset()
    column = env.obs_names.index("dso_adder_usd_per_mwh")
    assert torch.equal(obs[..., column], torch.zeros(16, 3)), "the first posted price is lambda"
    first = env.step(torch.tensor([-1.0, 1.0, 0.0]).expand(16, 3, 3))  # all discharge and generate: voltages rise
    assert total([first], "congestion_usd").abs().max() == 0, "nothing was posted for that hour"
    assert first.obs[..., column].max() < 0, "importing has become cheaper"
    price = env.situation().today.price[:, 1]
    second = env.step(torch.tensor([-1.0, 1.0, 0.0]).expand(16, 3, 3))
    assert second.metrics["congestion_usd"].min() > 0, "who goes on exporting pays for it"
    adder = first.obs[..., column].double() * PRICE_SCALE_USD_PER_MWH
    torch.testing.assert_close(env.coordinated["posted_price_usd_per_mwh"], price[:, None] + adder, rtol=1e-6, atol=0)


def test_a_community_that_does_nothing_is_never_charged_for_congestion() -> None:
    env = envs.make(split="test", evaluation=True, protocols=PRICE)
    env.reset()
    steps = [env.step(env.idle_action()) for _ in range(24)]
    assert all(step.metrics["dso_adder_usd_per_mwh"].eq(0).all() for step in steps)


def test_a_set_point_and_its_deviation_are_observed() -> None:
    env = make({"vertical": "setpoint", "setpoint": {"target_mw": {"MG2": 0.0, "MG3": None}}})
    obs, _ = env.reset()
    names = list(env.obs_names)
    assert obs[..., names.index("setpoint_mw")].eq(0).all()
    step = env.step(torch.tensor([1.0, -1.0, 0.0]).expand(16, 3, 3))
    off = step.obs[..., names.index("setpoint_deviation_mw")]
    assert off[:, 1].min() > 0, "MG2 imports"
    assert off[:, [0, 2]].eq(0).all(), "the others have no set-point"
    hourly_usd = 50.0 * step.metrics["setpoint_deviation_mwh"]
    torch.testing.assert_close(step.metrics["setpoint_usd"], hourly_usd)


def test_a_bid_is_an_action_and_matters() -> None:
    env = make(BIDS, "individual")
    assert env.action_names == ("battery_p", "generator_p", "battery_q", "bid")
    assert env.idle_action().shape == (3, 4)
    env.reset()
    high = play(env)
    env.reset(seed=3)
    devices = [torch.rand(16, 3, 3, generator=torch.Generator().manual_seed(t)) * 2 - 1 for t in range(24)]
    never = [env.step(torch.cat([a, torch.where(a[..., :1] > 2, 1.0, -1.0)], -1)) for a in devices]
    assert not torch.allclose(total(high, "traded_mwh"), total(never, "traded_mwh"))


@pytest.mark.parametrize(("protocols", "settlement"), [(BOTH, "community"), (BIDS, "individual")])
def test_resuming_with_protocols_equals_not_stopping(protocols: dict[str, Any], settlement: str) -> None:
    env = make(protocols, settlement)
    env.reset()
    play(env, 0, 7)
    file = io.BytesIO()
    torch.save(env.state_dict(), file)
    file.seek(0)
    other = make(protocols, settlement)
    other.load_state_dict(torch.load(file, weights_only=True))
    for one, two in zip(play(other, 7, 30), play(env, 7, 30), strict=True):
        assert torch.equal(one.obs, two.obs)
        assert torch.equal(one.rewards, two.rewards)
        for name, values in one.metrics.items():
            assert torch.equal(values, two.metrics[name]), name


@pytest.mark.parametrize("protocols", [{}, PRICE, LIMIT, AGREE])
def test_every_column_and_metric_has_a_name(protocols: dict[str, Any]) -> None:
    env = make(protocols)
    obs, state = env.reset()
    assert obs.shape[-1] == len(env.obs_names)
    assert state.shape[-1] == len(env.state_names) == len(set(env.state_names))
    step = play(env, 0, 1)[0]
    assert {spec.name for spec in env.metric_specs} == set(step.metrics)


@pytest.mark.parametrize(
    ("protocols", "message"),
    [
        (TRADE, r"protocols.horizontal: p2p .* needs settlement: individual, got community"),
        ({"vertical": "setpoint"}, r"vertical: setpoint needs setpoint.target_mw or setpoint.capacity_mw"),
        (
            {"vertical": "setpoint", "setpoint": {"target_mw": {"MG1": 9}}},
            r"protocols\.setpoint\.target_mw\.MG1 is an unreachable",
        ),
        ({"vertical": "setpoint", "setpoint": {"target_mw": {"MG": 0}}}, r"'MG', which is no microgrid"),
        ({**AGREE, "consensus": {"edges": [["MG1", "MG2"]]}}, r"must connect all .* \[MG1, MG2\] and \[MG3\]"),
        ({**AGREE, "consensus": {"rounds": 3, "tolerance": 0.1}}, r"give rounds or tolerance, got both"),
        ({"horizontal": "barter"}, r"protocols.horizontal: .*'p2p'.*got 'barter'"),
        ({**TRADE, "p2p": {"fee_usd_per_mwh": -1}}, r"protocols.p2p.fee_usd_per_mwh: .*got -1"),
        ({"vertcal": "none"}, r"unknown key 'protocols.vertcal'"),
    ],
)
def test_protocols_that_cannot_be_are_refused(protocols: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(protocols)


def test_the_infos_tell_each_microgrid_its_trades_prices_and_savings() -> None:
    env = envs.parallel_env("p2p_trading_3mg", seed=3, dtype="float64", protocols=TRADE)
    env.reset()
    rng = np.random.default_rng(0)
    hours = 0
    for _ in range(24):
        actions = {agent: rng.uniform(-1, 1, env.action_space(agent).shape).astype(np.float32) for agent in env.agents}
        infos = list(env.step(actions)[-1].values())
        told, metrics = [info["protocols"] for info in infos], infos[0]["metrics"]
        for name, total in (("bought_mwh", "traded_mwh"), ("sold_mwh", "traded_mwh"), ("trade_saving_usd",) * 2):
            assert sum(each[name] for each in told) == pytest.approx(metrics[total])
        lambdas = []  # that each one's saving implies: against lambda for import, half of it for export
        for each in told:
            if mwh := each["bought_mwh"]:
                lambdas.append(each["trade_price_usd_per_mwh"] + each["trade_saving_usd"] / mwh)
            elif mwh := each["sold_mwh"]:
                lambdas.append(2 * (each["trade_price_usd_per_mwh"] - each["trade_saving_usd"] / mwh))
            else:
                assert each["trade_price_usd_per_mwh"] == 0
        hours += bool(lambdas)
        assert lambdas == pytest.approx(lambdas[:1] * len(lambdas))
    assert hours > 1


def test_the_infos_tell_each_microgrid_its_deviation_and_what_it_pays() -> None:
    env = envs.parallel_env(seed=3, dtype="float64", protocols={**LIMIT, "setpoint": {"target_mw": {"MG2": 0.0}}})
    env.reset()
    infos = env.step({agent: np.array([1, -1, 0], np.float32) for agent in env.agents})[-1]
    off_mw = {agent: info["protocols"]["setpoint_deviation_mw"] for agent, info in infos.items()}
    assert off_mw["MG1"] == off_mw["MG3"] == 0 < off_mw["MG2"]
    assert infos["MG2"]["protocols"]["setpoint_usd"] == pytest.approx(50 * off_mw["MG2"])
