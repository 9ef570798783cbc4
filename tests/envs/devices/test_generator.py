from typing import Any

import pytest
import torch
from torch import Tensor

import envs
from envs.devices import generator
from envs.devices.generator import Units
from envs.devices.options import units_of
from envs.scenario import load_scenario
from tests.envs.devices.all_options import acting, of_all, random_actions

CPU = torch.device("cpu")
TIMES = {"p_min_mw": 0.2, "start_h": 2.0, "stop_h": 2.0, "min_up_h": 3.0, "min_down_h": 1.0}
MONEY = {"start_usd": 12.0, "stop_usd": 3.0}
QUICK = {"p_min_mw": 0.2}


def units(ramp_mw_per_h: float | None = None, dt_h: float = 1.0, **commitment: Any) -> Units:
    part = {"ramp_mw_per_h": ramp_mw_per_h, "commitment": commitment or None}
    scenario = load_scenario("ieee34_ieee13", {"dt_h": dt_h, "microgrids": {"MG1": {"generator": part}}})
    return units_of(scenario, CPU, torch.float64)


def played(rule: Units, wishes: Tensor, wanted_mw: Tensor) -> dict[str, Tensor]:
    """(T, A) of a day from off; wishes and wanted powers (T, A)."""
    on, steps = rule.initially_on, rule.longest
    p_mw = torch.where(on, rule.p_min_mw, 0.0)
    rows: dict[str, list[Tensor]] = {"p_mw": [], "runs": [], "starts": [], "stops": []}
    for wish, wanted in zip(wishes, wanted_mw, strict=True):
        now = generator.switch(wish, on, steps, p_mw, rule)
        p_mw = generator.output(wanted, wish, now, p_mw, rule)
        on, steps = now.on, generator.next_steps(now, rule)
        for name, value in {"p_mw": p_mw, "runs": generator.running(now, rule), "starts": now.starts}.items():
            rows[name].append(value)
        rows["stops"].append(now.stops)
    return {name: torch.stack(values) for name, values in rows.items()}


def first(values: Tensor) -> list[float]:
    return [round(value, 9) for value in values[:, 0].tolist()]


def everyone(*wishes: int) -> Tensor:
    return torch.tensor(wishes).bool()[:, None].expand(-1, 3)


def full(steps: int, p_mw: float = 9.0) -> Tensor:
    return torch.full((steps, 3), p_mw, dtype=torch.float64)


def test_a_start_and_a_stop_take_their_time_and_early_wishes_are_ignored() -> None:
    # wishes to stop in step 3 (it must run for 3) and to start in step 8 (it must stand still for 1) are ignored
    day = played(units(**TIMES), everyone(1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1), full(11, 0.5))
    #                          starting |  running        | falling   | down | starting
    assert first(day["p_mw"]) == [0, 0, 0.5, 0.2, 0.2, 0.15, 0.05, 0, 0, 0, 0.5]
    assert first(day["starts"]) == [1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]
    assert first(day["stops"]) == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]


def test_a_wish_to_start_is_ignored_for_the_whole_time_down() -> None:
    rule = units(p_min_mw=0.2, stop_h=1.0, min_down_h=2.0, initially_on=True)
    day = played(rule, everyone(0, 1, 1, 1, 1), full(5, 0.5))
    assert first(day["p_mw"]) == [0.1, 0, 0, 0.5, 0.5]


def test_durations_count_in_hours_whatever_the_step() -> None:
    quarter = units(dt_h=0.25, **TIMES)
    assert (quarter.start_steps[0], quarter.up_steps[0], quarter.longest[0]) == (8, 12, 20)


def test_output_stays_between_its_limits_while_running() -> None:
    day = played(units(**QUICK), everyone(1, 1, 1), torch.stack([full(1, p)[0] for p in (0.0, 0.4, 9.0)]))
    assert first(day["p_mw"]) == [0.2, 0.4, 0.66]


def test_a_ramp_bounds_the_change_from_step_to_step_and_starts_at_zero() -> None:
    wanted = torch.stack([full(1, p)[0] for p in (0.6, 0.6, 0.6, 0.0, 0.0)])
    day = played(units(ramp_mw_per_h=0.25), everyone(0, 0, 0, 0, 0), wanted)
    assert first(day["p_mw"]) == [0.25, 0.5, 0.6, 0.35, 0.1]
    quarter = played(units(ramp_mw_per_h=0.25, dt_h=0.25), everyone(0, 0), full(2))
    assert first(quarter["p_mw"]) == [0.0625, 0.125]


