import pytest
import torch

import envs
from envs.power.regulators import Settled


def test_a_copy_that_fails_after_its_taps_moved_gets_taps_and_voltages_back(monkeypatch: pytest.MonkeyPatch) -> None:
    env = envs.make(num_envs=3, seed=1)
    env.reset()
    before, settle = env._grid_state, env._grid._settler.settle

    def fails_in_copy_1(*args: object) -> Settled:
        settled = settle(*args)  # pyright: ignore[reportArgumentType]
        converged = torch.tensor([True, False, True])
        return settled._replace(tap=settled.tap + 1, flow=settled.flow._replace(converged=converged))

    monkeypatch.setattr(env._grid._settler, "settle", fails_in_copy_1)
    step = env.step(torch.zeros(env.action_shape))
    after = env._grid_state
    assert step.metrics["not_converged"].tolist() == [0, 1, 0]
    assert torch.equal(after.tap[1], before.tap[1])
    assert torch.equal(after.v_pu[1], before.v_pu[1])
    assert not torch.equal(after.tap[0], before.tap[0])
    assert not torch.equal(after.v_pu[0], before.v_pu[0])
