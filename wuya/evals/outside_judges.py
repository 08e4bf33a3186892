"""Two judges that saw no ranking: a language model that never met PPO, and a classifier of real turns on its states.

A policy that found out what pleases the reward model and nobody else looks worse to both of them than the SFT model.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from wuya.console import warn
from wuya.errors import DataError
from wuya.evals.answers import Answers, chat_completions
from wuya.evals.bootstrap import difference_interval, mean_interval
from wuya.evals.fitting import prompts_that_fit
from wuya.evals.likelihood import score_completions
from wuya.evals.real_turn import RealTurnJudge
from wuya.models.decoder import Decoder
from wuya.records import Demonstration, Prompt
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import encode_answer, encode_prompt

MIN_TURNS = 10
"""Real turns below which a classifier has nothing to learn from: four fifths train it, the rest judges it."""


def judge_answers(
    judge: Decoder, tokenizer: Tokenizer, turns: Sequence[Demonstration], prompts: Sequence[Prompt],
    answers: Mapping[str, Answers], *, policies: Sequence[str], max_tokens: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Figures of every model; for each policy its difference from SFT, paired by prompt, where positive is worse.

    Args:
        turns: real replies, from which the classifier learns.
        max_tokens: real replies are cut to the answers' longest length, or length alone would tell them apart.
    """
    end = [tokenizer.turn_end.id]
    real = _real_turns(turns, tokenizer, room=judge.config.context_length - max_tokens)
    real_turn = RealTurnJudge(judge.eval()).fit(
        [ids for ids, _ in real],
        [_cut(tokenizer, turn, max_tokens) for _, turn in real],
        seed=seed,
    )
    # All models' answers at once: what they have in common, the prompt, is read once
    prompt_ids = [encode_prompt(tokenizer, prompt) for prompt in prompts] * len(answers)
    completions = [
        completion or end for a in answers.values() for completion in chat_completions(tokenizer, prompts, a)
    ]
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


def _real_turns(
    turns: Sequence[Demonstration], tokenizer: Tokenizer, *, room: int
) -> list[tuple[list[int], Demonstration]]:
    """Prompt ids and turn of those that the judge can read; the others are counted.

    Args:
        room: most tokens of a prompt that leave room for a reply.
    """
    prompts, _ = prompts_that_fit([turn.prompt for turn in turns], tokenizer, {"judge": room})
    fitting = {prompt.messages for prompt in prompts}
    kept = [turn for turn in turns if turn.prompt.messages in fitting]
    if len(kept) < MIN_TURNS:
        raise DataError(
            "too few real turns to train the outside judge",
            found=f"{len(kept)} of {len(turns)} have a prompt of at most {room} tokens; {MIN_TURNS} are needed",
            hint="give more `--judge_turns`, or lower `--max_tokens`",
        )
    if len(kept) < len(turns):
        warn(f"{len(turns) - len(kept):,} of {len(turns):,} real turns are longer than the judge's context: left out")
    return [(encode_prompt(tokenizer, turn.prompt), turn) for turn in kept]


def _by_name(answers: Mapping[str, Answers], values: Sequence[float]) -> dict[str, Sequence[float]]:
    each = len(values) // len(answers)
    return {name: values[number * each :][:each] for number, name in enumerate(answers)}


def _paired(values: Sequence[float], others: Sequence[float]) -> dict[str, float | int]:
    return difference_interval(values, others).to_dict()


def _cut(tokenizer: Tokenizer, turn: Demonstration, max_tokens: int) -> list[int]:
    """A real reply, cut to the answers' longest length, its end token included."""
    ids = encode_answer(tokenizer, turn.prompt, turn.answer, finished=False)
    return [*ids[: max_tokens - 1], tokenizer.turn_end.id]
