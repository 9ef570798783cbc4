"""Two microgrids learn to take turns: `python scripts/examples/simple_2mg.py` (half a minute on two cores).

Both batteries of `simple_2mg` charging at once overload the feeder's regulator, so price rules that ignore each other
violate; a shared reward teaches the two to coordinate. Prints a table over the 70 test days and draws one of them.
"""

import argparse
from dataclasses import replace

import envs
from envs.baselines import make_baseline
from envs.figures import dispatch_figure
from mappo import PRESETS, Trainer, load_policy
from mappo.evaluate import evaluate

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--iterations", type=int, default=40, help="of training, each 256 days")
parser.add_argument("--out", default="simple_2mg.png", help="where the picture goes")
args = parser.parse_args()

train = envs.make("simple_2mg", num_envs=256, group_size=8, seed=1)
validation = envs.make("simple_2mg", split="val", evaluation=True)  # copy b plays validation day b
config = replace(PRESETS["microgrid"], num_envs=256, iterations=args.iterations, seed=1)
trainer = Trainer(train, config, validation)
trainer.train()
assert trainer.run is not None
policy = load_policy(trainer.run.checkpoints / "best.pt")

test = envs.make("simple_2mg", split="test", evaluation=True)
players = {"idle": make_baseline("idle", test), "greedy": make_baseline("greedy", test), "trained": policy}
days = {}
print(f"\n{'70 test days':<13}{'J $/day':>9}{'cost':>9}{'penalty':>9}{'peak MW':>9}{'hours violating':>17}")
for name, player in players.items():
    mean = evaluate(player, test).summary
    days[name] = test.last_day()
    numbers = f"{mean['j_usd_per_day']:>9.2f}{mean['cost_usd']:>9.2f}{mean['penalty_usd']:>9.2f}"
    print(f"{name:<13}{numbers}{mean['head_peak_mw']:>9.3f}{mean['violating']:>16.2%}")
dispatch_figure({name: days[name] for name in ("greedy", "trained")}).savefig(args.out, dpi=110)
print(f"\nthe first test day, price rule beside trained policy: {args.out}")
