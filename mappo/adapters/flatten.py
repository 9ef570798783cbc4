"""Nested observations -> flat float32 rows.

Data flow: env observation -> `ObservationFlattener` -> row of the batch. The columns are those of
`gymnasium.spaces.utils.flatten`: depth first, discrete entries one-hot.
"""

import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from mappo.adapters.unflatten import MASK_KEY

Array = np.ndarray[Any, np.dtype[Any]]
Space = gymnasium.Space[Any]
Encoder = Callable[[Array], Any]

_LARGEST = float(np.finfo(np.float32).max)
_SLIGHT = 0.01
_ROUNDING = 1e-5  # how far an entry may lie outside its bounds, relative to the bound: float32 rounding


class _Leaf:
    """One space that is not nested: which columns it fills, and what is written there."""

    def __init__(self, path: tuple[Any, ...], names: list[str], low: Array, high: Array) -> None:
        self.path = path
        self.names = names
        self.low, self.high = low, high  # (width,) float64

    @property
    def where(self) -> str:
        """The entry as an error names it."""
        return ".".join(map(str, self.path)) or "the observation"

    def write(self, value: Any, out: Array) -> None:
        """Write into `out` (width,), which holds zeros."""
        raise NotImplementedError

    def shaped(self, value: Any, shape: tuple[int, ...]) -> Array:
        """`value` as an array, whose shape is checked."""
        array = value if type(value) is np.ndarray else np.asarray(value)
        if array.shape != shape:
            raise ValueError(f"{self.where} must have shape {shape}; got {array.shape}")
        return array


class _BoxLeaf(_Leaf):
    def __init__(self, path: tuple[Any, ...], space: spaces.Box | spaces.MultiBinary) -> None:
        self.shape = space.shape or ()
        ones = np.ones(self.shape)
        low, high = (space.low, space.high) if isinstance(space, spaces.Box) else (0 * ones, ones)
        names = [f"{_stem(path)}[{','.join(map(str, index))}]" for index in np.ndindex(self.shape)]
        super().__init__(path, names if self.shape else [_stem(path)], low.ravel(), high.ravel())

    def write(self, value: Any, out: Array) -> None:
        array = self.shaped(value, self.shape)
        if array.dtype.kind == "c":
            raise ValueError(f"{self.where} must hold real numbers; got {value!r}")
        try:
            out[:] = array if array.ndim == 1 else array.ravel()
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.where} must hold numbers; got {value!r}") from error


class _OneHotLeaf(_Leaf):
    """Discrete, and MultiDiscrete entry by entry."""

    def __init__(self, path: tuple[Any, ...], space: spaces.Discrete | spaces.MultiDiscrete) -> None:
        self.shape = space.shape or ()
        self.start = np.ravel(space.start)
        sizes = space.n if isinstance(space, spaces.Discrete) else space.nvec
        self.sizes = np.ravel(sizes).astype(np.int64)
        self.offsets = np.cumsum(self.sizes) - self.sizes
        stem, names = _stem(path), []
        for index, size, start in zip(np.ndindex(self.shape), self.sizes, self.start, strict=True):
            entry = f"[{','.join(map(str, index))}]" if index else ""
            names += [f"{stem}{entry}={start + choice}" for choice in range(size)]
        super().__init__(path, names, np.zeros(len(names)), np.ones(len(names)))

    def write(self, value: Any, out: Array) -> None:
        array = self.shaped(value, self.shape)
        if array.dtype.kind not in "iub":
            raise ValueError(f"{self.where} must be of integers; got {value!r}")
        chosen = array.astype(np.int64).ravel() - self.start
        if ((chosen < 0) | (chosen >= self.sizes)).any():
            raise ValueError(f"{self.where} must be from {self.start} to {self.start + self.sizes - 1}; got {value}")
        out[self.offsets + chosen] = 1.0


class _EncodedLeaf(_Leaf):
    """An image, turned into numbers by the user's encoder."""

    def __init__(self, path: tuple[Any, ...], space: spaces.Box, encoder: Encoder) -> None:
        self.image, self.encoder = space, encoder
        super().__init__(path, [], np.zeros(0), np.zeros(0))
        self.width = -1
        self.width = len(self._encode(np.zeros(space.shape, space.dtype)))
        self.names = [f"{_stem(path)}[{i}]" for i in range(self.width)]
        self.low, self.high = np.full(self.width, -np.inf), np.full(self.width, np.inf)

    def write(self, value: Any, out: Array) -> None:
        out[:] = self._encode(self.shaped(value, self.image.shape))

    def _encode(self, image: Array) -> Array:
        code = np.asarray(self.encoder(image))
        if code.ndim != 1 or code.dtype.kind not in "fiub" or self.width not in (-1, len(code)):
            wanted = "one dimension" if self.width < 0 else f"shape ({self.width},)"
            raise ValueError(
                f"encoder must return numbers of {wanted} for {self.where}; got {code.dtype} of shape {code.shape}"
            )
        return code


