import pytest
import torch

import envs
from tests.envs.policies import play, uniform_random


def test_evaluation_draws_a_day_of_its_first_copy() -> None:
    env = envs.make(split="val", evaluation=True, num_envs=2)
    assert env.figures() == {}
    play(env, uniform_random(0)(env))
    figures = env.figures()
    assert set(figures) == {"dispatch", "grid"}
    assert "22 Jan 2016" in figures["grid"].get_suptitle()  # day 21, the first of validation
    assert len(figures["dispatch"].axes) == 6  # power and energy of each microgrid
    head = figures["grid"].axes[1].patches[0].get_data()
    assert len(head.values) == 24
    assert (head.edges[0], head.edges[-1]) == (0, 24)


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
