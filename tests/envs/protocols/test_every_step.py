"""What runs every step: no look at the values of a tensor, no dtype of its own, no effect between copies."""

import pytest
import torch

from envs.protocols import auction, consensus, price_signal, setpoint
from tests.envs.protocols.parties import Market, random_market

RULE = {"export_share": 0.5, "dt_h": 1.0}


def everything(market: Market) -> list[torch.Tensor]:
    """All per-step functions on one batch; each tensor has B as its first dim."""
    p_mw, like = market.p_mw, {"device": market.price.device, "dtype": market.price.dtype}
    agents = p_mw.shape[1]
    names = [f"MG{i}" for i in range(agents)]
    cost = {"cost_quadratic": torch.full((agents,), 100.0, **like), "cost_linear": torch.full((agents,), 50.0, **like)}
    generator = (p_mw.abs() / 10, torch.full((agents,), 0.5, **like))
    limit = auction.marginal_limits(p_mw, *generator, market.price, export_share=0.5, **cost)
    asked = auction.limits_from_action(p_mw, market.price, export_share=0.5)
    trade = auction.clear(market.party_p_mw, limit, market.price, **RULE)
    mix = consensus.mixing(consensus.metropolis_weights(names, "ring"))
    own = consensus.marginal_cost(*generator, market.price, export_share=0.5, **cost)
    agreed = consensus.agree(own, mix._replace(matrix=mix.matrix.to(**like)))
    internal = consensus.settle(market.party_p_mw, agreed.values, market.price, pool_share=0.75, **RULE)
    points = setpoint.SetPoints(*(tensor.to(**like) for tensor in setpoint.capacity_points(names, 2.0)))
    watched = torch.arange(agents, device=p_mw.device)[:, None]
    violations = price_signal.measure_violations(
        1 + p_mw / 20, p_mw.square(), p_mw, market.price > 10, watched, v_min_pu=0.95, v_max_pu=1.05
    )
    start = price_signal.initial(len(p_mw), agents, **like)
    adder = price_signal.adder(price_signal.update(start, violations, dt_h=1.0))
    return [
        limit,
        asked,
        *trade,
        agreed.values,
        agreed.residual,
        *internal,
        setpoint.deviation(p_mw, points),
        setpoint.settlement(p_mw, points, dt_h=1.0),
        price_signal.price(market.price, adder),
        price_signal.settlement(p_mw, adder, dt_h=1.0),
    ]


def test_no_step_waits_for_the_device() -> None:
    market = random_market(3, copies=16)
    here = everything(market)
    # meta tensors have no values: whatever looked at one would raise
    meta = everything(Market(*(tensor.to("meta") for tensor in market)))
    assert [tensor.shape for tensor in meta] == [tensor.shape for tensor in here]


def test_the_dtype_is_that_of_the_inputs_and_every_result_is_finite() -> None:
    market = random_market(3)
    for dtype in (torch.float32, torch.float64):
        for tensor in everything(Market(*(tensor.to(dtype) for tensor in market))):
            assert tensor.dtype == dtype
            assert tensor.isfinite().all()


def test_a_copy_does_not_depend_on_the_others() -> None:
    market = random_market(3, copies=800)
    together = everything(market)
    for b in (0, 150, 250, 399, 450, 799):
        alone = everything(Market(*(tensor[b : b + 1] for tensor in market)))
        for whole, single in zip(together, alone, strict=True):
            assert torch.allclose(whole[b], single[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("agents", [3, 6])
def test_single_precision_balances_to_its_rounding(agents: int) -> None:
    market = Market(*(tensor.float() for tensor in random_market(agents)))
    for result in (
        auction.clear(*market, **RULE),
        consensus.settle(*market, **RULE),
    ):
        assert (result.bought_mwh.sum(-1) - result.sold_mwh.sum(-1)).abs().max() < 1e-5
        assert (result.saving_usd > -1e-3).all()
