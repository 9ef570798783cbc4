"""Adam over rows of `StackedParameters`, by torch's functional form.

Data flow: gradients -> `Adam.step` -> parameters. `torch.optim.Adam` computes the same, but loads torch's compiler when
the first one is made, which takes a second, and prepares each step for longer than these few tensors take to compute.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from mappo.stacked_parameters import Rows

BETA_1, BETA_2 = 0.9, 0.999
EPS = 1e-5
"""Not torch's 1e-8: the PPO2 value (Huang et al. 2022, "37 details", no. 3)."""


class Adam:
    """Kingma & Ba 2015 (arXiv:1412.6980); moments are elementwise, so each policy has its own."""

    def __init__(self, *rows: Rows) -> None:
        """Steps `rows` in place."""
        self._data, self._grads = [own.data for own in rows], [own.grad for own in rows]
        self._means, self._squares = ([torch.zeros_like(data) for data in self._data] for _ in range(2))
        self._steps = [torch.zeros((), dtype=torch.float32, device=data.device) for data in self._data]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One step along the gradients as they stand, at this learning rate."""
        adam(
            self._data,
            self._grads,
            self._means,
            self._squares,
            [],
            self._steps,
            fused=True,
            amsgrad=False,
            beta1=BETA_1,
            beta2=BETA_2,
            lr=lr,
            weight_decay=0.0,
            eps=EPS,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """Moments and numbers of steps, named as `torch.optim.Adam` names them."""
        return {"state": {k: dict(zip(_NAMES, own, strict=True)) for k, own in enumerate(self._states())}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`; the state of a `torch.optim.Adam` of the same rows that has stepped fits too."""
        for k, own in enumerate(self._states()):
            for name, tensor in zip(_NAMES, own, strict=True):
                tensor.copy_(state["state"][k][name])

    def _states(self) -> Iterator[tuple[Tensor, ...]]:
        return zip(self._steps, self._means, self._squares, strict=True)


_NAMES = ("step", "exp_avg", "exp_avg_sq")
