"""The parameters of a stacked module as rows of one tensor, so that a step's arithmetic is a few calls, not a few each.

Data flow: module -> StackedParameters (data and gradients, P x W) -> clipping, Adam. Dims: P policies, W weights of
one policy's network.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Rows(NamedTuple):
    """Some rows of `StackedParameters`."""

    data: Tensor  # (P, W)
    grad: Tensor  # (P, W)


class StackedParameters:
    """Moves parameters (P, ...) into one tensor (P, W) that they become views of; gradients are gathered likewise.

    They must stay there: load into them, never move or replace them.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        """The parameters must be on their device already."""
        self._parameters = list(parameters)
        self.data = _rows(self._parameters)  # (P, W)
        self.grad = torch.zeros_like(self.data)  # (P, W)
        widths = [parameter[0].numel() for parameter in self._parameters]
        places = zip(self._parameters, self.data.split(widths, 1), self.grad.split(widths, 1), strict=True)
        for parameter, data, grad in places:
            parameter.data = data.unflatten(1, parameter.shape[1:])
            parameter.grad = grad.unflatten(1, parameter.shape[1:])

    def check(self) -> None:
        """Before an update.

        Raises:
            RuntimeError: the parameters are no longer parts of `data`, so that no step would reach them.
        """
        place = self.data.data_ptr()
        for parameter in self._parameters:
            if parameter.numel() and parameter.data_ptr() != place:
                raise RuntimeError(
                    "the networks of a Trainer were moved, cast or replaced; load weights into them instead "
                    "(load_state_dict), and choose the device by TrainConfig.device"
                )
            place += parameter[0].numel() * parameter.element_size()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss to `grad`."""
        # not loss.backward(): that would add to each parameter's by itself
        self.grad += _rows(torch.autograd.grad(loss, self._parameters, materialize_grads=True))

    def clip_grad_norm(self, max_norm: float) -> Tensor:
        """Scale each policy's gradient to at most `max_norm`; returns the norms before, (P,)."""
        norms = torch.linalg.vector_norm(self.grad, dim=1)
        self.grad.mul_((max_norm / (norms + 1e-6)).clamp_(max=1.0).unsqueeze(1))
        return norms

    def rows(self, policies: slice = slice(None)) -> Rows:
        """The weights of some policies, and their gradients, for an optimiser."""
        return Rows(self.data[policies], self.grad[policies])


def _rows(stacked: Iterable[Tensor]) -> Tensor:
    """Tensors (P, ...) -> (P, W)."""
    return torch.cat([tensor.detach().flatten(1) for tensor in stacked], dim=1)
