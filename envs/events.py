"""Seeded events of a scenario as exogenous series: price spikes, irradiance dips, outages, islanding.

Data flow: `Event`s of the scenario -> `EventPlan` -> `draw_events` (one calendar day of every copy) -> `EventDraw` ->
`exogenous.py` (prices, PV), the grid (outages; what they do to the flow is its business), observations. A draw is a
hash of seed, copy, episode and number, so it depends neither on the number of copies nor on their order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from envs.streams import uniform

Kind = Literal["price_spike", "pv_dip", "outage", "islanding"]
Hits = Literal["all", "each", "one"]
Interval = tuple[float, float]
# days and other draws of an episode (exogenous.py) use numbers far below
_FIRST_DRAW, _DRAWS_PER_TARGET, _DRAWS_PER_EVENT, _EVENTS_PER_DAY = 1 << 20, 4, 1 << 14, 1 << 8
_OCCURS, _START, _DURATION, _SIZE = range(_DRAWS_PER_TARGET)
_MAX_TARGETS = _DRAWS_PER_EVENT // _DRAWS_PER_TARGET - 1  # the last row of an event's draws chooses for `one`
# field -> its neutral value, the one kind that it belongs to, its smallest and largest value
_SIZES: dict[str, tuple[Interval, Kind, float, float]] = {
    "price_factor": ((1.0, 1.0), "price_spike", 1.0, 1e3),
    "price_adder_usd_per_mwh": ((0.0, 0.0), "price_spike", 0.0, 1e6),
    "pv_share_lost": ((0.0, 0.0), "pv_dip", 0.0, 1.0),
}


@dataclass(frozen=True, kw_only=True)
class Event:
    """One kind of event; every day it may happen once (to each target). Intervals are uniform, both ends possible.

    Raises:
        ValueError: a setting that breaks its rule (named).
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}  # a scenario file may hold events: unknown keys are errors

    kind: Kind
    """Dearer energy, less PV, a line or transformer out of service, or a microgrid cut off at its connection."""
    probability: float = 1.0
    """Per day, and with `hits: each` per target. 1 and intervals without width: fixed."""
    start_h: Interval
    """Hour of the day at which it begins, in whole steps."""
    duration_h: Interval
    """Length in hours, in whole steps. An episode's end cuts it; within a week's run it goes on over midnight."""
    targets: tuple[str, ...] = ()
    """Branches (outage) or microgrids (pv_dip, islanding; none named: all). A price spike hits everyone."""
    hits: Hits = "all"
    """`all` targets at once, `each` on its own, or `one` of them, drawn."""
    price_factor: Interval = _SIZES["price_factor"][0]
    """Of a price spike, at least 1, on the positive part of the price."""
    price_adder_usd_per_mwh: Interval = _SIZES["price_adder_usd_per_mwh"][0]
    """Of a price spike, added after the factor."""
    pv_share_lost: Interval = _SIZES["pv_share_lost"][0]
    """Of a PV dip, the share of the available power that is lost."""

    def __post_init__(self) -> None:
        for name, value, choices in (("kind", self.kind, get_args(Kind)), ("hits", self.hits, get_args(Hits))):
            if value not in choices:
                raise ValueError(f"events: {name} must be one of {', '.join(choices)}, got {value!r}")
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"events: probability of {self.kind} must be in [0, 1] per day, got {self.probability}")
        self._check("start_h", 0.0, 24.0)
        self._check("duration_h", 0.0, 7 * 24.0)
        if self.start_h[1] >= 24.0 or self.duration_h[0] <= 0.0:
            raise ValueError(
                f"events: start_h of {self.kind} must be below 24 and duration_h above 0, got {self.start_h} and "
                f"{self.duration_h}"
            )
        for name, (neutral, kind, low, high) in _SIZES.items():
            self._check(name, low, high)
            if self.kind != kind and getattr(self, name) != neutral:
                raise ValueError(f"events: {name} belongs to {kind}, not to {self.kind}; remove it")
        if all(getattr(self, name) == neutral for name, (neutral, kind, *_) in _SIZES.items() if kind == self.kind):
            sizes = [name for name, (_, kind, *_) in _SIZES.items() if kind == self.kind]
            if sizes:
                raise ValueError(f"events: {self.kind} changes nothing: set {' or '.join(sizes)}")
        if self.kind == "outage" and not self.targets:
            raise ValueError("events: outage needs targets, the names of branches")
        if self.kind == "price_spike" and (self.targets or self.hits != "all"):
            raise ValueError("events: price_spike hits everyone; remove targets and hits")
        if len(set(self.targets)) < len(self.targets):
            raise ValueError(f"events: targets of {self.kind} must differ, got {', '.join(self.targets)}")

    def _check(self, name: str, low: float, high: float) -> None:
        first, last = getattr(self, name)
        if not low <= first <= last <= high:
            raise ValueError(
                f"events: {name} of {self.kind} must be [low, high] with {low:g} <= low <= high <= {high:g}, got "
                f"[{first}, {last}]"
            )


