"""The DSO as an agent: it switches capacitor banks and moves the targets of the feeder's voltage regulators.

Data flow: `dso_agent` of a scenario, network -> `DsoAgent`; indices of its choices -> `Control` -> `Grid.settle`,
switching cost -> `Ledger`; the choices in force -> columns of the state and the DSO's own observation, which is what a
network operator measures: nothing of a microgrid behind its connection. Without the key it has no choices (K = 0).
Dims: B copies, A microgrids, N buses, R regulators, C banks and D regulators that it controls, K = C + D choices.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from envs.actions import Choice
from envs.composition import feeder_banks
from envs.grid import Control
from envs.observations import shared_names
from envs.power.network import BASE_MVA, Network
from envs.power.tables import Capacitor
from envs.scenario import Scenario
from mappo.vec_env import MetricSpec

POSTED = (
    "dso_adder_usd_per_mwh",
    "setpoint_mw",
    "setpoint_deviation_mw",
    "p2p_price_usd_per_mwh",
    "p2p_bought_mw",
    "agreed_price_usd_per_mwh",
    "internal_bought_mw",
)
"""Columns of the protocols, which the DSO knows."""


class Device(NamedTuple):
    """One capacitor bank or regulator that the DSO controls."""

    name: str  # as in the network: `DSO.C844`; on a substation `F1.DSO.C844`
    position: int  # of its bus, or of the regulator
    values: tuple[float, ...]  # of each option: susceptance in pu to add, or target in pu
    idle: int


class Switched(NamedTuple):
    """Capacitors that changed."""

    usd: Tensor  # (B,)
    metrics: dict[str, Tensor]  # each (B,), named by `dso_metrics`


def dso_metrics(scenario: Scenario) -> tuple[MetricSpec, ...]:
    """The metrics of the DSO's agent, if there is one."""
    rows = (("switching_usd", "$"), ("capacitor_switchings", "1")) if scenario.dso_agent else ()
    return tuple(MetricSpec(name=name, unit=unit, reduce="sum", group="grid") for name, unit in rows)


class DsoAgent:
    """What the DSO decides in a scenario, and what it sees.

    Raises:
        ValueError: `dso_agent` names a bank or regulator that does not exist, or leaves the DSO nothing to decide.
    """

    def __init__(
        self, scenario: Scenario, net: Network, state_names: Sequence[str], device: torch.device, dtype: torch.dtype
    ) -> None:
        """`state_names` are the columns of the critic's state, of which the DSO observes some."""
        self._settings = scenario.dso_agent
        banks = _banks(scenario, net) if self._settings else []
        regulators = _regulators(scenario, net) if self._settings else []
        if self._settings and not banks + regulators:
            raise ValueError(
                f"dso_agent: it needs a capacitor bank or a regulator to control, and the feeder "
                f"{scenario.feeder.network} has none; name a tap changer in feeder.regulators, or remove dso_agent"
            )
        self._name, self._dtype, self._device = scenario.feeder.name, dtype, device
        self._banks, self._devices = len(banks), banks + regulators
        self._bank_values, self._target_values = (_table(part).to(device, dtype) for part in (banks, regulators))
        self._num_buses = net.num_buses
        self._bank_buses = torch.tensor([bank.position for bank in banks], dtype=torch.int64, device=device)  # (C,)
        self._regulator = torch.tensor([r.position for r in regulators], dtype=torch.int64, device=device)
        targets = torch.tensor([r.target_pu for r in net.regulators], dtype=torch.float64)
        self._targets = targets.to(device, dtype)[None]  # (1, R)
        self._idle = torch.tensor([d.idle for d in self._devices], dtype=torch.int64, device=device)
        self._span = torch.tensor([len(d.values) - 1 for d in self._devices], device=device).to(dtype)
        names = _observed(scenario, state_names) if self._settings else []
        column = {name: k for k, name in enumerate(state_names)}
        self._observed = torch.tensor([column[name] for name in names], dtype=torch.int64, device=device)
        self.obs_names = (*names, *self.column_names)

    @property
    def choices(self) -> dict[str, list[Choice]]:
        """Agent -> its choices, for `ActionLayout`; empty where the DSO is no agent."""
        return {self._name: [Choice(d.name, len(d.values), d.idle) for d in self._devices]} if self._settings else {}

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the K columns of its choices in the state: steps, then offsets."""
        kinds = ["steps"] * self._banks + ["target_offset"] * (len(self._devices) - self._banks)
        return tuple(f"{d.name}.{kind}" for d, kind in zip(self._devices, kinds, strict=True))

    def initial(self, copies: int) -> Tensor:
        """(B, K) idle choices: what the scenario says."""
        return self._idle.repeat(copies, 1)

    def control(self, chosen: Tensor) -> Control | None:
        """What choices (B, K) mean for the grid; None where the DSO is no agent."""
        if not self._devices:
            return None
        steps, offsets = chosen.tensor_split([self._banks], -1)
        b_pu = self._bank_values.expand(len(chosen), -1, -1).gather(-1, steps[..., None])[..., 0]  # (B, C)
        target = self._target_values.expand(len(chosen), -1, -1).gather(-1, offsets[..., None])[..., 0]
        targets = self._targets.repeat(len(chosen), 1).index_copy(1, self._regulator, target)
        at_buses = b_pu.new_zeros(len(chosen), self._num_buses).index_add_(-1, self._bank_buses, b_pu)
        return Control(at_buses, targets)

    def switched(self, before: Tensor, after: Tensor) -> "Switched":
        """What it costs to go from choices `before` to `after`, (B, K) each."""
        steps = (after - before)[:, : self._banks].abs().sum(-1).to(self._dtype)
        usd = steps * (self._settings.switching_usd if self._settings else 0.0)
        return Switched(usd, {"switching_usd": usd, "capacitor_switchings": steps} if self._settings else {})

    def with_own_row(self, obs: Tensor, state: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Obs (B, A, O) and state (B, S) of an env without the agent, with its row and its columns.

        The narrower of the two kinds of rows is padded with zeros.
        """
        if not self._devices:
            return obs, state
        columns = 2 * chosen.to(self._dtype) / self._span - 1
        own = torch.cat([state[:, self._observed], columns], -1)[:, None]
        width = max(obs.shape[-1], own.shape[-1])
        rows = [torch.nn.functional.pad(part, (0, width - part.shape[-1])) for part in (obs, own)]
        return torch.cat(rows, 1), torch.cat([state, columns], -1)

    def info(self, chosen: Tensor) -> dict[str, Any]:
        """Steps and targets in force in one copy, from its choices (K,)."""
        index = chosen.tolist()
        banks, regulators = self._devices[: self._banks], self._devices[self._banks :]
        return {
            "capacitor_steps": {d.name: i for d, i in zip(banks, index, strict=False)},
            "target_pu": {d.name: d.values[i] for d, i in zip(regulators, index[self._banks :], strict=True)},
        }