def test_a_ramped_unit_jumps_to_its_lowest_output_and_runs_down_before_it_stops() -> None:
    day = played(units(ramp_mw_per_h=0.15, **QUICK), everyone(1, 1, 1, 0, 0, 0), full(6))
    assert first(day["p_mw"]) == [0.35, 0.5, 0.65, 0.5, 0.35, 0]
    assert first(day["stops"]) == [0, 0, 0, 0, 0, 1]


def test_random_wishes_never_break_a_rule() -> None:
    rule = units(ramp_mw_per_h=0.1, **{**TIMES, "p_min_mw": 0.15})
    rng = torch.Generator().manual_seed(0)
    wishes = (torch.rand(4000, 3, generator=rng) > 0.5).repeat_interleave(2, 0)
    day = played(rule, wishes, 0.7 * torch.rand(8000, 3, generator=rng, dtype=torch.float64))
    p_mw, runs = day["p_mw"][:, 0], day["runs"][:, 0]
    assert p_mw[runs].min() >= 0.15
    assert p_mw.max() <= 0.66
    assert set(p_mw[~runs].mul(1e6).round().tolist()) == {0.0, 112500.0, 37500.0}  # off, and the fall from p_min
    both = runs[1:] & runs[:-1]
    assert (p_mw.diff().abs()[both] <= 0.1 + 1e-9).all()
    starts, stops = day["starts"][:, 0].nonzero()[:, 0], day["stops"][:, 0].nonzero()[:, 0]
    assert len(starts) > 100
    pairs = min(len(starts), len(stops))
    assert (stops[:pairs] - starts[:pairs]).min() == 2 + 3  # start-up and time up
    assert (starts[1 : pairs + 1] - stops[: len(starts) - 1]).min() == 2 + 1  # shut-down and time down
    assert (day["p_mw"][:, 1:].diff(dim=0).abs() > 0.1).any(), "the others have neither limit"


def test_starts_and_stops_are_paid_once_by_their_owner_and_the_constant_only_while_running() -> None:
    part = {"generator": {"commitment": {**QUICK, **MONEY, "start_h": 1.0}}}
    env = envs.make(num_envs=2, dtype="float64", microgrids={"MG1": part}, episode={"reward_scale_usd": 1.0})
    env.reset()
    others = 2 * 0.4615  # of the units that are always ready
    seen = []
    for commit in (0, 1, 1, 1, 0, 0):
        metrics = env.step(acting(env, commit=commit)).metrics
        seen.append((metrics["commitment_usd"][0].item(), metrics["generator_usd"][0].item() - others))
    runs = 100 * 0.2**2 + 72.4 * 0.2 + 0.5011
    expected = [(0, 0), (12, 0), (0, runs), (0, runs), (3, 0), (0, 0)]
    assert [pytest.approx(row, abs=1e-9) for row in expected] == seen


def test_start_cost_lowers_the_owners_reward_by_as_much() -> None:
    rewards = []
    for start_usd in (0.0, 12.0):
        part = {"generator": {"commitment": {**QUICK, "start_usd": start_usd, "start_h": 1.0}}}
        env = envs.make(num_envs=2, dtype="float64", microgrids={"MG2": part}, episode={"reward_scale_usd": 1.0})
        env.reset(1)
        rewards.append(env.step(acting(env, commit=1)).rewards)
    change = rewards[0] - rewards[1]
    assert change[0].tolist() == pytest.approx([0, 12, 0], abs=1e-4)


def test_a_microgrid_without_commitment_ignores_the_choice() -> None:
    env = envs.make(num_envs=4, microgrids={"MG1": {"generator": {"commitment": QUICK}}})
    same = envs.make(num_envs=4, microgrids={"MG1": {"generator": {"commitment": QUICK}}})
    env.reset(3)
    same.reset(3)
    for t in range(10):
        actions = random_actions(env, t)
        column = env.action_names.index("commit")
        a = env.step(actions)
        actions[:, 1:, column] = 1 - actions[:, 1:, column]
        assert torch.equal(a.rewards, same.step(actions).rewards)


def test_the_state_of_a_unit_is_observed() -> None:
    part = of_all(generator={"commitment": {**TIMES}, "ramp_mw_per_h": 0.1})
    env = envs.make(num_envs=1, microgrids=part)
    obs, _ = env.reset()
    names = ("generator_p_mw", "generator_on", "generator_state_h", "generator_locked_h")
    columns = [env.obs_names.index(name) for name in names]
    assert obs[0, 0, columns].tolist() == [0, 0, 1, 0]
    obs = env.step(acting(env, commit=1)).obs
    assert obs[0, 0, columns].tolist() == pytest.approx([0, 1, 1 / 5, 4 / 5])
    assert "MG3.generator_locked_h" in env.state_names
