"""What an env does wrong is an error that names the agent, the entry and the value."""

import sys
import threading
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv
from pettingzoo.utils import parallel_to_aec

from mappo.adapters import PettingZooVecEnv
from mappo.spaces import EnvSpec
from tests.toy_parallel import BrokenEnv, MaskedEnv, NestedEnv, ToyParallelEnv, fail


def play_broken(make: Any, num_steps: int = 8, width: int = 1) -> None:
    """Two copies; `make` is called for each, and for the one that is looked at."""
    env = PettingZooVecEnv(make, 2)
    env.reset()
    for _ in range(num_steps):
        env.step(torch.ones(2, 2, width))


def spoil_obs(value: float) -> Any:
    def fault(env: BrokenEnv, results: Any) -> None:
        results[0]["two"][1] = value

    return fault


def set_to(position: int, agent: str, value: Any) -> Any:
    def fault(env: BrokenEnv, results: Any) -> None:
        results[position][agent] = value

    return fault


def drop(position: int, agent: str) -> Any:
    def fault(env: BrokenEnv, results: Any) -> None:
        del results[position][agent]

    return fault


def add_stranger(env: BrokenEnv, results: Any) -> None:
    env.agents = [*env.agents, "three"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (spoil_obs(np.nan), r"observation of two: entry obs\[1\] = nan is not finite \(copy 0\)"),
        (spoil_obs(1.5), r"observation of two: entry obs\[1\] = 1.5 is outside its space, \[-1, 1\] \(copy 0\)"),
        (set_to(0, "one", np.zeros(2)), r"observation of one: .* must have shape \(3,\); got \(2,\) \(copy 0\)"),
        (set_to(0, "one", np.zeros(3) + 1j), r"observation of one: .* must hold real numbers; got .* \(copy 0\)"),
        (set_to(0, "one", None), r"observation of one: .* must have shape \(3,\); got \(\)"),
        (set_to(1, "one", np.nan), "reward of one must be finite; got nan in copy 0"),
        (set_to(1, "two", -np.inf), "reward of two must be finite; got -inf in copy 0"),
        (set_to(1, "two", None), "reward of two must be finite; got None in copy 0"),
        (set_to(1, "two", [1, 2]), "rewards must be one number for each agent"),
        (set_to(1, "three", 1.0), r"the env names \['three'\], which possible_agents \['one', 'two'\] does not list"),
        (add_stranger, r"the env names \['three'\], which possible_agents"),
        (
            lambda *_: ({}, {}, {}, {}),
            r"step\(\) must return \(observations, .* got a tuple of 4: dict, dict, dict, dict",
        ),
        (lambda *_: ({}, {}, False, {}, {}), "got a tuple of 5: dict, dict, bool, dict, dict"),
        (lambda _, results: (*results[:4], None), r"got a tuple of 5: .*, NoneType \(copy 0\)"),
        (lambda *_: "over", r"dicts by agent; got str \(copy 0\)"),
        (drop(0, "one"), r"step\(\) gave no observation for one"),
        (drop(1, "one"), r"step\(\) gave no reward for one"),
    ],
)
def test_a_bad_step_is_refused(fault: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        play_broken(lambda: BrokenEnv(fault))


def test_any_mapping_will_do() -> None:
    play_broken(lambda: BrokenEnv(lambda _, results: [MappingProxyType(result) for result in results]))


def test_an_agent_that_is_cut_needs_a_last_observation() -> None:
    with pytest.raises(ValueError, match=r"no observation for one, which is alive or was cut by a limit"):
        play_broken(lambda: BrokenEnv(drop(0, "one"), at=5))


def test_a_bad_observation_of_a_reset_is_refused() -> None:
    class Bad(ToyParallelEnv):
        def observe(self, agent: str) -> Any:
            return super().observe(agent) + 3 * (self.time == 0 and len(self.seeds) > 1)

    with pytest.raises(ValueError, match=r"observation of one: entry obs\[0\] = .* is outside its space"):
        play_broken(Bad)


def test_an_error_of_the_env_keeps_its_type_and_tells_the_copy() -> None:
    with pytest.raises(KeyError, match="the door is locked") as error:
        play_broken(lambda: BrokenEnv(fail, at=7))
    assert error.value.__notes__ == ["This happened in copy 0, in its episode 1."]
    assert "fail" in [entry.name for entry in error.traceback]


def test_spaces_and_agents_may_not_change_between_episodes() -> None:
    def grow(env: BrokenEnv, results: Any) -> None:
        env.observation_spaces["two"] = spaces.Box(-1, 1, (4,))

    def move(env: BrokenEnv, results: Any) -> None:
        env.action_spaces["one"] = spaces.Discrete(5)

    def enlarge(env: BrokenEnv, results: Any) -> None:
        env.possible_agents = ["one", "two", "three"]

    with pytest.raises(ValueError, match="observation space of two must be the same in every copy and episode"):
        play_broken(lambda: BrokenEnv(grow))
    with pytest.raises(ValueError, match="action space of one must be the same in every copy and episode"):
        play_broken(lambda: BrokenEnv(move))
    with pytest.raises(ValueError, match=r"possible_agents must be the same .* got \['one', 'two', 'three'\]"):
        play_broken(lambda: BrokenEnv(enlarge, at=5))


def test_copies_must_be_alike() -> None:
    sizes = iter([("a", "b")] * 3 + [("a", "c")])
    with pytest.raises(ValueError, match="possible_agents must be the same in every copy"):
        PettingZooVecEnv(lambda: ToyParallelEnv(next(sizes)), 2)


def test_the_state_must_keep_its_width_and_be_finite() -> None:
    class Wide(NestedEnv):
        value, width = 0.0, 2

        def state(self) -> Any:
            return np.full(self.width, self.value) if self.time == 3 else np.zeros(2)

    class Nan(Wide):
        value = np.nan

    class Wider(Wide):
        width = 3

    for make, message in ((Wider, r"state\(\) must always have shape \(2,\); got \(3,\)"), (Nan, "entry 0 is nan")):
        with pytest.raises(ValueError, match=message):
            play_broken(make, width=7)


def test_a_living_agent_needs_an_allowed_choice() -> None:
    class Stuck(MaskedEnv):
        def allowed(self) -> Any:
            return np.zeros(4, np.int8) if self.time == 2 else np.ones(4, np.int8)

    env = PettingZooVecEnv(Stuck, 1)
    env.reset()
    env.step(torch.zeros(1, 2, 1))
    with pytest.raises(ValueError, match="action_mask of one allows none of the choices of slot 0 in copy 0"):
        env.step(torch.ones(1, 2, 1))


def test_a_mask_must_have_an_entry_for_each_choice() -> None:
    class Short(MaskedEnv):
        def allowed(self) -> Any:
            return np.ones(3, np.int8)

    with pytest.raises(ValueError, match=r"action_mask of one must have 4 entries, .* got 3"):
        PettingZooVecEnv(Short, 1).reset()


def test_a_mask_that_holds_nan_is_refused_and_names_the_agent() -> None:
    class Nan(MaskedEnv):
        def allowed(self) -> Any:
            return np.array([1, 1, 1, np.nan])

    with pytest.raises(ValueError, match=r"agent one: action_mask must hold 0 or 1 .* nan\]\) \(copy 0\)"):
        PettingZooVecEnv(Nan, 1).reset()


def test_an_observation_slightly_outside_its_space_is_warned_of_once() -> None:
    with pytest.warns(UserWarning, match=r"entry obs\[1\] = 1.015 is outside .* so little is let pass") as caught:
        play_broken(lambda: BrokenEnv(spoil_obs(1.015)))
    assert len(caught) == 1
    with pytest.raises(ValueError, match=r"entry obs\[1\] = 1.03 is outside its space"):
        play_broken(lambda: BrokenEnv(spoil_obs(1.03)))


def test_what_is_no_parallel_env_is_refused_with_the_way_to_convert_it() -> None:
    with pytest.raises(ValueError, match=r"is an AECEnv.*pettingzoo\.utils\.aec_to_parallel"):
        PettingZooVecEnv(lambda: parallel_to_aec(ToyParallelEnv()))
    with pytest.raises(ValueError, match=r"CartPoleEnv is a gymnasium\.Env with a single agent"):
        PettingZooVecEnv(CartPoleEnv)
    with pytest.raises(ValueError, match="must be a pettingzoo ParallelEnv; int lacks reset, step"):
        PettingZooVecEnv(int)
    not_callable: Any = ToyParallelEnv()
    with pytest.raises(ValueError, match="factory must be a function that makes an env"):
        PettingZooVecEnv(not_callable)


def test_a_factory_of_one_env_that_cannot_be_copied_is_refused() -> None:
    class Locked(ToyParallelEnv):
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()

    env = Locked()
    with pytest.raises(ValueError, match=r"same object at each call, and it cannot be copied .* write lambda: MyEnv"):
        PettingZooVecEnv(lambda: env, 2)


def test_a_factory_of_one_env_gives_copies_that_are_as_good_as_new_ones() -> None:
    env = ToyParallelEnv()
    shared, own = PettingZooVecEnv(lambda: env, 3, seed=5), PettingZooVecEnv(ToyParallelEnv, 3, seed=5)
    for one, other in zip(shared.reset(), own.reset(), strict=True):
        assert torch.equal(one, other)
    actions = torch.zeros(3, len(own.agents), EnvSpec.of(own).action_spec.columns)
    for _ in range(5):
        assert torch.equal(shared.step(actions).final_obs, own.step(actions).final_obs)
    assert not env.agents, "the given env is left alone"


def test_every_possible_agent_must_be_listed() -> None:
    class Anonymous(ToyParallelEnv):
        def __init__(self) -> None:
            super().__init__()
            del self.possible_agents

    with pytest.raises(ValueError, match="Anonymous must have possible_agents"):
        PettingZooVecEnv(Anonymous)


def test_a_reset_of_the_old_interface_or_without_agents_is_refused() -> None:
    class Old(ToyParallelEnv):
        def reset(self, seed: int | None = None, options: Any = None) -> Any:
            return super().reset(seed)[0]

    class Empty(ToyParallelEnv):
        def after(self, time: int) -> list[str]:
            return []

    class NoInfos(ToyParallelEnv):
        def reset(self, seed: int | None = None, options: Any = None) -> Any:
            return super().reset(seed)[0], None

    for make, kinds in ((Old, "dict"), (NoInfos, "a tuple of 2: dict, NoneType")):
        with pytest.raises(ValueError, match=rf"reset\(\) must return \(observations, infos\), .* got {kinds}"):
            PettingZooVecEnv(make, 1).reset()
    with pytest.raises(ValueError, match=r"env\.agents is empty"):
        PettingZooVecEnv(Empty, 1).reset()


def test_a_reset_without_seed_is_refused() -> None:
    class Seedless(ToyParallelEnv):
        def reset(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            return super().reset()

    with pytest.raises(ValueError, match=r"Seedless must have reset\(seed=None, options=None\).* got reset\(\)"):
        PettingZooVecEnv(Seedless)


def test_an_agent_needs_an_action() -> None:
    class Idle(ToyParallelEnv):
        def action_space(self, agent: str) -> Any:
            return spaces.Box(-1, 1, (0,)) if agent == "two" else spaces.Discrete(4)

    with pytest.raises(ValueError, match=r"action space of two has no entries; got Box"):
        PettingZooVecEnv(Idle)


def test_an_env_that_exits_is_let_go() -> None:
    def leave(env: BrokenEnv, results: Any) -> None:
        sys.exit(4)

    with pytest.raises(SystemExit) as error:
        play_broken(lambda: BrokenEnv(leave))
    assert error.value.__notes__ == ["This happened in copy 0, in its episode 0."]
