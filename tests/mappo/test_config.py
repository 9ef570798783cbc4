"""Settings: sizes, schedule, round trip, messages."""

import json
from typing import Any

import pytest

from mappo.config import PRESETS, TrainConfig


def test_sizes_follow_from_each_other() -> None:
    assert TrainConfig().rollout_steps(512) == 24
    assert TrainConfig(train_batch_size=12288).rollout_steps(512) == 24
    assert TrainConfig(train_batch_size=400).rollout_steps(4) == 100
    assert TrainConfig().minibatch_count(512) == 64
    assert TrainConfig(minibatch_size=768).minibatch_count(512) == 16
    assert TrainConfig().minibatch_count(5) == 60  # 120 env steps: 64 does not divide, the next below does


def test_the_learning_rate_goes_towards_0_but_not_to_it() -> None:
    config = TrainConfig(lr=1.0, iterations=4)
    assert [config.learning_rate(i) for i in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert TrainConfig(lr=1.0, lr_schedule="constant").learning_rate(99) == 1.0


@pytest.mark.parametrize("config", PRESETS.values(), ids=list(PRESETS))
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
        ({"algo": "ppo"}, "--algo must be one of mappo, ippo; got 'ppo'"),
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
        ({"algo": ["mappo"]}, r"--algo must be one of mappo, ippo; got \['mappo'\]"),
        ({"seed": 2**63}, "--seed must be from 0 to 2\\*\\*63 - 1; got 9223372036854775808"),
        ({"lr": float("inf")}, "--lr must be above 0; got inf"),
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
    ],
)
def test_sizes_that_do_not_divide_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings).minibatch_count(8)
