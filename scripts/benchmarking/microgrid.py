"""Stages of the microgrid: power flow (beside pandapower), env, rollout, update, training end to end.

Also what protocols add to an env step, and how the other scenarios fare beside the default.
"""

import importlib.util
import itertools
import tempfile
from collections.abc import Callable
from typing import Any

import torch

import envs
from benchmarking.rates import Rate, Settings, measured, side_by_side, single, spread
from envs.composition import scenario_tables
from envs.power import solve_power_flow
from envs.power.to_pandapower import to_pandapower
from envs.scenario import load_scenario
from mappo import TrainConfig, Trainer

PANDAPOWER_RUNS = 20
TRAIN_ENVS = 512
SCENARIOS: dict[str, tuple[str, dict[str, Any]]] = {
    "ieee34_ieee13": ("ieee34_ieee13", {}),
    "ieee34_ieee13_96": ("ieee34_ieee13_96", {}),
    "substation, n = 2": ("substation", {"feeder": {"copies": 2}}),
    "substation, n = 4": ("substation", {"feeder": {"copies": 4}}),
    "ieee123": ("ieee123", {}),
}
"""Shipped scenarios of at least 72 buses, the default first."""


def power_flow(settings: Settings) -> list[Rate]:
    """Random operating points at random taps in +-8, flat start; then pandapower's default runpp."""
    net = envs.make(settings.scenario).network
    generator = torch.Generator().manual_seed(0)
    p_mw, q_mvar = net.nominal_injections()
    scale = torch.rand(settings.num_envs, 1, generator=generator, dtype=torch.float64)
    tap = torch.randint(-8, 9, (settings.num_envs, len(net.regulators)), generator=generator)
    rates = []
    for dtype in (torch.float32, torch.float64):
        p, q = (scale * p_mw).to(settings.device, dtype), (scale * q_mvar).to(settings.device, dtype)

        def solve(p: torch.Tensor = p, q: torch.Tensor = q) -> None:
            for _ in range(10):
                solve_power_flow(net, p, q, tap)

        what = f"batch, {str(dtype).removeprefix('torch.')}"
        rates.append(measured(settings, "power-flow", what, "flows/s", settings.num_envs * 10, solve))
    import pandapower  # noqa: PLC0415 - slow to import, and only this stage needs it

    grid = to_pandapower(scenario_tables(load_scenario(settings.scenario)))
    numba = importlib.util.find_spec("numba") is not None  # runpp would only warn and go on without it

    def runpp() -> None:
        for _ in range(PANDAPOWER_RUNS):
            pandapower.runpp(grid, numba=numba)

    what = f"pandapower runpp, default{'' if numba else ', no numba'}"
    reference = measured(settings, "power-flow", what, "flows/s", PANDAPOWER_RUNS, runpp)
    ratio = rates[0].median / reference.median
    return [*rates, reference, single("power-flow", "batch float32 / pandapower", "times", ratio)]


def env(settings: Settings) -> list[Rate]:
    """Env steps with regulators and observations: uniform random actions, and close to idle."""
    copies = envs.make(settings.scenario, num_envs=settings.num_envs, device=settings.device, seed=1)
    copies.reset()
    generator = torch.Generator().manual_seed(0)
    random = [2 * torch.rand(copies.action_shape, generator=generator) - 1 for _ in range(24)]
    idle = copies.idle_action().cpu()
    near_idle = [idle + 0.1 * action for action in random]

    def play(actions: list[torch.Tensor]) -> None:
        for action in actions:
            copies.step(action.to(copies.device))

    steps = 24 * settings.num_envs
    return [
        measured(settings, "env", "random actions", "env steps/s", steps, lambda: play(random)),
        measured(settings, "env", "near idle", "env steps/s", steps, lambda: play(near_idle)),
    ]


def rollout(settings: Settings) -> list[Rate]:
    """Policy and env: filling one buffer."""
    trainer = _trainer(settings)
    buffer, generator = trainer.buffer, trainer.generator
    steps = trainer.env.num_envs * len(buffer.actions)

    def collect() -> None:
        trainer.rollout.collect(buffer, generator)

    return [measured(settings, "rollout", "policy and env", "env steps/s", steps, collect)]


def update(settings: Settings) -> list[Rate]:
    """All epochs over one buffer, advantages included."""
    trainer = _trainer(settings)
    trainer.rollout.collect(trainer.buffer, trainer.generator)
    steps = trainer.env.num_envs * len(trainer.buffer.actions)
    return [measured(settings, "update", "advantages and all epochs", "env steps/s", steps, trainer.learn)]


def train(settings: Settings) -> list[Rate]:
    """End to end, with evaluation, checkpoints and TensorBoard: 10 iterations of the default command."""
    with tempfile.TemporaryDirectory() as folder:

        def run() -> None:
            keywords: dict[str, Any] = {"scenario": settings.scenario, "device": settings.device}
            copies = envs.make(**keywords, num_envs=TRAIN_ENVS, seed=42)
            eval_env = envs.make(**keywords, split="val", evaluation=True)
            Trainer(copies, TrainConfig(iterations=10, runs_dir=folder), eval_env).train()

        steps = 10 * 24 * TRAIN_ENVS
        return [measured(settings, "train", "end to end, 10 iterations", "env steps/s", steps, run)]


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
        name: _random_steps(settings, settings.scenario, settlement="individual", protocols=rules)
        for name, rules in chosen.items()
    }
    seconds = side_by_side(settings, works, rounds=24)
    plain = seconds.pop("none")
    rates = [spread("protocols", "none", "env steps/s", [24 * settings.num_envs / spent for spent in plain])]
    for name, spent in seconds.items():
        shares = [100 * (own / without - 1) for own, without in zip(spent, plain, strict=True)]
        rates.append(spread("protocols", name, "% more than none", shares))
    return rates


def scenarios(settings: Settings) -> list[Rate]:
    """Env steps a second times buses, random actions, and each scenario's ratio to the default's."""
    works = {name: _random_steps(settings, scenario, **keys) for name, (scenario, keys) in SCENARIOS.items()}
    seconds = side_by_side(settings, works, rounds=24)
    buses = {name: envs.make(scenario, **keys).network.num_buses for name, (scenario, keys) in SCENARIOS.items()}
    work_rates = {name: [24 * settings.num_envs * buses[name] / spent for spent in seconds[name]] for name in SCENARIOS}
    first = next(iter(work_rates.values()))
    rates = []
    for name, values in work_rates.items():
        rates.append(spread("scenarios", f"{name} ({buses[name]} buses)", "bus steps/s", values))
        ratios = [own / default for own, default in zip(values, first, strict=True)]
        rates.append(spread("scenarios", f"{name} / default", "times", ratios))
    return rates


def _random_steps(settings: Settings, scenario: str, **keys: Any) -> Callable[[], object]:
    """One step of an env at a time, with uniform random actions."""
    env = envs.make(scenario, num_envs=settings.num_envs, device=settings.device, seed=1, **keys)
    env.reset()
    generator = torch.Generator().manual_seed(0)
    random = [(2 * torch.rand(env.action_shape, generator=generator) - 1).to(env.device) for _ in range(24)]
    actions = itertools.cycle(random)
    return lambda: env.step(next(actions))


def _trainer(settings: Settings) -> Trainer:
    copies = envs.make(settings.scenario, num_envs=TRAIN_ENVS, device=settings.device, seed=42)
    trainer = Trainer(copies, TrainConfig())
    trainer.rollout.start()
    return trainer
