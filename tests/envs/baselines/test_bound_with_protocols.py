"""What the microgrids trade is within the bound: it nets their exchange where a market could, and only there."""

from typing import Any

import numpy as np
import pytest
import torch

from envs.baselines.bound import certified_bound
from envs.baselines.distflow import DistFlow
from envs.baselines.parties import billed_parties, lowest_billed_mw
from envs.scenario import Scenario, load_scenario
from tests.envs.baselines.adversaries import check_validity, evaluation_env
from tests.envs.baselines.test_distflow import one_copy, put_into, random_policy, violation
from tests.envs.policies import play, uniform_random

TRADED: dict[str, dict[str, Any]] = {
    "auction": {},
    "auction with bids": {"protocols": {"p2p": {"bids": "action", "fee_usd_per_mwh": 0.0}}},
    "consensus": {"protocols": {"horizontal": "consensus"}},
    "both kinds of protocol": {"protocols": {"vertical": "price_signal"}},
    "no market": {"protocols": {"horizontal": "none"}},
}


def trading(**overrides: Any) -> Scenario:
    return load_scenario("p2p_trading_3mg", overrides)


@pytest.mark.parametrize("name", TRADED)
def test_no_traded_schedule_undercuts_the_bound(name: str) -> None:
    bound = certified_bound(trading(**TRADED[name]), "test", days=3, cache=False, workers=1)
    assert check_validity(bound, range(2)) >= 40
    assert (bound.floor_usd < bound.usd).all()
    env = evaluation_env(bound)
    for seed in range(6):
        assert (bound.usd <= play(env, uniform_random(seed)(env)).cost_usd).all()


def test_billing_each_on_its_own_would_be_no_bound_where_they_trade() -> None:
    alone, traded = (
        certified_bound(trading(**TRADED[name]), "test", days=2, cache=False, workers=1)
        for name in ("no market", "consensus")
    )
    assert (traded.replay_usd < alone.usd - 1).all()
    assert (traded.width >= 0).all()
    assert (traded.width / traded.usd < 1e-3).all(), "consensus trades all that can be netted"


def test_consensus_in_a_community_leaves_the_bound_as_it_is() -> None:
    plain = certified_bound("simple_2mg", "test", days=2, cache=False, workers=1)
    agreed = certified_bound(
        "simple_2mg", "test", days=2, cache=False, workers=1, protocols={"horizontal": "consensus"}
    )
    assert torch.equal(plain.usd, agreed.usd)
    assert torch.allclose(plain.replay_usd, agreed.replay_usd)


@pytest.mark.parametrize("vertical", ["price_signal", "setpoint"])
def test_vertical_protocols_move_money_but_neither_j_nor_the_bound(vertical: str) -> None:
    rules = {"vertical": vertical, "setpoint": {"capacity_mw": 0.5}}
    plain, paid = trading(), trading(protocols=rules)
    bounds = [certified_bound(s, "test", days=2, cache=False, workers=1) for s in (plain, paid)]
    assert torch.equal(bounds[0].usd, bounds[1].usd)
    costs = []
    for bound in bounds:
        env = evaluation_env(bound)
        costs.append(play(env, uniform_random(0)(env)).cost_usd)
    assert torch.allclose(costs[0], costs[1], atol=1e-9)


@pytest.mark.parametrize("name", ["auction", "consensus"])
def test_what_traders_do_is_feasible_in_the_relaxation_and_costs_no_less(name: str) -> None:
    scenario = trading(**TRADED[name])
    model = DistFlow(scenario, scenario.steps_per_day)
    cost_usd = put_into(model, one_copy(scenario), random_policy(0))
    assert violation(model.problem.constraints) < 1e-7
    assert float(model.problem.objective.value) <= cost_usd + 1e-6  # pyright: ignore


def test_who_nets_with_whom() -> None:
    assert billed_parties(load_scenario("simple_2mg")).tolist() == [[1, 1, 1]]
    assert billed_parties(trading()).tolist() == [[1, 0, 0, 0], [0, 1, 1, 1]]
    assert billed_parties(trading(protocols={"horizontal": "none"})).tolist() == np.eye(4).tolist()


def test_the_line_of_a_negative_price_is_below_the_bills_of_separate_meters() -> None:
    """A line through the bill of the pooled power would be above them: one imports what another exports."""
    lowest, price, share = np.array([0.0, -1.0, 0.5, -0.2]), -30.0, 0.5
    touched = lowest_billed_mw(trading(), lowest)
    assert touched.tolist() == [0.0, -1.2]
    rng = np.random.default_rng(0)
    power = lowest + rng.uniform(0, 2, (500, 4))
    bills = (price * np.where(power > 0, 1.0, share) * power)[:, 1:].sum(1)
    line = price * power[:, 1:].sum(1) + (share - 1) * price * touched[1]
    assert (line <= bills + 1e-9).all()
    assert line == pytest.approx(price * power[:, 1:].sum(1) - 18.0)
