"""A baseline of one's own, scored beside doing nothing: `python scripts/examples/own_baseline.py`.

Anything with `act(obs)` can be scored like a learned policy. This one runs each generator at full power while the price
is high, and leaves the batteries alone. An editor that knows `# %%` runs it cell by cell.
"""

# %%
import torch
from torch import Tensor

import envs
from envs.baselines import make_baseline
from envs.microgrid import MicrogridEnv
from mappo.evaluate import evaluate


# %% The situation is what an operator knows now: today's prices, energies, the head's peak so far.
class GeneratorsOnly:
    """Generators on above 120 $/MWh, batteries idle."""

    def __init__(self, env: MicrogridEnv) -> None:
        self.env, self.off = env, env.idle_action()
        self.on = self.off.clone()
        self.on[:, env.action_names.index("generator_p")] = 1.0

    def act(self, obs: Tensor, action_mask: Tensor | None = None) -> Tensor:
        """(B, A, U), one row for each copy and microgrid."""
        now = self.env.situation()
        dear = now.today.price[:, now.step] > 120.0  # (B,)
        return torch.where(dear[:, None, None], self.on, self.off)


# %% One copy a validation day; J is the day's cost and penalty, score 0 is idle and 1 the certified bound.
env = envs.make("ieee34_ieee13", split="val", evaluation=True)
for name, baseline in {"idle": make_baseline("idle", env), "own": GeneratorsOnly(env)}.items():
    result = evaluate(baseline, env)
    print(f"{name:<5} score {result.score:6.3f}   J {result.summary['j_usd_per_day']:8.2f} $/day")
