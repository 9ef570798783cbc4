import io
from typing import Any

import numpy as np
import pytest
import torch

import envs
from envs.day_trace import PlayedDay
from envs.figures import day_figures, dispatch_figure, grid_figure
from tests.envs.policies import idle, play, uniform_random


@pytest.fixture(scope="module")
def played() -> tuple[envs.MicrogridEnv, PlayedDay]:
    """Three validation days of random actions."""
    env = envs.make(split="val", evaluation=True, num_envs=3)
    assert env.figures() == {}
    assert env.last_day() is None
    play(env, uniform_random(0)(env))
    day = env.last_day()
    assert day is not None
    return env, day


def areas(axes: Any) -> list[np.ndarray]:
    """Signed heights of the filled steps: wind, PV, generator, discharging, charging."""
    filled = [patch.get_data() for patch in axes.patches if patch.get_fill()]
    return [data.values - data.baseline for data in filled]


def test_evaluation_draws_a_day_of_its_first_copy(played: tuple[envs.MicrogridEnv, PlayedDay]) -> None:
    env, day = played
    figures = env.figures()
    assert set(figures) == {"dispatch", "grid"}
    for figure in figures.values():
        assert "Fri 22 Jan 2016" in figure.get_suptitle()  # day 21, the first of validation
        figure.savefig(io.BytesIO(), format="png")
    assert [axes.get_ylabel() for axes in figures["dispatch"].axes] == ["MG1\nMW", "MG2\nMW", "MG3\nMW", "stored\nMWh"]
    head = figures["grid"].axes[1].patches[0].get_data()
    assert len(head.values) == 24
    assert (head.edges[0], head.edges[-1]) == (0, 24)
    assert head.values == pytest.approx(day.head_p_mw[:, 0])


def test_every_copy_is_kept_and_its_numbers_agree(played: tuple[envs.MicrogridEnv, PlayedDay]) -> None:
    env, day = played
    assert [f"{date:%d %b}" for date in day.dates] == ["22 Jan", "23 Jan", "24 Jan"]
    assert day.battery_p_mw.shape == (24, 3, 3)
    assert day.energy_mwh.shape == (25, 3, 3)
    assert day.v_pu.shape == day.loading.shape == (24, 3, 71)
    assert day.tap.shape == (24, 3, len(day.tap_names)) == (24, 3, 5)
    assert len(day.bus_areas) == 71
    assert day.party_p_mw.sum(-1) == pytest.approx(day.head_p_mw, abs=1e-5)
    assert np.maximum.accumulate(day.head_p_mw.clip(min=0)) == pytest.approx(day.peak_mw, abs=1e-6)
    p = day.battery_p_mw
    stored = np.diff(day.energy_mwh, axis=0)
    assert stored == pytest.approx(np.where(p > 0, 0.98 * p, p / 0.98), abs=1e-5)
    assert (day.energy_mwh[0] == 1.0).all()
    assert not np.allclose(day.head_p_mw[:, 0], day.head_p_mw[:, 1])
    assert day.agents == env.agents


def test_any_day_can_be_drawn_for_two_policies_side_by_side(played: tuple[envs.MicrogridEnv, PlayedDay]) -> None:
    _, random = played
    env = envs.make(split="val", evaluation=True, num_envs=3)
    play(env, idle(env))
    nothing = env.last_day()
    assert nothing is not None
    figure = dispatch_figure({"random": random, "idle": nothing}, copy=2)
    assert "24 Jan 2016" in figure.get_suptitle()
    assert [axes.get_title() for axes in figure.axes[:2]] == ["random", "idle"]
    left, right = figure.axes[2:4]  # MG2
    assert left.get_ylim() == right.get_ylim()
    wind, pv, generator, discharge, charge = areas(left)
    assert wind == pytest.approx(random.wind_p_mw[:, 2, 1])
    assert generator == pytest.approx(random.generator_p_mw[:, 2, 1])
    assert -discharge - charge == pytest.approx(random.battery_p_mw[:, 2, 1], abs=1e-6)
    assert pv == pytest.approx(areas(right)[1])
    voltages = grid_figure({"random": random, "idle": nothing}, copy=2).axes[4:6]
    for axes, day in zip(voltages, (random, nothing), strict=True):
        paths = [path for collection in axes.collections for path in collection.get_paths()]
        buses = [np.asarray(path.vertices)[:, 1] for path in paths]
        assert np.array(buses).shape == (71, 24)
        assert np.min(buses) == pytest.approx(day.v_pu[:, 2].min())
        low, high = axes.get_ylim()
        assert low < 0.95
        assert high > 1.05  # the limits are in the picture, whatever the voltages
        assert {tuple(np.asarray(line.get_ydata()).tolist()) for line in axes.lines} == {(0.95, 0.95), (1.05, 1.05)}


def test_quarter_hours_are_drawn() -> None:
    env = envs.make(split="val", evaluation=True, num_envs=1, dt_h=0.25)
    play(env, idle(env))
    day = env.last_day()
    assert day is not None
    assert len(day.price) == 96
    assert day.edges_h[-1] == 24
    assert len(day_figures({"": day})["grid"].axes) == 4


def test_a_week_shows_its_last_day_with_that_days_date_and_energies() -> None:
    env = envs.make(split="val", evaluation=True, num_envs=1, horizon="week")
    env.reset()
    charge, idle = env.idle_action(), env.idle_action()
    charge[:, 0] = 0.5
    for hour in range(168):
        env.step(charge if hour == 0 else idle)
    figures = env.figures()
    assert env.day.tolist() == [21]  # already reset
    assert "28 Jan 2016" in figures["grid"].get_suptitle()
    energies = figures["dispatch"].axes[3].lines[0].get_ydata()
    assert energies == pytest.approx([1.0 + 0.98 * 0.25] * 25, abs=1e-5)


def test_training_draws_nothing() -> None:
    env = envs.make(num_envs=1)
    env.reset()
    env.step(torch.zeros(env.action_shape))
    assert env.figures() == {}
    assert env.last_day() is None
