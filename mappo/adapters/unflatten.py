"""One agent's action columns -> actions of its own space, and its action masks -> flat bools.

Data flow: action tensor -> `ActionDecoder` -> env; env -> `flatten_mask` -> `Step.action_mask`. The order of columns
and choices is that of `mappo.spaces.action_heads`. Dims: k copies, U action columns.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

Array = np.ndarray[Any, np.dtype[Any]]
Space = gymnasium.Space[Any]

MASK_KEY = "action_mask"


class ActionDecoder:
    """Turns one agent's action columns into actions of its own space."""

    def __init__(self, agent: str, space: Space, columns: Sequence[int]) -> None:
        """`columns` are where the agent's flat columns lie among those of all agents (`ActionSpec.columns_of`)."""
        self.agent = agent
        self._space = space
        self._columns = np.asarray(columns, dtype=np.int64)

    def __call__(self, actions: Array) -> list[Any]:
        """(k, U) columns -> k actions.

        Bounded Box dims are clipped to [-1, 1] and scaled to the bounds (rounded in an integer Box), half-bounded ones
        clipped at the finite bound; choices become `start` + index.

        Raises:
            ValueError: a column is not finite, or an index is no choice of the space.
        """
        own = actions[:, self._columns].astype(np.float64)
        if not np.isfinite(own).all():
            copy, column = np.argwhere(~np.isfinite(own))[0].tolist()
            raise ValueError(
                f"action of {self.agent} in copy {copy}: column {column} = {own[copy, column]} is not finite"
            )
        decoded, _ = self._decode(self._space, own)
        return decoded

    def _decode(self, space: Space, own: Array) -> tuple[list[Any], Array]:
        """Actions in `space` from the first of the columns, and the columns left over."""
        if isinstance(space, spaces.Dict):
            parts: dict[Any, list[Any]] = {}
            for key, part in space.spaces.items():
                parts[key], own = self._decode(part, own)
            return [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)], own
        if isinstance(space, spaces.Tuple):
            items = []
            for part in space.spaces:
                item, own = self._decode(part, own)
                items.append(item)
            return list(zip(*items, strict=True)), own
        width = math.prod(space.shape or ())
        mine, rest = own[:, :width], own[:, width:]
        if isinstance(space, spaces.Box):
            return _rows(_box_values(space, mine), space), rest
        values = np.rint(mine).astype(np.int64)
        if isinstance(space, spaces.Discrete):
            self._check_choices(values, np.asarray([space.n]))
            return (values[:, 0] + int(space.start)).tolist(), rest
        if isinstance(space, spaces.MultiDiscrete):
            self._check_choices(values, space.nvec.ravel())
            return _rows(values + space.start.ravel(), space), rest
        self._check_choices(values, np.full(width, 2))  # MultiBinary: `action_heads` refuses what is none of these
        return _rows(values, space), rest

    def _check_choices(self, values: Array, sizes: Array) -> None:
        wrong = (values < 0) | (values >= sizes)
        if wrong.any():
            copy, column = np.argwhere(wrong)[0].tolist()
            raise ValueError(
                f"action of {self.agent} in copy {copy}: choice {column} must be from 0 to {sizes[column] - 1}; "
                f"got {values[copy, column]}"
            )


def flatten_mask(space: Space, mask: Any) -> Array:
    """An action mask as one flat bool array: the choices of all discrete parts of `space`, side by side.

    `mask` is such an array already, or several for the parts (a tuple of arrays for a MultiDiscrete), or nested as the
    space is; parts without choices may be left out or None.

    Raises:
        ValueError: a part is missing, or an entry is no number.
    """
    parts = list(_mask_parts(space, mask))
    return np.concatenate(parts) if len(parts) != 1 else parts[0]


def _mask_parts(space: Space, mask: Any) -> list[Array]:
    if isinstance(space, spaces.Dict) and isinstance(mask, Mapping):
        pairs = [(part, mask.get(key)) for key, part in space.spaces.items()]
        if missing := [key for key, part in space.spaces.items() if _has_choices(part) and mask.get(key) is None]:
            raise ValueError(f"{MASK_KEY} must hold {missing[0]!r}; got {list(mask)}")
        return [piece for part, value in pairs if _has_choices(part) for piece in _mask_parts(part, value)]
    if isinstance(mask, tuple | list):
        if isinstance(space, spaces.Tuple) and len(mask) == len(space.spaces) and not all(map(np.isscalar, mask)):
            pairs = list(zip(space.spaces, mask, strict=True))
            return [piece for part, value in pairs if _has_choices(part) for piece in _mask_parts(part, value)]
        return [_allowed(piece) for piece in mask if piece is not None] or [np.zeros(0, np.bool_)]
    return [_allowed(mask)]


def _allowed(mask: Any) -> Array:
    """One part's mask as flat bools."""
    flat = np.ravel(mask)
    if flat.dtype.kind not in "biu":
        try:
            known = flat.dtype.kind in "Of" and not np.isnan(flat.astype(np.float64)).any()
        except (TypeError, ValueError):
            known = False
        if not known:
            raise ValueError(f"{MASK_KEY} must hold 0 or 1 for each choice; got {mask!r}")
    return flat != 0


def _has_choices(space: Space) -> bool:
    if isinstance(space, spaces.Dict):
        return any(map(_has_choices, space.spaces.values()))
    if isinstance(space, spaces.Tuple):
        return any(map(_has_choices, space.spaces))
    return not isinstance(space, spaces.Box)


def _box_values(space: spaces.Box, columns: Array) -> Array:
    """Columns (k, dims), float64 -> values within the bounds, in the dtype of the space."""
    low, high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
    both = np.isfinite(low) & np.isfinite(high)
    finite_low, finite_high = np.where(both, low, -1.0), np.where(both, high, 1.0)
    # Halved before they are subtracted: the span of the largest float64 bounds would overflow.
    middle, half = finite_low / 2 + finite_high / 2, finite_high / 2 - finite_low / 2
    values = np.where(both, middle + half * np.clip(columns, -1.0, 1.0), columns)
    if np.issubdtype(space.dtype, np.integer):
        values = np.rint(values)
    return np.clip(np.clip(values, low, high).astype(space.dtype), space.low.ravel(), space.high.ravel())


def _rows(values: Array, space: Space) -> list[Array]:
    """(k, n) -> k arrays of the shape and dtype of the space."""
    assert space.shape is not None, "leaves have a shape"
    shaped = values.astype(space.dtype).reshape(-1, *space.shape)
    return [shaped[copy, ...] for copy in range(len(shaped))]
