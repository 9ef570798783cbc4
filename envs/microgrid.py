"""MicrogridEnv: B copies of a scenario, stepped together. Composes the files of this folder; no formulas here.

Data flow of a step: actions -> devices (clip) -> grid (taps, power flow) -> tariff, safety -> `Ledger` -> rewards;
energies and peak move on; `Observer` writes obs and state. All copies are at the same hour, so the end of an episode
is known without asking the device.
"""

from collections.abc import Mapping
from datetime import date
from typing import Any, ClassVar, SupportsIndex

import gymnasium
import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from envs.actions import Actions
from envs.composition import build_network
from envs.coordination import CoordinationState
from envs.day_trace import DayTrace, PlayedDay
from envs.devices import Applied, DeviceState, Present
from envs.exogenous import DayDrawer, DeviceDay
from envs.faults import event_plan
from envs.figures import day_figures
from envs.metrics import metric_specs, step_metrics
from envs.model import Model
from envs.observations import Account, DayTables
from envs.power.network import Network
from envs.profiles import load_profiles
from envs.reference import DayReference
from envs.rewards import Ledger
from envs.scenario import Scenario
from envs.settings import DTYPES, EnvSettings, env_device, whole_number
from envs.situation import Situation
from mappo.vec_env import Step

DAYS_PER_WEEK = 7