def _banks(scenario: Scenario, net: Network) -> list[Device]:
    """The capacitor banks that the DSO switches, on every feeder."""
    assert scenario.dso_agent is not None
    first = next(iter(scenario.feeders()))
    # a bank behind another external grid of a pandapower network is not part of this tree
    own = {bank.name: bank for bank in feeder_banks(scenario.feeder) if f"{first}.{bank.bus}" in net.alias}
    wanted = _wanted("capacitors", scenario.dso_agent.capacitors, own, scenario.feeder.network)
    return [
        Device(f"{prefix}.{name}", net.position(f"{prefix}.{own[name].bus}"), *_steps(own[name]))
        for prefix in scenario.feeders()
        for name in wanted
    ]


def _steps(bank: Capacitor) -> tuple[tuple[float, ...], int]:
    """Susceptance in pu to add to the network's own, which holds the scenario's steps, for each number; the latter."""
    per_step = bank.q_mvar_capacitive / bank.n_steps / BASE_MVA
    return tuple((steps - bank.default_step) * per_step for steps in range(bank.n_steps + 1)), bank.default_step


def _regulators(scenario: Scenario, net: Network) -> list[Device]:
    """The regulators whose targets the DSO moves, on every feeder."""
    settings, limits = scenario.dso_agent, scenario.safety
    assert settings is not None
    prefixes = list(scenario.feeders())
    by_name = {regulator.name: i for i, regulator in enumerate(net.regulators)}
    own = {name.removeprefix(f"{prefixes[0]}."): i for name, i in by_name.items() if name.startswith(f"{prefixes[0]}.")}
    wanted = _wanted("regulators", settings.regulators, own, scenario.feeder.network)
    offsets = range(-settings.offsets, settings.offsets + 1)
    devices = []
    for prefix in prefixes:
        for name in wanted:
            position = by_name[f"{prefix}.{name}"]
            target = net.regulators[position].target_pu
            values = tuple(target + k * settings.offset_pu if k else target for k in offsets)
            if not limits.v_min_pu <= values[0] <= values[-1] <= limits.v_max_pu:
                raise ValueError(
                    f"dso_agent.offsets: target_pu of {prefix}.{name}, {target:g}, +- {settings.offsets} x "
                    f"{settings.offset_pu:g} must stay within safety.v_min_pu {limits.v_min_pu:g} and v_max_pu "
                    f"{limits.v_max_pu:g}, got {values[0]:g} to {values[-1]:g}; use a smaller dso_agent.offset_pu or "
                    f"fewer offsets, or set feeder.regulators.{name}.target_pu nearer to the middle"
                )
            devices.append(Device(f"{prefix}.{name}", position, values, settings.offsets))
    return devices


def _wanted(key: str, names: Sequence[str] | None, known: Mapping[str, Any], network: str) -> list[str]:
    """The devices that `dso_agent.<key>` names; all without it."""
    if names is None:
        return list(known)
    for name in names:
        if name not in known:
            raise ValueError(
                f"dso_agent.{key}: {name!r} does not exist on the feeder {network}; it has {', '.join(known) or 'none'}"
            )
    return list(names)


def _table(devices: Sequence[Device]) -> Tensor:
    """(devices, most options) float64 values of the options, the last one repeated."""
    most = max((len(d.values) for d in devices), default=0)
    rows = [[*d.values, *[d.values[-1]] * (most - len(d.values))] for d in devices]
    return torch.tensor(rows, dtype=torch.float64).reshape(len(devices), most)


def _observed(scenario: Scenario, state_names: Sequence[str]) -> list[str]:
    """Columns of the state that a network operator measures or posts, in the state's order."""
    areas = [scenario.feeder.name, *scenario.microgrids]
    measured = {*shared_names(), f"{scenario.feeder.name}.load_mw", "head_p_mw", "peak_mw"}
    measured |= {f"{name}.{what}" for name in areas[1:] for what in ("pcc_p_mw", "pcc_q_mvar", "pcc_v_pu")}
    measured |= {f"{name}.v_{end}_pu" for name in areas for end in ("min", "max")}
    posted = {f"{name}.{column}" for name in areas[1:] for column in POSTED}
    faults = ("event_outage_", "event_price_spike", ".event_islanded", ".area_live_share")
    return [
        name
        for name in state_names
        if name in measured or name in posted or name.startswith("tap_") or any(part in name for part in faults)
    ]
