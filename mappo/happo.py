"""HAPPO: the agents' policies are updated one after the other, each knowing what the earlier ones changed.

Data flow: as update.py, whose losses, epochs and critic it shares. Kuba et al., "Trust Region Policy Optimisation in
Multi-Agent Reinforcement Learning", ICLR 2022 (arXiv:2109.11251), algorithm 4.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mappo.buffer import Batch
from mappo.config import StepSizes
from mappo.distributed import Ranks
from mappo.losses import MAX_LOG_RATIO
from mappo.networks import Actor, Critic
from mappo.policy import Policy
from mappo.update import (
    Living,
    Metrics,
    Updater,
    UpdateSettings,
    clip_grad_norm_by_policy,
    make_optimizer,
    mean_metrics,
    policy_metrics,
    set_learning_rate,
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
        self.agents = [AgentOptimizer(policy.actor, agent) for agent in range(policy.actor.body.num_policies)]

    def update(self, batch: Batch, sizes: StepSizes, generator: torch.Generator) -> Metrics:
        """All epochs of every agent, then of the critic; means over minibatches and agents."""
        set_learning_rate(self.critic_optimizer, sizes.lr)
        agents = torch.randperm(batch.alive.shape[-1], generator=generator, device=batch.alive.device).tolist()
        factor = torch.ones_like(batch.advantages[..., :1])
        metrics = []
        for agent in agents:
            own = of_agent(batch, agent)
            own = own._replace(advantages=own.advantages * factor)
            set_learning_rate(self.agents[agent].adam, sizes.lr)
            metrics.append(self.epochs(own, generator, self._step_of(agent, sizes)))
            factor = factor * self._ratio(own, agent)
        critic = self.epochs(batch, generator, lambda part, living: self.critic_step(part, sizes, living))
        return mean_metrics(metrics) | critic

    def agent_step(self, minibatch: Batch, sizes: StepSizes, agent: int, living: Living | None = None) -> Metrics:
        """One gradient step of one agent's policy on a minibatch that holds that agent only."""
        self.policy.actor.zero_grad()
        sums = self.actor_gradient(minibatch, sizes, agent, living)
        self.add_ranks(self.policy.actor.parameters(), [sums])
        norms = clip_grad_norm_by_policy(self.policy.actor.parameters(), self.settings.max_grad_norm)
        self.agents[agent].step()
        return policy_metrics(sums) | {"policy/grad_norm": norms[agent]}

    def _step_of(self, agent: int, sizes: StepSizes) -> Callable[[Batch, Living | None], Metrics]:
        return lambda minibatch, living: self.agent_step(minibatch, sizes, agent, living)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """One for each agent, and the critic's."""
        actors = {f"actor_optimizer_{agent}": optimizer.adam for agent, optimizer in enumerate(self.agents)}
        return {**actors, "critic_optimizer": self.critic_optimizer}

    @torch.no_grad()
    def _ratio(self, own: Batch, agent: int) -> Tensor:
        """New over old probability of the agent's actions (L, N, 1); 1 where it did not act."""
        distribution, _ = self.policy.actor(own.obs, own.action_mask, own.memory[0], own.starts, agent)
        log_ratio = distribution.log_prob(own.actions) - own.log_prob
        return torch.where(own.alive, log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp(), 1.0)


class AgentOptimizer:
    """Adam on one agent's rows of the stacked weights: the others' weights and moments stay as they are."""

    def __init__(self, actor: Actor, agent: int) -> None:
        """The rows share the memory of the actor's parameters, which must not be moved afterwards."""
        self.parameters = list(actor.parameters())
        self.whose = slice(agent, agent + 1)
        self.rows = [nn.Parameter(parameter.data[self.whose]) for parameter in self.parameters]
        self.adam = make_optimizer(self.rows)

    def step(self) -> None:
        """Apply the agent's rows of the gradient."""
        for row, parameter in zip(self.rows, self.parameters, strict=True):
            row.grad = None if parameter.grad is None else parameter.grad[self.whose]
        self.adam.step()


def of_agent(batch: Batch, agent: int) -> Batch:
    """What the actor's update of one agent reads, A = 1; what only the critic reads is left empty."""
    whose = slice(agent, agent + 1)
    actor = {name: getattr(batch, name)[:, :, whose] for name in ACTOR_FIELDS}
    return Batch(**{name: actor.get(name, field[..., :0]) for name, field in batch._asdict().items()})


ACTOR_FIELDS = ("obs", "actions", "log_prob", "action_mask", "alive", "starts", "memory", "advantages")
