"""What a schedule costs without a network, written apart from `envs.baselines`: the solvers' independent reference."""

import torch
from torch import Tensor

from envs.microgrid import MicrogridEnv
from envs.situation import Outlook, Situation


def area_power_mw(env: MicrogridEnv, ahead: Outlook, battery_p_mw: Tensor, generator_p_mw: Tensor) -> Tensor:
    """(B, 1 + A, h) real power of the feeder and of each microgrid."""
    net = env.network
    nominal = [
        sum(load for load, area in zip(net.load_p_mw.tolist(), net.areas, strict=True) if area == name)
        for name in (env.scenario.feeder.name, *env.agents)
    ]
    power = ahead.load * torch.tensor(nominal, dtype=torch.float64)[:, None]
    power[:, 1:] += battery_p_mw - generator_p_mw - ahead.pv_mw - ahead.wind_mw
    return power


def bill_usd(env: MicrogridEnv, power_mw: Tensor, price: Tensor) -> Tensor:
    """Energy bill (B, ...) over the last dim: import pays lambda, export earns a share of it."""
    rate = torch.where(power_mw > 0, 1.0, env.scenario.tariff.export_share)
    return env.scenario.dt_h * (rate * power_mw * price).sum(-1)


def device_usd(env: MicrogridEnv, now: Situation, battery_p_mw: Tensor, generator_p_mw: Tensor) -> Tensor:
    """(B, A) generators and what is missing at midnight, hour by hour."""
    rule, dt_h = env.scenario.tariff, env.scenario.dt_h
    missing_usd = rule.terminal_price_factor * now.today.price.amax(1) + rule.terminal_price_adder_usd_per_mwh
    columns = []
    for a, grid in enumerate(env.scenario.microgrids.values()):
        battery, generator = grid.battery, grid.generator
        energy = now.energy_mwh[:, a]
        for p_mw in battery_p_mw[:, a].T:
            charged = p_mw.clamp(min=0) * battery.efficiency - (-p_mw).clamp(min=0) / battery.efficiency
            energy = energy + dt_h * charged
            assert (energy > battery.energy_min_mwh - 1e-5).all()
            assert (energy < battery.energy_max_mwh + 1e-5).all()
        p_mw = generator_p_mw[:, a]
        fuel = generator.cost_quadratic_usd_per_mw2h * p_mw**2 + generator.cost_linear_usd_per_mwh * p_mw
        missing = (now.initial_energy_mwh[:, a] - energy).clamp(min=0)
        columns.append(dt_h * (fuel + generator.cost_constant_usd_per_h).sum(-1) + missing * missing_usd)
    return torch.stack(columns, -1)


def peak_usd(env: MicrogridEnv, power_mw: Tensor) -> Tensor:
    """Charge on the highest power over the last dim, from a day that starts at 0."""
    return env.scenario.tariff.demand_charge_usd_per_mw * power_mw.amax(-1).clamp(min=0)


def random_schedule(env: MicrogridEnv, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Feasible battery and generator powers (B, A, H) that return to the day's initial energy."""
    shape = (env.num_envs, len(env.agents), env.scenario.steps_per_day // 4)
    size = torch.rand(shape, generator=rng, dtype=torch.float64)
    eta = next(iter(env.scenario.microgrids.values())).battery.efficiency
    sign = torch.tensor([1.0, -(eta**2), -(eta**2), 1.0], dtype=torch.float64)  # down no more than what was charged
    p_max = torch.tensor([g.battery.p_max_mw for g in env.scenario.microgrids.values()], dtype=torch.float64)
    battery = (size[..., None] * sign).flatten(-2) * p_max[:, None]
    g_max = torch.tensor([g.generator.p_max_mw for g in env.scenario.microgrids.values()], dtype=torch.float64)
    return battery, torch.rand(battery.shape, generator=rng, dtype=torch.float64) * g_max[:, None]
