"""One's own grid and data: `python scripts/examples/custom_microgrid.py` (a minute on two cores).

A feeder drawn in pandapower, a year of hourly series in one CSV, two microgrids in one YAML; then training. Everything
is written into a folder, to be read and changed. Prints a table over the test days of the own data.
"""

import argparse
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandapower
import pandas as pd

import envs
from envs.baselines import make_baseline
from envs.profiles import own_data
from mappo import PRESETS, Trainer
from mappo.evaluate import evaluate

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--iterations", type=int, default=60, help="of training, each 256 days")
parser.add_argument("--folder", type=Path, default=Path("my_microgrid"), help="where the three files go")
args = parser.parse_args()
args.folder.mkdir(parents=True, exist_ok=True)

# The grid: 20 kV overhead line with four buses, loads at two of them.
net = pandapower.create_empty_network()
buses = [pandapower.create_bus(net, vn_kv=20.0, name=f"bus {i}") for i in range(4)]
pandapower.create_ext_grid(net, buses[0], vm_pu=1.02)
for start, end in pairwise(buses):
    pandapower.create_line_from_parameters(
        net, start, end, length_km=6.0, r_ohm_per_km=0.36, x_ohm_per_km=0.35, c_nf_per_km=10.0, max_i_ka=0.05
    )
for bus in buses[1:3]:
    pandapower.create_load(net, bus, p_mw=0.4, q_mvar=0.1)
pandapower.to_json(net, str(args.folder / "grid.json"))

# The data: loads with an evening peak, clear and cloudy days, gusty wind, a price that follows the load.
hour, rng = np.arange(365 * 24), np.random.default_rng(0)
evening = np.exp(-(((hour % 24) - 19) ** 2) / 18)
sun = np.clip(np.sin((hour % 24 - 6) / 12 * np.pi), 0, None) * rng.uniform(0.3, 1.0, 365).repeat(24)
table = {"time": pd.date_range("2025-01-01", periods=len(hour), freq="h").strftime("%Y-%m-%dT%H:%M")}
table |= {f"load_{area}": (0.3 + 0.5 * evening) * rng.uniform(0.9, 1.1, len(hour)) for area in ("DSO", "MG1", "MG2")}
table |= {"pv_MG1": sun, "pv_MG2": sun, "wind_MG1": 0 * sun, "wind_MG2": rng.uniform(0.0, 0.9, 365 * 4).repeat(6)}
table |= {"price": 45 + 60 * evening - 20 * sun + rng.normal(0, 5, len(hour))}
pd.DataFrame(table).to_csv(args.folder / "data.csv", index=False, float_format="%.4f")

# The scenario: what is not said here is as in the packaged simple_2mg; null removes what it has.
scenario = args.folder / "scenario.yaml"
scenario.write_text(
    """
extends: simple_2mg
name: my_microgrid
feeder: {network: grid.json, slack_v_pu: 1.02, capacitors: null}
microgrids:
  MG1: {bus: "2", connection_kv: 20}
  MG2: {bus: "3", connection_kv: 20}
"""
)
data = own_data(args.folder / "data.csv", scenario)
train = envs.make(scenario, num_envs=256, group_size=8, seed=1, **data)
validation = envs.make(scenario, split="val", evaluation=True, **data)
config = replace(PRESETS["microgrid"], num_envs=256, iterations=args.iterations, seed=1)
trainer = Trainer(train, config, validation)
trainer.train()

test = envs.make(scenario, split="test", evaluation=True, **data)
print(f"\n{test.num_envs} test days    J $/day   hours violating")
for name, player in {"idle": make_baseline("idle", test), "trained": trainer.policy}.items():
    mean = evaluate(player, test).summary
    print(f"{name:<12}{mean['j_usd_per_day']:>10.2f}{mean['violating']:>18.2%}")
