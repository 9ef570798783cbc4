"""Settings: sizes, schedule, round trip, messages."""

import json
from typing import Any

import pytest

from mappo.config import TrainConfig
from mappo.presets import PRESETS


def test_sizes_follow_from_each_other() -> None:
    assert TrainConfig().rollout_steps(512) == 24
    assert TrainConfig(train_batch_size=12288).rollout_steps(512) == 24
    assert TrainConfig(train_batch_size=400).rollout_steps(4) == 100
    assert TrainConfig().minibatch_count(512) == 64
    assert TrainConfig(minibatch_size=768).minibatch_count(512) == 16
    assert TrainConfig().minibatch_count(5) == 60  # 120 env steps: 64 does not divide, the next below does


def test_the_learning_rate_goes_towards_0_but_not_to_it() -> None:
    config = TrainConfig(lr=1.0, iterations=4)
    assert [config.step_sizes(i).lr for i in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert TrainConfig(lr=1.0, lr_schedule="constant").step_sizes(99).lr == 1.0


def test_clip_range_and_entropy_have_schedules_of_their_own() -> None:
    config = TrainConfig(iterations=4, clip=0.4, clip_schedule="linear", ent_coef=0.8, ent_schedule="linear")
    sizes = [config.step_sizes(i) for i in range(4)]
    assert [round(size.clip, 9) for size in sizes] == [0.4, 0.3, 0.2, 0.1]
    assert [round(size.ent_coef, 9) for size in sizes] == [0.8, 0.6, 0.4, 0.2]
    constant = TrainConfig(iterations=4, clip=0.4, ent_coef=0.8, ent_schedule="constant")
    assert {(size.clip, size.ent_coef) for size in map(constant.step_sizes, range(4))} == {(0.4, 0.8)}


def test_chunks_of_a_memory_are_never_split() -> None:
    config = TrainConfig(recurrent="gru", num_steps=24)
    assert (config.chunk, TrainConfig().chunk) == (8, 1)
    assert config.minibatch_count(4) == 12  # 96 env steps are 12 chunks, though 64 minibatches are the default
    assert TrainConfig(recurrent="lstm", num_steps=24, chunk_length=24, num_minibatches=2).minibatch_count(4) == 2
    assert TrainConfig(recurrent="gru", num_steps=24, minibatch_size=32).minibatch_count(4) == 3
    assert TrainConfig(num_steps=10, chunk_length=7).minibatch_count(4) == 40, "without a memory there is no chunk"


def test_happo_trains_independent_policies() -> None:
    assert TrainConfig(algo="happo").sharing == "independent"


MAPPED = TrainConfig(policy_map={"a": "scout", "b": "base"}, recurrent="gru", algo="ippo", action_dist="beta")


@pytest.mark.parametrize("config", [*PRESETS.values(), MAPPED], ids=[*PRESETS, "mapped"])
def test_round_trip_through_json(config: TrainConfig) -> None:
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_unknown_keys_are_errors() -> None:
    with pytest.raises(ValueError, match=r"unknown setting gama; known are"):
        TrainConfig.from_dict({"gama": 0.9})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 1.5}, r"--gamma must be in \(0, 1\]; got 1.5"),
        ({"iterations": 0}, "--iterations must be at least 1; got 0"),
        ({"lr": float("nan")}, "--lr must be above 0; got nan"),
        ({"algo": "ppo"}, "--algo must be one of mappo, ippo, happo; got 'ppo'"),
        ({"algo": "ippo", "critic_input": "state"}, "--critic-input state contradicts --algo ippo"),
        ({"minibatch_size": 4, "num_minibatches": 4}, "give one of them"),
        ({"stop_after": 101}, "--stop-after 101 must not exceed --iterations 100"),
        ({"log_std_init": 3.0}, "--log-std-init must be in"),
        ({"iterations": 2.5}, "--iterations must be a whole number, such as 10; got 2.5, a float"),
        ({"iterations": "10"}, "--iterations must be a whole number, such as 10; got '10', a str"),
        ({"iterations": True}, "--iterations must be a whole number, such as 10; got True, a bool"),
        ({"num_steps": 24.0}, "--num-steps must be a whole number, such as 10; got 24.0, a float"),
        ({"gamma": None}, "--gamma must be a number; got None"),
        ({"value_clip": 1}, "--value-clip must be True or False; got 1"),
        ({"runs_dir": None}, "--runs-dir must be text; got None"),
        ({"algo": ["mappo"]}, r"--algo must be one of mappo, ippo, happo; got \['mappo'\]"),
        ({"seed": 2**63}, "--seed must be from 0 to 2\\*\\*63 - 1; got 9223372036854775808"),
        ({"lr": float("inf")}, "--lr must be above 0; got inf"),
        ({"chunk_length": 0}, "--chunk-length must be at least 1; got 0"),
        ({"grad_accumulation": 0}, "--grad-accumulation must be at least 1; got 0"),
        ({"num_workers": -1}, "--num-workers must be at least 0; got -1"),
        ({"recurrent": True}, "--recurrent must be one of none, gru, lstm; got True"),
        ({"action_dist": "normal"}, "--action-dist must be one of gaussian, tanh_gaussian, beta; got 'normal'"),
        ({"clip_schedule": "cosine"}, "--clip-schedule must be one of linear, constant; got 'cosine'"),
        ({"layer_norm": 1}, "--layer-norm must be True or False; got 1"),
        ({"policy_map": ["a"]}, r"--policy-map must be a dict; got \['a'\], a list"),
        ({"algo": "happo", "policy_sharing": "grouped"}, "--algo happo trains one policy for each agent"),
        ({"algo": "happo", "policy_map": {"a": "b"}}, "--algo happo trains one policy for each agent"),
    ],
)
def test_bad_settings_name_flag_rule_and_value(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_minibatches": 7}, "--num-minibatches 7 must divide the batch of 192 .* 6 and 8 would"),
        ({"minibatch_size": 100}, "--minibatch-size 100 must divide the batch of 192 .* 96 and 192 would"),
        ({"train_batch_size": 100}, "--train-batch-size 100 must be a multiple of --num-envs 8; .* 96"),
        ({"train_batch_size": 100, "num_steps": 24}, "--train-batch-size 100 must equal --num-envs 8 x --num-steps 24"),
        ({"recurrent": "gru", "num_steps": 12}, "--chunk-length 8 must divide --num-steps 12; 6 and 12 would"),
        (
            {"recurrent": "gru", "num_minibatches": 32},
            "--num-minibatches 32 must divide .* 192 .*, and --chunk-length 8 steps of a copy stay together.*24 would",
        ),
        ({"recurrent": "gru", "minibatch_size": 4}, "--minibatch-size 4 must divide .*; 8 would"),
    ],
)
def test_sizes_that_do_not_divide_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings).minibatch_count(8)