class EventDraw(NamedTuple):
    """The events of one calendar day of B copies in H steps; C outage targets of the plan."""

    price_factor: Tensor  # (B, H) on the positive part of the price, at least 1
    price_adder_usd_per_mwh: Tensor  # (B, H)
    pv_factor: Tensor  # (B, A, H) of the available PV power, 0 .. 1
    outage: Tensor  # (B, H, E) bool: the branch is out of service
    islanded: Tensor  # (B, H, A) bool: the microgrid's connection is open


class EventPlan:
    """A scenario's events with their targets as positions.

    Args:
        events: their order counts: one more at the end leaves the draws of the others as they are.
        agents: names of the A microgrids.
        branches: names of the E branches, as the outage masks shall count them.
        steps_per_hour: of the scenario.

    Raises:
        ValueError: a target that does not exist (with near names), hours that are no whole steps, too many events.
    """

    def __init__(
        self, events: Sequence[Event], *, agents: Sequence[str], branches: Sequence[str], steps_per_hour: int
    ) -> None:
        if len(events) > _EVENTS_PER_DAY:
            raise ValueError(f"events: at most {_EVENTS_PER_DAY} are possible, got {len(events)}")
        self.events = tuple(events)
        self.agents, self.branches = tuple(agents), tuple(branches)
        self.steps_per_hour, self.steps_per_day = steps_per_hour, 24 * steps_per_hour
        self.targets = [self._positions(event) for event in events]
        self.start_steps = [self._steps(event, "start_h") for event in events]
        self.duration_steps = [self._steps(event, "duration_h") for event in events]
        self.outage_targets = sorted({k for e, where in self._placed() if e.kind == "outage" for k in where})

    @property
    def obs_names(self) -> tuple[str, ...]:
        """Names of each agent's columns of `own_columns`; a kind that does not occur has none."""
        kinds = {event.kind for event in self.events}
        columns: dict[str, Kind] = {
            "event_price_spike": "price_spike",
            "event_pv_share_lost": "pv_dip",
            "event_outage_share": "outage",
            "event_islanded": "islanding",
        }
        return tuple(name for name, kind in columns.items() if kind in kinds)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the columns of `state_columns`."""
        kinds = {event.kind for event in self.events}
        return (
            *(["event_price_spike"] if "price_spike" in kinds else []),
            *(f"{agent}.event_pv_share_lost" for agent in self.agents if "pv_dip" in kinds),
            *(f"event_outage_{self.branches[k]}" for k in self.outage_targets),
            *(f"{agent}.event_islanded" for agent in self.agents if "islanding" in kinds),
        )

    def own_columns(self, draw: EventDraw) -> Tensor:
        """(B, H, A, len(obs_names)): what each agent is told now; the length of an event is not known before.

        A spike is 0 or 1; the outage column is the share of all outage targets that are out, told to everyone.
        """
        spike, lost, out, islanded = self._columns(draw)
        agents = len(self.agents)
        everyone = {
            "event_price_spike": spike[..., None].expand(-1, -1, agents),
            "event_pv_share_lost": lost,
            "event_outage_share": out.mean(-1, keepdim=True).expand(-1, -1, agents),
            "event_islanded": islanded,
        }
        columns = [everyone[name] for name in self.obs_names]
        return torch.stack(columns, -1) if columns else islanded.new_zeros(*islanded.shape, 0)

    def state_columns(self, draw: EventDraw) -> Tensor:
        """(B, H, len(state_names)) for the critic."""
        spike, lost, out, islanded = self._columns(draw)
        kinds = {event.kind for event in self.events}
        parts = {"price_spike": spike[..., None], "pv_dip": lost, "outage": out, "islanding": islanded}
        columns = [part for kind, part in parts.items() if kind in kinds]
        return torch.cat(columns, -1) if columns else islanded.new_zeros(*islanded.shape[:2], 0)

    def _columns(self, draw: EventDraw) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dearer = (draw.price_factor > 1) | (draw.price_adder_usd_per_mwh > 0)
        out = draw.outage[..., self.outage_targets]
        return dearer.double(), 1 - draw.pv_factor.transpose(1, 2), out.double(), draw.islanded.double()

    def _placed(self) -> list[tuple[Event, list[int]]]:
        return list(zip(self.events, self.targets, strict=True))

    def _positions(self, event: Event) -> list[int]:
        """Positions of the targets; [0] for a price spike, which has none."""
        if event.kind == "price_spike":
            return [0]
        known, what = (self.branches, "branch") if event.kind == "outage" else (self.agents, "microgrid")
        for name in event.targets:
            if name not in known:
                near = get_close_matches(name, known, n=5, cutoff=0.3) or known[:5]
                raise ValueError(
                    f"events: target {name!r} of {event.kind} is no {what}; near names are {', '.join(near)}"
                )
        if len(event.targets or known) > _MAX_TARGETS:
            raise ValueError(f"events: {event.kind} may have at most {_MAX_TARGETS} targets, got {len(event.targets)}")
        return [known.index(name) for name in event.targets or known]

    def _steps(self, event: Event, name: str) -> tuple[int, int]:
        low, high = (hours * self.steps_per_hour for hours in getattr(event, name))
        if low != round(low) or high != round(high):
            raise ValueError(
                f"events: {name} of {event.kind} must be whole steps of {1 / self.steps_per_hour:g} h, got "
                f"{getattr(event, name)}"
            )
        return round(low), round(high)


def draw_events(plan: EventPlan, *, seed: int, copy: Tensor, episode: Tensor, day_of_episode: int = 0) -> EventDraw:
    """The events of one calendar day, those included that began on an earlier day of the episode and still last.

    Factors of events that overlap multiply, adders add, lost shares leave (1 - a)(1 - b), outages unite.

    Args:
        plan: of the scenario.
        seed: of the run.
        copy: (B,) int64 number of each copy's random stream.
        episode: (B,) int64 number of each copy's episode.
        day_of_episode: 0 on the first day. Nothing lasts from one episode into the next.
    """
    copies, steps, agents = len(copy), plan.steps_per_day, len(plan.agents)
    draw = EventDraw(
        torch.ones(copies, steps, dtype=torch.float64),
        torch.zeros(copies, steps, dtype=torch.float64),
        torch.ones(copies, agents, steps, dtype=torch.float64),
        torch.zeros(copies, steps, len(plan.branches), dtype=torch.bool),
        torch.zeros(copies, steps, agents, dtype=torch.bool),
    )
    for number, event in enumerate(plan.events):
        start, duration = plan.start_steps[number], plan.duration_steps[number]
        days_it_lasts = (start[1] + duration[1] - 1) // steps  # beyond the day on which it begins
        for day in range(max(0, day_of_episode - days_it_lasts), day_of_episode + 1):
            first = _FIRST_DRAW + (day * _EVENTS_PER_DAY + number) * _DRAWS_PER_EVENT
            # (B, K, draws): one row for each target, and a last one that chooses among them
            rows = len(plan.targets[number]) + 1
            numbers = uniform(seed, copy, episode, range(first, first + rows * _DRAWS_PER_TARGET))
            numbers = numbers.view(copies, rows, _DRAWS_PER_TARGET)
            chosen, numbers = numbers[:, -1, 0], numbers[:, :-1]
            if event.hits != "each":  # the first row counts for all
                numbers = numbers[:, :1].expand_as(numbers)
            now = (day_of_episode - day) * steps + torch.arange(steps)
            active = _active(event, numbers, chosen, (start, duration), now)
            _apply(event, draw, active, numbers[..., _SIZE], plan.targets[number])
    return draw


def apply_to_price(price: Tensor, draw: EventDraw) -> Tensor:
    """(B, H) $/MWh with spikes, which may exceed the scenario's cap; a factor never makes a negative price lower."""
    dearer = (draw.price_factor - 1) * price.clamp(min=0.0)
    return price + dearer + draw.price_adder_usd_per_mwh


