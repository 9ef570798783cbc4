"""The stage roofline: an update beside nothing but its matrix products, at the same shapes.

Data flow: networks and minibatches of the default training -> bare `torch.mm` calls -> rates, and their ratio.
"""

from collections.abc import Callable, Sequence

import torch

import envs
from benchmarking.rates import Rate, Settings, relative_to, side_by_side, single, spread
from mappo import TrainConfig, Trainer
from mappo.layers import StackedNet

Shape = tuple[int, int, int]


def products(rows: int, body: StackedNet) -> list[Shape]:
    """(m, k, n) of the products of one gradient: forward, weights, and inputs of all layers but the first."""
    weights = [weight for weight in body.parameters() if weight.dim() == 3]  # (P, out, in)
    widths = [(weight.shape[2], weight.shape[1]) for weight in weights]
    forward = [(rows, k, n) for k, n in widths]
    return [*forward, *((n, rows, k) for k, n in widths), *((rows, n, k) for k, n in widths[1:])]


def roofline(settings: Settings) -> list[Rate]:
    """Env steps a second of the update, and of its products alone."""
    env = envs.make(settings.scenario, num_envs=settings.train_envs, device=settings.device, seed=42)
    trainer = Trainer(env, settings.trained(TrainConfig()))
    trainer.rollout.start()
    trainer.rollout.collect(trainer.buffer, trainer.generator)
    steps = env.num_envs * len(trainer.buffer.actions)
    count = trainer.updater.settings.num_minibatches
    rows = steps // count
    shapes = products(rows * len(env.agents), trainer.policy.actor.body)
    shapes += products(rows * trainer.critic.num_rows, trainer.critic.body)
    work = _multiplier(shapes, trainer.device)
    calls = count * trainer.updater.settings.num_epochs
    seconds = side_by_side(
        settings, {"update": trainer.learn, "products": lambda: [work() for _ in range(calls)]}, rounds=1
    )
    flops = 2 * calls * sum(m * k * n for m, k, n in shapes)
    whole, bare = ([steps / spent for spent in seconds[name]] for name in ("update", "products"))
    update = spread("roofline", "update", "env steps/s", whole)
    alone = spread("roofline", "its matrix products alone", "env steps/s", bare)
    gflops = [flops / spent / 1e9 for spent in seconds["products"]]
    times = [own / other for own, other in zip(seconds["update"], seconds["products"], strict=True)]
    return [
        *relative_to(alone, [update]),
        alone,
        spread("roofline", "its matrix products alone", "GFLOP/s", gflops),
        single("roofline", "arithmetic of its products", "kFLOP / env step", flops / steps / 1e3),
        spread("roofline", "update / its matrix products", "times", times),
    ]


def _multiplier(shapes: Sequence[Shape], device: torch.device) -> Callable[[], None]:
    """All products once, in memory that is there already."""

    def operands(m: int, k: int, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        a, b, out = torch.rand(m, k), torch.rand(k, n), torch.empty(m, n)
        return a.to(device), b.to(device), out.to(device)

    ready = [operands(*shape) for shape in shapes]

    def work() -> None:
        for a, b, out in ready:
            torch.mm(a, b, out=out)

    return work
