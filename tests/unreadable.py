"""torch's `meta` device as an accelerator whose values the host cannot read: what runs on it waits for no GPU.

It knows shapes alone: `item`, `nonzero` and a transfer to the CPU are errors there; within `OneDevice` masks as indices
and calls that mix devices are too. The counts that the host learns of late are made up.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from envs import actions
from envs.power import countdown, flow


def hosts_run_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made from here on treats its device as one that runs behind the host, as a GPU does."""
    for module in (flow, actions):
        monkeypatch.setattr(module, "runs_behind", lambda device: True)


@contextmanager
def reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where `meta` tensors may be copied to the CPU, as ones: what is made once may."""

    def cpu(tensor: Tensor) -> Tensor:
        return torch.ones_like(tensor, device="cpu") if tensor.is_meta else tensor

    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "cpu", cpu)
        yield


def use_meta_as_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Teach this process to compute on `meta`."""
    hosts_run_ahead(monkeypatch)
    monkeypatch.setattr(countdown.Number, "__int__", lambda self: 0)
    monkeypatch.setattr(countdown.Countdown, "learn", _made_up())
    # what torch lacks for this device
    monkeypatch.setattr(torch, "Generator", _Generator)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(Tensor, "exponential_", lambda self, **_: self)


COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
MASKABLE = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default)


class OneDevice(TorchDispatchMode):
    """Where a call that takes tensors of `meta` and of the CPU is an error, unless it is told to copy without waiting.

    Such as an index on the CPU into a tensor on a GPU, which torch sends there first. Scalars may be on the CPU.
    A mask as an index is an error too: torch counts its entries.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        devices = {tensor.device.type for tensor in tensors if tensor.ndim}
        if devices and kwargs.get("device") is not None:
            devices.add(torch.device(kwargs["device"]).type)
        goes_on = func in COPIES and (kwargs.get("non_blocking", False) or True in args[2:])
        if len(devices) > 1 and not goes_on:
            raise RuntimeError(f"{func} waits: it takes tensors on {' and '.join(sorted(devices))}")
        if func in MASKABLE and any(index is not None and index.dtype == torch.bool for index in args[1]):
            raise RuntimeError(f"{func} waits: it counts the entries of a mask")
        return func(*args, **kwargs)


class _Generator(torch.Generator):
    def __new__(cls, device: object = None) -> "_Generator":
        return super().__new__(cls)


def _made_up() -> Callable[[countdown.Countdown], int]:
    """A third each third time: some copies go on alone, and all are done at last."""
    calls = count(1)

    def learn(self: countdown.Countdown) -> int:
        if next(calls) % 3 == 0:
            self.left //= 3
        return self.left

    return learn
