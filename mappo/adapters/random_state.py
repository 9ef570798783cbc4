"""The process's global random number generators, for third-party envs that draw from them.

Data flow: an adapter owns a `RandomState`, installs it around each call of the env, and puts back what was there.
"""

import random
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor


class RandomState(NamedTuple):
    """State of every global generator."""

    torch_cpu: Tensor
    numpy: Any
    python: Any
    torch_device: Tensor | None  # of a CUDA device

    @classmethod
    def seeded(cls, seed: int, device: torch.device) -> Self:
        """As after seeding each of them, without touching them."""
        on_device = torch.Generator(device).manual_seed(seed).get_state() if device.type == "cuda" else None
        return cls(
            torch.Generator().manual_seed(seed).get_state(),
            np.random.RandomState(seed % 2**32).get_state(legacy=True),
            random.Random(seed).getstate(),
            on_device,
        )

    @classmethod
    def current(cls, device: torch.device) -> Self:
        """Of the process."""
        state = np.random.get_state(legacy=True)  # noqa: NPY002 - others draw from it
        return cls(torch.get_rng_state(), state, random.getstate(), cls.of_device(device))

    @staticmethod
    def of_device(device: torch.device) -> Tensor | None:
        """Of a CUDA device's generator; None for the CPU."""
        return torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def install(self, device: torch.device) -> None:
        """Make it that of the process."""
        torch.set_rng_state(self.torch_cpu)
        np.random.set_state(self.numpy)  # noqa: NPY002 - as above
        random.setstate(self.python)
        self.install_on_device(device)

    def install_on_device(self, device: torch.device) -> None:
        """Only the part that belongs to a CUDA device."""
        if self.torch_device is not None:
            torch.cuda.set_rng_state(self.torch_device, device)

    def to_plain(self) -> dict[str, Any]:
        """Tensors and plain values, for a checkpoint."""
        name, keys, *rest = self.numpy
        return {**self._asdict(), "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest)}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_plain`."""
        name, keys, *rest = values["numpy"]
        on_device = values["torch_device"]
        return cls(
            values["torch_cpu"].cpu(),
            (name, keys.cpu().numpy().astype(np.uint32), *rest),
            values["python"],
            None if on_device is None else on_device.cpu(),
        )
