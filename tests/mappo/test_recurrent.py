"""Memories in rollout, targets and deployment, against a plain loop over the steps of a recorded rollout."""

from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mappo import Trainer
from mappo.buffer import Batch
from mappo.config import StepSizes
from mappo.rollout import Rollout
from mappo.vec_env import Step
from tests.mappo.conftest import MakeTrainer, iterate, next_batch
from tests.toy_tasks import RandomEnv

MENU = spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, 1, (2,))))
SPACES: list[spaces.Space[Any]] = [MENU, spaces.MultiDiscrete([2, 4]), MENU]
NETWORK: dict[str, Any] = {"num_steps": 12, "chunk_length": 4, "gamma": 0.9, "hidden_dim": 8, "num_minibatches": 2}


class Recorded(RandomEnv):
    """Keeps what it showed and what it answered."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(SPACES, **settings)
        self.shown: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self.steps: list[Step] = []

    def reset(self) -> tuple[Tensor, Tensor]:
        obs, state = super().reset()
        self.shown = [(obs, state, *self.initial_masks())]
        self.steps = []
        return obs, state

    def step(self, actions: Tensor) -> Step:
        step = super().step(actions)
        self.steps.append(step)
        self.shown.append((step.obs, step.state, step.alive, step.action_mask))
        return step


def begins(env: Recorded, t: int) -> Tensor:
    """(B, A): who has nothing to remember at step t."""
    if t == 0:
        return torch.ones(env.num_envs, len(env.agents), dtype=torch.bool)
    step, acted = env.steps[t - 1], env.shown[t - 1][2]
    return step.terminated | step.truncated | ~acted


def recorded(make_trainer: MakeTrainer, **settings: Any) -> tuple[Trainer, Recorded]:
    env = Recorded(masked=settings.pop("masked", True))
    return make_trainer(env, **{**NETWORK, **settings}), env


@pytest.mark.parametrize("recurrent", ["gru", "lstm"])
@pytest.mark.parametrize("sharing", ["shared", "independent", "grouped"])
def test_acting_step_by_step_is_what_the_rollout_did(make_trainer: MakeTrainer, recurrent: str, sharing: str) -> None:
    """So are the agents on their own, each with its own memory, observation and mask."""
    trainer, env = recorded(make_trainer, recurrent=recurrent, policy_sharing=sharing)
    iterate(trainer)  # so that the normalisers are not at their start
    trainer.rollout = Rollout(env, trainer.spec, trainer.policy, trainer.critic, trainer.state_norm)  # new episodes
    batch = next_batch(trainer)
    distribution, _ = trainer.policy.actor(batch.obs, batch.action_mask, batch.memory[0], batch.starts)
    modes = distribution.to_env(distribution.mode())  # (L, N, A, U)
    modes = modes.unflatten(1, (3, 4)).transpose(0, 1).flatten(0, 1)  # (T, B, A, U)
    policy, spec = trainer.policy, trainer.spec
    policy.reset()
    for t in range(12):
        obs, _, _, action_mask = env.shown[t]
        policy.reset(begins(env, t))
        torch.testing.assert_close(policy.act(obs, action_mask), modes[t], rtol=1e-4, atol=1e-5)
    for index, name in enumerate(spec.agents):
        columns, own_mask = spec.action_spec.columns_of(index), spec.action_spec.mask_columns_of(index)
        for b in range(2):
            agent = policy.for_agent(name)
            for t in range(12):
                if begins(env, t)[b, index]:
                    agent.reset()
                obs, _, _, mask = env.shown[t]
                own = obs[b, index, : spec.obs_widths[index]]
                action = agent.act(own, mask[b, index, own_mask])
                torch.testing.assert_close(action, modes[t, b, index, columns], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recurrent", ["none", "gru", "lstm"])
@pytest.mark.parametrize(("algo", "reward"), [("mappo", "mean"), ("mappo", "individual"), ("ippo", "individual")])
def test_targets_bootstrap_with_the_memory_before_a_reset(
    make_trainer: MakeTrainer, recurrent: str, algo: str, reward: str
) -> None:
    """With lambda 0 a return is r + gamma V(next), so every value that was used can be seen; over two rollouts."""
    settings = {"recurrent": recurrent, "algo": algo, "reward_mode": reward, "gae_lambda": 0.0, "value_norm": False}
    trainer, env = recorded(make_trainer, **settings)
    trainer.critic.body.output.bias.data += 1.0
    returns = torch.cat([apart(next_batch(trainer)) for _ in range(2)])  # (2 T, B, V)
    cuts = 0
    memory = torch.zeros(4, trainer.critic.num_rows, trainer.critic.body.memory_width)
    for t in range(24):
        memory, _ = value_of(trainer, *env.shown[t][:2], memory, begins(env, t))
        step, acted = env.steps[t], env.shown[t][2]
        nobody = torch.zeros_like(acted)
        goes_on = value_of(trainer, step.obs, step.state, memory, begins(env, t + 1))[1]
        final = value_of(trainer, step.final_obs, step.final_state, memory, nobody)[1]
        cut, ended = step.truncated, step.terminated
        rewards = step.rewards
        if reward == "mean":
            over = (step.terminated | step.truncated | ~acted).all(-1, keepdim=True)
            cut = over & (step.truncated & acted).any(-1, keepdim=True)
            ended, rewards = over & ~cut, rewards.mean(-1, keepdim=True)
        want = rewards + 0.9 * torch.where(cut, final, goes_on) * ~ended
        torch.testing.assert_close(
            returns[t][acted if reward != "mean" else ...], want[acted if reward != "mean" else ...]
        )
        cuts += int(cut.sum())
    assert cuts > 0


def apart(batch: Batch) -> Tensor:
    """Returns (L, N, V) -> (T, B, V), for 4 copies."""
    return batch.returns.unflatten(1, (-1, 4)).transpose(0, 1).flatten(0, 1)


def value_of(trainer: Trainer, obs: Tensor, state: Tensor, memory: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Memory after one step, and the values (B, V)."""
    seen = trainer.policy.observe(obs)
    normal_state = trainer.state_norm(state.unsqueeze(-2)).squeeze(-2)
    values, memory = trainer.critic(seen, normal_state, memory, starts)
    return memory.detach(), values.detach()


