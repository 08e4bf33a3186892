"""The smallest policies PPO can learn: a table of logits, a bandit's episodes; and the recipe's update on them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wuya.losses.ppo import gae, kl_shaped_rewards, scores_with_eos_rule, whiten
from wuya.models.protocols import LanguageModel, TokenValues
from wuya.recipes.ppo import PPOConfig, learn, trained_models
from wuya.rlhf.answer_rows import sequence_rows
from wuya.rlhf.model_outputs import completion_logprobs, completion_values
from wuya.rlhf.ppo_update import PPOBatch
from wuya.rlhf.rollouts import Rollouts
from wuya.training import distributed


def ppo_config(**changes: Any) -> PPOConfig:
    """A config of which only the settings of learning are used; nothing is read."""
    nowhere: dict[str, Any] = {"policy": Path("-"), "reward": "-", "prompts": Path("-"), "out": Path("-")}
    return PPOConfig(**{**nowhere, "ptx_shards": Path("-"), **changes})


class ToyPPO:
    """Policy and value model in training as `wuya.recipes.ppo.run` trains them, on episodes that a test makes."""

    def __init__(
        self, policy: Any, value_model: Any, config: PPOConfig, *, advantage: Any = gae, **options: Any
    ) -> None:
        self.config, self.advantage, self.options = config, advantage, options
        self.trained_policy, self.trained_values = trained_models(policy, value_model, config)
        self.policy, self.value_model, self.kl_coef = policy, value_model, config.kl_coef

    def batch(self, rollouts: Rollouts) -> PPOBatch:
        """Score, KL-shaped reward, GAE, whitening."""
        config, mask_BT = self.config, rollouts.mask_BT
        scores_B = scores_with_eos_rule(
            rollouts.scores_B, rollouts.has_eos_B, missing_eos_penalty=config.missing_eos_penalty
        )
        rewards_BT = kl_shaped_rewards(
            scores_B, rollouts.old_logprobs_BT, rollouts.ref_logprobs_BT, mask_BT, kl_coef=self.kl_coef
        )
        advantages_BT, returns_BT = self.advantage(
            rewards_BT, rollouts.old_values_BT, mask_BT, gamma=config.gamma, lam=config.gae_lambda
        )
        return PPOBatch(
            rollouts.ids_BT, mask_BT, rollouts.old_logprobs_BT, rollouts.old_values_BT,
            whiten(advantages_BT, mask_BT, all_ranks_sum=distributed.all_reduce_sum), returns_BT, rollouts.lengths_B,
        )  # fmt: skip

    def learn(self, batch: PPOBatch, *, update: int) -> dict[str, float]:
        """The recipe's own minibatches and steps."""
        return learn(self.trained_policy, self.trained_values, batch, self.config, update=update, **self.options)


def sequence_logprobs(model: LanguageModel, ids_BT: Tensor, mask_BT: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Log-prob of each completion token, [B, T], one episode per row."""
    rows = sequence_rows(ids_BT, mask_BT)
    return rows.put(completion_logprobs(model, rows, device=ids_BT.device, temperature=temperature), mask_BT)


def sequence_values(model: TokenValues, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Value before each completion token, [B, T], one episode per row."""
    rows = sequence_rows(ids_BT, mask_BT)
    return rows.put(completion_values(model, rows, device=ids_BT.device), mask_BT)


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
        old_logprobs_BT=sequence_logprobs(policy, ids_BT, mask_BT),
        ref_logprobs_BT=sequence_logprobs(reference, ids_BT, mask_BT),
        old_values_BT=sequence_values(values, ids_BT, mask_BT),
        scores_B=rewards_V[tokens_B],
        has_eos_B=torch.ones(episodes, dtype=torch.bool),
        prompt_lengths_B=torch.ones(episodes, dtype=torch.int64),
        completion_lengths_B=torch.ones(episodes, dtype=torch.int64),
    )
