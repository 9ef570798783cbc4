import pytest
import torch
from torch import Tensor

import envs
from envs.events import Event, EventPlan, draw_events
from envs.exogenous import DayDrawer
from envs.profiles import NOISE_SD_USD_PER_MWH, DayProfiles, load_profiles
from envs.scenario import Scenario, load_scenario

_READ: dict[str, DayProfiles] = {}


def profiles_of(scenario: Scenario) -> DayProfiles:
    """The scenario's data, read once."""
    key = scenario.model_dump_json()
    if key not in _READ:
        _READ[key] = load_profiles(scenario)
    return _READ[key]


def drawer_of(
    scenario: Scenario, num_envs: int, *, seed: int = 5, evaluation: bool = False, events: EventPlan | None = None
) -> DayDrawer:
    profiles = profiles_of(scenario)
    starts = profiles.starts("val" if evaluation else "train", scenario.horizon)
    return DayDrawer(scenario, profiles, starts, range(num_envs), seed=seed, evaluation=evaluation, events=events)


def eventful(scenario: Scenario) -> EventPlan:
    """A spike, a dip and an islanding, each on about half of the days and some over midnight."""
    some = {"probability": 0.5, "start_h": (8.0, 20.0), "duration_h": (2.0, 6.0)}
    events = [
        Event(kind="price_spike", price_factor=(2.0, 4.0), price_adder_usd_per_mwh=(0.0, 100.0), **some),
        Event(kind="pv_dip", pv_share_lost=(0.2, 0.8), hits="each", **some),
        Event(kind="islanding", hits="one", **some),
    ]
    return EventPlan(events, agents=tuple(scenario.microgrids), branches=(), steps_per_hour=1)


def within(values: Tensor, low: float, high: float) -> bool:
    """All inside [low, high], and the range is used."""
    margin = 0.05 * (high - low)
    return bool(low <= values.min() < low + margin and high - margin < values.max() <= high)


