"""Layers with one set of weights for each policy, stacked, so that one batched product serves all agents.

Data flow: network input -> StackedNet (hidden layers, optional memory, output) -> Actor, Critic. All P policies live in
one tensor (P, out, in); a mapping agent -> policy id picks each agent's row.
Dims: L steps, N rows, A agents, P policies, H hidden, M memory.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mappo.mlp import fast_tanh_, mlp

HIDDEN_GAIN = {"relu": math.sqrt(2), "tanh": 5 / 3}
GATES = {"gru": 3, "lstm": 4}
STATES = {"none": 0, "gru": 1, "lstm": 2}  # vectors of width H that a memory holds


class _Tanh(torch.autograd.Function):
    """`fast_tanh_` with its gradient, which needs the result only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = fast_tanh_(x)
        ctx.mark_dirty(y)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(grads[0], y)


def tanh_(x: Tensor) -> Tensor:
    """In place; to about 1e-7, so not for where a relative error near 0 matters."""
    return _Tanh.apply(x)


def tanh(x: Tensor) -> Tensor:
    """As `tanh_`, leaving `x` as it is."""
    return tanh_(x.clone())


class StackedLinear(nn.Module):
    """P linear layers with weights (P, out, in) and biases (P, out), a policy's as `nn.Linear` stores them.

    With few outputs the products of the other order, (in, out), take 5 to 15 times as long on a CPU.
    """

    def __init__(self, num_policies: int, size_in: int, size_out: int) -> None:
        """Weights start orthogonal once `initialize` is called."""
        super().__init__()
        self.num_policies = num_policies
        self.weight = nn.Parameter(torch.zeros(num_policies, size_out, size_in))
        self.bias = nn.Parameter(torch.zeros(num_policies, size_out))

    def initialize(self, gain: float, generator: torch.Generator) -> None:
        """Orthogonal weights of each policy by itself, zero biases."""
        for weight in self.weight.data:
            nn.init.orthogonal_(weight, gain=gain, generator=generator)

    def of(self, ids: Tensor | None) -> tuple[Tensor, Tensor]:
        """Weights and biases of agents with the policies `ids`, all if None; a single policy's without leading dim."""
        if self.num_policies == 1:
            return self.weight.squeeze(0), self.bias.squeeze(0)  # unlike [0], without a copy in the gradient
        return (self.weight, self.bias) if ids is None else (self.weight[ids], self.bias[ids])

    def forward(self, x: Tensor, ids: Tensor | None) -> Tensor:
        """One policy: (N, in) -> (N, out). Several: (A, N, in) -> (A, N, out), row a by policy ids[a], or a if None."""
        return affine(x, *self.of(ids))


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """X W^T + b for one policy, or one for each row of the leading dim."""
    if weight.dim() == 2:
        return functional.linear(x, weight, bias)
    return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)


class StackedLayerNorm(nn.Module):
    """P layer normalisations with scales and shifts (P, H) (Ba et al., arXiv:1607.06450)."""

    def __init__(self, num_policies: int, size: int) -> None:
        """Starts with scale 1 and shift 0."""
        super().__init__()
        self.scale = nn.Parameter(torch.ones(num_policies, size))
        self.shift = nn.Parameter(torch.zeros(num_policies, size))

    def forward(self, x: Tensor, ids: Tensor | None) -> Tensor:
        """(N, H) or (A, N, H), as `StackedLinear`."""
        if len(self.scale) == 1:
            return functional.layer_norm(x, x.shape[-1:], self.scale.squeeze(0), self.shift.squeeze(0))
        scale, shift = (self.scale, self.shift) if ids is None else (self.scale[ids], self.shift[ids])
        return torch.addcmul(shift.unsqueeze(1), functional.layer_norm(x, x.shape[-1:]), scale.unsqueeze(1))


