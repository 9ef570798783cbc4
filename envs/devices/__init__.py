"""Devices of all microgrids as tensors: actions in, feasible powers, money and the next state out (docs/devices.md).

Data flow: actions, `Present`, `DeviceState` -> `Devices.use` -> `Used` -> power flow, billing, next `DeviceState`.
Pure functions stand in `generator.py`, `inverter.py` and `demand.py`; `fleet.py` composes them. Dims: B copies, A
microgrids, U action columns.
"""

from envs.devices.fleet import Devices
from envs.devices.options import device_metrics
from envs.devices.powers import Applied, DeviceCosts, DeviceState, Present, Used

__all__ = ["Applied", "DeviceCosts", "DeviceState", "Devices", "Present", "Used", "device_metrics"]
