"""A scenario's protocols at work: what they add to observations and actions, and who pays what (docs/protocols.md).

Data flow: settled grid, applied powers, bids -> `Coordination.settle` -> dollars of each party, the state of the
protocols (what is posted and agreed, observed before the next action), metrics. The formulas are in `protocols/`.
Dims: B copies, A microgrids, C observation columns.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from envs import tariff
from envs.devices import Applied, Devices
from envs.grid import Grid, GridState
from envs.observations import PRICE_SCALE_USD_PER_MWH
from envs.protocols import auction, consensus, price_signal, setpoint
from envs.protocols.setpoint import SetPoints
from envs.scenario import Scenario
from mappo.vec_env import MetricSpec

_COLUMNS = {
    "price_signal": ("dso_adder_usd_per_mwh",),
    "setpoint": ("setpoint_mw", "setpoint_deviation_mw"),
    "p2p": ("p2p_price_usd_per_mwh", "p2p_bought_mw"),
    "consensus": ("agreed_price_usd_per_mwh", "internal_bought_mw"),
}
_METRICS = {
    "price_signal": (
        MetricSpec(name="dso_adder_usd_per_mwh", unit="$/MWh", reduce="mean", group="protocol"),
        MetricSpec(name="congestion_usd", unit="$", reduce="sum", group="protocol"),
    ),
    "setpoint": (
        MetricSpec(name="setpoint_deviation_mwh", unit="MWh", reduce="sum", group="protocol"),
        MetricSpec(name="setpoint_usd", unit="$", reduce="sum", group="protocol"),
    ),
    "p2p": (
        MetricSpec(name="traded_mwh", unit="MWh", reduce="sum", group="protocol"),
        MetricSpec(name="trade_saving_usd", unit="$", reduce="sum", group="protocol"),
        MetricSpec(name="trade_fee_usd", unit="$", reduce="sum", group="protocol"),
    ),
    "consensus": (
        MetricSpec(name="traded_mwh", unit="MWh", reduce="sum", group="protocol"),
        MetricSpec(name="trade_saving_usd", unit="$", reduce="sum", group="protocol"),
        MetricSpec(name="consensus_residual_usd_per_mwh", unit="$/MWh", reduce="max", group="protocol"),
    ),
}


class CoordinationState(NamedTuple):
    """What the protocols carry from step to step."""

    multipliers: Tensor  # (4, B, A) of the price signal; (0, B, A) without
    observed: Tensor  # (B, A, C) what is posted and agreed before the next action, scaled


class Settled(NamedTuple):
    """What one step's energy costs."""

    energy_usd: Tensor  # (B, 1 + A) each party pays
    state: CoordinationState
    metrics: dict[str, Tensor]  # each (B,)
    by_agent: dict[str, Tensor]  # each (B, A): what the step meant to each microgrid, for infos


class _Horizontal(NamedTuple):
    """The energy bill before the vertical protocol."""

    usd: Tensor  # (B, 1 + A)
    columns: list[Tensor]  # (B, A) each, observed
    metrics: dict[str, Tensor]  # each (B,)
    by_agent: dict[str, Tensor]  # each (B, A)


def protocol_metrics(scenario: Scenario) -> tuple[MetricSpec, ...]:
    """The metrics of the scenario's protocols."""
    return tuple(spec for name in _active(scenario) for spec in _METRICS[name])


