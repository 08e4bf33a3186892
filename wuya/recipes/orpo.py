"""Fine-tuning and preferences in one loss, without a reference: ORPO (Hong et al. 2024, arXiv:2403.07691).

    wuya orpo --model runs/base --rankings rm_pairs.jsonl --out runs/orpo    # in place of SFT and DPO
    wuya orpo --model runs/sft --rankings rm_pairs.jsonl --out runs/orpo     # or after SFT

Reads a checkpoint (a base model with a chat template will do) and rankings or pairs (JSONL, as `wuya dpo`); writes
runs/orpo/{config.yaml, metrics.jsonl, report.json, checkpoints/}.

The loss is SFT on the answers ranked first plus lambda times -log sigmoid of the log odds ratio of better and worse
answer (Eq. 6 and 7), where the odds are p / (1 - p) of p = exp(mean log-prob per token). There is no reference policy.
Differs from the paper: K-way rankings (a mean over the prompt's pairs, SFT on what a vote ranks first; for K = 2 it is
the paper's loss), and votes weigh 1 a prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from wuya.config import require_positive
from wuya.evals.preference_report import report_implicit_reward
from wuya.losses.direct import log_odds, odds_ratio_loss
from wuya.rlhf.pair_gradients import AnswerLogprobs, implicit_rewards, pair_gradients
from wuya.rlhf.preference_training import PreferenceSettings, load_policy, set_up_training, train
from wuya.rlhf.ranked_prompts import RankedPrompt, load_ranked_prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class ORPOConfig(PreferenceSettings):
    """Learn a policy from rankings by SFT on the best answers and the odds of better against worse ones."""

    FULL_RATE: ClassVar[float] = 8e-6
    """Peak learning rate for all weights; LoRA adapters get ten times as much."""

    model: Path
    """Checkpoint to start from: a base model, since the loss holds SFT, or an SFT model."""
    rankings: Path
    """JSONL of rankings or pairs to learn from."""
    odds_coef: float = 0.1
    """lambda: weight of the odds-ratio loss beside SFT. Paper: 0.1 to 0.25."""
    learning_rate: float = 0.0
    """Peak learning rate. 0 chooses: 8e-6 as the paper for all weights, ten times that for LoRA adapters. Small models
    bear more."""

    def __post_init__(self) -> None:
        PreferenceSettings.__post_init__(self)
        require_positive(self, "odds_coef")


def run(config: ORPOConfig) -> Path:
    """Train and report; returns the run folder, whose newest checkpoint is the policy."""
    # 1. The policy and the rankings
    policy, tokenizer = load_policy(config)
    limit, tokens = policy.config.context_length, config.microbatch_tokens
    prompts, _ = load_ranked_prompts(config.rankings, tokenizer, max_length=limit)
    heldout = {path: load_ranked_prompts(path, tokenizer, max_length=limit)[0] for path in config.heldout_rankings}
    set_up_training(policy, config)

    # 2. SFT on the best answers, and the odds of better against worse ones
    def gradients(batch: Sequence[RankedPrompt]) -> dict[str, float]:
        return pair_gradients(
            policy, batch, score=answer_log_odds, score_name="log_odds", pair_loss=odds_ratio_loss,
            pair_coef=config.odds_coef, chosen_nll_coef=1.0, microbatch_tokens=tokens,
        )  # fmt: skip

    # 3. Do the odds prefer what people prefer on prompts they have not seen?
    def report() -> None:
        def rewards(group: Sequence[RankedPrompt]) -> list[tuple[RankedPrompt, Tensor]]:
            return implicit_rewards(policy, group, answer_log_odds, microbatch_tokens=tokens)

        report_implicit_reward(config.out, heldout, rewards, name="the log odds", seed=config.seed)

    return train(
        config, policy, tokenizer, prompts, gradients, verb="orpo", parents={"rankings": config.rankings},
        extra={"odds_coef": config.odds_coef}, report=report,
    )  # fmt: skip


def answer_log_odds(logprobs: AnswerLogprobs, prompts: Sequence[RankedPrompt]) -> Tensor:
    """log(p / (1 - p)) of each answer, p the geometric mean of its tokens' probabilities."""
    return log_odds(logprobs.mean_B)
