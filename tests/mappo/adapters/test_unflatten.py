from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from mappo.adapters.unflatten import ActionDecoder, flatten_mask
from mappo.spaces import ActionSpec, action_heads


def floats(values: Any) -> np.ndarray[Any, Any]:
    return np.asarray(values, np.float32)


NESTED = spaces.Dict(
    {
        "aim": spaces.Tuple((spaces.Discrete(3, start=-1), spaces.Box(-1, 3, (2,)))),
        "flags": spaces.MultiBinary(2),
        "modes": spaces.MultiDiscrete([2, 4], start=[0, 5]),
        "push": spaces.Box(floats([0, -np.inf]), floats([np.inf, np.inf])),
    }
)


def decode(space: spaces.Space[Any], *rows: list[float]) -> list[Any]:
    spec = ActionSpec.of([action_heads("ann", space)])
    return ActionDecoder("ann", space, spec.columns_of(0))(floats(rows))


def test_bounded_dims_are_clipped_and_scaled() -> None:
    actions = decode(spaces.Box(floats([-1, 0]), floats([3, 10])), [0, 0], [1, -1], [-5, 5])
    np.testing.assert_array_equal(actions, [[1, 5], [3, 0], [-1, 10]])


def test_half_bounded_and_unbounded_dims_are_only_clipped() -> None:
    low, high = floats([0, -np.inf, -np.inf]), floats([np.inf, 2, np.inf])
    np.testing.assert_array_equal(decode(spaces.Box(low, high), [-3, 5, 7], [8, -9, -7]), [[0, 2, 7], [8, -9, -7]])


def test_integer_boxes_are_rounded() -> None:
    actions = decode(spaces.Box(0, 9, (1,), np.uint8), [-1], [1], [0.1])
    assert [(a.item(), a.dtype) for a in actions] == [(0, np.uint8), (9, np.uint8), (5, np.uint8)]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_bounds_that_round_are_not_exceeded(dtype: Any) -> None:
    low, high = np.asarray([-1.3, 0.1, -1e4], dtype), np.asarray([0.7, 0.3, 6e4], dtype)
    space = spaces.Box(low, high, dtype=dtype)
    for action in decode(space, [-1] * 3, [1] * 3, [0.99999994] * 3, [-0.99999994] * 3):
        assert space.contains(action)


def test_choices_start_where_the_space_does() -> None:
    actions = decode(spaces.Discrete(3, start=-1), [0], [2])
    assert actions == [-1, 1]
    assert type(actions[0]) is int
    np.testing.assert_array_equal(decode(spaces.MultiDiscrete([2, 4], start=[0, 5]), [1, 3]), [[1, 8]])
    bits = decode(spaces.MultiBinary((2, 2)), [0, 1, 1, 0])[0]
    np.testing.assert_array_equal(bits, [[0, 1], [1, 0]])
    assert bits.dtype == np.int8


def test_nested_spaces_are_rebuilt() -> None:
    # Box columns first: aim (2), push (2); then the choices: aim, flags (2), modes (2).
    (action,) = decode(NESTED, [0, 1, -4, -5, 2, 1, 0, 1, 3])
    assert NESTED.contains(action)
    assert action["aim"][0] == 1
    assert action["aim"][1].tolist() == [1, 3]
    assert action["flags"].tolist() == [1, 0]
    assert action["modes"].tolist() == [1, 8]
    assert action["push"].tolist() == [0, -5]


def test_columns_of_other_agents_are_left_alone() -> None:
    wide = action_heads("wide", spaces.Tuple((spaces.Box(-1, 1, (3,)), spaces.MultiDiscrete([9, 9]))))
    space = spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (1,))))
    columns = ActionSpec.of([wide, action_heads("ann", space)]).columns_of(1)
    ((choice, box),) = ActionDecoder("ann", space, columns)(floats([[0.5, 9, 9, 1, 8]]))
    assert (choice, box.tolist()) == (1, [0.5])


def test_what_is_no_action_is_refused() -> None:
    with pytest.raises(ValueError, match="action of ann in copy 1: column 0 = nan is not finite"):
        decode(spaces.Box(-1, 1, (1,)), [0], [np.nan])
    with pytest.raises(ValueError, match="action of ann in copy 0: choice 1 must be from 0 to 3; got 4"):
        decode(spaces.MultiDiscrete([2, 4]), [0, 4])
    with pytest.raises(ValueError, match="choice 0 must be from 0 to 1; got -1"):
        decode(spaces.Discrete(2), [-1])


@pytest.mark.parametrize(
    ("space", "mask", "expected"),
    [
        (spaces.Discrete(3), np.array([1, 0, 1]), "101"),
        (spaces.Discrete(3), [True, False, True], "101"),
        (spaces.MultiDiscrete([2, 3]), (np.array([0, 1]), np.array([1, 1, 0])), "01110"),
        (spaces.MultiDiscrete([2, 3]), np.array([0, 1, 1, 1, 0]), "01110"),
        (spaces.MultiDiscrete([2, 2]), np.array([[0, 1], [1, 1]]), "0111"),
        (spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2))), ([1, 0], [0, 1]), "1001"),
        (spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2))), [1, 0, 0, 1], "1001"),
        (spaces.Tuple((spaces.Box(0, 1), spaces.Discrete(2))), (None, [0, 1]), "01"),
        (
            spaces.Dict({"b": spaces.Box(0, 1), "a": spaces.Discrete(2), "c": spaces.Discrete(1)}),
            {"c": [1], "a": [0, 1]},
            "011",
        ),
    ],
)
def test_masks_of_any_form_become_one_row(space: spaces.Space[Any], mask: Any, expected: str) -> None:
    assert "".join("01"[allowed] for allowed in flatten_mask(space, mask).astype(int)) == expected


def test_a_mask_that_misses_a_part_is_refused() -> None:
    space = spaces.Dict({"a": spaces.Discrete(2), "c": spaces.Discrete(1)})
    with pytest.raises(ValueError, match="action_mask must hold 'c'"):
        flatten_mask(space, {"a": [1, 0]})


@pytest.mark.parametrize("mask", [np.array([1.0, np.nan]), [np.nan, 1.0], np.array([True, None]), ["a", "b"], [1j, 0]])
def test_a_mask_must_hold_numbers(mask: Any) -> None:
    with pytest.raises(ValueError, match="action_mask must hold 0 or 1 for each choice; got"):
        flatten_mask(spaces.Discrete(2), mask)
