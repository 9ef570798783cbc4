"""Neighbours who trade: `python scripts/examples/p2p_trading_3mg.py` (a minute on two cores).

Every connection of `p2p_trading_3mg` has its own meter: import costs lambda, export pays half of it. Trained once
without and once with the hourly double auction, each microgrid for its own bill. The table shows what trading moves.
"""

import argparse
from dataclasses import replace

import envs
from mappo import PRESETS, Trainer, load_policy
from mappo.evaluate import evaluate

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--iterations", type=int, default=40, help="of each training, 256 days each")
args = parser.parse_args()

rows = {}
for horizontal in ("none", "p2p"):
    protocols = {"horizontal": horizontal}
    train = envs.make("p2p_trading_3mg", num_envs=256, group_size=8, seed=1, protocols=protocols)
    validation = envs.make("p2p_trading_3mg", split="val", evaluation=True, protocols=protocols)
    settings = replace(PRESETS["microgrid"], num_envs=256, iterations=args.iterations, reward_mode="individual", seed=1)
    trainer = Trainer(train, settings, validation)
    trainer.train()
    assert trainer.run is not None
    policy = load_policy(trainer.run.checkpoints / "best.pt")
    test = envs.make("p2p_trading_3mg", split="test", evaluation=True, protocols=protocols)
    rows[horizontal] = evaluate(policy, test).summary

scale_usd = test.scenario.episode.reward_scale_usd
print("\n70 test days, mean of a day, $                  " + "".join(f"{name:>10}" for name in rows))
for agent in test.agents:  # an agent's return is minus its own bill and its third of the feeder's
    print(f"{agent + ': own bill and share of the feeder':<48}", end="")
    print("".join(f"{-scale_usd * row[f'return/{agent}']:>10.2f}" for row in rows.values()))
for label, key in (
    ("J of the community", "j_usd_per_day"),
    ("traded, MWh", "traded_mwh"),
    ("saved against the utility's prices", "trade_saving_usd"),
    ("fees, paid to the feeder's account", "trade_fee_usd"),
):
    print(f"{label:<48}" + "".join(f"{row.get(key, 0.0):>10.2f}" for row in rows.values()))
