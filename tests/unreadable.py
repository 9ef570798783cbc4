"""A device whose values the host cannot read: what runs there would not wait for a GPU.

`unreadable` copies anything made of tensors to torch's `meta` device, which knows shapes alone: `item`, `nonzero`,
a mask as an index, or a transfer to the CPU is an error there, and so is a tensor left on another device.
"""

import copy
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from envs import actions
from envs.power import countdown, flow

META = torch.device("meta")


class _ToMeta(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.__deepcopy__, torch.Tensor.clone):  # of tensors, and of parameters
            (tensor, *_) = args
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)
        return func(*args, **(kwargs or {}))


def unreadable(thing: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A copy of `thing` on the meta device; counts that the host learns of late are made up there."""
    with monkeypatch.context() as patch:
        dispatch = copy._deepcopy_dispatch  # type: ignore[attr-defined]
        patch.setitem(dispatch, torch.device, lambda *_: META)
        patch.setitem(dispatch, torch.Generator, lambda *_: torch.Generator())
        with _ToMeta():
            made = copy.deepcopy(thing)
    monkeypatch.setattr(countdown.Number, "__int__", lambda self: 0)
    monkeypatch.setattr(countdown.Countdown, "learn", _made_up)
    # what torch lacks for this device
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda self, **_: self)
    return made


def hosts_run_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made from here on treats the CPU as a device that runs behind the host, as a GPU does."""
    for module in (flow, actions):
        monkeypatch.setattr(module, "runs_behind", lambda device: True)


def _made_up(self: countdown.Countdown) -> int:
    """A third each third time: some copies go on alone, and all are done at last."""
    self.calls = getattr(self, "calls", 0) + 1  # type: ignore[attr-defined]
    if self.calls % 3 == 0:  # type: ignore[attr-defined]
        self.left //= 3
    return self.left
