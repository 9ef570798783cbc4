"""Batteries, generators, PV, wind and flexible load of all microgrids as tensors: actions in, feasible powers out.

Data flow: actions (B, A, U) -> `requested` -> `feasible` (with the energies) -> `use` adds what the scenario's options
make of them -> `Used` -> power flow, billing; then `next_energy`. Signs: `powers.py`.
"""

import torch
from torch import Tensor

from envs.actions import Actions, Choice
from envs.devices import demand, generator, inverter
from envs.devices.options import PLANT_KINDS, Options, flexibility_of, inverters_of, units_of
from envs.devices.powers import Applied, DeviceCosts, DeviceState, Present, Used
from envs.scenario import Scenario

VOLTAGE_SCALE_PU = 0.05  # of observed voltages, as in `envs/observations.py`
COMMIT = Choice("commit", options=2, idle=0)
SMALLEST_OUTPUT_MW = 1e-6  # a wanted power below is rounding: off


class Devices:
    """The parameters of every device, each (A,), and what they make of an action.

    Args:
        scenario: with at least one microgrid.
        device: of the tensors.
        dtype: of the tensors.
        load_mw: (A,) nominal load of each microgrid; needed where loads can be shed or shifted.
    """

    def __init__(
        self, scenario: Scenario, device: torch.device, dtype: torch.dtype, load_mw: Tensor | None = None
    ) -> None:
        microgrids = scenario.microgrids.values()

        def column(part: str, name: str) -> Tensor:
            values = [getattr(getattr(grid, part), name) for grid in microgrids]
            return torch.tensor(values, device=device, dtype=dtype)

        self._curtailment = scenario.curtailment
        self._dt_h = scenario.dt_h
        self.energy_min_mwh, self.energy_max_mwh = (column("battery", f"energy_{end}_mwh") for end in ("min", "max"))
        self.battery_p_max_mw, self.battery_s_max_mva = column("battery", "p_max_mw"), column("battery", "s_max_mva")
        self.efficiency = column("battery", "efficiency")
        self.generator_p_max_mw = column("generator", "p_max_mw")
        names = ("cost_quadratic_usd_per_mw2h", "cost_linear_usd_per_mwh", "cost_constant_usd_per_h")
        self._cost = tuple(column("generator", name) for name in names)
        self.pv_p_max_mw, self.wind_p_max_mw = column("pv", "p_max_mw"), column("wind", "p_max_mw")
        self.options = Options.of(scenario)
        idle = {"generator_p": -1.0, "pv_share": 1.0, "wind_share": 1.0, "shed": -1.0}
        self._idle = torch.tensor([idle.get(name, 0.0) for name in self.action_names], device=device)  # (U,)
        self._units = units_of(scenario, device, dtype)
        self._inverters = inverters_of(scenario, device, dtype)
        self._wear_usd_per_mwh = column("battery", "degradation_usd_per_mwh")
        nominal = torch.zeros_like(self.efficiency) if load_mw is None else load_mw.to(self.efficiency)
        self._flexibility = flexibility_of(scenario, nominal)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the U action columns."""
        curtailable = ("pv_share", "wind_share") if self._curtailment else ()
        return ("battery_p", "generator_p", "battery_q", *curtailable, *self.options.action_names)

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Discrete decisions of every microgrid; one whose generator has no commitment ignores it."""
        return (COMMIT,) if self.options.commitment else ()

    @property
    def obs_names(self) -> tuple[str, ...]:
        """Names of the columns of `observed`."""
        return self.options.obs_names

    def idle_action(self) -> Tensor:
        """(A, U): battery P and Q 0, generator off, all of PV and wind used without Q, no load shed or shifted."""
        return self._idle.expand(len(self.efficiency), -1).clone()

    def requested(self, actions: Tensor, pv_mw: Tensor, wind_mw: Tensor) -> Applied:
        """What actions in [-1, 1] ask for, before the battery's limits.

        Args:
            actions: (B, A, U), columns as `action_names`; values beyond [-1, 1] are clipped.
            pv_mw: (B, A) available now.
            wind_mw: (B, A) available now.
        """
        actions = actions.clamp(-1.0, 1.0)
        shares = (actions[..., 3:5] + 1) / 2 if self._curtailment else actions.new_ones(*actions.shape[:-1], 2)
        return Applied(
            battery_p_mw=actions[..., 0] * self.battery_p_max_mw,
            battery_q_mvar=actions[..., 2] * self.battery_s_max_mva,
            generator_p_mw=(actions[..., 1] + 1) / 2 * self.generator_p_max_mw,
            pv_p_mw=pv_mw * shares[..., 0],
            wind_p_mw=wind_mw * shares[..., 1],
        )

    def feasible(self, requested: Applied, energy_mwh: Tensor) -> Applied:
        """Clip P so that the energy stays inside its bounds; Q then gets its share of what the inverter has left.

        Args:
            requested: from `requested`.
            energy_mwh: (B, A) at the start of the step.
        """
        charge = (self.energy_max_mwh - energy_mwh).clamp(min=0.0) / (self.efficiency * self._dt_h)
        discharge = (energy_mwh - self.energy_min_mwh).clamp(min=0.0) * self.efficiency / self._dt_h
        p_mw = torch.minimum(torch.maximum(requested.battery_p_mw, -discharge), charge)
        left = (self.battery_s_max_mva.square() - p_mw.square()).clamp(min=0.0).sqrt()
        share = torch.where(self.battery_s_max_mva > 0, left / self.battery_s_max_mva, 0.0)
        return requested._replace(battery_p_mw=p_mw, battery_q_mvar=requested.battery_q_mvar * share)

    def actions_for(self, wanted: Applied, pv_mw: Tensor, wind_mw: Tensor) -> Tensor:
        """Actions (B, A, U) that lead to these powers: the inverse of `requested` and `feasible`.

        What no action can reach becomes the nearest action; without curtailment wanted PV and wind are ignored. The
        columns of the options do nothing: no Q of PV and wind, no load shed or shifted.

        Args:
            wanted: set-points, each (B, A).
            pv_mw: (B, A) available now.
            wind_mw: (B, A) available now.
        """

        def share(part: Tensor, whole: Tensor, otherwise: float) -> Tensor:
            return torch.where(whole > 0, part / whole, otherwise)

        battery_p = share(wanted.battery_p_mw, self.battery_p_max_mw, 0.0).clamp(-1.0, 1.0)
        p_mw = battery_p * self.battery_p_max_mw
        left = (self.battery_s_max_mva.square() - p_mw.square()).clamp(min=0.0).sqrt()
        columns = [
            battery_p,
            2 * share(wanted.generator_p_mw, self.generator_p_max_mw, 0.0) - 1,
            share(wanted.battery_q_mvar, left, 0.0),
        ]
        if self._curtailment:
            columns += [2 * share(wanted.pv_p_mw, pv_mw, 1.0) - 1, 2 * share(wanted.wind_p_mw, wind_mw, 1.0) - 1]
        if more := self.options.action_names:
            idle = self.idle_action()[:, -len(more) :].to(battery_p)
            columns += idle.expand(*battery_p.shape, -1).unbind(-1)
        return torch.stack(columns, -1).clamp(-1.0, 1.0)

    def choices_for(self, wanted: Applied) -> Tensor | None:
        """Choices (B, A, H) that lead to these set-points: on where the wanted power is nearer to p_min than to 0."""
        if not self.options.commitment:
            return None
        least_mw = (self._units.p_min_mw / 2).clamp(min=SMALLEST_OUTPUT_MW)
        return (wanted.generator_p_mw > least_mw)[..., None]

    def next_energy(self, energy_mwh: Tensor, battery_p_mw: Tensor) -> Tensor:
        """(B, A) energy after the step: E + dt (eta P+ - P- / eta)."""
        charged = battery_p_mw.clamp(min=0.0) * self.efficiency
        discharged = (-battery_p_mw).clamp(min=0.0) / self.efficiency
        after = energy_mwh + self._dt_h * (charged - discharged)
        # P was clipped to the bounds; what remains beyond them is rounding
        return torch.minimum(torch.maximum(after, self.energy_min_mwh), self.energy_max_mwh)

    @property
    def generator_cost_terms(self) -> tuple[Tensor, Tensor]:
        """Of the cost a P^2 + b P + c: a in $/(MW^2 h) and b in $/MWh, (A,) each."""
        return self._cost[0], self._cost[1]

    def generator_cost(self, generator_p_mw: Tensor, running: Tensor | None = None) -> Tensor:
        """(B, A) $ of one step: dt (a P^2 + b P + c).

        The constant counts at P = 0 too, but of a unit with commitment only while it is `running` (bool, (B, A)).
        """
        quadratic, linear, constant = self._cost
        if running is not None:
            constant = torch.where(running | ~self._units.committed, constant, 0.0)
        return self._dt_h * ((quadratic * generator_p_mw + linear) * generator_p_mw + constant)

    def initial(self, copies: int) -> DeviceState:
        """The state at the start of an episode, before any voltage is known."""
        units = self._units
        output_mw = torch.where(units.initially_on, units.p_min_mw, 0.0)
        plants = len(self._inverters.s_max_mva) if self.options.droops else 0
        return DeviceState(
            generator_p_mw=output_mw.expand(copies, -1).clone(),
            unit_on=units.initially_on.expand(copies, -1).clone(),
            unit_steps=units.longest.expand(copies, -1).clone(),
            backlog_mwh=output_mw.new_zeros(copies, len(output_mw)),
            plant_v_pu=output_mw.new_ones(copies, plants),
        )

    def measured(self, state: DeviceState, plant_v_pu: Tensor) -> DeviceState:
        """The state with the plants' voltages (B, 2A) of the settled grid, where a droop needs them."""
        return state._replace(plant_v_pu=plant_v_pu) if self.options.droops else state

    def observed(self, state: DeviceState) -> Tensor:
        """(B, A, C) columns of `obs_names`, scaled to about [-1, 1]."""
        units, columns = self._units, list[Tensor]()
        if self.options.ramp:
            columns.append(state.generator_p_mw / units.p_max_mw.clamp(min=1e-6))
        if self.options.commitment:
            longest = units.longest.clamp(min=1)
            locked = generator.locked_steps(state.unit_on, state.unit_steps, units)
            columns += [state.unit_on.to(units.p_max_mw), state.unit_steps / longest, locked / longest]
        if self.options.shiftable:
            columns.append(state.backlog_mwh / self._flexibility.max_backlog_mwh.clamp(min=1e-6))
        v_pu = ((state.plant_v_pu - 1) / VOLTAGE_SCALE_PU).chunk(2, -1)
        columns += [own for kind, own in zip(PLANT_KINDS, v_pu, strict=True) if kind in self.options.droops]
        return torch.stack(columns, -1)

    def use(self, chosen: Actions, now: Present, state: DeviceState) -> Used:
        """What the actions do in one step, with everything that the scenario's options add.

        Args:
            chosen: parts of the actions.
            now: what the devices meet.
            state: before the step.
        """
        requested = self.requested(chosen.powers, now.pv_mw, now.wind_mw)
        applied = self.feasible(requested, now.energy_mwh)
        none = torch.zeros_like(now.energy_mwh)
        costs = DeviceCosts(none, none, none, none)
        done = Used(requested, applied, now.load, None, state, costs, {}, {}, {})
        done = self._generate(done, chosen.choices)
        if self.options.degradation:
            done = self._wear(done)
        if self.options.inverters:
            done = self._inject(done, chosen.powers)
        return self._serve(done, chosen.powers, now) if self.options.demand else done

    def deliver(self, used: Used, applied: Applied, plant_q_mvar: Tensor | None) -> Used:
        """The step with what faults let the devices deliver: costs, wear and memory follow the real powers.

        Args:
            used: without faults.
            applied: powers delivered.
            plant_q_mvar: (B, 2A) delivered.
        """
        p_mw, costs, state, more = applied.generator_p_mw, used.costs, used.state, dict(used.more_applied)
        # the constant is paid as before: a unit without a grid idles
        change_usd = self.generator_cost(p_mw) - self.generator_cost(used.applied.generator_p_mw)
        costs = costs._replace(generator_usd=costs.generator_usd + change_usd)
        if self.options.commitment or self.options.ramp:
            state = state._replace(generator_p_mw=p_mw)
        if plant_q_mvar is not None:
            names = [f"{kind}_q_mvar" for kind in PLANT_KINDS]
            more |= dict(zip(names, plant_q_mvar.chunk(2, -1), strict=True))
        used = used._replace(applied=applied, costs=costs, state=state, plant_q_mvar=plant_q_mvar, more_applied=more)
        return self._wear(used) if self.options.degradation else used

    def _generate(self, done: Used, choices: Tensor) -> Used:
        """Starts, stops and ramps, and what generation costs."""
        options, units, before = self.options, self._units, done.state
        if not (options.commitment or options.ramp):
            usd = self.generator_cost(done.applied.generator_p_mw)
            return done._replace(costs=done.costs._replace(generator_usd=usd))
        wish = choices[..., 0] == 1 if options.commitment else before.unit_on
        now = generator.switch(wish, before.unit_on, before.unit_steps, before.generator_p_mw, units)
        p_mw = generator.output(done.requested.generator_p_mw, wish, now, before.generator_p_mw, units)
        runs = generator.running(now, units)
        done = done._replace(
            applied=done.applied._replace(generator_p_mw=p_mw),
            state=before._replace(generator_p_mw=p_mw, unit_on=now.on, unit_steps=generator.next_steps(now, units)),
            costs=done.costs._replace(generator_usd=self.generator_cost(p_mw, runs)),
        )
        if not options.commitment:
            return done
        usd = now.starts * units.start_usd + now.stops * units.stop_usd
        metrics = {"commitment_usd": usd.sum(-1), "generator_starts": now.starts.to(usd).sum(-1)}
        wanted_on = (wish | ~units.committed).to(usd)
        return done._replace(
            costs=done.costs._replace(commitment_usd=usd),
            more_requested={"generator_on": wanted_on},
            more_applied={"generator_on": runs.to(usd)},
            metrics=metrics,
        )

    def _wear(self, done: Used) -> Used:
        """The battery's wear: per MWh charged or discharged on the AC side."""
        usd = self._dt_h * self._wear_usd_per_mwh * done.applied.battery_p_mw.abs()
        metrics = done.metrics | {"degradation_usd": usd.sum(-1)}
        return done._replace(costs=done.costs._replace(degradation_usd=usd), metrics=metrics)

    def _inject(self, done: Used, powers: Tensor) -> Used:
        """Reactive power of PV and wind."""
        applied, actions = done.applied, powers.clamp(-1.0, 1.0)
        none = torch.zeros_like(applied.pv_p_mw)
        by_kind = [self._column(actions, f"{kind}_q", none) for kind in PLANT_KINDS]
        v_pu = done.state.plant_v_pu if self.options.droops else None
        p_mw = torch.cat([applied.pv_p_mw, applied.wind_p_mw], -1)
        asked, q_mvar = inverter.reactive_power(p_mw, torch.cat(by_kind, -1), v_pu, self._inverters)
        names = [f"{kind}_q_mvar" for kind in PLANT_KINDS]
        return done._replace(
            plant_q_mvar=q_mvar,
            more_requested=done.more_requested | dict(zip(names, asked.chunk(2, -1), strict=True)),
            more_applied=done.more_applied | dict(zip(names, q_mvar.chunk(2, -1), strict=True)),
        )

    def _serve(self, done: Used, powers: Tensor, now: Present) -> Used:
        """Load that is shed, deferred and served late."""
        rule, dt_h, actions = self._flexibility, self._dt_h, powers.clamp(-1.0, 1.0)
        none = torch.zeros_like(now.energy_mwh)
        load_mw = now.load[:, 1:] * rule.nominal_mw
        shed_mw = (self._column(actions, "shed", none - 1) + 1) / 2 * rule.shed_share * load_mw.clamp(min=0.0)
        wish = self._column(actions, "shift", none)
        moved = demand.shift(wish, load_mw - shed_mw, done.state.backlog_mwh, rule, dt_h=dt_h, all_=now.settles)
        shift_mw = moved.deferred_mw - moved.served_mw
        served = demand.multiplier(now.load[:, 1:], -shed_mw - shift_mw, rule.nominal_mw)
        usd = dt_h * rule.shed_usd_per_mwh * shed_mw
        metrics, asked, used = dict(done.metrics), dict(done.more_requested), dict(done.more_applied)
        if self.options.shedding:
            asked["shed_mw"] = used["shed_mw"] = shed_mw
            metrics |= {"shedding_usd": usd.sum(-1), "shed_mwh": dt_h * shed_mw.sum(-1)}
        if self.options.shiftable:
            most_mw = rule.defer_share * (load_mw - shed_mw).clamp(min=0.0)
            asked["shift_mw"] = wish * torch.where(wish > 0, most_mw, done.state.backlog_mwh / dt_h)
            used["shift_mw"] = shift_mw
            metrics |= {"deferred_mwh": dt_h * moved.deferred_mw.sum(-1), "backlog_mwh": moved.backlog_mwh.sum(-1)}
        return done._replace(
            load=torch.cat([now.load[:, :1], served], -1),
            state=done.state._replace(backlog_mwh=moved.backlog_mwh),
            costs=done.costs._replace(shedding_usd=usd),
            more_requested=asked,
            more_applied=used,
            metrics=metrics,
        )

    def _column(self, actions: Tensor, name: str, otherwise: Tensor) -> Tensor:
        """(B, A) of an action column; `otherwise` where there is none."""
        return actions[..., self.action_names.index(name)] if name in self.action_names else otherwise
