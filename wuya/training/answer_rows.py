"""A prompt once, then its answers side by side: K scores from one pass over the prompt instead of K.

Each answer sees the prompt and itself, at the positions it would have alone, so scores, log-probs and gradients are
those of one sequence an answer, within rounding. With six answers of 20 tokens to a prompt of 60 that is 180 tokens
instead of 480. A prompt whose answers do not fit into one row of the context gets several rows.
Dimension key: N rows, T tokens, B answers of the prompts laid end to end, C tokens of all answers laid end to end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wuya.losses.language_model import token_logprobs
from wuya.models.gpt import GPT, SHARED
from wuya.models.reward_model import ScalarModel
from wuya.training.ranked_prompts import RankedPrompt


@dataclass(frozen=True, slots=True)
class AnswerRows:
    """What a decoder reads, and where each answer's last token lies."""

    ids_NT: Tensor
    positions_NT: Tensor
    """Place of a token in its own prompt and answer."""
    segments_NT: Tensor
    """SHARED for the prompt, then the number of the answer; -1 on padding."""
    row_B: Tensor
    last_B: Tensor
    """Column of each answer's last token."""


def row_plan(prompt: RankedPrompt, max_length: int) -> list[list[int]]:
    """Which answers share a row: as many as fit behind the prompt in `max_length` tokens, in order."""
    rows: list[list[int]] = []
    room = 0
    for answer, sequence in enumerate(prompt.sequences):
        length = len(sequence) - prompt.prompt_length
        if length > room or not rows:
            rows.append([])
            room = max_length - prompt.prompt_length
        rows[-1].append(answer)
        room -= length
    return rows


def answer_rows(prompts: Sequence[RankedPrompt], max_length: int) -> AnswerRows:
    """Lay out the prompts' answers, in order; `max_length` is the model's context."""
    ids: list[list[int]] = []
    positions: list[list[int]] = []
    segments: list[list[int]] = []
    ends: list[tuple[int, int]] = []
    for prompt in prompts:
        start = prompt.prompt_length
        for answers in row_plan(prompt, max_length):
            ids.append(prompt.sequences[0][:start])
            positions.append(list(range(start)))
            segments.append([SHARED] * start)
            for answer in answers:
                sequence = prompt.sequences[answer]
                ids[-1] += sequence[start:]
                positions[-1] += range(start, len(sequence))
                segments[-1] += [answer] * (len(sequence) - start)
                ends.append((len(ids) - 1, len(ids[-1]) - 1))
    row_B, last_B = torch.tensor(ends).T
    return AnswerRows(_padded(ids, 0), _padded(positions, 0), _padded(segments, -1), row_B, last_B)


def answer_scores(model: ScalarModel, prompts: Sequence[RankedPrompt]) -> Tensor:
    """Score of every answer, float32 [B], as `ScalarModel.scores`; carries gradient."""
    device = model.head.weight.device
    rows = answer_rows(prompts, model.trunk.config.context_length)
    values_NT = model.values(
        rows.ids_NT.to(device), positions_BT=rows.positions_NT.to(device), segments_BT=rows.segments_NT.to(device)
    )
    return values_NT[rows.row_B.to(device), rows.last_B.to(device)] - model.bias


def answer_logprobs(policy: GPT, prompts: Sequence[RankedPrompt]) -> Tensor:
    """log pi(answer | prompt) of every answer, nats, float32 [B]; carries gradient."""
    rows = answer_rows(prompts, policy.config.context_length)
    owner_C, row_C, column_C, before_C = _answer_tokens(prompts, rows)
    device = policy.device
    hidden_NTD = policy(
        rows.ids_NT.to(device), positions_BT=rows.positions_NT.to(device), segments_BT=rows.segments_NT.to(device)
    )
    logits_CV = policy.logits(hidden_NTD[row_C.to(device), before_C.to(device)])
    logprobs_C = token_logprobs(logits_CV, rows.ids_NT[row_C, column_C].to(device))
    return torch.zeros(len(rows.row_B), device=device).index_add(0, owner_C.to(device), logprobs_C)


def _answer_tokens(prompts: Sequence[RankedPrompt], rows: AnswerRows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of every answer token: its answer, its row and column, and the column whose state predicts it, each [C].

    An answer's first token is predicted by the prompt's last one, which is not its neighbour.
    """
    starts = [(prompt.prompt_length, len(s) - prompt.prompt_length) for prompt in prompts for s in prompt.sequences]
    places = []
    for answer, ((start, length), row, last) in enumerate(
        zip(starts, rows.row_B.tolist(), rows.last_B.tolist(), strict=True)
    ):
        first = last - length + 1
        places += [
            (answer, row, column, start - 1 if column == first else column - 1) for column in range(first, last + 1)
        ]
    owner_C, row_C, column_C, before_C = torch.tensor(places).T
    return owner_C, row_C, column_C, before_C


def _padded(rows: list[list[int]], fill: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])
