"""What protocols add to an env step, and how the other scenarios fare beside the default."""

import itertools
from collections.abc import Callable
from typing import Any

import torch

import envs
from benchmarking.rates import LOOP, Rate, Settings, side_by_side, spread

SCENARIOS: dict[str, tuple[str, dict[str, Any]]] = {
    "ieee34_ieee13": ("ieee34_ieee13", {}),
    "ieee34_ieee13_96": ("ieee34_ieee13_96", {}),
    "substation, n = 2": ("substation", {"feeder": {"copies": 2}}),
    "substation, n = 4": ("substation", {"feeder": {"copies": 4}}),
    "ieee123": ("ieee123", {}),
}
"""Shipped scenarios of at least 72 buses, the default first."""


def protocols(settings: Settings) -> list[Rate]:
    """What each protocol adds to an env step under `settlement: individual`: same days, same random actions."""
    nowhere = dict.fromkeys(envs.make(settings.scenario).agents, 0.0)
    chosen: dict[str, dict[str, Any]] = {
        "none": {"vertical": "none", "horizontal": "none"},
        "price_signal": {"vertical": "price_signal", "horizontal": "none"},
        "setpoint": {"vertical": "setpoint", "horizontal": "none", "setpoint": {"target_mw": nowhere}},
        "p2p": {"vertical": "none", "horizontal": "p2p", "p2p": {"bids": "marginal_cost"}},
        "consensus": {"vertical": "none", "horizontal": "consensus"},
    }
    works = {
        name: random_steps(settings, settings.scenario, settlement="individual", protocols=rules)
        for name, rules in chosen.items()
    }
    seconds = side_by_side(settings, works, rounds=24)
    plain, loop_rates = seconds.pop("none"), [24 / spent for spent in seconds.pop(LOOP)]
    rates = [
        spread("protocols", "none", "env steps/s", [24 * settings.num_envs / spent for spent in plain], loop_rates)
    ]
    for name, spent in seconds.items():
        shares = [100 * (own / without - 1) for own, without in zip(spent, plain, strict=True)]
        rates.append(spread("protocols", name, "% more than none", shares))
    return rates


def scenarios(settings: Settings) -> list[Rate]:
    """Env steps a second times buses, random actions, and each scenario's ratio to the default's."""
    works = {name: random_steps(settings, scenario, **keys) for name, (scenario, keys) in SCENARIOS.items()}
    seconds = side_by_side(settings, works, rounds=24)
    buses = {name: envs.make(scenario, **keys).network.num_buses for name, (scenario, keys) in SCENARIOS.items()}
    work_rates = {name: [24 * settings.num_envs * buses[name] / spent for spent in seconds[name]] for name in SCENARIOS}
    first, loop_rates = next(iter(work_rates.values())), [24 / spent for spent in seconds[LOOP]]
    rates = []
    for name, values in work_rates.items():
        rates.append(spread("scenarios", f"{name} ({buses[name]} buses)", "bus steps/s", values, loop_rates))
        ratios = [own / default for own, default in zip(values, first, strict=True)]
        rates.append(spread("scenarios", f"{name} / default", "times", ratios))
    return rates


def random_steps(settings: Settings, scenario: str, **keys: Any) -> Callable[[], object]:
    """One step of an env at a time, with uniform random actions; `keys` as of `envs.make`."""
    env = envs.make(scenario, **{"num_envs": settings.num_envs, "device": settings.device, "seed": 1, **keys})
    env.reset()
    generator = torch.Generator().manual_seed(0)
    random = [(2 * torch.rand(env.action_shape, generator=generator) - 1).to(env.device) for _ in range(24)]
    actions = itertools.cycle(random)
    return lambda: env.step(next(actions))
