"""Stacked weights against separate torch modules: linear, LayerNorm, GRU and LSTM over sequences with resets."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mappo.layers import StackedCell, StackedLayerNorm, StackedLinear, StackedNet, tanh

IDS = [[0], [0, 0, 0], [0, 1, 2], [1, 0, 1], [0, 1]]
MEMORIES = ["none", "gru", "lstm"]
CELLS = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stacked(ids: list[int], **settings: Any) -> StackedNet:
    """5 -> 8 -> 8 -> 3; every parameter is random, so that no zero hides a mistake."""
    net = StackedNet([5, 8, 8, 3], torch.tensor(ids), **{"activation": "tanh", **settings})
    net.initialize(output_gain=1.0, generator=torch.Generator().manual_seed(0))
    for i, parameter in enumerate(net.parameters()):
        parameter.data += 0.3 * random(*parameter.shape, seed=i)
    return net


class Separate(nn.Module):
    """The network of one policy, made of torch's own modules, run step by step in Python."""

    def __init__(self, net: StackedNet, policy: int) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(linear(layer, policy) for layer in net.hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in net.norms)
        for mine, theirs in zip(self.norms, net.norms, strict=True):
            assert isinstance(mine, nn.LayerNorm)
            assert isinstance(theirs, StackedLayerNorm)
            mine.weight.data, mine.bias.data = theirs.scale.data[policy].clone(), theirs.shift.data[policy].clone()
        self.cell = None if net.cell is None else cell(net.cell, policy)
        self.output = linear(net.output, policy)

    def forward(self, x: Tensor, memory: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """One agent: x (L, N, 5), memory (N, M), starts (L, N) -> outputs (L, N, 3), memories (L, N, M)."""
        outputs, memories = [], []
        for given, begins in zip(x, starts, strict=True):
            seen = given
            for i, layer in enumerate(self.hidden):
                seen = torch.tanh(layer(seen))
                seen = self.norms[i](seen) if len(self.norms) else seen
            memory = torch.where(begins.unsqueeze(-1), 0.0, memory)
            if isinstance(self.cell, nn.GRUCell):
                seen = memory = self.cell(seen, memory)
            elif self.cell is not None:
                seen, inner = self.cell(seen, memory.chunk(2, dim=-1))
                memory = torch.cat([seen, inner], dim=-1)
            outputs.append(self.output(seen))
            memories.append(memory)
        return torch.stack(outputs), torch.stack(memories)


def linear(layer: nn.Module, policy: int) -> nn.Linear:
    assert isinstance(layer, StackedLinear)
    size_out, size_in = layer.weight.shape[1:]
    out = nn.Linear(size_in, size_out)
    out.weight.data, out.bias.data = layer.weight.data[policy].clone(), layer.bias.data[policy].clone()
    return out


def cell(ours: StackedCell, policy: int) -> nn.GRUCell | nn.LSTMCell:
    theirs = CELLS[ours.kind](8, 8)
    for part, name in ((ours.from_input, "ih"), (ours.from_memory, "hh")):
        getattr(theirs, f"weight_{name}").data = part.weight.data[policy].clone()
        getattr(theirs, f"bias_{name}").data = part.bias.data[policy].clone()
    return theirs


def sequence(ids: list[int], net: StackedNet, *, length: int = 6, rows: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Input, memory before it, and starts in about a quarter of its entries."""
    shape = (length, rows, len(ids))
    return random(*shape, 5), random(rows, len(ids), net.memory_width, seed=2), random(*shape, seed=3) > 0.7


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("recurrent", MEMORIES)
@pytest.mark.parametrize("layer_norm", [False, True])
def test_stacked_networks_equal_separate_modules(ids: list[int], recurrent: str, layer_norm: bool) -> None:
    net = stacked(ids, recurrent=recurrent, layer_norm=layer_norm)
    x, memory, starts = sequence(ids, net)
    outputs, memories = net(x, memory, starts)
    assert outputs.shape == (6, 4, len(ids), 3)
    assert memories.shape == (6, 4, len(ids), net.memory_width)
    for agent, policy in enumerate(ids):
        want = Separate(net, policy)(x[:, :, agent], memory[:, agent], starts[:, :, agent])
        torch.testing.assert_close(outputs[:, :, agent], want[0])
        torch.testing.assert_close(memories[:, :, agent], want[1])
        whose = slice(agent, agent + 1)
        alone = net(x[:, :, whose], memory[:, whose], starts[:, :, whose], agent)
        torch.testing.assert_close(alone, (outputs[:, :, whose], memories[:, :, whose]))


@pytest.mark.parametrize("ids", [[0, 0], [0, 1], [1, 0, 1]])
@pytest.mark.parametrize("recurrent", MEMORIES)
def test_step_by_step_equals_the_whole_sequence(ids: list[int], recurrent: str) -> None:
    net = stacked(ids, recurrent=recurrent)
    x, memory, starts = sequence(ids, net)
    outputs, memories = net(x, memory, starts)
    for t in range(len(x)):
        output, memory = net(x[t], memory, starts[t])
        torch.testing.assert_close(output, outputs[t])
        torch.testing.assert_close(memory, memories[t])


@pytest.mark.parametrize("ids", [[0, 1], [1, 0, 1]])
@pytest.mark.parametrize("recurrent", MEMORIES)
def test_stacked_gradients_equal_separate_ones_whatever_the_other_policy_does(ids: list[int], recurrent: str) -> None:
    net = stacked(ids, recurrent=recurrent, layer_norm=True)
    x, memory, starts = sequence(ids, net)
    alone = Separate(net, 0)
    losses = net(x, memory, starts)[0].square().mean((0, 1, 3))  # (A,)
    (losses * torch.tensor([1.0 if policy == 0 else 1e3 for policy in ids])).sum().backward()
    for agent in (a for a, policy in enumerate(ids) if policy == 0):
        alone(x[:, :, agent], memory[:, agent], starts[:, :, agent])[0].square().mean().backward()
    pairs: list[tuple[Any, Any]] = [*zip(net.hidden, alone.hidden, strict=True), (net.output, alone.output)]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.weight.grad[0], theirs.weight.grad)
        torch.testing.assert_close(ours.bias.grad[0], theirs.bias.grad)
    norms: Any = zip(net.norms, alone.norms, strict=True)
    for ours, theirs in norms:
        torch.testing.assert_close(ours.scale.grad[0], theirs.weight.grad)
        torch.testing.assert_close(ours.shift.grad[0], theirs.bias.grad)
    if net.cell is not None:
        for part, name in ((net.cell.from_input, "ih"), (net.cell.from_memory, "hh")):
            assert part.weight.grad is not None
            assert part.bias.grad is not None
            torch.testing.assert_close(part.weight.grad[0], getattr(alone.cell, f"weight_{name}").grad)
            torch.testing.assert_close(part.bias.grad[0], getattr(alone.cell, f"bias_{name}").grad)


@pytest.mark.parametrize("ids", [[0, 0], [0, 1]])
@pytest.mark.parametrize("recurrent", ["gru", "lstm"])
def test_a_reset_cuts_what_is_remembered_and_the_gradient(ids: list[int], recurrent: str) -> None:
    """Agent 0 begins anew at step 3 of row 0; agent 1 and the other row go on."""
    net = stacked(ids, recurrent=recurrent)
    x, memory, _ = sequence(ids, net, rows=2)
    starts = torch.zeros(6, 2, 2, dtype=torch.bool)
    starts[3, 0, 0] = True
    x.requires_grad_()
    memory.requires_grad_()
    last = net(x, memory, starts)[0][-1]
    for row, agent in itertools.product(range(2), range(2)):
        grads = torch.autograd.grad(last[row, agent].sum(), (x, memory), retain_graph=True)
        cut = (row, agent) == (0, 0)
        own, others = grads[0][:, row, agent], grads[0].clone()
        others[:, row, agent] = 0
        assert (others == 0).all(), "no agent sees what another remembers"
        assert (own[3:] != 0).any(-1).all()
        assert (own[:3] == 0).all() == cut
        assert (grads[1][row, agent] == 0).all() == cut
    blank = net(x[3:], torch.zeros_like(memory), torch.zeros_like(starts[3:]))[0]
    torch.testing.assert_close(net(x, memory, starts)[0][3:, 0, 0], blank[:, 0, 0])


def test_tanh_and_its_gradient_are_torchs() -> None:
    x = torch.cat([torch.linspace(-30, 30, 4001), torch.tensor([torch.inf, -torch.inf, 0.0])]).requires_grad_()
    y, want = tanh(x), torch.tanh(x)
    torch.testing.assert_close(y, want, rtol=0, atol=2e-7)
    (ours,), (theirs,) = (torch.autograd.grad(out.sum(), x) for out in (y, want))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-7)
    exact = torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(tanh, exact)


@pytest.mark.parametrize(("activation", "gain"), [("relu", math.sqrt(2)), ("tanh", 5 / 3)])
def test_initial_weights_are_orthogonal_with_the_right_gain(activation: str, gain: float) -> None:
    net = StackedNet([5, 8, 8, 3], torch.tensor([0, 1]), activation=activation, recurrent="gru", layer_norm=True)
    net.initialize(output_gain=0.01, generator=torch.Generator().manual_seed(0))
    first = net.hidden[0].weight
    assert isinstance(first, nn.Parameter)
    assert net.cell is not None
    for policy in range(2):
        product = first[policy].T @ first[policy]
        torch.testing.assert_close(product, gain**2 * torch.eye(5), atol=1e-5, rtol=1e-5)
        for part in (net.cell.from_input, net.cell.from_memory):
            product = part.weight[policy].T @ part.weight[policy]
            torch.testing.assert_close(product, torch.eye(8), atol=1e-5, rtol=1e-5)
    assert net.output.weight.norm(dim=2).max() < 0.011
    assert not torch.equal(first[0], first[1])
    norm = net.norms[0]
    assert isinstance(norm, StackedLayerNorm)
    x = random(7, 2, 8)
    torch.testing.assert_close(norm(x.transpose(0, 1), None).transpose(0, 1), functional.layer_norm(x, (8,)))


@pytest.mark.parametrize("ids", [[0], [0, 0], [0, 1]])
@pytest.mark.parametrize("recurrent", MEMORIES)
def test_an_empty_batch_gives_an_empty_output(ids: list[int], recurrent: str) -> None:
    """A rollout in which no episode was cut by a limit asks for the values of no row."""
    net = stacked(ids, recurrent=recurrent)
    nobody = torch.zeros(0, len(ids), dtype=torch.bool)
    outputs, memories = net(torch.zeros(0, len(ids), 5), torch.zeros(0, len(ids), net.memory_width), nobody)
    assert outputs.shape == (0, len(ids), 3)
    assert memories.shape == (0, len(ids), net.memory_width)
