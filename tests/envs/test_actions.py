"""The columns of the action tensor, for microgrids with and without choices and a DSO that is an agent."""

import gymnasium
import numpy as np
import pytest
import torch

from envs.actions import ActionLayout, Choice

COMMIT = Choice("commit", 2, idle=0)
BANK, TARGET = Choice("capacitor_C1", 2, idle=1), Choice("target_R1", 5, idle=2)


def mixed() -> ActionLayout:
    return ActionLayout(["a", "b"], powers=["p", "q"], bids=["bid"], choices=[COMMIT], operator={"DSO": [BANK, TARGET]})


def test_columns_are_powers_then_bids_then_choices() -> None:
    layout = mixed()
    assert layout.agents == ("a", "b", "DSO")
    assert layout.names == ("p", "q", "bid", "commit / capacitor_C1", "target_R1")
    assert layout.spaces["DSO"] == gymnasium.spaces.MultiDiscrete([2, 5])
    assert set(layout.spaces["a"]) == {"powers", "commit"}  # type: ignore[call-overload]


def test_without_choices_every_agent_has_a_box() -> None:
    layout = ActionLayout(["a"], powers=["p", "q"])
    assert layout.spaces == {"a": gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)}
    parts = layout.split(layout.checked(torch.ones(4, 1, 2), 4))
    assert [tuple(part.shape) for part in parts] == [(4, 1, 2), (4, 1, 0), (4, 1, 0), (4, 0)]


def test_parts_come_back_from_a_tensor() -> None:
    layout = mixed()
    actions = torch.tensor([[0.1, 0.2, 0.3, 1, 9.0], [0.4, 0.5, 0.6, 0, 9.0], [7.0, 7.0, 7.0, 1, 4]])
    parts = layout.split(layout.checked(actions, 2))
    assert parts.powers[1].tolist() == torch.tensor([[0.1, 0.2], [0.4, 0.5]]).tolist()
    assert parts.bids[0].tolist() == torch.tensor([[0.3], [0.6]]).tolist()
    assert parts.choices[0].tolist() == [[1], [0]]
    assert parts.operator[0].tolist() == [1, 4]


def test_idle_takes_the_choices_that_change_nothing() -> None:
    idle = mixed().idle(torch.tensor([[0.0, -1.0], [0.0, 1.0]]))
    assert idle.tolist() == [[0, -1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 1, 2]]


def test_uniform_numbers_become_every_option_equally_often() -> None:
    values = 2 * torch.rand(20_000, 3, 5, generator=torch.Generator().manual_seed(1)) - 1
    parts = mixed().split(mixed().from_unit(values))
    share = torch.bincount(parts.operator[:, 1], minlength=5) / 20_000
    assert torch.allclose(share, torch.full((5,), 0.2), atol=0.01)
    assert parts.choices.unique().tolist() == [0, 1]
    mixed().checked(mixed().from_unit(torch.ones(1, 3, 5)), 1)  # the upper end is the last option


@pytest.mark.parametrize("index", [-1.0, 5.0, 0.5])
def test_an_index_that_is_no_option_is_named(index: float) -> None:
    actions = torch.zeros(2, 3, 5)
    actions[1, 2, 4] = index
    with pytest.raises(ValueError, match=rf"index of an option, got {index} for target_R1 of DSO in copy 1"):
        mixed().checked(actions, 2)


def test_actions_of_each_agents_space_fit_into_the_tensor() -> None:
    layout = mixed()
    for agent, space in layout.spaces.items():
        row = layout.flat(agent, space.sample())
        assert row.shape == (5,)
    assert layout.flat("DSO", np.array([1, 3])).tolist() == [0, 0, 0, 1, 3]
    assert layout.flat("b", {"powers": np.array([0.5, -0.5, 0.25]), "commit": 1}).tolist() == [0.5, -0.5, 0.25, 1, 0]
    with pytest.raises(ValueError, match="action of b must be a dict of powers, commit"):
        layout.flat("b", np.zeros(3))
    with pytest.raises(ValueError, match=r"action of DSO must have shape \(2,\), got \(3,\)"):
        layout.flat("DSO", np.zeros(3))
