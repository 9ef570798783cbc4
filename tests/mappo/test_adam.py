"""Adam against torch's own class."""

import subprocess
import sys

import torch
from torch import nn

from mappo.adam import EPS, Adam
from mappo.stacked_parameters import Rows


def pair() -> tuple[Adam, torch.optim.Adam, list[Rows], list[nn.Parameter]]:
    rng = torch.Generator().manual_seed(0)
    rows = [
        Rows(torch.randn(2, 5, generator=rng), torch.zeros(2, 5)),
        Rows(torch.randn(1, 7, generator=rng), torch.zeros(1, 7)),
    ]
    theirs = [nn.Parameter(own.data.clone()) for own in rows]
    return Adam(*rows), torch.optim.Adam(theirs, eps=EPS, fused=True), rows, theirs


def step(mine: Adam, its: torch.optim.Adam, rows: list[Rows], theirs: list[nn.Parameter], number: int) -> None:
    rng = torch.Generator().manual_seed(number)
    its.param_groups[0]["lr"] = lr = 1e-2 / number
    for own, other in zip(rows, theirs, strict=True):
        own.grad.copy_(torch.randn(own.grad.shape, generator=rng))
        other.grad = own.grad.clone()
    mine.step(lr)
    its.step()


def test_steps_equal_those_of_torch_and_so_does_a_run_that_goes_on_from_its_state() -> None:
    mine, its, rows, theirs = pair()
    for number in range(1, 5):
        step(mine, its, rows, theirs, number)
    assert all(torch.equal(own.data, other) for own, other in zip(rows, theirs, strict=True))
    resumed = Adam(*rows)
    resumed.load_state_dict(its.state_dict())
    step(resumed, its, rows, theirs, 5)
    assert all(torch.equal(own.data, other) for own, other in zip(rows, theirs, strict=True))


def test_a_state_brings_back_moments_and_steps() -> None:
    mine, its, rows, theirs = pair()
    step(mine, its, rows, theirs, 1)
    other = Adam(*rows)
    other.load_state_dict(mine.state_dict())
    assert str(other.state_dict()) == str(mine.state_dict())
    assert other.state_dict()["state"][0]["exp_avg"].abs().sum() > 0


def test_an_update_loads_no_compiler() -> None:
    """It would take a second."""
    code = "import sys, torch, mappo.adam as a\nfrom mappo.stacked_parameters import Rows\n"
    code += "a.Adam(Rows(torch.ones(1, 2), torch.ones(1, 2))).step(0.1)\nassert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
