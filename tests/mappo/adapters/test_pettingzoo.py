from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from mappo.adapters import PettingZooVecEnv
from mappo.spaces import EnvSpec, check_reset, check_step
from mappo.vec_env import Step
from tests.toy_parallel import BrokenEnv, ImageEnv, MaskedEnv, MortalParallelEnv, NestedEnv, ToyParallelEnv

Make = Callable[..., Any]


class Recorded:
    """A factory that keeps what it made; the first two envs are only looked at."""

    def __init__(self, make: Make, *args: Any, **kwargs: Any) -> None:
        self.make, self.args, self.kwargs = make, args, kwargs
        self.made: list[Any] = []

    def __call__(self) -> Any:
        self.made.append(self.make(*self.args, **self.kwargs))
        return self.made[-1]

    @property
    def copies(self) -> list[Any]:
        return self.made[2:]


def random_actions(env: PettingZooVecEnv, generator: torch.Generator) -> torch.Tensor:
    """Within every agent's choices; Box columns from [-1.5, 1.5]."""
    spec = EnvSpec.of(env).action_spec
    boxes = torch.rand(env.num_envs, len(env.agents), spec.box_columns, generator=generator) * 3 - 1.5
    sizes = torch.zeros(len(env.agents), len(spec.choices))
    for i, heads in enumerate(spec.heads):
        own = [head.size for head in heads if head.kind == "choice"]
        sizes[i, : len(own)] = torch.tensor(own)
    choices = (torch.rand(env.num_envs, *sizes.shape, generator=generator) * sizes).floor()
    return torch.cat([boxes, choices], dim=-1)


def choices(*rows: list[float]) -> torch.Tensor:
    """One copy, one choice an agent."""
    return torch.tensor(rows).unsqueeze(-1)


def play(env: PettingZooVecEnv, num_steps: int, seed: int = 0) -> list[Step]:
    generator = torch.Generator().manual_seed(seed)
    env.reset()
    return [env.step(random_actions(env, generator)) for _ in range(num_steps)]


@pytest.mark.parametrize("make", [ToyParallelEnv, NestedEnv])
def test_what_it_returns_fits_the_interface(make: Make) -> None:
    env = PettingZooVecEnv(make, 3)
    spec = EnvSpec.of(env)
    check_reset(*env.reset(), env, spec)
    alive, mask = env.initial_masks()
    assert alive.all()
    assert torch.equal(mask, spec.action_spec.choice_valid.expand(3, -1, -1))
    for step in play(env, 12):
        check_step(step, env, spec)


def test_nested_spaces_are_flattened_and_rebuilt() -> None:
    factory = Recorded(NestedEnv)
    env = PettingZooVecEnv(factory, 2)
    assert env.agents == ["walker", "talker"]
    assert [space.shape for space in env.observation_spaces.values()] == [(12,), (4,)]
    assert env.obs_names[:4] == ["mode=1", "mode=2", "mode=3", "position[0]"]
    (first, second) = play(env, 2)
    toy = factory.copies[1]  # the toy itself asserts that actions lie within its spaces
    flat: list[Any] = [spaces.flatten(toy.action_spaces[agent], toy.taken[1][agent]) for agent in env.agents]
    np.testing.assert_allclose(second.rewards[1], [action.sum() for action in flat], rtol=1e-6)
    assert first.obs[:, 1, 4:].eq(0).all()


def test_the_state_is_that_of_the_env_or_else_the_observations_side_by_side() -> None:
    env = PettingZooVecEnv(NestedEnv, 2)
    steps = play(env, 6)
    assert env.state_dim == 2
    assert [step.state[0].tolist() for step in steps] == [[t, t] for t in (1, 2, 3, 4, 0, 1)]
    assert steps[4].final_state.tolist() == [[5, 5], [5, 5]]
    env = PettingZooVecEnv(lambda: MortalParallelEnv({"a": (0, 3), "b": (0, 9)}), 1)
    steps = play(env, 6)
    assert env.state_names == [f"{agent}.obs[{i}]" for agent in "ab" for i in range(3)]
    for step in steps:
        assert torch.equal(step.state, step.obs.flatten(1))
        assert torch.equal(step.final_state, step.final_obs.flatten(1))


def test_an_empty_state_counts_as_none() -> None:
    class Stateless(ToyParallelEnv):
        def state(self) -> Any:
            return np.zeros(0)

    env = PettingZooVecEnv(Stateless, 1)
    obs, state = env.reset()
    assert torch.equal(state, obs.flatten(1))


def test_a_limit_is_truncation_and_the_next_episode_begins_in_the_same_step() -> None:
    env = PettingZooVecEnv(ToyParallelEnv, 2)
    steps = play(env, 10)
    for t, step in enumerate(steps):
        assert step.truncated.all() == (t % 5 == 4)
        assert not step.terminated.any()
        assert step.alive.all()
        assert torch.equal(step.obs, step.final_obs) == (t % 5 != 4)


