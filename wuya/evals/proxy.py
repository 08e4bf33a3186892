"""What the reward model thinks of the answers (the proxy), and what best-of-n gets out of it without any training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from wuya.evals.answers import Answers, chat_completions, chat_samples
from wuya.feedback.simulated import Labelers
from wuya.losses.ppo import scores_with_eos_rule
from wuya.models.decoder import Decoder
from wuya.records import Prompt
from wuya.rlhf.rollouts import Score
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import encode_prompt


def proxy_scores(
    score: Score,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    answers: Sequence[Answers],
    *,
    missing_eos_penalty: float,
) -> list[Tensor]:
    """scores_B of each model's answers as the chats they would be; transcript answers are encoded anew as chat.

    All are scored in one call, so that a reward model of ours reads each prompt once. Answers that never end fall under
    the rule that PPO is trained with: this is the score which the policies were optimised for.
    """
    prompt_ids = [encode_prompt(tokenizer, prompt) for prompt in prompts] * len(answers)
    completions = [completion for a in answers for completion in chat_completions(tokenizer, prompts, a)]
    finished = torch.tensor([candidate.finished for a in answers for candidate in a.candidates])
    scores = scores_with_eos_rule(score(prompt_ids, completions), finished, missing_eos_penalty=missing_eos_penalty)
    return list(torch.split(scores, len(prompts)))


def scores_by_name(
    score: Score,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    answers: Mapping[str, Answers],
    *,
    missing_eos_penalty: float,
) -> dict[str, Tensor]:
    """`proxy_scores` under the models' names."""
    groups = proxy_scores(score, tokenizer, prompts, list(answers.values()), missing_eos_penalty=missing_eos_penalty)
    return dict(zip(answers, groups, strict=True))


def best_of_n(
    sft: Decoder, tokenizer: Tokenizer, prompts: Sequence[Prompt], score: Score, *, n: int, max_tokens: int, seed: int,
    missing_eos_penalty: float,
) -> Answers:  # fmt: skip
    """Of n answers of the SFT model to each prompt the one that scores highest: the baseline without training."""
    samples = chat_samples("best_of_n", sft, tokenizer, prompts, num_samples=n, max_tokens=max_tokens, seed=seed)
    scores_KB = torch.stack(proxy_scores(score, tokenizer, prompts, samples, missing_eos_penalty=missing_eos_penalty))
    best_B = scores_KB.argmax(dim=0).tolist()
    return Answers("best_of_n", [samples[k].candidates[i] for i, k in enumerate(best_B)], samples[0].prompt_ids)


def best_of_n_kl(n: int) -> float:
    """KL(best-of-n || the model it samples from) in nats an answer: log n - (n - 1) / n (Stiennon et al. 2020)."""
    return math.log(n) - (n - 1) / n


def mean_scores(
    prompts: Sequence[Prompt], answers: Mapping[str, Answers], labelers: Labelers | None, proxy: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Gold (noiseless shared utility, which no model ever sees) beside proxy (reward model), a mean per model."""
    scores: dict[str, Any] = {name: {"proxy": float(values.mean())} for name, values in proxy.items()}
    if labelers is not None:
        for name, a in answers.items():
            gold = [labelers.shared_utility(p, c) for p, c in zip(prompts, a.candidates, strict=True)]
            scores.setdefault(name, {})["gold"] = sum(gold) / len(gold)
    return scores
