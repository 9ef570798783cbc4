"""The work and the memory of an env step grow with buses and agents, not with their product: counted, never timed."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import envs
from envs.microgrid import MicrogridEnv
from envs.power import tree_sums

ALL_KINDS: dict[str, Any] = {
    "plain": {},
    "price signal": {"protocols": {"vertical": "price_signal"}},
    "dso agent's devices": {"dso_agent": {}},
}
SLACK = 1.25  # sweeps differ from day to day


class Counter(TorchDispatchMode):
    """Elements that operations read and write, and multiplications of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.work = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        self.work += sum(tensor.numel() for tensor in tensors)
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm):
            left, right = args[-2:]
            self.work += left.numel() * right.shape[-1]
        return result


def made(copies: int, keys: dict[str, Any]) -> MicrogridEnv:
    env = envs.make("substation", feeder={"copies": copies}, num_envs=2, seed=1, **keys)
    env.reset()
    return env


def work_of_steps(env: MicrogridEnv) -> int:
    actions = env.idle_action().expand(env.action_shape)
    with Counter() as counter:
        for _ in range(4):
            env.step(actions)
    return counter.work


def tensors_of(part: object, seen: set[int]) -> Iterator[Tensor]:
    """Every tensor that an object of this project holds."""
    if id(part) in seen:
        return
    seen.add(id(part))
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, dict):
        for value in part.values():
            yield from tensors_of(value, seen)
    elif isinstance(part, list | tuple):
        for value in part:
            yield from tensors_of(value, seen)
    elif type(part).__module__.startswith("envs.") and hasattr(part, "__dict__"):
        yield from tensors_of(vars(part), seen)


@pytest.mark.parametrize("keys", ALL_KINDS.values(), ids=ALL_KINDS)
def test_a_step_of_four_times_the_feeders_costs_at_most_four_times(
    keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_sums, "DENSE_NODES", 1)  # fewer blocks would be summed by one product
    small, large = made(4, keys), made(16, keys)
    buses = large.network.num_buses / small.network.num_buses
    assert work_of_steps(large) <= SLACK * buses * work_of_steps(small)


def test_one_product_over_all_blocks_would_cost_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_sums, "DENSE_NODES", 10**6)
    small, large = made(8, {}), made(32, {})
    buses = large.network.num_buses / small.network.num_buses
    assert work_of_steps(large) > SLACK * buses * work_of_steps(small)


def test_what_an_env_holds_grows_with_its_buses() -> None:
    small, large = (sum(t.numel() for t in tensors_of(made(n, {}), set())) for n in (4, 16))
    assert large <= 1.1 * 4 * small