def test_evaluation_copy_b_plays_day_b_unchanged(scenario: Scenario) -> None:
    drawer, profiles = drawer_of(scenario, 75, evaluation=True), profiles_of(scenario)
    val = [day for day in range(366) if day // 7 % 5 == 3]
    for _ in range(2):
        energy = drawer.new_episode()
        assert drawer.day.tolist() == val + val[:5]
        assert (energy == 1.0).all()
        today = drawer.today()
        assert torch.equal(today.price, profiles.price[drawer.day])
        assert torch.equal(today.load, profiles.load[drawer.day])
        assert torch.equal(today.yesterday_load, profiles.load[drawer.day - 1])
        rated = torch.tensor([0.4, 0.3, 0.3, 0.1, 0.2, 0.3], dtype=torch.float64)[:, None]
        assert torch.equal(today.renewables_mw, profiles.renewables[drawer.day] * rated)


def test_training_draws_days_of_its_split_and_energies_in_their_range(scenario: Scenario) -> None:
    drawer = drawer_of(scenario, 2000)
    energy = drawer.new_episode()
    days = set(drawer.day.tolist())
    assert all(day // 7 % 5 < 3 for day in days)
    assert len(days) > 200
    assert within(energy, 0.6, 1.4)
    assert energy.mean().item() == pytest.approx(1.0, abs=0.02)
    assert abs(torch.corrcoef(energy.T)[0, 1]) < 0.1


def test_training_scales_each_area_and_plant_by_its_own_factor(scenario: Scenario) -> None:
    drawer, profiles = drawer_of(scenario, 1000), profiles_of(scenario)
    drawer.new_episode()
    today = drawer.today()
    factor = today.load / profiles.load[drawer.day]
    assert within(factor, 0.9, 1.1)
    assert (factor.amax(-1) - factor.amin(-1)).max() < 1e-12  # one factor for the episode
    assert abs(torch.corrcoef(factor[..., 0].T)[0, 1]) < 0.15  # areas differ
    assert torch.allclose(today.yesterday_load / profiles.load[drawer.day - 1], factor)
    rated = torch.tensor([0.4, 0.3, 0.3, 0.1, 0.2, 0.3], dtype=torch.float64)[:, None]
    base = profiles.renewables[drawer.day] * rated
    running = (base > 0.01) & (today.renewables_mw < rated - 1e-9)
    assert within((today.renewables_mw / base)[running], 0.9, 1.1)
    assert (today.renewables_mw <= rated).all()


def test_training_redraws_the_price_noise(scenario: Scenario) -> None:
    drawer, profiles = drawer_of(scenario, 3000), profiles_of(scenario)
    assert profiles.price_base is not None
    drawer.new_episode()
    day = drawer.day.clone()
    price = drawer.today().price
    assert torch.equal(price, drawer.today().price)  # a function of the counters
    floor = price <= 5.0
    noise = (price - profiles.price_base[day]).masked_fill(floor, torch.nan)
    assert noise[~floor].std().item() == pytest.approx(NOISE_SD_USD_PER_MWH, abs=0.1)
    assert noise[:, 0][~floor[:, 0]].std().item() == pytest.approx(NOISE_SD_USD_PER_MWH, abs=0.2)
    both = ~floor[:, 1:] & ~floor[:, :-1]
    pairs = torch.stack([noise[:, 1:][both], noise[:, :-1][both]])
    assert torch.corrcoef(pairs)[0, 1].item() == pytest.approx(0.92, abs=0.01)
    assert price.min() == 5.0


def test_noise_runs_on_over_midnight(scenario: Scenario) -> None:
    week = load_scenario("ieee34_ieee13", {"horizon": "week"})
    drawer, base = drawer_of(week, 2000), profiles_of(week).price_base
    assert base is not None
    drawer.new_episode()
    before = (drawer.today().price - base[drawer.day])[:, -1]
    drawer.next_day()
    after = (drawer.today().price - base[drawer.day])[:, 0]
    assert torch.corrcoef(torch.stack([before, after]))[0, 1].item() == pytest.approx(0.92, abs=0.02)


def test_time_of_use_prices_have_no_noise() -> None:
    drawer = drawer_of(load_scenario("ieee34_ieee13", {"data": {"price": "tou"}}), 3)
    drawer.new_episode()
    assert drawer.today().price.unique().tolist() == [38.0, 45.0, 68.0, 115.0]


def test_a_copys_episodes_depend_on_seed_and_copy_alone(scenario: Scenario) -> None:
    small, large, other = drawer_of(scenario, 3), drawer_of(scenario, 40), drawer_of(scenario, 3, seed=6)
    for _ in range(3):
        energies = [drawer.new_episode() for drawer in (small, large, other)]
        assert torch.equal(energies[0], energies[1][:3])
        assert torch.equal(small.day, large.day[:3])
        # the noise is a matrix product: another shape may add in another order
        assert (small.today().price - large.today().price[:3]).abs().max() < 1e-12
        assert not torch.equal(energies[0], energies[2])
        assert energies[0].unique().numel() == 9


def test_restart_repeats_the_episodes_of_a_seed(scenario: Scenario) -> None:
    drawer = drawer_of(scenario, 4, seed=1)
    first = [drawer.new_episode() for _ in range(2)]
    assert not torch.equal(*first)
    drawer.restart(1)
    assert torch.equal(drawer.new_episode(), first[0])
    drawer.restart(2)
    assert not torch.equal(drawer.new_episode(), first[0])


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    env = envs.make(num_envs=3, seed=1)
    env.reset()
    for _ in range(25):
        env.step(torch.zeros(env.action_shape))
    assert torch.equal(before, torch.get_rng_state())
    first = env.reset(7)[0]
    torch.manual_seed(99)
    assert torch.equal(env.reset(7)[0], first)


def test_copies_of_a_group_draw_the_same_episodes_and_groups_differ() -> None:
    env = envs.make(num_envs=6, group_size=3, seed=5)
    for _ in range(2):
        env.reset()
        today = env.situation()
        for values in (today.today.price, today.today.load, today.today.renewables_mw, today.energy_mwh):
            first, second = values.split(3)
            assert (first == first[:1]).all()
            assert not (first[:1] == second).all()


def test_an_evaluation_has_no_groups() -> None:
    env = envs.make(num_envs=6, group_size=4, split="val", evaluation=True)
    assert env.group_size == 1
    assert len(env.day.unique()) == 6


def test_events_change_price_and_pv_and_nothing_else(scenario: Scenario) -> None:
    plain, drawer = drawer_of(scenario, 50), drawer_of(scenario, 50, events=eventful(scenario))
    assert torch.equal(plain.new_episode(), drawer.new_episode())
    before, after, events = plain.today(), drawer.today(), drawer.events_today()
    assert plain.events_today() is None
    assert events is not None
    spike = events.price_factor > 1
    assert 10 < spike.any(-1).sum() < 40
    assert torch.equal(after.price[~spike], before.price[~spike])
    expected = (before.price * events.price_factor + events.price_adder_usd_per_mwh)[spike]
    assert torch.allclose(after.price[spike], expected)
    assert after.price.max() > scenario.data.price_cap_usd_per_mwh
    pv_mw, wind_mw = after.renewables_mw.chunk(2, 1)
    assert torch.equal(pv_mw, before.renewables_mw[:, :3] * events.pv_factor)
    assert (pv_mw < before.renewables_mw[:, :3]).any()
    assert torch.equal(wind_mw, before.renewables_mw[:, 3:])
    assert torch.equal(after.load, before.load)
    assert torch.equal(after.yesterday_renewables_mw, before.yesterday_renewables_mw)
    assert events.islanded.any()


def test_yesterdays_dip_is_in_yesterdays_renewables() -> None:
    week = load_scenario("ieee34_ieee13", {"horizon": "week"})
    drawer = drawer_of(week, 30, events=eventful(week))
    drawer.new_episode()
    for _ in range(3):
        today = drawer.today().renewables_mw
        drawer.next_day()
        assert torch.equal(drawer.today().yesterday_renewables_mw, today)


def test_events_of_an_evaluation_repeat_and_differ_between_copies(scenario: Scenario) -> None:
    drawer = drawer_of(scenario, 20, evaluation=True, events=eventful(scenario))
    drawer.new_episode()
    first = drawer.events_today()
    drawer.new_episode()
    second = drawer.events_today()
    assert first is not None
    assert second is not None
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    assert first.price_factor.unique(dim=0).shape[0] > 5


def test_events_of_training_differ_between_episodes_and_follow_the_counters(scenario: Scenario) -> None:
    plan = eventful(scenario)
    drawer, twin = drawer_of(scenario, 20, events=plan), drawer_of(scenario, 20, events=plan)
    drawer.new_episode()
    first = drawer.today().price
    drawer.new_episode()
    events = drawer.events_today()
    assert events is not None
    expected = draw_events(plan, seed=5, copy=torch.arange(20), episode=torch.ones(20, dtype=torch.int64))
    assert torch.equal(events.pv_factor, expected.pv_factor)
    twin.load_state_dict(drawer.state_dict())
    assert torch.equal(twin.today().price, drawer.today().price)
    assert not torch.equal(first, drawer.today().price)
