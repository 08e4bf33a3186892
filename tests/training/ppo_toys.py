"""The smallest policies PPO can learn: a table of logits, a bandit's episodes."""

import torch
from torch import Tensor, nn

from wuya.training.ppo_batches import LanguageModel, Rollouts, TokenValues, completion_logprobs, completion_values


class TablePolicy(nn.Module):
    """The same distribution over V tokens everywhere, whatever came before."""

    def __init__(self, logits_V: Tensor) -> None:
        super().__init__()
        self.table_V = nn.Parameter(logits_V.clone())

    def forward(self, ids_BT: Tensor, *, wanted_BT: Tensor | None = None, **places: Tensor | None) -> Tensor:
        hidden_BTV = self.table_V.expand(*ids_BT.shape, -1)
        return hidden_BTV if wanted_BT is None else hidden_BTV[wanted_BT]

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden.float()


class TableValues(nn.Module):
    """One value everywhere: a baseline."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value_1 = nn.Parameter(torch.tensor([value]))
        self.register_buffer("bias", torch.zeros(()))

    def values(self, ids_BT: Tensor, *, wanted_BT: Tensor | None = None, **places: Tensor | None) -> Tensor:
        values_BT = self.value_1.expand(ids_BT.shape)
        return values_BT if wanted_BT is None else values_BT[wanted_BT]


@torch.no_grad()
def bandit_rollouts(
    policy: LanguageModel, reference: LanguageModel, values: TokenValues, rewards_V: Tensor, *, episodes: int, seed: int
) -> Rollouts:
    """Episodes of one token after a one-token prompt; every answer counts as ended."""
    generator = torch.Generator().manual_seed(seed)
    probabilities = policy.logits(policy(torch.zeros(1, 1, dtype=torch.int64)))[0, 0].softmax(-1)
    tokens_B = torch.multinomial(probabilities, episodes, replacement=True, generator=generator)
    ids_BT = torch.stack([torch.zeros_like(tokens_B), tokens_B], dim=1)
    mask_BT = torch.ones(episodes, 1)
    return Rollouts(
        ids_BT=ids_BT,
        mask_BT=mask_BT,
        logprobs_BT=completion_logprobs(policy, ids_BT, mask_BT, temperature=1.0),
        ref_logprobs_BT=completion_logprobs(reference, ids_BT, mask_BT, temperature=1.0),
        values_BT=completion_values(values, ids_BT, mask_BT),
        scores_B=rewards_V[tokens_B],
        has_eos_B=torch.ones(episodes, dtype=torch.bool),
        prompt_lengths_B=torch.ones(episodes, dtype=torch.int64),
        completion_lengths_B=torch.ones(episodes, dtype=torch.int64),
    )