def test_the_dead_are_padding_and_the_others_go_on() -> None:
    env = PettingZooVecEnv(lambda: MortalParallelEnv({"a": (0, 2), "b": (0, 9)}, horizon=4), 1)
    env.reset()
    steps = [env.step(choices([1, 2])) for _ in range(4)]
    assert [step.alive[0].tolist() for step in steps] == [[True, True], [False, True], [False, True], [True, True]]
    assert [step.terminated[0].tolist() for step in steps] == [[False] * 2, [True, False], [False] * 2, [False] * 2]
    assert [step.truncated[0].tolist() for step in steps] == [[False] * 2, [False] * 2, [False] * 2, [False, True]]
    assert [step.rewards[0].tolist() for step in steps] == [[1, 2], [1, 2], [0, 2], [0, 2]]
    assert steps[1].final_obs[0, 0].any()  # the last it saw
    assert not steps[1].obs[0, 0].any()
    assert not steps[2].final_obs[0, 0].any()


def test_agents_may_appear_later() -> None:
    env = PettingZooVecEnv(lambda: MortalParallelEnv({"a": (0, 9), "b": (2, 9)}, horizon=4), 1)
    obs, _ = env.reset()
    assert env.initial_masks()[0].tolist() == [[True, False]]
    assert not obs[0, 1].any()
    steps = [env.step(choices([1, 2])) for _ in range(4)]
    assert [step.alive[0, 1].item() for step in steps] == [False, True, True, False]
    assert [step.rewards[0, 1].item() for step in steps] == [0, 0, 2, 2]
    assert [step.truncated[0, 1].item() for step in steps] == [False, False, False, True]
    assert steps[1].obs[0, 1].any()


def test_an_agent_that_leaves_without_a_flag_has_terminated() -> None:
    env = PettingZooVecEnv(lambda: MortalParallelEnv({"a": (0, 2), "b": (0, 3)}, flagged=False), 1)
    env.reset()
    steps = [env.step(choices([1, 1])) for _ in range(3)]
    assert [step.terminated[0].tolist() for step in steps] == [[False] * 2, [True, False], [False, True]]
    assert not any(step.truncated.any() for step in steps)
    assert steps[2].alive.all()  # everyone is gone, so the next episode has begun


def test_rewards_of_the_dead_count() -> None:
    env = PettingZooVecEnv(lambda: MortalParallelEnv({"a": (0, 1), "b": (0, 9)}, bonus=7.0), 1)
    env.reset()
    assert [env.step(choices([1, 1])).rewards[0].tolist() for _ in range(2)] == [[1, 1], [7, 1]]


def test_an_episode_is_over_when_everyone_is_flagged() -> None:
    class Stays(ToyParallelEnv):
        def step(self, actions: Any) -> Any:
            results = super().step(actions)
            self.agents = list(self.possible_agents)  # against PettingZoo's rules
            return results

    env = PettingZooVecEnv(Stays, 1)
    assert [step.truncated.all().item() for step in play(env, 7)] == [False] * 4 + [True] + [False] * 2
    assert env.state_dict()["episode"].tolist() == [1]


def test_flags_that_linger_do_not_count_again() -> None:
    def keep(env: BrokenEnv, results: Any) -> None:
        env.terminates = lambda agent: agent == "one"  # from the next step on, and it stays in env.agents
        env.after = lambda time: ["one", "two"]

    class Lingering(BrokenEnv):
        def step(self, actions: Any) -> Any:
            results = super().step(actions)
            self.agents = self.agents and ["one", "two"]
            return results

    env = PettingZooVecEnv(lambda: Lingering(keep, at=1), 1)
    env.reset()
    steps = [env.step(choices([1, 1])) for _ in range(4)]
    assert [step.terminated[0, 0].item() for step in steps] == [False, True, False, False]
    assert [step.alive[0, 0].item() for step in steps] == [True, False, False, False]


def test_masks_come_from_observations_and_infos() -> None:
    env = PettingZooVecEnv(MaskedEnv, 2)
    env.reset()
    mask = env.initial_masks()[1]
    for t in range(12):
        assert mask.int().argmax(-1).tolist() == [[t % 5 % 4] * 2] * 2
        assert mask.sum(-1).eq(1).all()
        mask = env.step(mask.int().argmax(-1, keepdim=True).float()).action_mask
    assert env.observation_spaces["one"].shape == (3,)


def test_images_go_through_the_encoder() -> None:
    with pytest.raises(ValueError, match="camera is an image"):
        PettingZooVecEnv(ImageEnv, 1)
    env = PettingZooVecEnv(ImageEnv, 1, encoder=lambda image: image.mean((0, 1)) / 255)
    assert env.obs_names == ["camera[0]", "camera[1]", "camera[2]", "speed[0]"]
    assert play(env, 1)[0].obs[0, 0, :3].sub(0.5).abs().max() < 0.3


