"""From a recorded rollout to the batch: reward modes, advantage statistics, who counts, how chunks are cut."""

from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mappo import Trainer
from mappo.adapters.pettingzoo import PettingZooVecEnv
from mappo.vec_env import Step
from tests.mappo.conftest import MakeTrainer, next_batch
from tests.toy_envs import MortalEnv, TargetEnv
from tests.toy_parallel import ByAgent, ToyParallelEnv
from tests.toy_tasks import RandomEnv

MENUS: list[spaces.Space[Any]] = [spaces.Discrete(3)] * 2


def blind(trainer: Trainer) -> Trainer:
    """With a critic that says 0."""
    trainer.critic.body.output.weight.data.zero_()
    trainer.critic.body.output.bias.data.zero_()
    return trainer


def apart(chunks: Tensor, copies: int) -> Tensor:
    """(L, N, V) -> (T, B, V)."""
    return chunks.unflatten(1, (-1, copies)).transpose(0, 1).flatten(0, 1)


@pytest.mark.parametrize("recurrent", ["none", "gru"])
def test_the_reward_mode_says_whose_rewards_a_return_adds_up(make_trainer: MakeTrainer, recurrent: Any) -> None:
    """Gamma 1, lambda 1, V = 0: a return is what is left of the rewards of an episode of 8 steps."""
    settings = {"num_steps": 8, "chunk_length": 4, "recurrent": recurrent}
    settings |= {"gae_lambda": 1.0, "value_norm": False, "advantage_norm": "none"}
    got = {}
    for mode in ("individual", "mean", "sum"):
        trainer = make_trainer(TargetEnv(4), reward_mode=mode, **settings)
        batch = next_batch(blind(trainer))
        got[mode] = apart(batch.returns, 4)
        assert got[mode].shape == (8, 4, 3 if mode == "individual" else 1)
        rewards = trainer.buffer.rewards.flip(0).cumsum(0).flip(0)
        want = {"individual": rewards, "mean": rewards.mean(-1, keepdim=True), "sum": rewards.sum(-1, keepdim=True)}
        torch.testing.assert_close(got[mode], want[mode])
        torch.testing.assert_close(apart(batch.advantages, 4), want[mode].expand(8, 4, 3))
    torch.testing.assert_close(got["sum"], 3 * got["mean"])


@pytest.mark.parametrize("recurrent", ["none", "gru"])
@pytest.mark.parametrize("mode", ["batch", "agent", "none"])
def test_advantages_are_normalised_over_the_living_of_the_whole_batch(
    make_trainer: MakeTrainer, recurrent: Any, mode: str
) -> None:
    settings = {"num_steps": 8, "chunk_length": 4, "recurrent": recurrent, "advantage_norm": mode}
    trainer = make_trainer(RandomEnv(MENUS), gamma=0.9, reward_mode="individual", **settings)
    batch = next_batch(trainer)
    assert not batch.alive.all()
    living = [batch.advantages[..., a][batch.alive[..., a]] for a in range(2)]
    everyone = torch.cat(living)
    for group in {"batch": [everyone], "agent": living, "none": []}[mode]:
        assert abs(group.mean().item()) < 1e-5
        assert abs(group.std(correction=0).item() - 1) < 1e-4
    if mode == "batch":
        assert abs(living[0].mean().item()) > 1e-3
    if mode == "none":
        assert abs(everyone.std(correction=0).item() - 1) > 1e-2


class OneIsCutEarly(ToyParallelEnv):
    """Agent `two` leaves by a limit of its own after 3 of 8 steps; there is no `state()`."""

    def step(self, actions: ByAgent) -> tuple[ByAgent, ByAgent, ByAgent, ByAgent, ByAgent]:
        obs, rewards, terminated, truncated, infos = super().step(actions)
        if self.time == 3:
            truncated["two"], self.agents = True, ["one"]
        return obs, rewards, terminated, truncated, infos

    def after(self, time: int) -> list[str]:
        return ["one", "two"] if time < 3 else ["one"]


