"""From rankings to a policy in one step: DPO (Rafailov et al. 2023, arXiv:2305.18290) and IPO (arXiv:2310.12036).

    wuya dpo --model runs/sft --rankings rm_pairs.jsonl --out runs/dpo
    wuya dpo ... --label_smoothing 0.1                   # conservative DPO: a tenth of the labels may be swapped
    wuya dpo ... --loss robust --label_smoothing 0.1     # the same assumption, unbiased (arXiv:2403.00409)
    wuya dpo ... --sft_coef 0.2                          # beside it SFT on the answers ranked first, as in Llama 3
    wuya dpo ... --loss ipo --beta 0.1

Reads an SFT checkpoint and rankings or pairs (JSONL, any form `wuya reward` reads: a frozen `wuya snapshot`); writes
runs/dpo/{config.yaml, metrics.jsonl, report.json, checkpoints/}.

The log-ratio beta * log(policy / reference) of an answer, summed over its tokens, *is* a reward, and DPO is the reward
model's loss on it (Eq. 7): here as there all pairs of a prompt are one batch element, and K answers take K forward
passes. The reference never changes, so its log-probs are computed once and no second model is kept.
Differs from the paper: K-way rankings (a mean over the prompt's pairs; for K = 2 it is the paper's loss), votes weigh 1
a prompt, and the rate falls by a cosine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from torch import Tensor

from wuya.config import require_positive
from wuya.console import warn
from wuya.errors import ConfigError
from wuya.evals.preference_report import report_implicit_reward
from wuya.losses.direct import dpo_loss, ipo_loss, robust_dpo_loss
from wuya.rlhf.pair_gradients import implicit_rewards, log_ratio, pair_gradients, remember_reference
from wuya.rlhf.preference_training import PreferenceSettings, autocast, load_policy, set_up_training, train
from wuya.rlhf.ranked_prompts import RankedPrompt, load_ranked_prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class DPOConfig(PreferenceSettings):
    """Learn a policy from rankings without a reward model."""

    rankings: Path
    """JSONL of rankings or pairs to learn from."""
    loss: Literal["dpo", "robust", "ipo"] = "dpo"
    """dpo: -log sigmoid(beta h). robust: the same, made unbiased for labels of which `label_smoothing` are swapped.
    ipo: (h - 1/(2 beta))^2, which stops at its target instead of growing for ever."""
    beta: float = 0.1
    """Strength of the implied KL penalty. Papers: 0.05 to 0.5 (DPO), 0.1 to 1 (IPO)."""
    label_smoothing: float = 0.0
    """Assumed share of swapped labels, from 0 to below 0.5; above 0 `dpo` is conservative DPO."""
    sft_coef: float = 0.0
    """Weight of SFT on the answers ranked first: their negative log-likelihood per token is added to the loss. It keeps
    preferred answers likely, which DPO alone does not. Llama 3: 0.2; iterative RPO (arXiv:2404.19733): 1."""
    learning_rate: float = 0.0
    """Peak learning rate. 0 chooses: 1e-6 as the paper (RMSprop) for all weights, ten times that for LoRA adapters.
    Small models bear more."""

    def __post_init__(self) -> None:
        PreferenceSettings.__post_init__(self)
        require_positive(self, "beta")
        if not 0 <= self.label_smoothing < 0.5:
            raise ConfigError("`label_smoothing` must be at least 0 and below 0.5", found=str(self.label_smoothing))
        if self.label_smoothing and self.loss == "ipo":
            warn("`label_smoothing` has no effect with `loss=ipo`")
        if not self.label_smoothing and self.loss == "robust":
            warn("`loss=robust` is plain DPO while `label_smoothing` is 0")


def run(config: DPOConfig) -> Path:
    """Train and report; returns the run folder, whose newest checkpoint is the policy."""
    # 1. The policy, the rankings, and what the reference thinks of every answer
    policy, tokenizer = load_policy(config)
    limit, tokens = policy.config.context_length, config.microbatch_tokens
    prompts, _ = load_ranked_prompts(config.rankings, tokenizer, max_length=limit)
    heldout = {path: load_ranked_prompts(path, tokenizer, max_length=limit)[0] for path in config.heldout_rankings}
    with autocast(policy, config):
        for group in (prompts, *heldout.values()):
            remember_reference(policy, group, microbatch_tokens=tokens)
    set_up_training(policy, config)

    # 2. The reward model's loss, with the log-ratio for a score
    def gradients(batch: Sequence[RankedPrompt]) -> dict[str, float]:
        return pair_gradients(
            policy, batch, score=log_ratio, score_name="logratio", pair_loss=partial(pair_loss, config=config),
            chosen_nll_coef=config.sft_coef, microbatch_tokens=tokens,
        )  # fmt: skip

    # 3. Does the log-ratio prefer what people prefer on prompts it has not seen?
    def report() -> None:
        def rewards(group: Sequence[RankedPrompt]) -> list[tuple[RankedPrompt, Tensor]]:
            found = implicit_rewards(policy, group, log_ratio, microbatch_tokens=tokens)
            return [(prompt, config.beta * ratio_K) for prompt, ratio_K in found]

        report_implicit_reward(config.out, heldout, rewards, name="the log-ratio", seed=config.seed)

    return train(
        config, policy, tokenizer, prompts, gradients, verb="dpo", parents={"rankings": config.rankings},
        extra={"loss": config.loss}, report=report,
    )  # fmt: skip


def pair_loss(margin: Tensor, *, config: DPOConfig) -> Tensor:
    """The loss of a difference of two log-ratios, elementwise."""
    if config.loss == "ipo":
        return ipo_loss(margin, beta=config.beta)
    loss = robust_dpo_loss if config.loss == "robust" else dpo_loss
    return loss(margin, beta=config.beta, label_smoothing=config.label_smoothing)
