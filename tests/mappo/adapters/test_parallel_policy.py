from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import envs
from mappo import ParallelPolicy, Policy, TrainConfig
from mappo.adapters import PettingZooVecEnv
from mappo.adapters.parallel_batch import episode_seed
from mappo.rollout import next_starts
from mappo.spaces import EnvSpec
from tests.toy_parallel import ImageEnv, MaskedEnv, MortalParallelEnv, NestedEnv, ToyParallelEnv

Make = Callable[[], Any]
LIVES = {"early": (0, 3), "late": (2, 9), "always": (0, 9)}


def policy_for(make: Make, recurrent: Any = "none", **settings: Any) -> Policy:
    """With weights that tell observations and memories apart."""
    env = PettingZooVecEnv(make, 1, **settings)
    config = TrainConfig(recurrent=recurrent, hidden_dim=16, policy_sharing="independent")
    policy = Policy(EnvSpec.of(env), config, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in policy.parameters():
            weights.add_(torch.randn(weights.shape, generator=generator) / 2)
    env.close()
    return policy


def play_batched(policy: Policy, make: Make, num_steps: int, deterministic: bool) -> list[Any]:
    """What the toy was told to do in its first episode."""
    made: list[Any] = []

    def factory() -> Any:
        made.append(make())
        return made[-1]

    env = PettingZooVecEnv(factory, 1, seed=3)
    generator = torch.Generator().manual_seed(2)
    policy.reset()
    obs, _ = env.reset()
    alive, mask = env.initial_masks()
    for _ in range(num_steps):
        step = env.step(policy.act(obs, mask, deterministic, generator))
        policy.reset(next_starts(step, alive))
        obs, alive, mask = step.obs, step.alive, step.action_mask
    env.close()
    return made[-1].taken


def play_raw(policy: ParallelPolicy, env: Any, deterministic: bool) -> list[Any]:
    """The same episode on the env itself."""
    generator = torch.Generator().manual_seed(2)
    observations, infos = env.reset(seed=episode_seed(3, 0, 0))
    policy.reset()
    while env.agents:
        living = {agent: observations[agent] for agent in env.agents}
        actions = policy.act(living, infos, deterministic=deterministic, generator=generator)
        assert list(actions) == env.agents
        observations, _, _, _, infos = env.step(actions)
    return env.taken


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("recurrent", ["none", "gru"])
@pytest.mark.parametrize("make", [NestedEnv, MaskedEnv, lambda: MortalParallelEnv(LIVES)])
def test_an_episode_is_the_one_that_training_would_play(make: Make, recurrent: str, deterministic: bool) -> None:
    policy = policy_for(make, recurrent)
    raw = make()
    taken = play_raw(ParallelPolicy(policy, raw), raw, deterministic)
    batched = play_batched(policy, make, len(taken), deterministic)
    assert len(taken) == raw.horizon
    for mine, theirs in zip(taken, batched, strict=True):
        assert list(mine) == list(theirs)
        for agent, action in mine.items():
            space = raw.action_space(agent)
            assert space.contains(action)
            flat: list[Any] = [spaces.flatten(space, each) for each in (action, theirs[agent])]
            np.testing.assert_allclose(*flat, rtol=1e-5, atol=1e-6)


def test_the_env_is_only_looked_at() -> None:
    policy, env = policy_for(ToyParallelEnv), ToyParallelEnv()
    ParallelPolicy(policy, env).act({"one": np.zeros(3, np.float32)})
    assert (env.seeds, env.taken, env.closed) == ([], [], False)


def test_a_memory_goes_on_until_reset_and_begins_blank_for_who_appears() -> None:
    make, seen = (lambda: ToyParallelEnv(horizon=9)), np.array([0.3, -0.8, 0.5], np.float32)
    policy = ParallelPolicy(policy_for(make, "gru"), make())

    def draw(*agents: str) -> dict[str, list[int]]:
        """Draws from the same distribution are the same."""
        draws: dict[str, list[int]] = {agent: [] for agent in agents}
        before = policy._memory, policy._acted
        for seed in range(40):
            policy._memory, policy._acted = before
            generator = torch.Generator().manual_seed(seed)
            actions = policy.act(dict.fromkeys(agents, seen), deterministic=False, generator=generator)
            for agent in agents:
                draws[agent].append(actions[agent])
        return draws

    first = draw("one", "two")
    second = draw("one", "two")
    assert second["one"] != first["one"]
    alone = draw("one")
    assert draw("one", "two")["two"] == first["two"]  # it was away
    assert alone["one"] != first["one"]
    policy.reset()
    assert draw("one", "two") == first


def test_a_draw_differs_from_the_most_likely_action_at_times() -> None:
    policy = ParallelPolicy(policy_for(ToyParallelEnv), ToyParallelEnv())
    seen, generator = {"one": np.zeros(3, np.float32)}, torch.Generator().manual_seed(0)
    assert len({policy.act(seen)["one"] for _ in range(20)}) == 1
    assert len({policy.act(seen, deterministic=False, generator=generator)["one"] for _ in range(20)}) > 1


def test_images_go_through_the_encoder() -> None:
    def encoder(image: Any) -> Any:
        return image.mean((0, 1)) / 255

    policy, env = policy_for(ImageEnv, encoder=encoder), ImageEnv()
    observations, _ = env.reset(seed=0)
    assert set(ParallelPolicy(policy, env, encoder=encoder).act(observations)) == {"one", "two"}
    with pytest.raises(ValueError, match=r"observation space of one: camera is an image.*Give encoder="):
        ParallelPolicy(policy, env)


def test_a_policy_of_the_batched_microgrid_plays_its_parallel_env() -> None:
    batched = envs.make("ieee34_ieee13", num_envs=1, group_size=1)
    policy = Policy(EnvSpec.of(batched), TrainConfig(hidden_dim=8), torch.Generator().manual_seed(0))
    env = envs.parallel_env("ieee34_ieee13")
    observations, infos = env.reset(seed=0)
    actions = ParallelPolicy(policy, env).act(observations, infos)
    assert all(env.action_space(agent).contains(actions[agent]) for agent in env.possible_agents)


def test_a_policy_for_other_spaces_is_refused_with_every_difference() -> None:
    policy = policy_for(ToyParallelEnv)
    with pytest.raises(ValueError, match="the policy does not fit toy") as refused:
        ParallelPolicy(policy, NestedEnv())
    lines = str(refused.value).splitlines()[1:-1]
    assert lines[0] == "  agents: ['one', 'two'] -> ['walker', 'talker']"
    assert lines[1] == "  obs_widths: [3, 3] -> [12, 4]"
    assert lines[2].startswith("  action_heads: [['choice(4)'], ['choice(4)']] -> [['choice(3)', 'real(1)'")


def test_entries_with_other_names_are_refused() -> None:
    policy, env = policy_for(NestedEnv), NestedEnv()
    walker: Any = env.observation_spaces["walker"]
    env.observation_spaces["walker"] = spaces.Dict([("place" if k == "position" else k, v) for k, v in walker.items()])
    with pytest.raises(ValueError, match=r"obs_names: position\[0\] -> place\[0\]"):
        ParallelPolicy(policy, env)


def test_what_is_no_parallel_env_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a pettingzoo ParallelEnv; Box lacks reset"):
        ParallelPolicy(policy_for(ToyParallelEnv), spaces.Box(0, 1))


ZEROS, BAD = np.zeros(3, np.float32), np.array([0, np.nan, 0], np.float32)
ALLOWED = np.ones(4, np.int8)


@pytest.mark.parametrize(
    ("observations", "infos", "message"),
    [
        ({"three": ZEROS}, None, "observations name 'three'; the agents are one, two"),
        ({"two": BAD}, None, r"observation of two: entry obs\[1\] = nan is not finite"),
        ({"two": ZEROS + 2}, None, r"observation of two: entry obs\[0\] = 2 is outside its space"),
        ({"two": ZEROS[:2]}, None, r"observation of two: the observation must have shape \(3,\); got \(2,\)"),
        ({"two": ZEROS}, {"two": {"action_mask": ALLOWED[:3]}}, "action_mask of two must have 4 entries.*got 3"),
        ({"two": ZEROS}, {"two": {"action_mask": 0 * ALLOWED}}, "action_mask of two allows none of the choices"),
        ({"one": {"observation": ZEROS}}, None, "observation of one: action_mask is missing; got"),
    ],
)
def test_what_it_cannot_act_on_is_named(observations: Any, infos: Any, message: str) -> None:
    policy = ParallelPolicy(policy_for(MaskedEnv), MaskedEnv())
    with pytest.raises(ValueError, match=message):
        policy.act(observations, infos)
