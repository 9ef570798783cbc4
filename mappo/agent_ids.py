"""What tells agents apart that share a policy: a one-hot id, or beyond 16 agents a learned embedding.

Data flow: TrainConfig, EnvSpec -> `id_kind`; one-hot: `Policy.observe` appends it to what the networks see and the
buffer stores, a column for each agent. Embedding: actor and critic append theirs inside, `EMBEDDING_WIDTH` columns
however many agents there are, and nothing of it is stored. Dims: A agents, P policies, I stored input, E embedding.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

ONE_HOT_AGENTS = 16
"""Up to so many agents `--agent-id auto` is one-hot: a rollout stores A x A columns a copy."""
EMBEDDING_WIDTH = 16
IdKind = Literal["none", "one_hot", "embedding"]


def id_kind(setting: str, policy_ids: Sequence[int]) -> IdKind:
    """The id of agents with these policies; `none` where no two share one.

    Args:
        setting: `--agent-id`: auto, one_hot or embedding.
        policy_ids: policy of each of the A agents.
    """
    if len(set(policy_ids)) == len(policy_ids):
        return "none"
    if setting == "one_hot" or (setting == "auto" and len(policy_ids) <= ONE_HOT_AGENTS):
        return "one_hot"
    return "embedding"


class AgentEmbedding(nn.Module):
    """A learned vector for each agent, appended to its input. Stacked as the layers are: a row for each policy."""

    policy_ids: Tensor
    places: Tensor

    def __init__(self, policy_ids: Tensor, generator: torch.Generator) -> None:
        """Agent a has the policy `policy_ids[a]`, (A,). Vectors start as orthogonal as random ones are."""
        super().__init__()
        sizes = torch.bincount(policy_ids)
        places = torch.zeros_like(policy_ids)  # of each agent among those of its policy
        for policy in range(len(sizes)):
            places[policy_ids == policy] = torch.arange(int(sizes[policy]))
        self.register_buffer("policy_ids", policy_ids.clone(), persistent=False)
        self.register_buffer("places", places, persistent=False)
        # entries of variance 1 / E: as long as the one-hot id, whose place it takes
        start = torch.randn(len(sizes), int(sizes.max()), EMBEDDING_WIDTH, generator=generator) / EMBEDDING_WIDTH**0.5
        self.weight = nn.Parameter(start)  # (P, agents of the largest policy, E)

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., A, I) -> (..., A, I + E)."""
        own = self.weight[self.policy_ids, self.places]  # (A, E)
        return torch.cat([inputs, own.expand(*inputs.shape[:-1], -1)], dim=-1)
