import re
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from mappo.adapters.flatten import ObservationFlattener

NESTED = spaces.Dict(
    {
        "pose": spaces.Box(-1, 1, (2, 2), np.float64),
        "mode": spaces.Discrete(3, start=-1),
        "rest": spaces.Tuple(
            (
                spaces.MultiBinary(2),
                spaces.MultiDiscrete([2, 3], start=[4, 0]),
                spaces.Dict({"x": spaces.Box(0, 9, ())}),
            )
        ),
    }
)


def floats(values: Any) -> np.ndarray[Any, Any]:
    return np.asarray(values, np.float32)


def flat(space: spaces.Space[Any], value: Any, **kwargs: Any) -> np.ndarray[Any, Any]:
    flattener = ObservationFlattener("ann", space, **kwargs)
    row = np.zeros(flattener.width, np.float32)
    flattener.write(value, row)
    return row


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-3, 3, (4,)),
        spaces.Box(-3, 3, (2, 3), np.float64),
        spaces.Box(0, 255, (5,), np.uint8),
        spaces.Discrete(5, start=2),
        spaces.MultiDiscrete(np.array([[2, 3], [4, 5]])),
        spaces.MultiBinary((2, 2)),
        NESTED,
    ],
)
def test_columns_are_those_of_gymnasium(space: spaces.Space[Any]) -> None:
    space.seed(0)
    for _ in range(20):
        sample = space.sample()
        np.testing.assert_array_equal(flat(space, sample), floats(spaces.flatten(space, sample)))
        assert ObservationFlattener("ann", space).fault(flat(space, sample)) == ""


def test_columns_are_named_after_their_entries() -> None:
    assert ObservationFlattener("ann", NESTED).names == [
        *("mode=-1", "mode=0", "mode=1"),
        *("pose[0,0]", "pose[0,1]", "pose[1,0]", "pose[1,1]"),
        *("rest.0[0]", "rest.0[1]"),
        *("rest.1[0]=4", "rest.1[0]=5", "rest.1[1]=0", "rest.1[1]=1", "rest.1[1]=2"),
        "rest.2.x",
    ]


def test_the_flat_space_has_the_bounds_of_the_entries() -> None:
    space = spaces.Dict({"far": spaces.Box(-1e300, 1e300, (1,), np.float64), "near": spaces.Box(1, 2, (1,))})
    box = ObservationFlattener("ann", space).space
    assert (box.low.tolist(), box.high.tolist()) == ([-np.inf, 1.0], [np.inf, 2.0])


def test_the_mask_is_no_part_of_the_observation() -> None:
    space = spaces.Dict({"action_mask": spaces.Box(0, 1, (4,), np.int8), "observation": spaces.Box(-1, 1, (2,))})
    flattener = ObservationFlattener("ann", space)
    assert flattener.has_mask
    assert flattener.names == ["observation[0]", "observation[1]"]


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (spaces.Box(-1, 1, (2,)), np.zeros(1), r"observation of ann: .* must have shape \(2,\); got \(1,\)"),
        (spaces.Box(-1, 1, (2,)), None, r"must have shape \(2,\)"),
        (spaces.Box(-1, 1, (2,)), np.array(["a", "b"]), "must hold numbers"),
        (spaces.Discrete(3, start=1), 4, r"must be from \[1\] to \[3\]; got 4"),
        (spaces.Discrete(3), 1.5, "must be of integers; got 1.5"),
        (spaces.Dict({"a": spaces.Tuple((spaces.Discrete(2),))}), {"a": ()}, r"a\.0 is missing"),
        (spaces.Dict({"a": spaces.Discrete(2)}), {"b": 1}, "a is missing; got {'b': 1}"),
        (
            spaces.Dict({"a": spaces.MultiDiscrete([2, 2])}),
            {"a": np.array([0, 2])},
            r"observation of ann: a must be from",
        ),
    ],
)
def test_a_value_of_another_form_is_refused(space: spaces.Space[Any], value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flat(space, value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.5, "entry p[1] = 1.5 is outside its space, [-1, 1]"),
        (-1.001, "entry p[1] = -1.001 is outside its space, [-1, 1]"),
        (np.nan, "entry p[1] = nan is not finite"),
        (np.inf, "entry p[1] = inf is not finite"),
        (1 + 1e-6, ""),  # rounding
    ],
)
def test_an_entry_outside_its_space_is_named(value: float, message: str) -> None:
    flattener = ObservationFlattener("ann", spaces.Dict({"p": spaces.Box(-1, 1, (2,))}))
    fault = flattener.fault(floats([0, value]))
    assert fault == (message and f"observation of ann: {message}")


def test_infinity_is_refused_in_an_unbounded_space_too() -> None:
    flattener = ObservationFlattener("ann", spaces.Box(-np.inf, np.inf, (1,)))
    assert "is not finite" in flattener.fault(floats([np.inf]))
    assert flattener.fault(floats([1e30])) == ""


@pytest.mark.parametrize(
    ("low", "high", "value", "slight"),
    [
        (0, np.inf, -0.009, True),
        (0, np.inf, -500, False),
        (200, np.inf, 198.5, True),
        (200, np.inf, 197, False),
        (-np.inf, -200, -198.5, True),
        (-np.inf, -200, -197, False),
        (-1, 1, 1.015, True),
        (-1, 1, 1.03, False),
        (-1, 1, np.nan, False),
    ],
)
def test_one_percent_outside_is_slight(low: float, high: float, value: float, slight: bool) -> None:
    flattener = ObservationFlattener("ann", spaces.Box(low, high, (2,)))
    row = floats([np.clip(0, low, high), value])
    assert "entry obs[1]" in flattener.fault(row)
    assert flattener.is_slight(row) is slight


@pytest.mark.parametrize("box", [spaces.Box(0, 255, (8, 8), np.uint8), spaces.Box(0.0, 1.0, (4, 4, 3))])
def test_images_are_refused_unless_there_is_an_encoder(box: spaces.Box) -> None:
    with pytest.raises(
        ValueError, match=r"observation space of ann: eye is an image.*PettingZooVecEnv\(factory, encoder=f\)"
    ):
        ObservationFlattener("ann", spaces.Dict({"eye": box}))
    space = spaces.Dict({"eye": box, "speed": spaces.Box(0, 1, (1,))})
    image = np.ones(box.shape, box.dtype)
    row = flat(space, {"eye": image, "speed": np.ones(1)}, encoder=lambda eye: [eye.min(), eye.sum()])
    assert row.tolist() == [1.0, image.sum(), 1.0]


def test_an_encoder_must_return_one_dimension_of_constant_width() -> None:
    box = spaces.Box(0, 255, (8, 8), np.uint8)
    with pytest.raises(ValueError, match="encoder must return numbers of one dimension"):
        flat(box, box.sample(), encoder=lambda image: image)
    with pytest.raises(ValueError, match=re.escape("encoder must return numbers of shape (1,)")):
        flat(box, np.ones((8, 8), np.uint8), encoder=lambda image: np.zeros(1 + image.max()))


def test_spaces_without_a_fixed_width_are_refused() -> None:
    for space in (spaces.Text(3), spaces.Sequence(spaces.Discrete(2)), spaces.Dict({"a": spaces.Text(3)})):
        with pytest.raises(ValueError, match=r"observation space of ann: .* must be Box, Discrete, MultiDiscrete"):
            ObservationFlattener("ann", space)
    with pytest.raises(ValueError, match="observation space of ann has no entries"):
        ObservationFlattener("ann", spaces.Dict({"action_mask": spaces.Box(0, 1, (2,), np.int8)}))
