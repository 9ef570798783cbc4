from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from envs.events import Event, EventDraw, EventPlan, apply_to_price, draw_events

AGENTS = ("MG1", "MG2", "MG3")
BRANCHES = ("line 1", "line 2", "trafo 1", "trafo 2")
SPIKE = {"kind": "price_spike", "start_h": (17, 17), "duration_h": (3, 3), "price_factor": (3, 3)}
DIP = {"kind": "pv_dip", "start_h": (10, 14), "duration_h": (1, 4), "pv_share_lost": (0.3, 0.9)}
OUTAGE = {"kind": "outage", "start_h": (0, 23), "duration_h": (2, 6), "targets": BRANCHES[1:]}
ISLANDING = {"kind": "islanding", "start_h": (8, 12), "duration_h": (2, 2)}


def plan_of(*events: dict[str, Any], steps_per_hour: int = 1) -> EventPlan:
    built = [Event(**event) for event in events]
    return EventPlan(built, agents=AGENTS, branches=BRANCHES, steps_per_hour=steps_per_hour)


def drawn(plan: EventPlan, copies: int = 4000, *, seed: int = 3, episode: int = 0, day: int = 0) -> EventDraw:
    copy = torch.arange(copies)
    return draw_events(plan, seed=seed, copy=copy, episode=torch.full_like(copy, episode), day_of_episode=day)


def hours(mask: Tensor) -> list[int]:
    """Steps at which a mask (H,) is on."""
    return mask.nonzero().flatten().tolist()