@pytest.mark.parametrize("recurrent", ["gru", "lstm"])
def test_gradients_flow_back_to_where_a_chunk_or_an_agent_began_and_no_further(
    make_trainer: MakeTrainer, recurrent: str
) -> None:
    trainer, _ = recorded(make_trainer, recurrent=recurrent, masked=False)
    iterate(trainer)
    batch = next_batch(trainer)
    obs = batch.obs.clone().requires_grad_()
    memory = batch.memory[0].clone().requires_grad_()
    distribution, _ = trainer.policy.actor(obs, batch.action_mask, memory, batch.starts)
    log_prob = distribution.log_prob(batch.actions)  # (L, N, A)
    checked = 0
    for n in range(0, 12, 3):
        for a in range(3):
            if not batch.alive[-1, n, a]:
                continue
            grads = torch.autograd.grad(log_prob[-1, n, a], (obs, memory), retain_graph=True)
            own = grads[0][:, n, a].abs().sum(-1)
            first = max([t for t in range(4) if batch.starts[t, n, a]], default=0)
            assert (own[first:] > 0).all()
            assert (own[:first] == 0).all()
            torch.testing.assert_close(own.sum(), grads[0].abs().sum())  # no other chunk, no other agent
            assert (grads[1][n, a] != 0).any() == (not batch.starts[:, n, a].any())
            checked += 1
    assert checked > 3


def test_an_agent_whose_own_episode_ends_begins_anew_even_if_it_acts_on(make_trainer: MakeTrainer) -> None:
    """Its value from then on is no longer its future, so neither is its memory."""

    class Respawning(RandomEnv):
        def step(self, actions: Tensor) -> Step:
            step = super().step(actions)
            ends = torch.tensor([True, False, False]).expand_as(step.terminated)
            return step._replace(terminated=ends, truncated=~ends & False, alive=torch.ones_like(ends))

    env = Respawning(SPACES, mortal=False, masked=False)
    trainer = make_trainer(env, **{**NETWORK, "recurrent": "gru", "reward_mode": "individual"})
    next_batch(trainer)
    assert trainer.buffer.starts[1:, :, 0].all()
    assert not trainer.buffer.starts[1:, :, 1:].any()


def test_only_the_named_copies_and_agents_forget(make_trainer: MakeTrainer) -> None:
    trainer, env = recorded(make_trainer, recurrent="gru")
    policy, (obs, _) = trainer.policy, env.reset()
    blank = policy.act(obs)
    policy.act(obs)
    third = policy.act(obs)
    policy.reset()
    policy.act(obs)
    policy.act(obs)
    policy.reset(torch.tensor([True, False, False, True]))
    partly = policy.act(obs)
    assert torch.equal(partly[[0, 3]], blank[[0, 3]])
    assert torch.equal(partly[[1, 2]], third[[1, 2]])
    policy.reset()
    policy.act(obs)
    policy.act(obs)
    policy.reset(torch.tensor([[True, False, False]]).expand(4, 3))
    partly = policy.act(obs)
    assert torch.equal(partly[:, 0], blank[:, 0])
    assert torch.equal(partly[:, 1:], third[:, 1:])
    assert not torch.equal(blank, third)


def test_another_number_of_copies_needs_a_reset(make_trainer: MakeTrainer) -> None:
    trainer, env = recorded(make_trainer, recurrent="gru")
    policy, obs = trainer.policy, env.reset()[0]
    policy.act(obs)
    with pytest.raises(ValueError, match=r"act: got 2 copies after 4; call reset\(\) before other episodes"):
        policy.act(obs[:2])
    policy.reset()
    policy.act(obs[:2])
    agent = policy.for_agent("agent_0")
    agent.act(obs[:, 0])
    with pytest.raises(ValueError, match=r"act: got 1 copies after 4; call reset\(\)"):
        agent.act(obs[0, 0])
    agent.reset()
    agent.act(obs[0, 0])


def test_evaluation_and_acting_do_not_touch_the_rollouts_memory(make_trainer: MakeTrainer) -> None:
    runs = []
    for disturbed in (False, True):
        trainer, env = recorded(make_trainer, recurrent="lstm")
        iterate(trainer)
        if disturbed:
            trainer.policy.act(env.shown[-1][0])
            trainer.policy.reset()
        runs.append(next_batch(trainer))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_a_recurrent_update_trains_every_parameter(make_trainer: MakeTrainer) -> None:
    trainer, _ = recorded(make_trainer, recurrent="gru", layer_norm=True)
    batch = next_batch(trainer)
    modules = (trainer.policy.actor, trainer.critic)
    before = [parameter.detach().clone() for module in modules for parameter in module.parameters()]
    sizes = StepSizes(lr=1e-3, clip=0.2, ent_coef=0.01)
    trainer.updater.step(batch, sizes)
    after = [parameter for module in modules for parameter in module.parameters()]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
