"""Everything of a scenario that does not change while it is played, built in the order in which it depends.

Data flow: `Scenario`, profiles, network, events -> `Model` -> `MicrogridEnv`.
"""

from typing import NamedTuple

import torch

from envs.actions import ActionLayout
from envs.coordination import Coordination
from envs.devices import Devices
from envs.dso_agent import DsoAgent
from envs.events import EventPlan
from envs.faults import Faults
from envs.grid import Grid
from envs.observations import Observer
from envs.power.network import Network
from envs.profiles import DayProfiles
from envs.scenario import Scenario
from envs.settings import CriticState
from envs.settlement import Settler


class Model(NamedTuple):
    """The parts of one scenario on one device."""

    grid: Grid
    devices: Devices
    coordination: Coordination
    faults: Faults
    settler: Settler
    observer: Observer
    dso: DsoAgent
    layout: ActionLayout

    @classmethod
    def of(
        cls,
        scenario: Scenario,
        net: Network,
        profiles: DayProfiles,
        plan: EventPlan | None,
        *,
        critic_state: CriticState,
        device: torch.device,
        dtype: torch.dtype,
    ) -> "Model":
        """Build all parts.

        Raises:
            ValueError: what a part refuses, named by its key.
        """
        grid = Grid(scenario, net, device, dtype)
        devices = Devices(scenario, device, dtype, grid.area_load_mw[1:])
        own_load = profiles.load[:, 1:].movedim(1, -1).flatten(0, -2)  # (steps, A)
        coordination = Coordination(scenario, grid, devices, load_range=(own_load.amin(0), own_load.amax(0)))
        faults = Faults(scenario, grid, devices, plan)
        names = devices.obs_names + coordination.obs_names + faults.obs_names
        observer = Observer(scenario, grid, devices, critic_state, names, plan)
        dso = DsoAgent(scenario, net, observer.state_names, device, dtype)
        layout = ActionLayout(
            tuple(scenario.microgrids),
            powers=devices.action_names,
            bids=coordination.action_names,
            choices=devices.choices,
            operator=dso.choices,
        )
        settler = Settler(scenario, grid, devices, coordination)
        return cls(grid, devices, coordination, faults, settler, observer, dso, layout)