def test_every_episode_of_every_copy_has_a_seed_of_its_own() -> None:
    factory = Recorded(ToyParallelEnv)
    play(PettingZooVecEnv(factory, 3, seed=1), 10)
    seeds = [env.seeds for env in factory.copies]
    assert [len(own) for own in seeds] == [3, 3, 3]
    assert len({seed for own in seeds for seed in own}) == 9
    again = Recorded(ToyParallelEnv)
    play(PettingZooVecEnv(again, 3, seed=1), 10)
    assert [env.seeds for env in again.copies] == seeds


def test_the_spaces_of_the_agents_have_seeds_of_their_own() -> None:
    factory = Recorded(NestedEnv)
    PettingZooVecEnv(factory, 2)
    samples = [str(env.action_spaces["talker"].sample()) for env in factory.copies for _ in range(9)]
    assert samples[:9] != samples[9:]
    again = Recorded(NestedEnv)
    PettingZooVecEnv(again, 2)
    assert [str(env.action_spaces["talker"].sample()) for env in again.copies for _ in range(9)] == samples


def test_reset_plays_the_same_episodes_again() -> None:
    env = PettingZooVecEnv(ToyParallelEnv, 2)
    first, again = play(env, 7), play(env, 7)
    assert all(
        torch.equal(a, b) for one, two in zip(first, again, strict=True) for a, b in zip(one[:8], two[:8], strict=True)
    )


def test_a_resume_between_episodes_is_exact() -> None:
    env = PettingZooVecEnv(ToyParallelEnv, 2, seed=3)
    last = play(env, 10)[-1]
    saved = env.state_dict()
    expected = [env.step(choices([1, 2]).expand(2, -1, -1)) for _ in range(6)]
    resumed = PettingZooVecEnv(ToyParallelEnv, 2, seed=3)
    assert resumed.load_state_dict(saved) is True
    assert torch.equal(resumed.initial_masks()[0], last.alive)
    for step in expected:
        found = resumed.step(choices([1, 2]).expand(2, -1, -1))
        assert all(torch.equal(a, b) for a, b in zip(step[:8], found[:8], strict=True))


def test_a_resume_within_an_episode_begins_it_anew_and_says_so() -> None:
    env = PettingZooVecEnv(ToyParallelEnv, 2, seed=3)
    steps = play(env, 7)
    resumed = PettingZooVecEnv(ToyParallelEnv, 2, seed=3)
    assert resumed.load_state_dict(env.state_dict()) is False
    obs, _ = resumed.reset()
    assert torch.equal(obs, steps[4].obs)
    with pytest.raises(ValueError, match="--num-envs must be 2, as in the checkpoint; got 3"):
        PettingZooVecEnv(ToyParallelEnv, 3).load_state_dict(env.state_dict())


def test_close_closes_every_env_once() -> None:
    factory = Recorded(ToyParallelEnv)
    env = PettingZooVecEnv(factory, 2)
    assert [toy.closed for toy in factory.made] == [True, True, False, False]
    env.close()
    env.close()
    assert all(toy.closed for toy in factory.made)
    with pytest.raises(ValueError, match="the env is closed"):
        env.reset()


def test_it_is_described_by_numbers_and_its_text() -> None:
    env = PettingZooVecEnv(ToyParallelEnv, 2, seed=4, spec="pettingzoo:tests.toy")
    assert env.spec == {"env": "pettingzoo:tests.toy", "num_envs": 2, "num_workers": 0, "seed": 4}
    assert "env" not in PettingZooVecEnv(ToyParallelEnv, 2).spec


def test_calls_in_the_wrong_order_or_shape_are_refused() -> None:
    env = PettingZooVecEnv(ToyParallelEnv, 2)
    for call in (lambda: env.step(torch.zeros(2, 2, 1)), env.initial_masks):
        with pytest.raises(ValueError, match=r"call reset\(\) before"):
            call()
    env.reset()
    with pytest.raises(ValueError, match=r"actions must be \(2, 2, 1\); got \(2, 2, 3\)"):
        env.step(torch.zeros(2, 2, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_envs": 0}, "--num-envs must be at least 1; got 0"),
        ({"num_workers": -1}, "--num-workers must be at least 0; got -1"),
        (
            {"num_envs": 8, "num_workers": 3},
            "--num-workers 3 must divide --num-envs 8; give --num-workers 2 or 4, or --num-envs 6 or 9",
        ),
        ({"num_envs": 4, "num_workers": 5}, "give --num-workers 4, or --num-envs 5"),
        ({"seed": -1}, "--seed must be at least 0; got -1"),
    ],
)
def test_impossible_sizes_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PettingZooVecEnv(ToyParallelEnv, **settings)
