"""The joint optimum of a network without losses or limits: a lower bound, and a plan to replay.

Data flow: `Scenario`, `Outlook` -> `solve_copper_plate` -> `Plan`; `CopperPlatePlan` -> actions for its env.

Why `usd` bounds J from below where no price of the day is negative: losses only add to bills and peak, limits only
add penalties, curtailing never pays, and every schedule of the env is one of this problem. Not covered: loads
that shrink below 0.8 pu; the certified bound in `bound.py` allows for that.
At negative prices losses earn money: then it is a plan, not a bound.
"""

import numpy as np
from torch import Tensor

from envs.baselines.dispatch import Dispatch, Plan
from envs.baselines.dispatch_program import Netting
from envs.baselines.parties import billed_parties, trades
from envs.baselines.planner import Planner
from envs.composition import build_network
from envs.grid import area_load_mw
from envs.microgrid import MicrogridEnv
from envs.power.network import Network
from envs.scenario import Scenario
from envs.situation import Outlook, Situation


def solve_copper_plate(
    scenario: Scenario,
    outlook: Outlook,
    energy_mwh: Tensor,
    initial_energy_mwh: Tensor,
    peak_mw: Tensor,
    *,
    highest_price: Tensor | None = None,
) -> Plan:
    """The cheapest joint schedule from now to midnight.

    Billed as the scenario's settlement says: all areas net at one bus, or every party on its own; microgrids that trade
    net among themselves, as the best market would. The peak is always that of all together.

    Args:
        scenario: devices and tariff.
        outlook: of B copies; perfect foresight makes `usd` a bound.
        energy_mwh: (B, A) now.
        initial_energy_mwh: (B, A) what the terminal rule refers to.
        peak_mw: (B,) highest head power of the day so far.
        highest_price: (B,) $/MWh of the whole day; needed where the outlook does not begin at midnight.
    """
    dispatch = copper_plate_dispatch(scenario, build_network(scenario))
    highest_price = outlook.price.amax(1) if highest_price is None else highest_price
    return dispatch.solve(outlook, energy_mwh, initial_energy_mwh, peak_mw[:, None], highest_price)


def copper_plate_dispatch(scenario: Scenario, net: Network) -> Dispatch:
    """The solver behind `solve_copper_plate`, which keeps its compiled problems; its peaks are (B, 1)."""
    areas = (scenario.feeder.name, *scenario.microgrids)
    parties = billed_parties(scenario)
    netting = Netting(parties, np.ones((1, len(parties))), meters_apart=trades(scenario))
    return Dispatch(scenario, area_load_mw(net, areas), netting, scenario.tariff.demand_charge_usd_per_mw)


class CopperPlatePlan(Planner):
    """The copper plate's schedule of the day, with perfect foresight, replayed through the env.

    A reference for what ignoring the network costs, not a controller: it knows the day's loads, PV and wind.

    Args:
        env: to act in.
    """

    def __init__(self, env: MicrogridEnv) -> None:
        super().__init__(env, copper_plate_dispatch(env.scenario, env.network), "perfect")

    def _peaks_mw(self, now: Situation, *, new_day: bool) -> Tensor:
        del new_day
        return now.peak_mw[:, None]
