"""Agents with different spaces, padded and trained together, get the gradients that each would get without padding."""

from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from mappo import Policy, Trainer
from mappo.buffer import Batch
from mappo.config import StepSizes
from mappo.networks import build_critic
from mappo.spaces import EnvSpec
from mappo.update import Updater
from tests.mappo.conftest import MakeTrainer, iterate, next_batch
from tests.toy_envs import TargetEnv
from tests.toy_tasks import RandomEnv

SIZES = StepSizes(lr=1e-3, clip=0.2, ent_coef=0.01)
SPACES: dict[str, list[spaces.Space[Any]]] = {
    "gaussian": [
        spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, float("inf"), (1,)))),
        spaces.Box(-1, 1, (2,)),
        spaces.MultiDiscrete([2, 4]),
    ],
    "tanh_gaussian": [spaces.Box(-1, 1, (2,)), spaces.Box(0, 5, (1,)), spaces.Discrete(2)],
    "beta": [spaces.Tuple((spaces.Box(0, 5, (3,)), spaces.Discrete(2))), spaces.Box(-1, 1, (1,)), spaces.Discrete(3)],
}


def kept(trainer: Trainer, agent: int) -> dict[str, list[int]]:
    """For each parameter that padding widens, the agent's own entries: input columns, or output rows."""
    layout = trainer.spec.action_spec
    boxes = [column for column in sorted(layout.columns_of(agent)) if column < layout.box_columns]
    alphas_and_betas = boxes + [layout.box_columns + column for column in boxes]
    box_outputs, width = boxes, layout.box_columns
    if trainer.config.action_dist == "beta":
        box_outputs, width = alphas_and_betas, 2 * width
    outputs = box_outputs + [width + column for column in layout.mask_columns_of(agent)]
    return {
        "body.hidden.0.weight": list(range(trainer.spec.obs_widths[agent])),
        "body.output.weight": outputs,
        "body.output.bias": outputs,
        "log_std": boxes if trainer.policy.actor.log_std.numel() else [],
    }


def own_part(name: str, stacked: Tensor, agent: int, own: dict[str, list[int]]) -> Tensor:
    """What one agent's parameter `name` would be, (1, ...), of the stacked one or of its gradient."""
    row = stacked[agent : agent + 1]
    if name not in own:
        return row
    return row[..., own[name]] if name == "body.hidden.0.weight" else row[:, own[name]]


def alone(trainer: Trainer, agent: int) -> Updater:
    """The same networks for an env with that agent only."""
    spec = trainer.spec
    lonely = EnvSpec(
        agents=spec.agents[agent : agent + 1],
        obs_widths=spec.obs_widths[agent : agent + 1],
        action_heads=spec.action_heads[agent : agent + 1],
        state_dim=spec.state_dim,
        obs_names=(),
        state_names=(),
        action_names=(),
    )
    rng = torch.Generator()
    updater = Updater(
        Policy(lonely, trainer.config, rng), build_critic(lonely, trainer.config, rng), trainer.updater.settings
    )
    own = kept(trainer, agent)
    copy(trainer.policy.actor, updater.policy.actor, agent, own)
    copy(trainer.critic, updater.critic, agent, {"body.hidden.0.weight": own["body.hidden.0.weight"]})
    return updater


def copy(source: nn.Module, target: nn.Module, agent: int, own: dict[str, list[int]]) -> None:
    stacked = dict(source.named_parameters())
    for name, parameter in target.named_parameters():
        part = own_part(name, stacked[name].data, agent, own)
        assert parameter.shape == part.shape
        parameter.data = part.clone()


def own_batch(trainer: Trainer, batch: Batch, agent: int) -> Batch:
    """The agent's rows and columns."""
    layout, whose = trainer.spec.action_spec, slice(agent, agent + 1)
    rows = {name: field[:, :, whose] for name, field in batch._asdict().items() if name != "state"}
    rows["obs"] = rows["obs"][..., : trainer.spec.obs_widths[agent]]
    rows["actions"] = rows["actions"][..., layout.valid[agent]]
    rows["action_mask"] = rows["action_mask"][..., layout.mask_columns_of(agent)]
    return batch._replace(**rows)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("dist", SPACES)
@pytest.mark.parametrize("network", [{}, {"recurrent": "gru", "layer_norm": True}, {"recurrent": "lstm"}])
def test_padding_changes_no_gradient(make_trainer: MakeTrainer, dist: str, network: dict[str, Any]) -> None:
    settings = {"algo": "ippo", "policy_sharing": "independent", "reward_mode": "individual", "max_grad_norm": 0.1}
    sizes = {"num_steps": 8, "chunk_length": 4, "gamma": 0.9, "hidden_dim": 8}
    trainer = make_trainer(RandomEnv(SPACES[dist]), action_dist=dist, **settings, **sizes, **network)
    iterate(trainer)
    batch = next_batch(trainer)
    moved = batch._replace(log_prob=batch.log_prob + 0.1 * batch.advantages)
    alones = [alone(trainer, agent) for agent in range(3)]
    trainer.updater.step(moved, SIZES)
    for agent, updater in enumerate(alones):
        own = kept(trainer, agent)
        updater.step(own_batch(trainer, moved, agent), SIZES)
        for ours, theirs in ((trainer.policy.actor, updater.policy.actor), (trainer.critic, updater.critic)):
            widened = own if ours is trainer.policy.actor else {"body.hidden.0.weight": own["body.hidden.0.weight"]}
            stacked, single = gradients(ours), gradients(theirs)
            assert set(stacked) - set(single) <= {"log_std"}, "an agent without a Box has no use for it"
            for name, gradient in stacked.items():
                part = own_part(name, gradient, agent, widened)
                torch.testing.assert_close(part, single.get(name, part[..., :0]), rtol=1e-5, atol=1e-6)
                # what is left is padding
                torch.testing.assert_close(gradient[agent].abs().sum(), part.abs().sum(), rtol=1e-6, atol=0)


def test_what_stands_in_padded_columns_is_never_seen(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(TargetEnv(8, (1, 2), obs_padding=(0, 2)), policy_sharing="independent")
    iterate(trainer)
    garbage = torch.ones(1, 2, 5) * torch.tensor([1.0, 1, 1, 9, 9])
    plain = torch.ones(1, 2, 5) * torch.tensor([1.0, 1, 1, 0, 0])
    assert torch.equal(trainer.policy.observe(garbage)[:, 0], trainer.policy.observe(plain)[:, 0])
    assert (trainer.policy.obs_norm.count[0] > 0).tolist() == [True] * 3 + [False] * 2
    assert (trainer.policy.obs_norm.count[1] > 0).all()
