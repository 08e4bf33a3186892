"""From rankings to a policy without a reference: SimPO (Meng et al. 2024, arXiv:2405.14734).

    wuya simpo --model runs/sft --rankings rm_pairs.jsonl --out runs/simpo
    wuya simpo ... --beta 2.5 --target_margin 1.0

Reads an SFT checkpoint and rankings or pairs (JSONL, as `wuya dpo`); writes
runs/simpo/{config.yaml, metrics.jsonl, report.json, checkpoints/}.

The reward of an answer is beta times its mean log-prob per token, which is what sampling follows, and the better
answer must exceed the worse by a target margin (Eq. 6). There is no reference policy, so nothing holds the policy near
the SFT model but a small learning rate and few steps: watch its KL on sampled answers (`wuya evaluate`).
Differs from the paper: K-way rankings (a mean over the prompt's pairs; for K = 2 it is the paper's loss), and votes
weigh 1 a prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from wuya.config import require_positive
from wuya.errors import ConfigError
from wuya.evals.preference_report import report_implicit_reward
from wuya.losses.direct import simpo_loss
from wuya.rlhf.pair_gradients import implicit_rewards, mean_logprob, pair_gradients
from wuya.rlhf.preference_training import PreferenceSettings, load_policy, set_up_training, train
from wuya.rlhf.ranked_prompts import RankedPrompt, load_ranked_prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class SimPOConfig(PreferenceSettings):
    """Learn a policy from rankings with the mean log-prob per token as reward, without a reference."""

    rankings: Path
    """JSONL of rankings or pairs to learn from."""
    beta: float = 2.0
    """Scale of the reward, beta times the mean log-prob per token. Paper: 2 to 2.5."""
    target_margin: float = 1.0
    """gamma: the better answer's reward must exceed the worse one's by this. Paper: 0.3 to 1.6."""
    learning_rate: float = 0.0
    """Peak learning rate. 0 chooses: 1e-6 for all weights, ten times that for LoRA adapters. Paper: 3e-7 to 1e-6;
    larger ones end in repetition. Small models bear more."""

    def __post_init__(self) -> None:
        PreferenceSettings.__post_init__(self)
        require_positive(self, "beta")
        if self.target_margin < 0:
            raise ConfigError("`target_margin` must not be negative", found=str(self.target_margin))


def run(config: SimPOConfig) -> Path:
    """Train and report; returns the run folder, whose newest checkpoint is the policy."""
    # 1. The policy and the rankings
    policy, tokenizer = load_policy(config)
    limit, tokens = policy.config.context_length, config.microbatch_tokens
    prompts, _ = load_ranked_prompts(config.rankings, tokenizer, max_length=limit)
    heldout = {path: load_ranked_prompts(path, tokenizer, max_length=limit)[0] for path in config.heldout_rankings}
    set_up_training(policy, config)

    # 2. The reward model's loss, with the mean log-prob per token for a score and a margin to exceed
    pair_loss = partial(simpo_loss, beta=config.beta, target_margin=config.target_margin)

    def gradients(batch: Sequence[RankedPrompt]) -> dict[str, float]:
        return pair_gradients(
            policy, batch, score=mean_logprob, score_name="logprob", pair_loss=pair_loss, microbatch_tokens=tokens
        )

    # 3. Does the mean log-prob prefer what people prefer on prompts it has not seen?
    def report() -> None:
        def rewards(group: Sequence[RankedPrompt]) -> list[tuple[RankedPrompt, Tensor]]:
            found = implicit_rewards(policy, group, mean_logprob, microbatch_tokens=tokens)
            return [(prompt, config.beta * logprob_K) for prompt, logprob_K in found]

        report_implicit_reward(config.out, heldout, rewards, name="the mean log-prob", seed=config.seed)

    return train(
        config, policy, tokenizer, prompts, gradients, verb="simpo", parents={"rankings": config.rankings},
        extra={"beta": config.beta, "target_margin": config.target_margin}, report=report,
    )  # fmt: skip
