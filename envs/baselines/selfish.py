"""Every microgrid for itself: its own QP, blind to the others and to the network.

Data flow: `MicrogridEnv.situation()` -> `Selfish` (via `Planner`, `Dispatch`) -> actions.
"""

import numpy as np
import torch
from torch import Tensor

from envs.baselines.dispatch import Dispatch
from envs.baselines.dispatch_program import Netting
from envs.baselines.planner import Planner, applied_mw
from envs.grid import area_load_mw
from envs.microgrid import MicrogridEnv
from envs.situation import Forecast, Situation


class Selfish(Planner):
    """Each microgrid minimises lambda P+ - export_share lambda P- + generator + terminal of its own real power P.

    Prices may be negative: then the bill is concave, and its chord over the reachable P takes its place.

    Args:
        env: to act in.
        own_peak: the demand charge applies to each microgrid's own daily peak as well; False: to nobody.
        forecast: of load, PV and wind; `persistence` plans again before every step, `perfect` once a day.

    Raises:
        ValueError: an unknown forecast.
    """

    def __init__(self, env: MicrogridEnv, *, own_peak: bool = True, forecast: Forecast = "persistence") -> None:
        names = tuple(env.scenario.microgrids)
        self._area_load_mw = area_load_mw(env.network, (env.scenario.feeder.name, *names))
        parties = np.eye(1 + len(names))[1:]  # the feeder's own load is nobody's business
        usd_per_mw = env.scenario.tariff.demand_charge_usd_per_mw if own_peak else 0.0
        dispatch = Dispatch(env.scenario, self._area_load_mw, Netting(parties, np.eye(len(names))), usd_per_mw)
        super().__init__(env, dispatch, forecast)
        self._own_peak_mw = torch.zeros(env.num_envs, len(names), dtype=torch.float64)

    def _peaks_mw(self, now: Situation, *, new_day: bool) -> Tensor:
        """(B, A) highest own power so far, of the steps since its first action of the day."""
        if new_day:
            self._own_peak_mw = torch.zeros_like(self._own_peak_mw)
        else:
            load_mw = now.today.load[:, 1:, now.step - 1] * self._area_load_mw[1:]
            self._own_peak_mw = torch.maximum(self._own_peak_mw, load_mw + applied_mw(self._env))
        return self._own_peak_mw
