import pytest
import torch

import envs
from tests.envs.policies import play, uniform_random


# matplotlib hands tensors to NumPy 2, which older torch versions greet with this
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning")
def test_evaluation_draws_a_day_of_its_first_copy() -> None:
    env = envs.make(split="val", evaluation=True, num_envs=2)
    assert env.figures() == {}
    play(env, uniform_random(0)(env))
    figures = env.figures()
    assert set(figures) == {"dispatch", "grid"}
    assert "22 Jan 2016" in figures["grid"].get_suptitle()  # day 21, the first of validation
    assert len(figures["dispatch"].axes) == 6  # power and energy of each microgrid
    head = figures["grid"].axes[1].lines[0].get_ydata()
    assert len(head) == 24


def test_training_draws_nothing() -> None:
    env = envs.make(num_envs=1)
    env.reset()
    env.step(torch.zeros(env.action_shape))
    assert env.figures() == {}
