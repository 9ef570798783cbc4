"""HAPPO: the agents' policies are updated one after the other, each knowing what the earlier ones changed.

Data flow: as update.py, whose losses, epochs and critic it shares. Kuba et al., "Trust Region Policy Optimisation in
Multi-Agent Reinforcement Learning", ICLR 2022 (arXiv:2109.11251), algorithm 4.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mappo.adam import Adam
from mappo.buffer import Batch
from mappo.config import StepSizes
from mappo.distributed import Ranks
from mappo.losses import MAX_LOG_RATIO
from mappo.networks import Critic
from mappo.policy import Policy
from mappo.update import (
    Living,
    Metrics,
    Updater,
    UpdateSettings,
    mean_metrics,
    policy_metrics,
    value_metrics,
)


class HappoUpdater(Updater):
    """Trains independent policies in a random order in every update.

    The agent at place m of the order maximises E[min(r M A, clip(r) M A)], where M is the product of the new over the
    old probabilities of the actions of the agents before it: their change is part of its advantage.
    """

    def __init__(self, policy: Policy, critic: Critic, settings: UpdateSettings, ranks: Ranks | None = None) -> None:
        """Agent a must have policy a."""
        assert policy.actor.body.each_its_own, "TrainConfig makes the policies of happo independent"
        super().__init__(policy, critic, settings, ranks)
        agents = range(policy.actor.body.num_policies)
        # each on its agent's row: the others' weights and moments stay as they are
        self.agent_optimizers = [Adam(self.actor_weights.rows(slice(agent, agent + 1))) for agent in agents]
        self.optimizer = Adam(self.critic_weights.rows())  # of the critics alone

    def update(self, batch: Batch, sizes: StepSizes, generator: torch.Generator) -> Metrics:
        """All epochs of every agent, then of the critic; means over minibatches and agents."""
        agents = torch.randperm(batch.alive.shape[-1], generator=generator, device=batch.alive.device).tolist()
        factor = torch.ones_like(batch.advantages[..., :1])
        metrics = []
        for agent in agents:
            own = of_agent(batch, agent)
            own = own._replace(advantages=own.advantages * factor)
            metrics.append(self.epochs(own, generator, self._step_of(agent, sizes)))
            factor = factor * self._ratio(own, agent)
        critic = self.epochs(batch, generator, lambda part, living: self.critic_step(part, sizes, living))
        return mean_metrics(metrics) | critic

    def agent_step(self, minibatch: Batch, sizes: StepSizes, agent: int, living: Living | None = None) -> Metrics:
        """One gradient step of one agent's policy on a minibatch that holds that agent only."""
        self.actor_weights.grad.zero_()
        sums = self.actor_gradient(minibatch, sizes, agent, living)
        self.ranks.sum_all_([self.actor_weights.grad, sums])
        norms = self.actor_weights.clip_grad_norm(self.settings.max_grad_norm)
        self.agent_optimizers[agent].step(sizes.lr)
        return policy_metrics(sums) | {"policy/grad_norm": norms[agent]}

    def critic_step(self, minibatch: Batch, sizes: StepSizes, living: Living | None = None) -> Metrics:
        """One gradient step of all critics; the metrics stay on the device."""
        self.critic_weights.grad.zero_()
        sums = self.critic_gradient(minibatch, sizes, living)
        self.ranks.sum_all_([self.critic_weights.grad, sums])
        norms = self.critic_weights.clip_grad_norm(self.settings.max_grad_norm)
        self.optimizer.step(sizes.lr)
        return value_metrics(sums) | {"value/grad_norm": norms.mean()}

    def _step_of(self, agent: int, sizes: StepSizes) -> Callable[[Batch, Living | None], Metrics]:
        return lambda minibatch, living: self.agent_step(minibatch, sizes, agent, living)

    def optimizers(self) -> dict[str, Adam]:
        """One for each agent, and the critic's."""
        actors = {f"agent_optimizer_{agent}": own for agent, own in enumerate(self.agent_optimizers)}
        return {**actors, "critic_optimizer": self.optimizer}

    @torch.no_grad()
    def _ratio(self, own: Batch, agent: int) -> Tensor:
        """New over old probability of the agent's actions (L, N, 1); 1 where it did not act."""
        distribution, _ = self.policy.actor(own.obs, own.action_mask, own.memory[0], own.starts, agent)
        log_ratio = distribution.log_prob(own.actions) - own.log_prob
        return torch.where(own.alive, log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp(), 1.0)


def of_agent(batch: Batch, agent: int) -> Batch:
    """What the actor's update of one agent reads, A = 1; what only the critic reads is left empty."""
    whose = slice(agent, agent + 1)
    actor = {name: getattr(batch, name)[:, :, whose] for name in ACTOR_FIELDS}
    return Batch(**{name: actor.get(name, field[..., :0]) for name, field in batch._asdict().items()})


ACTOR_FIELDS = ("obs", "actions", "log_prob", "action_mask", "alive", "starts", "memory", "advantages")
