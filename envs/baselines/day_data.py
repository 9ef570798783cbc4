"""From what the env knows to the numbers that an optimisation needs.

Data flow: `Situation`, `Outlook` -> `day_data` -> one `DayData` for each copy.
"""

import numpy as np
from torch import Tensor

from envs.baselines.distflow import DayData
from envs.situation import Outlook, Situation


def day_data(situation: Situation, outlook: Outlook) -> list[DayData]:
    """The rest of the day of each copy; the terminal rule looks at the whole day's prices."""

    def by_step(values: Tensor) -> np.ndarray:
        return np.ascontiguousarray(values.numpy().T)  # (h, ...)

    highest = situation.today.price.amax(1).tolist()
    return [
        DayData(
            price=outlook.price[b].numpy(),
            load=by_step(outlook.load[b]),
            pv_mw=by_step(outlook.pv_mw[b]),
            wind_mw=by_step(outlook.wind_mw[b]),
            energy_mwh=situation.energy_mwh[b].numpy(),
            initial_energy_mwh=situation.initial_energy_mwh[b].numpy(),
            peak_mw=float(situation.peak_mw[b]),
            highest_price=highest[b],
        )
        for b in range(len(highest))
    ]
