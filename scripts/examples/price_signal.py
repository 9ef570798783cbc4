"""A price that keeps the grid within its limits: `python scripts/examples/price_signal.py` (two minutes on two cores).

Each microgrid of the default feeder minimises its own bill; nobody is punished for violations (`penalty=0`) and there
is no demand charge, so all batteries charge in the same cheap hours. With `price_signal` the DSO adds a congestion
adder to the price where limits are exceeded. Prints violations and money over the 70 test days.
"""

import argparse
from dataclasses import replace

import envs
from mappo import PRESETS, Trainer
from mappo.evaluate import evaluate

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--iterations", type=int, default=60, help="of each training, 256 days each")
args = parser.parse_args()

FREE = {"tariff": {"demand_charge_usd_per_mw": 0.0}, "penalty": 0.0}
rows = {}
for vertical in ("none", "price_signal"):
    chosen = {**FREE, "protocols": {"vertical": vertical}}
    train = envs.make("ieee34_ieee13", num_envs=256, group_size=8, seed=1, **chosen)
    test = envs.make("ieee34_ieee13", split="test", evaluation=True, **chosen)
    settings = replace(PRESETS["microgrid"], num_envs=256, iterations=args.iterations, reward_mode="individual", seed=1)
    trainer = Trainer(train, settings, envs.make("ieee34_ieee13", split="val", evaluation=True, **chosen))
    trainer.train()
    rows[vertical] = evaluate(trainer.policy, test).summary

print("\n70 test days, mean of a day        " + "".join(f"{name:>14}" for name in rows))
for label, key, form in (
    ("hours violating", "violating", ".2%"),
    ("lowest voltage, pu", "v_min_pu", ".4f"),
    ("highest loading, share of rating", "loading_max", ".3f"),
    ("energy bill of the community, $", "energy_usd", ".2f"),
    ("paid for the adder, $", "congestion_usd", ".2f"),
    ("mean adder, $/MWh", "dso_adder_usd_per_mwh", ".2f"),
    ("penalty that nobody was told of, $", "penalty_usd", ".2f"),
):
    print(f"{label:<35}" + "".join(f"{row.get(key, 0.0):>14{form}}" for row in rows.values()))
