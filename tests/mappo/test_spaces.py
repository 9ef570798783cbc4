"""Spaces -> specs, masks, policy ids; messages of the boundary checks."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from mappo.spaces import ActionSpec, EnvSpec, HeadSpec, action_heads, check_reset, check_step
from tests.toy_envs import TargetEnv
from tests.toy_tasks import RandomEnv

INF = float("inf")
NESTED = spaces.Tuple(
    (
        spaces.Discrete(3, start=-1),
        spaces.Dict(
            {"b": spaces.Box(0, 2, (2,)), "a": spaces.Tuple((spaces.MultiBinary(2), spaces.Box(-INF, 1, (1,))))}
        ),
        spaces.Discrete(5),
    )
)
KINDS: list[tuple[spaces.Space[Any], list[tuple[str, int]]]] = [
    (spaces.Box(-2, 3, (4,)), [("box", 4)]),
    (spaces.Box(-1, 1, (2, 3)), [("box", 6)]),
    (spaces.Box(-INF, INF, (2,)), [("real", 2)]),
    (spaces.Box(np.array([0, 0], np.float32), np.array([1, INF], np.float32)), [("box", 1), ("real", 1)]),
    (
        spaces.Box(np.array([[0, -INF], [-1, -1]], np.float32), np.array([[1, 0], [INF, 1]], np.float32)),
        [("box", 1), ("real", 2), ("box", 1)],
    ),
    (spaces.Discrete(4), [("choice", 4)]),
    (spaces.Discrete(4, start=7), [("choice", 4)]),
    (spaces.MultiDiscrete([2, 5]), [("choice", 2), ("choice", 5)]),
    (spaces.MultiDiscrete(np.array([[2, 3], [4, 5]])), [("choice", n) for n in (2, 3, 4, 5)]),
    (spaces.MultiBinary(3), [("choice", 2)] * 3),
    (spaces.MultiBinary((2, 2)), [("choice", 2)] * 4),
    # gymnasium sorts the keys of a plain dict: a before b
    (
        NESTED,
        [("choice", 3), ("choice", 2), ("choice", 2), ("real", 1), ("box", 2), ("choice", 5)],
    ),
    (spaces.Dict({}), []),
]


@pytest.mark.parametrize(("space", "heads"), KINDS, ids=[str(space)[:40] for space, _ in KINDS])
def test_every_space_is_flattened_depth_first(space: spaces.Space[Any], heads: list[tuple[str, int]]) -> None:
    assert list(action_heads("a", space)) == heads


def test_agents_of_different_kinds_share_one_layout() -> None:
    """Boxes first, then a column for each choice; every agent fills both parts from the left."""
    layout = ActionSpec.of(
        [
            action_heads("nested", NESTED),  # choices of 3, 2, 2, 5 around Box columns real, box, box
            action_heads("no choice", spaces.Box(-1, 1, (1,))),
            action_heads("no box", spaces.MultiDiscrete([2, 6])),
            action_heads("nothing", spaces.Tuple(())),
        ]
    )
    assert (layout.box_columns, layout.columns, layout.choices, layout.mask_columns) == (3, 7, (3, 6, 2, 5), 16)
    yes, no = True, False
    assert layout.valid.tolist() == [[yes] * 7, [yes] + [no] * 6, [no] * 3 + [yes, yes, no, no], [no] * 7]
    assert layout.bounded[0].tolist() == [no] + [yes] * 6
    assert layout.bounded[1:].all()
    assert [layout.columns_of(agent) for agent in range(4)] == [[3, 4, 5, 0, 1, 2, 6], [0], [3, 4], []]
    assert layout.mask_columns_of(0) == [0, 1, 2, 3, 4, 9, 10, 11, 12, 13, 14, 15]
    assert layout.mask_columns_of(1) == layout.mask_columns_of(3) == []
    assert layout.mask_columns_of(2) == [0, 1, 3, 4, 5, 6, 7, 8]
    for agent in range(4):
        assert layout.choice_valid[agent].nonzero().flatten().tolist() == layout.mask_columns_of(agent)
        assert sorted(layout.columns_of(agent)) == layout.valid[agent].nonzero().flatten().tolist()


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2,)), spaces.Discrete(3)])
def test_a_part_that_nobody_has_is_empty(space: spaces.Space[Any]) -> None:
    layout = ActionSpec.of([action_heads("a", space)] * 2)
    assert layout.valid.shape == layout.bounded.shape == (2, layout.columns)
    assert layout.choice_valid.shape == (2, layout.mask_columns)
    assert layout.valid.all()
    assert layout.choice_valid.all()


def test_agents_of_different_widths_are_padded_and_masked() -> None:
    spec = EnvSpec.of(TargetEnv(2, (1, 3), obs_padding=(0, 2)))
    assert spec.obs_widths == (4, 6)
    assert spec.obs_valid.sum(-1).tolist() == [4, 6]
    assert spec.action_spec.columns == 3
    assert spec.action_spec.valid.tolist() == [[True, False, False], [True, True, True]]
    assert spec.action_spec.mask_columns == 0


def test_policy_ids_follow_the_sharing() -> None:
    spec = EnvSpec.of(TargetEnv(2, (2, 1, 2)))
    assert spec.policy_ids("shared") == (0, 0, 0)
    assert spec.policy_ids("independent") == (0, 1, 2)
    assert spec.policy_ids("grouped") == (0, 1, 0)


def test_agents_are_grouped_by_both_their_spaces() -> None:
    box, menu = spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([2, 2])
    assert EnvSpec.of(RandomEnv([box, menu, box, box], widths=(3, 3, 3, 4))).policy_ids("grouped") == (0, 1, 0, 2)
    same_columns = [spaces.Box(-1, 1, (1,)), spaces.Box(-1, INF, (1,)), spaces.Discrete(2), spaces.MultiBinary(1)]
    assert EnvSpec.of(RandomEnv(same_columns, widths=(3,) * 4)).policy_ids("grouped") == (0, 1, 2, 3)


def test_a_map_names_each_agents_policy() -> None:
    spec = EnvSpec.of(TargetEnv(2, (2, 1, 2)))
    named = {"agent_2": "base", "agent_1": "scout", "agent_0": "base"}
    assert spec.policy_ids("independent", named) == (0, 1, 0)
    message = r"--policy-map must name each of the agents agent_0, agent_1, agent_2 once; agent_1 is missing"
    with pytest.raises(ValueError, match=message):
        spec.policy_ids("shared", {"agent_0": "a", "agent_2": "a"})
    with pytest.raises(ValueError, match=r"agent_9 is unknown"):
        spec.policy_ids("shared", {**named, "agent_9": "a"})
    with pytest.raises(ValueError, match=r"agent_0, agent_1, agent_2 is missing"):
        spec.policy_ids("shared", {})


@pytest.mark.parametrize("actions", [[spaces.Box(-1, 1, (2,))] * 2, [NESTED, spaces.Dict({}), spaces.Box(-1, INF)]])
def test_a_spec_survives_a_checkpoint(actions: list[spaces.Space[Any]]) -> None:
    spec = EnvSpec.of(RandomEnv(actions))
    again = EnvSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert all(isinstance(head, HeadSpec) for heads in again.action_heads for head in heads)
    assert spec.differences(spec) == []


def test_differences_name_what_changed() -> None:
    one, other = TargetEnv(2, (1, 1)), TargetEnv(2, (1, 1, 2))
    text = "\n".join(EnvSpec.of(one).differences(EnvSpec.of(other)))
    assert "agents: ['agent_0', 'agent_1'] -> ['agent_0', 'agent_1', 'agent_2']" in text
    assert "obs_widths: [2, 2] -> [3, 3, 3]" in text
    assert "state_dim: 3 -> 7" in text
    assert "action_heads: [['box(1)'], ['box(1)']] -> [['box(1)'], ['box(1)'], ['box(2)']]" in text


def test_what_is_no_vec_env_is_told_what_it_lacks() -> None:
    with pytest.raises(ValueError, match=r"object lacks num_envs, device, agents"):
        EnvSpec.of(object())  # pyright: ignore[reportArgumentType]


def test_unsupported_spaces_are_named() -> None:
    env = TargetEnv(2)
    text = spaces.Dict({"say": spaces.Text(5), "go": spaces.Discrete(2)})
    env.action_spaces["agent_1"] = text  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"action space of agent_1 must be Box, Discrete, .* of them; got Text\(1, 5"):
        EnvSpec.of(env)
    env = TargetEnv(2)
    env.observation_spaces["agent_0"] = spaces.Box(0, 1, (8, 8))
    with pytest.raises(ValueError, match=r"observation space of agent_0 must be a Box with one dimension"):
        EnvSpec.of(env)


def test_wrong_shapes_name_the_tensor() -> None:
    env = TargetEnv(2)
    spec = EnvSpec.of(env)
    obs, state = env.reset()
    with pytest.raises(ValueError, match=r"reset: obs must be \(2, 3, 2\); got \(2, 3, 1\)"):
        check_reset(obs[..., :1], state, env, spec)
    step = env.step(torch.zeros(2, 3, 1))
    check_step(step, env, spec)
    with pytest.raises(ValueError, match=r"step: terminated must be \(2, 3\); got \(2,\)"):
        check_step(step._replace(terminated=step.terminated[:, 0]), env, spec)
    with pytest.raises(ValueError, match=r"step: alive must be bool; got torch.float32"):
        check_step(step._replace(alive=step.alive.float()), env, spec)
    with pytest.raises(ValueError, match=r"metrics\['cost'\] must be \(2,\)"):
        check_step(step._replace(metrics={"cost": torch.zeros(3)}), env, spec)


def test_wrong_names_are_refused() -> None:
    env = TargetEnv(2)
    env.obs_names = ["only one"]  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match=r"env.obs_names must name 2 columns; got 1"):
        EnvSpec.of(env)
