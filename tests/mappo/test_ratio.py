"""Before the first gradient step the ratio is 1 and the values are the critic's: every space, network and sharing."""

import itertools
from typing import Any

import pytest
import torch
from gymnasium import spaces

from mappo import Trainer
from mappo.buffer import Batch, minibatch_rows, minibatches
from tests.mappo.conftest import MakeTrainer, iterate, next_batch
from tests.toy_tasks import RandomEnv

INF = float("inf")
BOX, WIDE, REAL = spaces.Box(-1, 1, (2,)), spaces.Box(0, 9, (3,)), spaces.Box(-INF, 1, (1,))
MENU = spaces.Discrete(3, start=1)
MENUS = spaces.MultiDiscrete([2, 4])
SPACES: dict[str, tuple[str, list[spaces.Space[Any]]]] = {
    "gaussian": ("gaussian", [BOX, WIDE, BOX]),
    "tanh": ("tanh_gaussian", [BOX, WIDE, BOX]),
    "beta": ("beta", [BOX, WIDE, BOX]),
    "discrete": ("gaussian", [MENU, MENU, MENU]),
    "multi": ("gaussian", [MENUS, spaces.MultiBinary(3), MENUS]),
    "mixed": ("gaussian", [BOX, spaces.Tuple((MENUS, REAL)), BOX]),
    "mixed-beta": ("beta", [spaces.Dict({"go": WIDE, "say": MENU}), MENUS, spaces.Dict({"go": WIDE, "say": MENU})]),
}
SHARING: dict[str, dict[str, Any]] = {
    "shared": {},
    "independent": {"policy_sharing": "independent"},
    "grouped": {"policy_sharing": "grouped"},
    "map": {"policy_map": {"agent_0": "b", "agent_1": "a", "agent_2": "a"}},
}
NETWORKS = list(itertools.product(("none", "gru", "lstm"), (False, True)))
CRITICS = [("mappo", "mean"), ("ippo", "individual"), ("mappo", "individual"), ("ippo", "mean")]
CASES = list(itertools.product(enumerate(SPACES), enumerate(SHARING), enumerate(NETWORKS)))


def make(make_trainer: MakeTrainer, kind: str, **settings: Any) -> Trainer:
    """Episodes end inside chunks of 4 steps, and agents die and appear there."""
    dist, actions = SPACES[kind]
    sizes = {"num_steps": 8, "chunk_length": 4, "num_minibatches": 4, "num_epochs": 1, "hidden_dim": 8}
    env = RandomEnv(actions, widths=(3, 4, 3))
    return make_trainer(env, **{**sizes, "gamma": 0.9, "action_dist": dist, "value_norm": False, **settings})


def check(trainer: Trainer, batch: Batch) -> None:
    for part in minibatches(batch, *minibatch_rows(batch, 4, trainer.generator)):
        distribution, _ = trainer.policy.actor(part.obs, part.action_mask, part.memory[0], part.starts)
        ratio = (distribution.log_prob(part.actions) - part.log_prob).exp()
        assert (ratio - 1).abs().max() < 1e-5
        values, _ = trainer.critic(part.obs, part.state, part.critic_memory[0], part.starts)
        torch.testing.assert_close(values, part.values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "sharing", "network", "critic"),
    # every space with every sharing and every network; critics take turns, so that each meets all of these
    [(kind, sharing, network, CRITICS[(i + j + k) % 4]) for (i, kind), (j, sharing), (k, network) in CASES],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)),
)
def test_the_ratio_is_1_and_the_values_are_the_critics(
    make_trainer: MakeTrainer, kind: str, sharing: str, network: tuple[str, bool], critic: tuple[str, str]
) -> None:
    (recurrent, layer_norm), (algo, reward) = network, critic
    settings = {"recurrent": recurrent, "layer_norm": layer_norm, "algo": algo, "reward_mode": reward}
    trainer = make(make_trainer, kind, **settings, **SHARING[sharing])
    iterate(trainer)
    batch = next_batch(trainer)
    assert batch.obs.shape[:2] == ((1, 32) if recurrent == "none" else (4, 8))
    assert batch.values.shape[-1] == (1 if critic == ("mappo", "mean") else 3)
    check(trainer, batch)


def test_the_rollouts_of_these_tests_have_all_that_could_break_the_ratio(make_trainer: MakeTrainer) -> None:
    """Beginnings inside chunks, deaths, appearances, both kinds of end; the env itself checks masks and bounds."""
    trainer = make(make_trainer, "mixed", recurrent="gru")
    iterate(trainer)
    batch, buffer = next_batch(trainer), trainer.buffer
    assert batch.starts[1:].any()
    assert not batch.starts[0].all()
    assert (buffer.alive[:-1] & ~buffer.alive[1:]).any()
    assert (~buffer.alive[:-1] & buffer.alive[1:] & ~buffer.starts[1:-1].all(-1, keepdim=True)).any()
    assert buffer.terminated.any()
    assert buffer.truncated.any()
    assert not batch.action_mask.all()
    assert isinstance(trainer.env, RandomEnv)
    assert trainer.env.choices_made > 50


def test_the_values_before_the_update_are_kept_in_the_new_units(make_trainer: MakeTrainer) -> None:
    trainer = make(make_trainer, "gaussian", value_norm=True, recurrent="gru", reward_mode="individual")
    iterate(trainer)
    mu, sigma = trainer.value_norm.stats()
    batch = next_batch(trainer)
    values, _ = trainer.critic(batch.obs, batch.state, batch.critic_memory[0], batch.starts)
    torch.testing.assert_close(trainer.value_norm.denormalize(batch.values), (values * sigma + mu).float())
    assert not torch.equal(mu, trainer.value_norm.stats()[0])