class Coordination:
    """The protocols of one scenario on one device.

    Raises:
        ValueError: an unreachable set-point, an unknown microgrid, a graph that is not connected.
    """

    def __init__(self, scenario: Scenario, grid: Grid, devices: Devices, *, load_range: tuple[Tensor, Tensor]) -> None:
        """`load_range` is each microgrid's lowest and highest load multiplier over the data, (A,) each."""
        self._scenario, self._rules, self._devices, self._grid = scenario, scenario.protocols, devices, grid
        self.agents = tuple(scenario.microgrids)
        like = devices.efficiency
        self._like = like
        self._scale_mw = grid.area_load_mw.to(like)[1:].clamp(min=1e-6) + devices.battery_p_max_mw
        quadratic, linear = devices.generator_cost_terms
        export_share = scenario.tariff.export_share
        self._cost_terms = {"cost_quadratic": quadratic, "cost_linear": linear, "export_share": export_share}
        if self._rules.vertical == "price_signal":
            self._watched = price_signal.watched_buses(grid.net, self.agents).to(like.device)
        if self._rules.vertical == "setpoint":
            self._points = self._set_points(load_range)
            high_mw = self._points.high_mw  # the target or import limit; infinite where there is none
            self._posted = torch.where(high_mw.isfinite(), high_mw, 0.0) / self._scale_mw
        if self._rules.horizontal == "consensus":
            rule = self._rules.consensus
            mix = consensus.mixing(
                consensus.metropolis_weights(self.agents, rule.edges), rounds=rule.rounds, tolerance=rule.tolerance
            )
            self._mix = mix._replace(matrix=mix.matrix.to(like))

    @property
    def obs_names(self) -> tuple[str, ...]:
        """Names of the C columns that each agent observes."""
        return tuple(name for protocol in _active(self._scenario) for name in _COLUMNS[protocol])

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the action columns behind those of the devices."""
        bids = self._rules.horizontal == "p2p" and self._rules.p2p.bids == "action"
        return ("bid",) if bids else ()

    def initial(self, copies: int) -> CoordinationState:
        """The state at the start of an episode: nothing was traded, and the posted price is lambda."""
        agents, like = len(self.agents), self._like
        multipliers = like.new_zeros(0, copies, agents)
        if self._rules.vertical == "price_signal":
            multipliers = torch.stack(price_signal.initial(copies, agents, device=like.device, dtype=like.dtype))
        state = CoordinationState(multipliers, like.new_zeros(copies, agents, len(self.obs_names)))
        if self._rules.vertical == "setpoint":
            state.observed[..., 0] = self._posted
        return state

    def settle(
        self, grid: GridState, price: Tensor, applied: Applied, bids: Tensor, before: CoordinationState
    ) -> Settled:
        """The energy bill of every party under the scenario's settlement and protocols.

        Args:
            grid: settled.
            price: (B,) lambda in $/MWh.
            applied: device powers.
            bids: (B, A, 0 or 1) the actions behind the devices', in [-1, 1].
            before: the state that was observed before the actions.
        """
        usd, columns, metrics, by_agent = self._horizontal(grid.party_p_mw, price, applied, bids)
        multipliers = before.multipliers
        dt_h = self._scenario.dt_h
        if self._rules.vertical == "price_signal":
            paid, multipliers, posted, adder = self._congestion(grid, before)
            usd = usd + paid
            by_agent = {"posted_price_usd_per_mwh": price_signal.price(price, posted)} | by_agent
            columns = [adder / PRICE_SCALE_USD_PER_MWH, *columns]
            metrics = {"dso_adder_usd_per_mwh": adder.mean(-1), "congestion_usd": -paid[:, 0]} | metrics
        elif self._rules.vertical == "setpoint":
            p_mw = grid.party_p_mw[:, 1:]
            off_mw = setpoint.deviation(p_mw, self._points)
            rule = self._rules.setpoint
            paid = setpoint.settlement(p_mw, self._points, dt_h=dt_h, price_usd_per_mwh=rule.price_usd_per_mwh)
            usd = usd + paid
            by_agent = {"setpoint_deviation_mw": off_mw, "setpoint_usd": paid[:, 1:]} | by_agent
            columns = [self._posted.expand_as(p_mw), off_mw / self._scale_mw, *columns]
            metrics = {"setpoint_deviation_mwh": dt_h * off_mw.abs().sum(-1), "setpoint_usd": -paid[:, 0]} | metrics
        observed = torch.stack(columns, -1) if columns else before.observed
        return Settled(usd, CoordinationState(multipliers, observed), metrics, by_agent)

    def _horizontal(self, party_p_mw: Tensor, price: Tensor, applied: Applied, bids: Tensor) -> _Horizontal:
        scenario, rule = self._scenario, self._scenario.tariff
        terms = {"export_share": rule.export_share, "dt_h": scenario.dt_h}
        pool_share = rule.pool_share if scenario.settlement == "community" else None
        if self._rules.horizontal == "p2p":
            done = auction.clear(
                party_p_mw,
                self._limits(party_p_mw[:, 1:], price, applied, bids),
                price,
                fee_usd_per_mwh=self._rules.p2p.fee_usd_per_mwh,
                **terms,
            )
            fee_usd = self._rules.p2p.fee_usd_per_mwh * done.bought_mwh.sum(-1)
            return self._traded(done, done.price_usd_per_mwh, {"trade_fee_usd": fee_usd})
        if self._rules.horizontal == "consensus":
            cost = consensus.marginal_cost(
                applied.generator_p_mw, self._devices.generator_p_max_mw, price, **self._cost_terms
            )
            agreed = consensus.agree(cost, self._mix)
            done = consensus.settle(party_p_mw, agreed.values, price, pool_share=pool_share, **terms)
            return self._traded(done, agreed.values, {"consensus_residual_usd_per_mwh": agreed.residual})
        if pool_share is None:
            return _Horizontal(tariff.utility_bill(party_p_mw, price, **terms), [], {}, {})
        return _Horizontal(tariff.pool_settlement(party_p_mw, price, pool_share=pool_share, **terms), [], {}, {})

    def _traded(
        self, done: auction.Auction | consensus.InternalTrade, price: Tensor, more: dict[str, Tensor]
    ) -> _Horizontal:
        """What trading did, with the (B, A) price that is observed and the protocol's own metrics."""
        net_mw = (done.bought_mwh - done.sold_mwh) / self._scenario.dt_h
        by_agent = {
            "bought_mwh": done.bought_mwh,
            "sold_mwh": done.sold_mwh,
            "trade_price_usd_per_mwh": done.price_usd_per_mwh,
            "trade_saving_usd": done.saving_usd,
        }
        metrics = {"traded_mwh": done.bought_mwh.sum(-1), "trade_saving_usd": done.saving_usd.sum(-1)}
        return _Horizontal(
            done.usd, [price / PRICE_SCALE_USD_PER_MWH, net_mw / self._scale_mw], metrics | more, by_agent
        )

    def _congestion(self, grid: GridState, before: CoordinationState) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Paid for the posted adder (B, 1 + A), the multipliers after the step, that adder and the next one (B, A)."""
        rule, limits, dt_h = self._rules.price_signal, self._scenario.safety, self._scenario.dt_h
        multipliers = price_signal.Multipliers(*before.multipliers.unbind(0))
        posted = price_signal.adder(multipliers, cap_usd_per_mwh=rule.cap_usd_per_mwh)
        paid = price_signal.settlement(grid.party_p_mw[:, 1:], posted, dt_h=dt_h)
        found = price_signal.measure_violations(
            self._grid.live_v_pu(grid),
            grid.loading_squared,
            grid.branch_p_mw,
            grid.converged,
            self._watched,
            v_min_pu=limits.v_min_pu,
            v_max_pu=limits.v_max_pu,
        )
        after = price_signal.update(
            multipliers,
            found,
            dt_h=dt_h,
            voltage_step=rule.voltage_step_usd_per_mwh_h,
            current_step=rule.current_step_usd_per_mwh_h,
            decay_per_h=rule.decay_per_h,
            cap_usd_per_mwh=rule.cap_usd_per_mwh,
        )
        adder = price_signal.adder(after, cap_usd_per_mwh=rule.cap_usd_per_mwh)
        return paid, torch.stack(after), posted, adder

    def _limits(self, p_mw: Tensor, price: Tensor, applied: Applied, bids: Tensor) -> Tensor:
        if self._rules.p2p.bids == "action":
            return auction.limits_from_action(bids[..., 0], price, export_share=self._scenario.tariff.export_share)
        return auction.marginal_limits(
            p_mw, applied.generator_p_mw, self._devices.generator_p_max_mw, price, **self._cost_terms
        )

    def _set_points(self, load_range: tuple[Tensor, Tensor]) -> SetPoints:
        rule, devices = self._rules.setpoint, self._devices
        if rule.capacity_mw is None:
            points = setpoint.target_points(self.agents, rule.target_mw, rule.priority)
        else:
            points = setpoint.capacity_points(self.agents, rule.capacity_mw, rule.share, rule.priority)
        nominal_mw = self._grid.area_load_mw[1:]
        low, high = (nominal_mw * multiplier for multiplier in load_range)
        reach = setpoint.exchange_range(
            (low, high),
            battery_p_max_mw=devices.battery_p_max_mw.double().cpu(),
            generator_p_max_mw=devices.generator_p_max_mw.double().cpu(),
            renewable_p_max_mw=(devices.pv_p_max_mw + devices.wind_p_max_mw).double().cpu(),
        )
        setpoint.check_reachable(self.agents, points, reach)
        return SetPoints(*(part.to(self._like) for part in points))


def _active(scenario: Scenario) -> Sequence[str]:
    """The protocols in use, in the order of their columns."""
    rules = scenario.protocols
    return [name for name in (rules.vertical, rules.horizontal) if name != "none"]
