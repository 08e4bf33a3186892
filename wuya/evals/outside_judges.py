"""Two judges that saw no ranking: a language model that never met PPO, and a classifier of real turns on its states.

A policy that found out what pleases the reward model and nobody else looks worse to both of them than the SFT model.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from wuya.evals.answers import Answers, chat_completions
from wuya.evals.bootstrap import mean_interval
from wuya.evals.likelihood import score_completions
from wuya.evals.real_turn import RealTurnJudge
from wuya.models.gpt import GPT
from wuya.records import Demonstration, Prompt
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import encode_prompt


def judge_answers(
    judge: GPT, tokenizer: Tokenizer, turns: Sequence[Demonstration], prompts: Sequence[Prompt],
    answers: Mapping[str, Answers], *, policies: Sequence[str], max_tokens: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Figures of every model; for each policy its difference from SFT, paired by prompt, where positive is worse.

    Args:
        turns: real replies, from which the classifier learns.
        max_tokens: real replies are cut to the answers' longest length, or length alone would tell them apart.
    """
    end = [tokenizer.eos_id]
    real_turn = RealTurnJudge(judge.eval()).fit(
        [encode_prompt(tokenizer, turn.prompt.messages) for turn in turns],
        [tokenizer.encode(turn.completion)[: max_tokens - 1] + end for turn in turns],
        seed=seed,
    )
    # All models' answers at once: what they have in common, the prompt, is read once
    prompt_ids = [encode_prompt(tokenizer, prompt.messages) for prompt in prompts] * len(answers)
    completions = [completion or end for a in answers.values() for completion in chat_completions(tokenizer, a)]
    scores = score_completions(judge, tokenizer, prompt_ids, completions)
    bits = _by_name(answers, [s.nats / math.log(2) / max(s.num_bytes, 1) for s in scores])
    probability = _by_name(answers, real_turn.probabilities(prompt_ids, completions).tolist())
    return {
        "real_turn_auc": real_turn.auc,
        "bits_per_byte": {name: mean_interval(values).to_dict() for name, values in bits.items()},
        "real_turn": {name: mean_interval(values).to_dict() for name, values in probability.items()},
        **{
            f"{name}_worse_than_sft": {
                "bits per byte of the answers": _paired(bits[name], bits["sft"]),
                "probability of being the real turn": _paired(probability["sft"], probability[name]),
            }
            for name in policies
        },
    }


def _by_name(answers: Mapping[str, Answers], values: Sequence[float]) -> dict[str, Sequence[float]]:
    each = len(values) // len(answers)
    return {name: values[number * each :][:each] for number, name in enumerate(answers)}


def _paired(values: Sequence[float], others: Sequence[float]) -> dict[str, float | int]:
    return mean_interval([a - b for a, b in zip(values, others, strict=True)]).to_dict()
