"""Numbers of an env that are not finite or too large: the run ends with their place, and nothing is spoilt silently."""

from math import inf, nan
from typing import Any

import pytest
import torch

from mappo.vec_env import Step
from tests.mappo.conftest import MakeTrainer
from tests.toy_envs import TargetEnv

RAW: dict[str, Any] = {"normalize_obs": False}


class Broken(TargetEnv):
    """One number of what a step returns is `value`."""

    def __init__(self, field: str, entry: tuple[int, ...], value: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.field, self.entry, self.value = field, entry, value

    def step(self, actions: torch.Tensor) -> Step:
        step = super().step(actions)
        given = getattr(step, self.field).clone()
        given[self.entry] = self.value
        return step._replace(**{self.field: given})


@pytest.mark.parametrize(
    ("field", "entry", "value", "settings", "message"),
    [
        ("rewards", (2, 1), nan, {}, r"losses/policy.* not finite; the reward of agent_1 is nan in copy 2 at step 0"),
        ("rewards", (2, 1), 1e30, {}, r"the reward of agent_1 is 1e\+30 in copy 2 at step 0; scale it down"),
        ("obs", (2, 1, 0), nan, {}, r"iteration 1: column 0 of agent_1's observation is not finite, mend the env"),
        ("obs", (2, 1, 0), inf, {}, r"iteration 1: column 0 of agent_1's observation is not finite, mend the env"),
        ("state", (2, 3), inf, {}, r"iteration 1: column 3 of the state is not finite, mend the env"),
        ("obs", (2, 1, 0), nan, RAW, r"the observation of agent_1, column 0, is nan in copy 2 at step 1; mend the env"),
        ("state", (2, 3), nan, RAW, r"not finite; the state, column 3, is nan in copy 2 at step 1; mend the env"),
        ("final_state", (2, 3), nan, {}, r"not finite; the final state, column 3, is nan in copy 2 at step 7; mend"),
    ],
)
def test_numbers_that_are_not_finite_end_the_run_with_their_place(
    make_trainer: MakeTrainer, field: str, entry: tuple[int, ...], value: float, settings: dict[str, Any], message: str
) -> None:
    trainer = make_trainer(Broken(field, entry, value, limit=True), num_steps=10, gamma=0.99, **settings)
    with pytest.raises(ValueError, match=message):
        trainer.train()


def test_large_observations_leave_the_normaliser_finite(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(Broken("obs", (0, 0, 0), 3e38), iterations=3)
    trainer.train()
    assert trainer.policy.obs_norm.mean.isfinite().all()
    assert trainer.policy.obs_norm.std().isfinite().all()
