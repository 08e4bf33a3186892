"""From thumbs to a policy: KTO (Ethayarajh et al. 2024, arXiv:2402.01306), which needs no pairs.

    wuya snapshot --kind kto --database runs/wuya.db --out runs/data      # what users of the chat liked and disliked
    wuya kto --model runs/sft --ratings runs/data/kto-*.jsonl --out runs/kto
    wuya kto --model runs/sft --ratings rankings.jsonl --out runs/kto     # pairs taken apart

Reads an SFT checkpoint and answers that people liked or disliked (JSONL of prompt, completion, label: `wuya snapshot
--kind kto`, TRL's form), or rankings or pairs; writes runs/kto/{config.yaml, metrics.jsonl, report.json, checkpoints/}.

An answer's log-ratio log(policy / reference) is compared with a reference point z_0, an estimate of
KL(policy || reference) from answers put behind other prompts of the batch (Eq. 7). Liked answers should lie above it,
disliked ones below, and what lies far on either side is left alone.
Differs from the paper: (1) z_0 is estimated over the whole batch, from pairings that are fixed for the run; (2) a
ranking gives all its pairs taken apart, which weigh 1 a prompt; (3) the rate falls by a cosine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from wuya.config import require_positive
from wuya.console import warn
from wuya.evals.preference_report import report_implicit_reward
from wuya.rlhf.pair_gradients import implicit_rewards, log_ratio
from wuya.rlhf.pair_gradients import remember_reference as remember_pairs
from wuya.rlhf.preference_training import PreferenceSettings, autocast, load_policy, set_up_training, train
from wuya.rlhf.ranked_prompts import RankedPrompt, load_ranked_prompts
from wuya.rlhf.rated_answers import RatedAnswer, kto_gradients, load_rated_answers, remember_reference

BALANCED = (1.0, 4 / 3)
"""Where the paper (Eq. 8) keeps desirable_weight x liked / (undesirable_weight x disliked)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KTOConfig(PreferenceSettings):
    """Learn a policy from answers that people liked or disliked, one by one."""

    ratings: Path
    """JSONL of rated answers (prompt, completion, label), or of rankings or pairs, which are taken apart."""
    beta: float = 0.1
    """How soon the loss levels off as the log-ratio leaves the reference point. Paper: 0.1; smaller moves further."""
    desirable_weight: float = 1.0
    """lambda_D: weight of liked answers. The paper keeps desirable_weight x liked / (undesirable_weight x disliked)
    between 1 and 4/3; the run warns outside, with the weight to set."""
    undesirable_weight: float = 1.0
    """lambda_U: weight of disliked answers."""
    batch_size: int = 64
    """Answers per optimizer step, summed over all ranks; the reference point is a mean over them. Paper: 32."""
    learning_rate: float = 0.0
    """Peak learning rate. 0 chooses: 1e-6 for all weights, ten times that for LoRA adapters. Paper: 5e-7 to 5e-6; small
    models bear more."""

    def __post_init__(self) -> None:
        PreferenceSettings.__post_init__(self)
        require_positive(self, "beta", "desirable_weight", "undesirable_weight")


def run(config: KTOConfig) -> Path:
    """Train and report; returns the run folder, whose newest checkpoint is the policy."""
    # 1. The policy, the rated answers, and what the reference thinks of them and of mismatched ones
    policy, tokenizer = load_policy(config)
    limit, tokens = policy.config.context_length, config.microbatch_tokens
    answers = load_rated_answers(config.ratings, tokenizer, max_length=limit, seed=config.seed)
    heldout = {path: load_ranked_prompts(path, tokenizer, max_length=limit)[0] for path in config.heldout_rankings}
    warn_unless_balanced(answers, config)
    with autocast(policy, config):
        remember_reference(policy, answers, microbatch_tokens=tokens)
        for group in heldout.values():
            remember_pairs(policy, group, microbatch_tokens=tokens)
    set_up_training(policy, config)

    # 2. Liked answers above the reference point, disliked ones below
    def gradients(batch: Sequence[RatedAnswer]) -> dict[str, float]:
        return kto_gradients(
            policy, batch, beta=config.beta, desirable_weight=config.desirable_weight,
            undesirable_weight=config.undesirable_weight, microbatch_tokens=tokens,
        )  # fmt: skip

    # 3. Does the log-ratio prefer what people prefer on prompts it has not seen?
    def report() -> None:
        def rewards(group: Sequence[RankedPrompt]) -> list[tuple[RankedPrompt, Tensor]]:
            found = implicit_rewards(policy, group, log_ratio, microbatch_tokens=tokens)
            return [(prompt, config.beta * ratio_K) for prompt, ratio_K in found]

        report_implicit_reward(config.out, heldout, rewards, name="the log-ratio", seed=config.seed)

    return train(
        config, policy, tokenizer, answers, gradients, verb="kto", parents={"ratings": config.ratings},
        extra={"beta": config.beta}, report=report,
    )  # fmt: skip


def warn_unless_balanced(answers: Sequence[RatedAnswer], config: KTOConfig) -> None:
    """Say which weight would bring liked and disliked answers into the paper's balance."""
    liked = sum(answer.weight for answer in answers if answer.desirable)
    disliked = sum(answer.weight for answer in answers if not answer.desirable)
    ratio = config.desirable_weight * liked / (config.undesirable_weight * disliked)
    if BALANCED[0] - 1e-6 <= ratio <= BALANCED[1] + 1e-6:
        return
    if ratio > 1:
        advice = f"--undesirable_weight {config.desirable_weight * liked / disliked:.3g}"
    else:
        advice = f"--desirable_weight {config.undesirable_weight * disliked / liked:.3g}"
    warn(
        f"liked answers weigh {ratio:.2f} times the disliked ones; KTO's paper keeps it between 1 and 1.33: `{advice}`"
    )