def test_no_events_change_nothing() -> None:
    draw = drawn(plan_of(), 2)
    price = torch.rand(2, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    assert torch.equal(apply_to_price(price, draw), price)
    assert (draw.pv_factor == 1).all()
    assert draw.pv_factor.shape == (2, 3, 24)
    assert not draw.outage.any()
    assert draw.outage.shape == (2, 24, 4)
    assert not draw.islanded.any()
    assert draw.islanded.shape == (2, 24, 3)


def test_a_fixed_event_is_the_same_in_every_copy() -> None:
    draw = drawn(plan_of(SPIKE, {**ISLANDING, "start_h": (9, 9), "targets": ("MG2",)}), 5)
    for copy in range(5):
        assert hours(draw.price_factor[copy] == 3) == [17, 18, 19]
        assert hours(draw.islanded[copy, :, 1]) == [9, 10]
    assert not draw.islanded[..., [0, 2]].any()


def test_a_spike_multiplies_positive_prices_and_adds_to_all() -> None:
    both = {**SPIKE, "price_adder_usd_per_mwh": (50, 50), "start_h": (0, 0), "duration_h": (2, 2)}
    draw = drawn(plan_of(both), 1)
    price = torch.full((1, 24), 40.0, dtype=torch.float64)
    price[0, 1] = -20.0
    assert apply_to_price(price, draw)[0, :3].tolist() == [3 * 40 + 50, -20 + 50, 40]


@pytest.mark.parametrize("event", [SPIKE, DIP, OUTAGE, ISLANDING])
def test_draws_depend_neither_on_the_number_of_copies_nor_on_their_order(event: dict[str, Any]) -> None:
    plan = plan_of({**event, "probability": 0.5, "start_h": (3, 9)})
    large, small = drawn(plan, 40), drawn(plan, 4)
    copy = torch.arange(40).flip(0)
    reverse = draw_events(plan, seed=3, copy=copy, episode=torch.zeros_like(copy))
    for name, values in large._asdict().items():
        assert torch.equal(values[:4], getattr(small, name))
        assert torch.equal(values.flip(0), getattr(reverse, name))


@pytest.mark.parametrize("other", [{"seed": 4}, {"episode": 1}, {"day": 1}])
def test_draws_depend_on_seed_episode_and_day(other: dict[str, int]) -> None:
    plan = plan_of({**ISLANDING, "duration_h": (1, 1), "start_h": (0, 22)})
    one, two = drawn(plan, 50), drawn(plan, 50, **other)
    assert torch.equal(one.islanded, drawn(plan, 50).islanded)
    assert (one.islanded != two.islanded).any()
    assert len({tuple(hours(row)) for row in one.islanded[..., 0]}) > 10  # copies differ


def test_one_more_event_leaves_the_draws_of_the_others() -> None:
    first, both = plan_of(DIP), plan_of(DIP, OUTAGE)
    assert torch.equal(drawn(first, 20).pv_factor, drawn(both, 20).pv_factor)


def test_probability_is_the_share_of_days() -> None:
    draw = drawn(plan_of({**SPIKE, "probability": 0.3}))
    share = (draw.price_factor > 1).any(-1).double().mean().item()
    assert share == pytest.approx(0.3, abs=3.5 * (0.3 * 0.7 / 4000) ** 0.5)
    assert not (drawn(plan_of({**SPIKE, "probability": 0.0})).price_factor > 1).any()


def test_starts_and_durations_are_uniform_whole_steps_with_both_ends() -> None:
    draw = drawn(plan_of({**ISLANDING, "start_h": (8, 12), "duration_h": (1, 3)}))
    mask = draw.islanded[..., 0]
    starts, lengths = mask.int().argmax(-1), mask.sum(-1)
    counts = torch.bincount(starts, minlength=24)
    assert counts[8:13].sum() == 4000
    assert (counts[8:13] > 700).all()
    counts = torch.bincount(lengths)
    assert counts[1:4].sum() == 4000
    assert (counts[1:4] > 1200).all()
    assert abs(torch.corrcoef(torch.stack([starts, lengths]).double())[0, 1]) < 0.05


def test_sizes_are_uniform_in_their_interval() -> None:
    lost = 1 - drawn(plan_of({**DIP, "start_h": (12, 12), "duration_h": (1, 1)})).pv_factor[:, 0, 12]
    assert 0.3 <= lost.min() < 0.31
    assert 0.89 < lost.max() <= 0.9
    assert lost.mean().item() == pytest.approx(0.6, abs=0.01)


def test_all_targets_are_hit_at_once() -> None:
    draw = drawn(plan_of({**DIP, "probability": 0.5}), 500)
    assert torch.equal(draw.pv_factor, draw.pv_factor[:, :1].expand(-1, 3, -1))
    assert 0.4 < (draw.pv_factor < 1).any(-1).any(-1).double().mean() < 0.6


def test_each_target_draws_on_its_own() -> None:
    draw = drawn(plan_of({**OUTAGE, "hits": "each", "probability": 0.4}))
    hit = draw.outage.any(1)[:, 1:].double()
    assert hit.mean(0).tolist() == pytest.approx([0.4] * 3, abs=0.03)
    assert torch.corrcoef(hit.T).fill_diagonal_(0).abs().max() < 0.05
    assert not draw.outage[..., 0].any()  # not a target
    dips = drawn(plan_of({**DIP, "hits": "each", "start_h": (12, 12)}), 50).pv_factor[:, :, 12]
    assert (dips.std(-1) > 0).all()


def test_one_target_is_hit_and_each_is_as_likely() -> None:
    draw = drawn(plan_of({**OUTAGE, "hits": "one", "probability": 0.6}))
    hit = draw.outage.any(1)
    assert hit.sum(-1).max() == 1
    assert hit.double().mean(0).tolist() == pytest.approx([0, 0.2, 0.2, 0.2], abs=0.025)


def test_an_event_is_cut_at_the_end_of_a_day_and_goes_on_within_a_week() -> None:
    plan = plan_of({**ISLANDING, "start_h": (22, 22), "duration_h": (30, 30), "probability": 0.2})
    days = [drawn(plan, 500, day=day).islanded[..., 0] for day in range(3)]
    assert {tuple(hours(row)) for row in days[0]} == {(), (22, 23)}
    began = days[0].any(-1)
    assert days[1][began].all()  # 22 h of the first day to 4 h of the third
    alone = began & ~days[2][:, 4]  # nothing began on the second day
    assert alone.sum() > 50
    assert days[2][alone, :4].all()
    assert not days[2][alone, 4:22].any()
    assert not days[1][~began, :22].any()


def test_no_event_lasts_from_one_episode_into_the_next() -> None:
    plan = plan_of({**ISLANDING, "start_h": (22, 22), "duration_h": (30, 30)})
    assert hours(drawn(plan, 1, episode=5, day=0).islanded[0, :, 0]) == [22, 23]


def test_overlapping_events_compound() -> None:
    fixed = {**DIP, "start_h": (10, 10)}
    plan = plan_of(
        {**fixed, "duration_h": (4, 4), "pv_share_lost": (0.5, 0.5)},
        {**fixed, "duration_h": (2, 2), "pv_share_lost": (0.4, 0.4), "targets": ("MG1",)},
        {**SPIKE, "price_factor": (2, 2)},
        {**SPIKE, "price_factor": (1.5, 1.5), "price_adder_usd_per_mwh": (10, 10)},
        {**SPIKE, "price_factor": (1, 1), "price_adder_usd_per_mwh": (5, 5)},
        {**ISLANDING, "start_h": (8, 8), "targets": ("MG1",)},
        {**ISLANDING, "start_h": (9, 9), "targets": ("MG1",)},
    )
    draw = drawn(plan, 1)
    assert draw.pv_factor[0, :2, 9:15].T.flatten().tolist() == pytest.approx(
        [1, 1, 0.3, 0.5, 0.3, 0.5, 0.5, 0.5, 0.5, 0.5, 1, 1]
    )
    assert draw.price_factor[0, 17].item() == 3.0
    assert draw.price_adder_usd_per_mwh[0, 17].item() == 15.0
    assert hours(draw.islanded[0, :, 0]) == [8, 9, 10]


def test_quarter_hours_count_four_to_an_hour() -> None:
    plan = plan_of({**ISLANDING, "start_h": (8.25, 8.25), "duration_h": (0.5, 0.5)}, steps_per_hour=4)
    draw = drawn(plan, 1)
    assert draw.islanded.shape == (1, 96, 3)
    assert hours(draw.islanded[0, :, 2]) == [33, 34]


def test_columns_have_names_and_say_what_is_on() -> None:
    plan = plan_of(
        SPIKE,
        {**DIP, "start_h": (17, 17), "pv_share_lost": (0.25, 0.25), "targets": ("MG3",)},
        {**OUTAGE, "start_h": (17, 17), "targets": ("trafo 2",)},
        {**OUTAGE, "start_h": (2, 2), "targets": ("line 1",)},
        {**ISLANDING, "start_h": (17, 17), "targets": ("MG2",)},
    )
    assert plan.obs_names == ("event_price_spike", "event_pv_share_lost", "event_outage_share", "event_islanded")
    draw = drawn(plan, 2)
    own = plan.own_columns(draw)
    assert own.shape == (2, 24, 3, 4)
    assert own[0, 17].tolist() == [[1, 0, 0.5, 0], [1, 0, 0.5, 1], [1, 0.25, 0.5, 0]]
    state = dict(zip(plan.state_names, plan.state_columns(draw)[0, 17].tolist(), strict=True))
    on = {name: value for name, value in state.items() if value}
    assert on == {
        "event_price_spike": 1,
        "MG3.event_pv_share_lost": 0.25,
        "event_outage_trafo 2": 1,
        "MG2.event_islanded": 1,
    }
    assert state["event_outage_line 1"] == 0
    assert plan.state_columns(draw)[1, 2, plan.state_names.index("event_outage_line 1")] == 1


def test_what_never_happens_has_no_column() -> None:
    nothing = plan_of()
    assert nothing.obs_names == nothing.state_names == ()
    assert nothing.own_columns(drawn(nothing, 2)).shape == (2, 24, 3, 0)
    assert nothing.state_columns(drawn(nothing, 2)).shape == (2, 24, 0)
    only = plan_of(DIP)
    assert only.obs_names == ("event_pv_share_lost",)
    assert only.state_names == tuple(f"{agent}.event_pv_share_lost" for agent in AGENTS)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({**SPIKE, "kind": "storm"}, "events: kind must be one of price_spike, pv_dip, outage, islanding, got 'storm'"),
        ({**OUTAGE, "hits": "two"}, "events: hits must be one of all, each, one, got 'two'"),
        ({**SPIKE, "probability": 1.2}, r"probability of price_spike must be in \[0, 1\] per day, got 1.2"),
        ({**SPIKE, "start_h": (17, 12)}, r"start_h of price_spike must be \[low, high\] .* got \[17, 12\]"),
        ({**SPIKE, "start_h": (24, 24)}, "start_h of price_spike must be below 24"),
        ({**SPIKE, "duration_h": (0, 2)}, "duration_h above 0"),
        ({**SPIKE, "duration_h": (1, 200)}, r"duration_h of price_spike must be .* <= 168, got \[1, 200\]"),
        ({**SPIKE, "price_factor": (0.5, 1)}, "price_factor of price_spike must be .* 1 <= low"),
        (
            {**SPIKE, "price_factor": (1, float("inf"))},
            r"price_factor of price_spike must be .* <= 1000, got \[1, inf\]",
        ),
        (
            {**SPIKE, "price_adder_usd_per_mwh": (0, float("inf"))},
            "price_adder_usd_per_mwh of price_spike .* <= 1e\\+06",
        ),
        ({**SPIKE, "price_factor": (1, 1)}, "price_spike changes nothing: set price_factor or price_adder_usd_per_mwh"),
        ({**DIP, "pv_share_lost": (0.5, 1.5)}, "pv_share_lost of pv_dip must be .* <= 1, got"),
        ({**ISLANDING, "pv_share_lost": (0.5, 1)}, "pv_share_lost belongs to pv_dip, not to islanding; remove it"),
        ({**OUTAGE, "targets": ()}, "outage needs targets, the names of branches"),
        ({**SPIKE, "targets": ("MG1",)}, "price_spike hits everyone; remove targets"),
        ({**DIP, "targets": ("MG1", "MG1")}, "targets of pv_dip must differ, got MG1, MG1"),
    ],
)
def test_an_impossible_event_is_named(event: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Event(**event)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({**OUTAGE, "targets": ("line 3",)}, "target 'line 3' of outage is no branch; near names are line 2, line 1"),
        ({**DIP, "targets": ("MG9",)}, "target 'MG9' of pv_dip is no microgrid; near names are MG3, MG2, MG1"),
        ({**SPIKE, "start_h": (17.5, 18)}, r"start_h of price_spike must be whole steps of 1 h, got \(17.5, 18\)"),
    ],
)
def test_an_event_that_does_not_fit_the_scenario_is_named(event: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(event)


def test_more_events_than_the_streams_hold_are_an_error() -> None:
    with pytest.raises(ValueError, match="at most 256 are possible, got 257"):
        plan_of(*[SPIKE] * 257)


def test_a_scenario_file_can_hold_events_and_unknown_keys_are_errors() -> None:
    adapter = TypeAdapter(tuple[Event, ...])
    content = {"kind": "islanding", "start_h": [8, 12], "duration_h": [2, 2], "targets": ["MG1"]}
    (event,) = adapter.validate_python([content])
    assert (event.start_h, event.targets) == ((8.0, 12.0), ("MG1",))
    with pytest.raises(ValidationError, match="durration_h"):
        adapter.validate_python([{**content, "durration_h": 3}])
    with pytest.raises(ValidationError, match="events: start_h of islanding must be"):
        adapter.validate_python([{**content, "start_h": [12, 8]}])