class MicrogridEnv:
    """A `VecEnv` of networked microgrids under AC power flow; build it with `envs.make`.

    Args:
        scenario: the validated scenario.
        settings: copies, device, seed, split and the like.
        spec: keyword arguments of `envs.make` that rebuild this env.
    """

    copy_dims: ClassVar[Mapping[str, int]] = {"u": 1, "multipliers": 1}

    def __init__(self, scenario: Scenario, settings: EnvSettings, spec: Mapping[str, Any] | None = None) -> None:
        self.scenario, self.settings, self.spec = scenario, settings, dict(spec or {})
        self.device, self._dtype = env_device(settings.device), DTYPES[settings.dtype]
        self.name = f"mg{len(scenario.microgrids)}"
        profiles = load_profiles(scenario)
        starts = profiles.starts(settings.split, scenario.horizon)
        self.metric_specs = metric_specs(scenario)
        net = build_network(scenario)
        self.num_episodes = settings.num_envs or (len(starts) if settings.evaluation else 1)
        self.num_envs = settings.copies_of_a_turn(self.num_episodes, net.num_buses)
        self.group_size = 1 if settings.evaluation else settings.group_size
        self._tolerance_pu = settings.tolerance_pu
        plan = event_plan(scenario, net)
        self._drawer = DayDrawer(
            scenario,
            profiles,
            starts,
            range(settings.first_copy, settings.first_copy + self.num_envs),
            seed=settings.seed,
            evaluation=settings.evaluation,
            group_size=self.group_size,
            events=plan,
        )
        model = Model.of(
            scenario, net, profiles, plan, critic_state=settings.critic_state, device=self.device, dtype=self._dtype
        )
        self._grid, self._devices, self._coordination, self._faults, self._settler, self._observer, self._dso, _ = model
        self.action_layout = model.layout
        self.agents, self.action_names = self.action_layout.agents, self.action_layout.names
        self.action_shape = (self.num_envs, len(self.agents), len(self.action_names))
        self.action_spaces = self.action_layout.spaces
        self._mask_columns = self.action_layout.mask_columns
        self.obs_names = max(map(self.obs_names_of, self.agents), key=len)  # narrower rows are padded
        self.state_names = (*self._observer.state_names, *self._dso.column_names)
        self.state_dim = len(self.state_names)
        self.observation_spaces = {
            agent: gymnasium.spaces.Box(-np.inf, np.inf, (len(self.obs_names_of(agent)),), np.float32)
            for agent in self.agents
        }
        self.needs_discount = scenario.horizon == "week"
        self._days_per_episode = DAYS_PER_WEEK if scenario.horizon == "week" else 1
        self.episode_length = scenario.steps_per_day * self._days_per_episode
        self.applied: dict[str, Tensor] = {}
        self.requested: dict[str, Tensor] = {}
        self.coordinated: dict[str, Tensor] = {}  # (B, A) each: trades, prices, deviations of the last step
        self._trace = DayTrace(scenario, self._grid) if settings.evaluation else None
        self.reference = DayReference.of(scenario, profiles.num_days)
        self._tables: DayTables | None = None  # of the day that is played
        self._started = False

    @property
    def network(self) -> Network:
        """The `envs.power.Network` of the scenario."""
        return self._grid.net

    @property
    def day(self) -> Tensor:
        """(B,) day of the data (0 = first) that each copy plays; in training all 0 before the first `reset`."""
        return self._drawer.day

    @property
    def dates(self) -> tuple[date, ...]:
        """(B,) calendar date of `day`."""
        return self._drawer.dates

    def episode_dates(self) -> dict[int, date]:
        """Day of the data -> date, of all `num_episodes` of an evaluation."""
        days = self._drawer.evaluated_days(torch.arange(self.num_episodes))
        return dict(zip(days.tolist(), self._drawer.dates_of(days), strict=True))

    def obs_names_of(self, agent: str) -> tuple[str, ...]:
        """Names of one agent's observation columns; `obs_names` are those of the widest."""
        return self._observer.obs_names if agent in self.scenario.microgrids else self._dso.obs_names

    def dso_settings(self, copy: int = 0) -> dict[str, Any]:
        """Capacitor steps and regulator targets in force in one copy, by name; empty where the DSO is no agent."""
        return self._dso.info(self._dso_choices[copy])

    def idle_action(self) -> Tensor:
        """(A, U) action that does nothing: battery 0, generator off, PV and wind as available, a bid in the middle."""
        return self.action_layout.idle(self._devices.idle_action())

    def begin_turn(self, turn: int) -> None:
        """The next `reset` of an evaluation begins the episodes turn * B, turn * B + 1, ... of `num_episodes`."""
        self._drawer.begin_turn(turn)

    def reset(self, seed: SupportsIndex | None = None) -> tuple[Tensor, Tensor]:
        """Start a new episode in every copy, whatever was wrong in the last; a seed restarts the random streams.

        Returns:
            obs (B, A, O) and state (B, S), float32.
        """
        if seed is not None:
            self._drawer.restart(whole_number("seed", seed))
        self.action_layout.forget()
        self._started = True
        return self._begin_episode()

    def situation(self) -> Situation:
        """What an operator knows before the next action, for baselines; its `today` holds the future too.

        Raises:
            ValueError: not reset yet.
        """
        self._check_started("situation")
        account = (value.double().cpu() for value in self._account)
        return Situation(self._hour, self._exogenous, *account)

    def actions_for(self, wanted: Applied) -> Tensor:
        """Actions (B, A, U) whose applied powers are nearest to these set-points, each (B, A), in the next step."""
        self._check_started("actions_for")
        wanted = Applied(*(value.to(self.device, self._dtype) for value in wanted))
        now = self._hour
        powers = self._devices.actions_for(wanted, self._today.pv_mw[now], self._today.wind_mw[now])
        return self.action_layout.assemble(powers, self._devices.choices_for(wanted))

    def step(self, actions: ArrayLike) -> Step:
        """Advance every copy by one step of `dt_h` hours.

        Args:
            actions: (B, A, U), or (A, U) for all copies, as `action_names`: powers and bids, cut to [-1, 1], indices.

        Raises:
            ValueError: not reset yet, a wrong shape, an action that is not finite, an index that is no option. Of
                actions on a GPU the next step says so, or the episode's last; until then a wrong number counts as 0.
        """
        self._check_started("step")
        checked = self.action_layout.checked(actions, self.num_envs)
        chosen = self.action_layout.split(checked.to(self.device, self._dtype))
        now = self._hour
        self._hour += 1
        day_over = self._hour == self.scenario.steps_per_day
        settled = day_over and self.scenario.horizon == "day"
        ledger, metrics = self._play(chosen, now, settled)
        if day_over:
            self._days_done += 1
            if not settled:
                self._next_day()
        final_obs, final_state = self._observe()
        episode_over = self._days_done == self._days_per_episode
        obs, state = self._begin_episode() if episode_over else (final_obs, final_state)
        scale_usd = self.scenario.episode.reward_scale_usd
        rewards = ledger.rewards(
            scale_usd=scale_usd, penalty_weight=self.settings.penalty, dso_is_agent=bool(self._dso.choices)
        ).float()
        none = torch.zeros_like(rewards, dtype=torch.bool)
        return Step(
            obs=obs,
            state=state,
            final_obs=final_obs,
            final_state=final_state,
            rewards=rewards,
            terminated=none | settled,
            truncated=none | (episode_over and not settled),
            alive=~none,
            action_mask=~none[..., None].expand(-1, -1, self._mask_columns),
            metrics=metrics,
        )

    def _play(self, chosen: Actions, now: int, settled: bool) -> tuple[Ledger, dict[str, Tensor]]:
        """Step `now` of the day: devices, grid and money move on; what it costs, and the metrics.

        `settled`: the day's account is closed after it.
        """
        before = self._grid_state
        used = self._devices.use(chosen, self._present(now, settled), self._device_state)
        used, cut = self._faults.meet(now, used, self._account.energy_mwh, self._tolerance_pu)
        requested, applied = used.requested, used.applied
        control, switched = self._dso.control(chosen.operator), self._dso.switched(self._dso_choices, chosen.operator)
        self._dso_choices = chosen.operator
        self._grid_state = self._grid.settle(
            used.load, applied, before, self._tolerance_pu, used.plant_q_mvar, control, cut
        )
        self._device_state = self._devices.measured(used.state, self._grid.plant_voltage(self._grid_state))
        energy_mwh = self._devices.next_energy(self._account.energy_mwh, applied.battery_p_mw)
        bill = self._settler.bill(
            self._grid_state, self._today.price[now], used, chosen.bids, self._account, self._protocols
        )
        ledger, self._protocols = bill.ledger._replace(switching_usd=switched.usd), bill.protocols
        if settled:
            ledger = self._settler.at_midnight(ledger, energy_mwh, self._account, self._today.highest_price)
        self._account = self._account._replace(energy_mwh=energy_mwh, peak_mw=bill.peak_mw)
        self.coordinated = bill.by_agent
        self.applied = applied._asdict() | used.more_applied
        self.requested = requested._asdict() | used.more_requested
        metrics = step_metrics(ledger, self._grid, before, self._grid_state, requested, applied)
        metrics |= {"energy_mean_mwh": energy_mwh.mean(-1), **used.metrics, **switched.metrics, **bill.metrics}
        metrics |= self._faults.metrics(used.load, self._grid_state, ledger, cut)
        if self._trace is not None:
            self._trace.record(self._today.price[now], applied, self._account, self._grid_state)
        return ledger, metrics

    def close(self) -> None:
        """Nothing to release; part of the `VecEnv` interface."""

    def episode_score(self, totals: Mapping[str, Tensor]) -> dict[str, float]:
        """J in $/day of evaluated episodes, and the score where `reference` knows the days' bounds.

        It does for shipped scenarios; `envs.baselines.day_reference` makes it for others. Without it the score is -J,
        so that higher is better all the same.
        """
        cost = (totals["cost_usd"] + totals["penalty_usd"]).double().cpu() / self._days_per_episode
        result = {"j_usd_per_day": float(cost.mean())}
        if self.reference is None or not self.settings.evaluation:
            return {"score": -result["j_usd_per_day"], **result}
        days = self._drawer.day
        if len(cost) != self.num_envs:  # of all ranks or several turns
            days = self._drawer.evaluated_days(torch.arange(len(cost)))
        return result | self.reference.summary(cost, days)

    def figures(self) -> dict[str, Any]:
        """Pictures of the first copy's last day of an evaluation (matplotlib); empty outside evaluation."""
        return {} if (day := self.last_day()) is None else day_figures({"": day})

    def last_day(self) -> PlayedDay | None:
        """What every copy did on the last complete day; None before there is one and outside evaluation."""
        return None if self._trace is None else self._trace.last_day()

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact resume needs."""
        return {
            "drawer": self._drawer.state_dict(),
            "hour": self._hour,
            "days_done": self._days_done,
            "account": self._account._asdict(),
            "devices": self._device_state._asdict(),
            "dso": self._dso_choices,
            "protocols": self._protocols._asdict(),
            "grid": self._grid.stored(self._grid_state),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: the state is of another number of copies.
        """
        if (copies := len(state["account"]["peak_mw"])) != self.num_envs:
            raise ValueError(f"--num-envs must be {copies} to restore this state, got {self.num_envs}")
        self._drawer.load_state_dict(state["drawer"])
        self._hour, self._days_done = state["hour"], state["days_done"]
        self._account = Account(**{name: value.to(self.device) for name, value in state["account"].items()})
        self._device_state = DeviceState(**{k: value.to(self.device) for k, value in state["devices"].items()})
        self._dso_choices = state["dso"].to(self.device)
        self._protocols = CoordinationState(**{k: value.to(self.device) for k, value in state["protocols"].items()})
        self._grid_state = self._grid.restored(state["grid"])
        self.action_layout.forget()
        self._load_day()
        self._started = True

    def _begin_episode(self) -> tuple[Tensor, Tensor]:
        energy_mwh = self._drawer.new_episode().to(self.device, self._dtype, non_blocking=True)
        self._account = Account(energy_mwh, energy_mwh, energy_mwh.new_zeros(self.num_envs))
        self._device_state = self._devices.initial(self.num_envs)
        self._protocols = self._coordination.initial(self.num_envs)
        self._dso_choices = self._dso.initial(self.num_envs)
        self._hour = self._days_done = 0
        self._load_day()
        idle = self._devices.idle_action().expand(self.num_envs, -1, -1).to(self._dtype)
        requested = self._devices.requested(idle, self._today.pv_mw[0], self._today.wind_mw[0])
        # taps from neutral, settled for hour 0 with idle devices
        self._grid_state = self._grid.settle(self._today.load[0], requested, None, self._tolerance_pu)
        self._device_state = self._devices.measured(self._device_state, self._grid.plant_voltage(self._grid_state))
        self.action_layout.judge()  # the next episode is ready, whatever is refused of the last
        return self._observe()

    def _present(self, step: int, settles: bool) -> Present:
        today = self._today
        return Present(today.load[step], today.pv_mw[step], today.wind_mw[step], self._account.energy_mwh, settles)

    def _next_day(self) -> None:
        """Midnight of a run that goes on: a new day and a new peak, nothing settled."""
        self._drawer.next_day()
        self._account = self._account._replace(peak_mw=torch.zeros_like(self._account.peak_mw))
        self._hour = 0
        self._load_day()

    def _load_day(self) -> None:
        self._exogenous = day = self._drawer.today()
        self._today = DeviceDay.of(day, self.device, self._dtype)
        self._tables = self._observer.day_tables(day, self.group_size, self._tables)
        self._faults.start_day(day.events)
        if self._trace is not None:
            self._trace.start_day(self.dates, self._account)

    def _observe(self) -> tuple[Tensor, Tensor]:
        columns = self._protocols.observed
        if self._devices.obs_names:
            columns = torch.cat([self._devices.observed(self._device_state), columns], -1)
        if self._faults.obs_names:
            columns = torch.cat([columns, self._faults.observed(self._grid_state)], -1)
        assert self._tables is not None
        seen = self._observer.observe(self._tables, self._hour, self._account, self._grid_state, columns)
        obs, state = self._dso.with_own_row(*seen, self._dso_choices)
        return obs.float(), state.float()

    def _check_started(self, method: str) -> None:
        if not self._started:
            raise ValueError(f"call reset() before {method}()")