class ObservationFlattener:
    """Writes one agent's observations as flat float32 rows.

    Attributes:
        width: number of columns.
        names: of the columns: `position[0]` for an entry of a Dict, `mode=2` for a choice.
        low, high: (width,) float32, finite; an entry between them is valid, rounding included.
        has_mask: the space is a Dict with an entry `action_mask`, which is no part of the observation.
    """

    def __init__(self, agent: str, space: Space, encoder: Encoder | None = None) -> None:
        """Prepare for one space.

        Args:
            agent: for error messages.
            space: Box, Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of them.
            encoder: turns images (Box with 3 dims, or 2 of uint8) into 1-D arrays; without one they are refused.

        Raises:
            ValueError: a space that is not supported, or an encoder that does not give a 1-D array.
        """
        self.agent = agent
        self.has_mask = isinstance(space, spaces.Dict) and MASK_KEY in space.spaces
        if isinstance(space, spaces.Dict) and self.has_mask:
            space = spaces.Dict([(key, part) for key, part in space.spaces.items() if key != MASK_KEY])
        try:
            self._leaves = list(_leaves(space, (), encoder))
        except ValueError as error:
            raise ValueError(f"observation space of {agent}: {error}") from error
        widths = [len(leaf.names) for leaf in self._leaves]
        ends = np.cumsum(widths, dtype=int).tolist()
        self._columns = [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
        self.width = sum(widths)
        self.names = [name for leaf in self._leaves for name in leaf.names]
        if not self.width:
            raise ValueError(f"observation space of {agent} has no entries; got {space}")
        self.space = self._flat_space()
        margin = _ROUNDING * np.maximum(1.0, np.abs(np.stack([self.space.low, self.space.high]).astype(np.float64)))
        self.low = np.maximum(self.space.low - margin[0], -_LARGEST).astype(np.float32)
        self.high = np.minimum(self.space.high + margin[1], _LARGEST).astype(np.float32)
        self._only = self._leaves[0] if len(self._leaves) == 1 and not self._leaves[0].path else None

    def write(self, raw: Any, row: Array) -> None:
        """Write an observation into `row` (width,), which holds zeros. Bounds are not checked here, see `fault`.

        Raises:
            ValueError: an entry is missing, or has a wrong shape or type, or a choice is out of range.
        """
        try:
            if self._only is not None:
                self._only.write(raw, row)
                return
            for leaf, columns in zip(self._leaves, self._columns, strict=True):
                leaf.write(_entry(raw, leaf), row[columns])
        except ValueError as error:
            raise ValueError(f"observation of {self.agent}: {error}") from error

    def is_slight(self, row: Array) -> bool:
        """Whether what is outside in row (width,) leaves its space by at most 1 %, as known envs do.

        1 % of the space's width; where that is infinite, of the finite bound, or of 1 if that is larger.
        """
        low, high = self.space.low.astype(np.float64), self.space.high.astype(np.float64)
        bound = np.where(np.isfinite(low), np.abs(low), np.where(np.isfinite(high), np.abs(high), 0.0))
        slack = _SLIGHT * np.where(np.isfinite(high - low), high - low, np.maximum(1.0, bound))
        return bool((np.isfinite(row) & (row >= self.low - slack) & (row <= self.high + slack)).all())

    def fault(self, row: Array) -> str:
        """What is wrong with `row` (width,), for an error message; empty if nothing is."""
        wrong = ~((row >= self.low) & (row <= self.high))
        if not wrong.any():
            return ""
        column = int(wrong.argmax())
        value = float(row[column])
        where = f"observation of {self.agent}: entry {self.names[column]} = {value:g}"
        if not math.isfinite(value):
            return f"{where} is not finite"
        low, high = float(self.space.low[column]), float(self.space.high[column])
        return f"{where} is outside its space, [{low:g}, {high:g}]"

    def _flat_space(self) -> spaces.Box:
        """The columns as a Box; bounds that float32 cannot hold are infinite."""
        low, high = (
            np.concatenate([np.float64(getattr(leaf, side)) for leaf in self._leaves]) for side in ("low", "high")
        )
        low, high = np.where(low < -_LARGEST, -np.inf, low), np.where(high > _LARGEST, np.inf, high)
        return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def is_image(shape: tuple[int, ...], dtype: Any) -> bool:
    """Three dims or more, or two of uint8."""
    return len(shape) >= 3 or (len(shape) == 2 and dtype == np.uint8)


def _leaves(space: Space, path: tuple[Any, ...], encoder: Encoder | None) -> list[_Leaf]:
    """Depth first, in gymnasium's order."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        return [leaf for key, part in parts for leaf in _leaves(part, (*path, key), encoder)]
    where = ".".join(map(str, path)) or "the observation"
    if isinstance(space, spaces.Box) and is_image(space.shape, space.dtype):
        if encoder is None:
            raise ValueError(
                f"{where} is an image, {space}; the networks take vectors. Give encoder=f, as in "
                "PettingZooVecEnv(factory, encoder=f), where f is a fixed function (image) -> 1-D float array such as "
                "numpy.ravel (of a small board), a downsampling or a frozen network, or wrap the env"
            )
        return [_EncodedLeaf(path, space, encoder)]
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return [_BoxLeaf(path, space)]
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return [_OneHotLeaf(path, space)]
    raise ValueError(
        f"{where} must be Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of them; got {space}"
    )


def _entry(raw: Any, leaf: _Leaf) -> Any:
    value = raw
    try:
        for key in leaf.path:
            value = value[key]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{leaf.where} is missing; got {raw!r}") from error
    return value


def _stem(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path)) or "obs"