class StackedCell(nn.Module):
    """P GRU cells (Cho et al., arXiv:1406.1078) or LSTM cells (Hochreiter & Schmidhuber 1997), run over a sequence.

    gru: r, z = sigma(x W + h U), n = tanh(x W_n + r (h U_n)), h' = (1 - z) n + z h; the memory is h.
    lstm: i, f, o = sigma(x W + h U), g = tanh(x W_g + h U_g), c' = f c + i g, h' = o tanh(c'); the memory is h and c.
    """

    def __init__(self, kind: str, num_policies: int, size: int) -> None:
        """`kind` is gru or lstm."""
        super().__init__()
        self.kind = kind
        self.from_input = StackedLinear(num_policies, size, GATES[kind] * size)
        self.from_memory = StackedLinear(num_policies, size, GATES[kind] * size)

    def initialize(self, generator: torch.Generator) -> None:
        """Orthogonal with gain 1."""
        self.from_input.initialize(1.0, generator)
        self.from_memory.initialize(1.0, generator)

    def forward(self, x: Tensor, memory: Tensor, keep: Tensor, ids: Tensor | None) -> tuple[Tensor, Tensor]:
        """Inputs (..., L R, H), memory (..., R, M) and keep (..., L, R, 1), 0 where a memory is blanked before a step.

        R rows are N A, or N after a leading A, as in `StackedLinear`. Returns outputs (..., L R, H) and memories
        (..., L, R, M) after each step.
        """
        gates = self.from_input(x, ids).unflatten(-2, keep.shape[-3:-1])  # of all steps in one product
        weights = self.from_memory.of(ids)
        memories = []
        for inputs, kept in zip(gates.unbind(-3), keep.unbind(-3), strict=True):
            memory = self._step(inputs, memory * kept, weights)
            memories.append(memory)
        stacked = torch.stack(memories, dim=-3)
        return stacked[..., : x.shape[-1]].flatten(-3, -2), stacked

    def _step(self, from_input: Tensor, memory: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
        if self.kind == "gru":
            x, h = from_input.chunk(3, dim=-1), affine(memory, *weights).chunk(3, dim=-1)
            reset, update = torch.sigmoid(x[0] + h[0]), torch.sigmoid(x[1] + h[1])
            return torch.lerp(tanh(x[2] + reset * h[2]), memory, update)
        h, c = memory.chunk(2, dim=-1)
        enter, forget, new, leave = (from_input + affine(h, *weights)).chunk(4, dim=-1)
        c = torch.sigmoid(forget) * c + torch.sigmoid(enter) * tanh(new)
        return torch.cat([torch.sigmoid(leave) * tanh(c), c], dim=-1)


class StackedNet(nn.Module):
    """P networks: hidden layers, a memory where `recurrent` names one, and a linear output."""

    policy_ids: Tensor

    def __init__(
        self,
        sizes: Sequence[int],
        policy_ids: Tensor,
        *,
        activation: str,
        layer_norm: bool = False,
        recurrent: str = "none",
    ) -> None:
        """`sizes` are input, hidden ..., output widths; agent a is served by policy `policy_ids[a]`, (A,)."""
        super().__init__()
        self.register_buffer("policy_ids", policy_ids.clone(), persistent=False)
        self.num_policies = P = int(policy_ids.max()) + 1
        self.each_its_own = torch.equal(policy_ids, torch.arange(len(policy_ids)))
        self.activation = activation
        self.activate = {"relu": torch.relu, "tanh": tanh_}[activation]
        self.hidden_gain = HIDDEN_GAIN[activation]
        self.memory_width = STATES[recurrent] * sizes[-2]
        self.hidden = nn.ModuleList(StackedLinear(P, *pair) for pair in pairwise(sizes[:-1]))
        self.norms = nn.ModuleList(StackedLayerNorm(P, size) for size in sizes[1:-1] if layer_norm)
        self.cell = None if recurrent == "none" else StackedCell(recurrent, P, sizes[-2])
        self.output = StackedLinear(P, sizes[-2], sizes[-1])

    @property
    def is_plain_mlp(self) -> bool:
        """Whether one policy serves all agents, without a memory and layer norm."""
        return self.num_policies == 1 and self.cell is None and not len(self.norms)

    def initialize(self, *, output_gain: float, generator: torch.Generator) -> None:
        """Orthogonal, with the gain of the activation in the hidden layers."""
        for layer in self.hidden:
            assert isinstance(layer, StackedLinear)
            layer.initialize(self.hidden_gain, generator)
        if self.cell is not None:
            self.cell.initialize(generator)
        self.output.initialize(output_gain, generator)

    def forward(self, x: Tensor, memory: Tensor, starts: Tensor, agent: int | None = None) -> tuple[Tensor, Tensor]:
        """Run L steps: x (L, N, A, in), memory (N, A, M) before them -> outputs (L, N, A, out), memories (L, N, A, M).

        starts (L, N, A) bool: the agent begins at this step, so its memory is blank. With `agent`, A is 1: that one.
        Without a memory M is 0, and `starts` does not matter. One step may be given without its leading dim L.
        """
        if x.dim() == 3:
            outputs, memories = self(x.unsqueeze(0), memory, starts.unsqueeze(0), agent)
            return outputs[0], memories[0]
        leading, shared = x.shape[:-1], self.num_policies == 1
        ids = (
            self.policy_ids[agent : agent + 1] if agent is not None else None if self.each_its_own else self.policy_ids
        )
        x = x.flatten(0, -2) if shared else x.flatten(0, -3).transpose(0, 1)  # (L N A, in), (A, L N, in)
        if self.is_plain_mlp and not (torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type)):
            layers = [*self.hidden, self.output]
            outputs = mlp(x, self.activation, [layer.weight for layer in layers], [layer.bias for layer in layers])
            return outputs.view(*leading, outputs.shape[-1]), x.new_zeros(*leading, 0)
        for i, layer in enumerate(self.hidden):
            x = self.activate(layer(x, ids))
            if len(self.norms):
                x = self.norms[i](x, ids)
        memories = x.new_zeros(*leading, 0)
        if self.cell is not None:
            keep = (~starts).unsqueeze(-1).to(x.dtype)
            keep = keep.flatten(1, 2) if shared else keep.movedim(2, 0)  # (L, N A, 1), (A, L, N, 1)
            x, memories = self.cell(x, memory.flatten(0, 1) if shared else memory.transpose(0, 1), keep, ids)
            memories = memories.reshape(*leading, self.memory_width) if shared else memories.movedim(0, 2)
        x = self.output(x, ids)
        return (x if shared else x.transpose(0, 1)).reshape(*leading, x.shape[-1]), memories
