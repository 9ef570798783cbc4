"""What tells agents of one policy apart: one-hot up to 16, a learned embedding beyond, and nothing A x A then."""

from pathlib import Path

import pytest
import torch

from mappo import TrainConfig, load_policy
from mappo.agent_ids import EMBEDDING_WIDTH, ONE_HOT_AGENTS, AgentEmbedding, id_kind
from tests.mappo.conftest import MakeTrainer, iterate
from tests.toy_envs import TargetEnv

MANY = ONE_HOT_AGENTS + 1


@pytest.mark.parametrize(
    ("setting", "ids", "kind"),
    [
        ("auto", (0,) * ONE_HOT_AGENTS, "one_hot"),
        ("auto", (0,) * MANY, "embedding"),
        ("one_hot", (0,) * MANY, "one_hot"),
        ("embedding", (0, 0), "embedding"),
        ("auto", tuple(range(MANY)), "none"),
        ("embedding", (0,), "none"),
    ],
)
def test_the_kind_of_id_follows_setting_and_number(setting: str, ids: tuple[int, ...], kind: str) -> None:
    assert id_kind(setting, ids) == kind


def test_agents_of_a_policy_get_different_vectors_that_their_policy_owns() -> None:
    embedding = AgentEmbedding(torch.tensor([0, 1, 0, 1, 1]), torch.Generator().manual_seed(0))
    assert embedding.weight.shape == (2, 3, EMBEDDING_WIDTH)
    added = embedding(torch.zeros(4, 5, 2))[..., 2:]  # (4, 5, E)
    assert torch.equal(added[0], added[3])
    assert len(added[0].unique(dim=0)) == 5
    (grad,) = torch.autograd.grad(embedding(torch.zeros(5, 0))[2].sum(), [embedding.weight])
    assert grad[0, 1].tolist() == [1.0] * EMBEDDING_WIDTH  # agent 2 is the second of policy 0
    assert grad.count_nonzero() == EMBEDDING_WIDTH


def test_nothing_that_is_stored_has_a_column_for_each_agent(make_trainer: MakeTrainer) -> None:
    def per_agent(agents: int) -> float:
        trainer = make_trainer(TargetEnv(num_envs=2, action_widths=(1,) * agents))
        stored = sum(part.numel() for part in trainer.buffer)
        return stored / agents

    assert per_agent(80) <= 1.01 * per_agent(40)


@pytest.mark.parametrize("algo", ["mappo", "ippo"])
@pytest.mark.parametrize("recurrent", ["none", "gru"])
@pytest.mark.parametrize("reward_mode", ["mean", "individual"])
def test_embeddings_learn_in_actor_and_critic(
    make_trainer: MakeTrainer, algo: str, recurrent: str, reward_mode: str
) -> None:
    trainer = make_trainer(
        TargetEnv(num_envs=2, action_widths=(1,) * MANY),
        algo=algo,
        recurrent=recurrent,
        chunk_length=5,
        reward_mode=reward_mode,
    )
    nets = [net for net in (trainer.policy.actor, trainer.critic) if net.embedding is not None]
    assert len(nets) == (1 if algo == "mappo" and reward_mode == "mean" else 2)
    before = [net.embedding.weight.detach().clone() for net in nets if net.embedding is not None]
    iterate(trainer, 2)
    for net, start in zip(nets, before, strict=True):
        assert net.embedding is not None
        assert ((net.embedding.weight != start).any(-1)).all()  # every agent's


def test_a_policy_with_embeddings_acts_alike_after_loading(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(TargetEnv(num_envs=2, action_widths=(1,) * MANY))
    iterate(trainer)
    trainer.policy.save(tmp_path / "policy.pt")
    loaded = load_policy(tmp_path / "policy.pt")
    obs = torch.randn(3, MANY, trainer.spec.obs_dim, generator=torch.Generator().manual_seed(0))
    actions = loaded.act(obs)
    assert torch.equal(actions, trainer.policy.act(obs))
    torch.testing.assert_close(loaded.for_agent("agent_5").act(obs[:, 5]), actions[:, 5])


def test_agents_with_one_observation_come_to_act_differently(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(TargetEnv(num_envs=2, action_widths=(1,) * MANY))
    same = torch.zeros(1, MANY, trainer.spec.obs_dim)
    assert len(trainer.policy.act(same).flatten().unique()) > 1


def test_a_policy_with_another_kind_of_id_is_refused_by_name(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    env = TargetEnv(num_envs=2, action_widths=(1, 1))
    make_trainer(env).policy.save(tmp_path / "policy.pt")
    make_trainer(env, agent_id="one_hot").policy.start_from(tmp_path / "policy.pt")  # what auto gives two agents
    with pytest.raises(ValueError, match=r"--agent-id embedding gives embedding ids, the policy in .* has one_hot"):
        make_trainer(env, agent_id="embedding").policy.start_from(tmp_path / "policy.pt")


def test_settings_stored_before_the_choice_existed_mean_one_hot() -> None:
    stored = TrainConfig().to_dict()
    del stored["agent_id"]
    assert TrainConfig.from_dict(stored).agent_id == "one_hot"