@pytest.mark.parametrize("recurrent", ["none", "gru"])
def test_who_goes_on_is_not_bootstrapped_where_another_is_cut(make_trainer: MakeTrainer, recurrent: Any) -> None:
    """Lambda 1: with gamma 1 a return is the rewards still to come and the value of where the time limit struck."""
    settings: dict[str, Any] = {"num_steps": 8, "chunk_length": 4, "recurrent": recurrent, "reward_mode": "individual"}
    settings |= {"gae_lambda": 1.0, "gamma": 1.0, "value_norm": False, "normalize_obs": False}
    env = PettingZooVecEnv(lambda: OneIsCutEarly(horizon=8), 4)
    trainer = make_trainer(env, **settings)
    batch = next_batch(trainer)
    buffer = trainer.buffer
    returns = apart(batch.returns, 4)
    assert buffer.truncated[2, :, 1].all()
    assert buffer.truncated[7, :, 0].all()
    assert not buffer.truncated[2, :, 0].any()
    for agent, last in ((0, 7), (1, 2)):
        rewards = buffer.rewards[: last + 1, :, agent].flip(0).cumsum(0).flip(0)
        beyond = returns[: last + 1, :, agent] - rewards
        torch.testing.assert_close(beyond, beyond[-1:].expand_as(beyond), msg="one value, of where it was cut")
        assert beyond.abs().min() > 1e-4


def test_values_of_agents_count_where_they_live_and_the_teams_while_anyone_does(make_trainer: MakeTrainer) -> None:
    for reward in ("individual", "mean"):
        trainer = make_trainer(MortalEnv(lifetimes=(3, 8, 8)), num_steps=8, reward_mode=reward)
        batch = next_batch(trainer)
        if reward == "individual":
            assert torch.equal(batch.value_alive, batch.alive)
            assert not batch.alive.all()
        else:
            assert batch.value_alive.shape == (1, 64, 1)
            assert batch.value_alive.all()


def test_chunks_are_consecutive_steps_of_one_copy(make_trainer: MakeTrainer) -> None:
    """A copy's clock stands in its state; it is set back at the start of an episode."""
    trainer = make_trainer(TargetEnv(4, horizon=5), num_steps=12, chunk_length=4, recurrent="gru", normalize_obs=False)
    batch = next_batch(trainer)
    clock = (batch.state[..., -1] * 5).round().long()  # (L, N)
    assert clock.shape == (4, 12)
    assert torch.equal(clock[1:], (clock[:-1] + 1) % 5)
    assert torch.equal(batch.starts, (clock == 0).unsqueeze(-1).expand(-1, -1, 3))
    assert torch.equal(clock[0], torch.tensor([0, 4, 3]).repeat_interleave(4))
    assert batch.memory.shape == (1, 12, 3, 16)
    assert batch.critic_memory.shape == (1, 12, 1, 16)
    assert (batch.memory[0, :4] == 0).all()
    assert (batch.memory[0, 4:] != 0).any(-1).all()


def test_a_limit_for_some_agents_leaves_the_others_values_alone(make_trainer: MakeTrainer) -> None:
    """Agent 0 alone is cut, at every step, and sees a final observation of its own."""

    class Cut(TargetEnv):
        def step(self, actions: Tensor) -> Step:
            step = super().step(actions)
            cut = torch.tensor([True, False, False]).expand_as(step.truncated)
            final = step.obs.clone()
            final[:, 0] = 5.0
            return step._replace(truncated=cut, terminated=cut & False, final_obs=final, final_state=step.state)

    settings = {"reward_mode": "individual", "algo": "ippo", "gae_lambda": 0.0, "gamma": 0.9, "value_norm": False}
    trainer = make_trainer(Cut(4, horizon=99), num_steps=4, **settings)
    got = next_batch(trainer).returns.view(4, 4, 3)
    buffer = trainer.buffer
    values, _ = trainer.critic(buffer.obs, buffer.state, buffer.critic_memory, buffer.starts)
    torch.testing.assert_close(got[..., 1:], (buffer.rewards + 0.9 * values[1:])[..., 1:])
    seen = trainer.policy.observe(buffer.final_obs)
    final, _ = trainer.critic(seen, buffer.state[1:], buffer.critic_memory, buffer.starts[1:])
    torch.testing.assert_close(got[..., 0], (buffer.rewards + 0.9 * final)[..., 0])


@pytest.mark.parametrize("reward", ["mean", "individual"])
def test_values_of_the_dead_count_while_their_team_earns(make_trainer: MakeTrainer, reward: str) -> None:
    """The advantages of agent_0 run through rows after its death, which a team's reward reaches."""
    trainer = make_trainer(MortalEnv(), algo="ippo", num_steps=8, reward_mode=reward)
    batch = next_batch(trainer)
    assert not batch.alive.all()
    assert torch.equal(batch.value_alive, torch.ones_like(batch.alive) if reward == "mean" else batch.alive)
