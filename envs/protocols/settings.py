"""The `protocols` part of a scenario: which protocol the DSO and the microgrids use, and its numbers.

Data flow: YAML -> `Protocols` (validated with the scenario) -> `envs/coordination.py`.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from envs.protocols import auction, consensus, price_signal, setpoint
from envs.quantities import NonNegative, PowerMw, Share
from envs.scenario_parts import Model

Vertical = Literal["none", "price_signal", "setpoint"]
Horizontal = Literal["none", "p2p", "consensus"]


class PriceSignal(Model):
    """The DSO's congestion adder on lambda, by dual ascent (docs/protocols.md)."""

    voltage_step_usd_per_mwh_h: NonNegative = price_signal.VOLTAGE_STEP_USD_PER_MWH_H
    """Rise of the adder for a squared voltage 1 pu^2 beyond its limit over an hour."""
    current_step_usd_per_mwh_h: NonNegative = price_signal.CURRENT_STEP_USD_PER_MWH_H
    """Rise of the adder for a squared loading of 2 (1 beyond its limit) over an hour."""
    decay_per_h: Share = price_signal.DECAY_PER_H
    """Share of the adder that is left after an hour without violation."""
    cap_usd_per_mwh: NonNegative = price_signal.CAP_USD_PER_MWH
    """Largest adder, either way."""


class SetPoint(Model):
    """Exchange that the DSO asks of each microgrid: targets, or import limits as shares of a capacity."""

    target_mw: dict[str, float | None] = Field(default_factory=dict)
    """Microgrid -> exchange at its connection, import positive; null or not named: none."""
    capacity_mw: Annotated[PowerMw, Field(gt=0)] | None = None
    """Of the feeder, for all microgrids together; instead of target_mw."""
    share: dict[str, NonNegative] | None = None
    """Microgrid -> share of capacity_mw as its import limit; null: equal shares."""
    priority: dict[str, Share] = Field(default_factory=dict)
    """Microgrid -> share of the price that its deviation costs; not named: 1."""
    price_usd_per_mwh: NonNegative = setpoint.PRICE_USD_PER_MWH
    """Of a MWh outside the set-point; paid to the feeder's account."""

    @model_validator(mode="after")
    def _one_kind(self) -> "SetPoint":
        if self.target_mw and self.capacity_mw is not None:
            raise ValueError("give target_mw or capacity_mw, got both")
        if self.share is not None and self.capacity_mw is None:
            raise ValueError(
                "share belongs to capacity_mw and would be ignored without it; give capacity_mw or remove it"
            )
        return self


class P2P(Model):
    """Double auction among the microgrids every step; needs `settlement: individual`."""

    fee_usd_per_mwh: NonNegative = auction.FEE_USD_PER_MWH
    """Of a traded MWh, half from each side; paid to the feeder's account."""
    bids: Literal["marginal_cost", "action"] = "marginal_cost"
    """Limit prices from the generators' marginal costs, or from one more action of each agent."""


class Consensus(Model):
    """Neighbours average their marginal costs; the agreed value is the internal price."""

    edges: str | tuple[tuple[str, str], ...] = consensus.EDGES
    """Who talks to whom: ring, line, star, complete, or pairs of microgrids; must connect all."""
    rounds: Annotated[int, Field(ge=1, le=10**6)] | None = None
    """Of averaging in each step; null: 10, or as many as the tolerance needs."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the first disagreement that may remain, instead of rounds."""

    @field_validator("edges", mode="before")
    @classmethod
    def _pairs(cls, edges: Any) -> Any:
        pairs = isinstance(edges, list | tuple) and all(isinstance(edge, list | tuple) for edge in edges)
        if isinstance(edges, str) or (pairs and all(len(edge) == 2 for edge in edges)):
            return edges
        raise ValueError(f"must be {', '.join(consensus.TOPOLOGIES)} or a list of pairs such as [[MG1, MG2]]")

    @model_validator(mode="after")
    def _one_rule(self) -> "Consensus":
        if self.rounds is not None and self.tolerance is not None:
            raise ValueError("give rounds or tolerance, got both")
        return self


class Protocols(Model):
    """How the DSO and the microgrids coordinate: one vertical and one horizontal protocol, or none."""

    vertical: Vertical = "none"
    """Between the DSO and each microgrid; `--vertical-protocol`."""
    horizontal: Horizontal = "none"
    """Among the microgrids; `--horizontal-protocol`."""
    price_signal: PriceSignal = PriceSignal()
    setpoint: SetPoint = SetPoint()
    p2p: P2P = P2P()
    consensus: Consensus = Consensus()

    @model_validator(mode="after")
    def _set_points_are_given(self) -> "Protocols":
        if self.vertical == "setpoint" and not self.setpoint.target_mw and self.setpoint.capacity_mw is None:
            raise ValueError("vertical: setpoint needs setpoint.target_mw or setpoint.capacity_mw; give one of them")
        return self
