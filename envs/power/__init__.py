"""Radial networks and batched AC power flow in torch."""

from envs.power.flow import PowerFlow, solve_power_flow
from envs.power.network import Network, Regulator

__all__ = ["Network", "PowerFlow", "Regulator", "solve_power_flow"]