def _whole(numbers: Tensor, interval: tuple[int, int]) -> Tensor:
    """Uniform whole numbers low .. high from uniform numbers in [0, 1)."""
    low, high = interval
    return low + (numbers * (high - low + 1)).long()


def _active(
    event: Event,
    numbers: Tensor,
    chosen: Tensor,
    steps: tuple[tuple[int, int], tuple[int, int]],
    now: Tensor,
) -> Tensor:
    """(B, K, H) bool: the event is on at each target.

    Args:
        event: probability and whom it hits.
        numbers: (B, K, draws) uniform.
        chosen: (B,) uniform, the target of `one`.
        steps: start and duration, each lowest and highest.
        now: (H,) steps since the start of the day on which it was drawn.
    """
    start = _whole(numbers[..., _START], steps[0])
    end = start + _whole(numbers[..., _DURATION], steps[1])
    occurs = numbers[..., _OCCURS] < event.probability
    if event.hits == "one":
        targets = numbers.shape[1]
        occurs = occurs & (torch.arange(targets) == (chosen * targets).long()[:, None])
    return occurs[..., None] & (start[..., None] <= now) & (now < end[..., None])


def _apply(event: Event, draw: EventDraw, active: Tensor, size: Tensor, where: list[int]) -> None:
    """Write an event that is active (B, K, H), with uniform sizes (B, K), into the day's tensors."""

    def sized(interval: Interval) -> Tensor:
        low, high = interval
        return low + (high - low) * size

    if event.kind == "price_spike":
        on = active[:, 0]
        draw.price_factor.mul_(torch.where(on, sized(event.price_factor), 1.0))
        draw.price_adder_usd_per_mwh.add_(torch.where(on, sized(event.price_adder_usd_per_mwh), 0.0))
    elif event.kind == "pv_dip":
        kept = torch.where(active, 1.0 - sized(event.pv_share_lost)[..., None], 1.0)
        draw.pv_factor[:, where] *= kept
    elif event.kind == "outage":
        draw.outage[..., where] |= active.transpose(1, 2)
    else:
        draw.islanded[..., where] |= active.transpose(1, 2)
