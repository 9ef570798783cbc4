"""What one step reports for logging, each (B,), and how it is reduced over an episode.

Data flow: `Ledger`, `GridState`, powers -> metrics of `Step`. Nothing here reaches a reward.
"""

from torch import Tensor

from envs.coordination import protocol_metrics
from envs.devices import Applied, device_metrics
from envs.dso_agent import dso_metrics
from envs.faults import fault_metrics
from envs.grid import Grid, GridState
from envs.rewards import Ledger
from envs.scenario import Scenario
from mappo.vec_env import MetricSpec

_REST = (
    MetricSpec(name="penalty_usd", unit="$", reduce="sum"),
    MetricSpec(name="energy_usd", unit="$", reduce="sum"),
    MetricSpec(name="generator_usd", unit="$", reduce="sum"),
    MetricSpec(name="demand_usd", unit="$", reduce="sum"),
    MetricSpec(name="terminal_usd", unit="$", reduce="sum"),
    MetricSpec(name="feeder_usd", unit="$", reduce="sum"),
    MetricSpec(name="violating", unit="share of steps", reduce="mean", column="Violations", format=".2%", group="grid"),
    MetricSpec(name="overloaded", unit="share of steps", reduce="mean", group="grid"),
    MetricSpec(name="not_converged", unit="share of steps", reduce="mean", group="grid"),
    MetricSpec(name="v_min_pu", unit="pu", reduce="min", group="grid"),
    MetricSpec(name="v_max_pu", unit="pu", reduce="max", group="grid"),
    MetricSpec(name="loading_max", unit="share of rating", reduce="max", group="grid"),
    MetricSpec(name="head_peak_mw", unit="MW", reduce="max", group="grid"),
    MetricSpec(name="energy_mean_mwh", unit="MWh", reduce="mean", group="grid"),
    MetricSpec(name="tap_changes", unit="1", reduce="sum", group="grid"),
    MetricSpec(name="battery_clipped_mw", unit="MW", reduce="mean", group="grid"),
)


def metric_specs(scenario: Scenario) -> tuple[MetricSpec, ...]:
    """All metrics, those of device options and protocols last; dollars are summed over an episode (day or week)."""
    cost = MetricSpec(name="cost_usd", unit="$", reduce="sum", column=f"Cost $/{scenario.horizon}")
    options = (*device_metrics(scenario), *dso_metrics(scenario))
    return (cost, *_REST, *options, *protocol_metrics(scenario), *fault_metrics(scenario))


def step_metrics(
    ledger: Ledger, grid: Grid, before: GridState, after: GridState, requested: Applied, applied: Applied
) -> dict[str, Tensor]:
    """The metrics of every scenario but the mean energy, in the order of `metric_specs`.

    Args:
        ledger: the step's dollars.
        grid: of the scenario.
        before: the previous step's state.
        after: this step's state.
        requested: powers asked for.
        applied: powers after clipping.
    """
    most = grid.extremes(after)
    return {
        "cost_usd": ledger.cost(),
        "penalty_usd": ledger.penalty(),
        "energy_usd": ledger.energy_usd.sum(-1),
        "generator_usd": ledger.generator_usd.sum(-1),
        "demand_usd": ledger.demand_usd.sum(-1),
        "terminal_usd": ledger.terminal_usd.sum(-1),
        "feeder_usd": (ledger.energy_usd + ledger.demand_usd)[:, 0],  # its own bill, a part of cost_usd
        "violating": grid.violating(after, most).to(after.v_pu),
        "overloaded": most.overloaded.to(after.v_pu),
        "not_converged": (~after.converged).to(after.v_pu),
        "v_min_pu": most.v_min_pu,
        "v_max_pu": most.v_max_pu,
        "loading_max": most.loading,
        "head_peak_mw": after.head_p_mw,
        "tap_changes": (after.tap - before.tap).abs().sum(-1),
        "battery_clipped_mw": (requested.battery_p_mw - applied.battery_p_mw).abs().sum(-1),
    }
