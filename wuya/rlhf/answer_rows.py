"""A prompt read once for all its answers: the answers stand side by side behind it, in one row.

Each answer sees the prompt and itself, at the positions it would have alone, so hidden states (and what follows from
them: scores, log-probs, gradients) are those of one sequence an answer, within rounding. With six answers of 20 tokens
to a prompt of 60 that is 180 tokens instead of 480. Answers whose prompts are equal share rows; a prompt that comes
once is an ordinary sequence.

    for rows in answer_rows(prompts, answers, max_length=limit, max_tokens=8192):
        scores[rows.answer_B] = answer_scores(reward_model, rows)

PPO's minibatches hold one episode per row already (`sequence_rows`). Whatever models say of either is in
rlhf/model_outputs.py.

Dimension key: N rows, T tokens, B answers, C tokens of all answers laid end to end, D model width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from wuya.data.batches import length_sorted_microbatches
from wuya.models.gpt import SHARED

LONGEST_ROW = 512
"""Tokens: in longer rows attention costs more than reading the prompt once saves."""

Ids = Sequence[int]


@dataclass(frozen=True, slots=True)
class AnswerRows:
    """What a decoder reads, and where the answers lie in it; tensors are on the CPU."""

    ids_NT: Tensor
    positions_NT: Tensor
    """Place of a token in its own prompt and answer."""
    segments_NT: Tensor
    """SHARED for a prompt, then the number of the answer in its row; -1 on padding."""
    answer_B: Tensor
    """Which of the caller's answers, in the order they lie here."""
    row_B: Tensor
    first_B: Tensor
    """Column of an answer's first token."""
    last_B: Tensor
    """Column of its last token; of the prompt's last for an answer without tokens."""
    before_B: Tensor
    """Column of the prompt's last token, whose state predicts the answer's first."""
    num_read: int
    """Columns that the decoder reads: all, or all but the last, whose state predicts nothing."""

    def inputs(self, device: torch.device | str) -> dict[str, Any]:
        """What the decoder is given."""
        shared = bool((self.segments_NT > 0).any())  # else every row is a sequence: plain causal attention is faster
        return {
            "ids_BT": self.ids_NT[:, : self.num_read].to(device),
            "positions_BT": self.positions_NT.to(device) if shared else None,
            "segments_BT": self.segments_NT.to(device) if shared else None,
        }

    def tokens(self) -> "AnswerTokens":
        """All answer tokens, laid end to end."""
        length_B = self.last_B - self.first_B + 1
        owner_C = torch.repeat_interleave(torch.arange(len(length_B)), length_B)
        place_C = torch.arange(len(owner_C)) - torch.repeat_interleave(length_B.cumsum(0) - length_B, length_B)
        column_C = self.first_B[owner_C] + place_C
        before_C = torch.where(place_C == 0, self.before_B[owner_C], column_C - 1)
        row_C = self.row_B[owner_C]
        return AnswerTokens(owner_C, row_C, column_C, before_C, self.ids_NT[row_C, column_C])

    def put(self, values_C: Tensor, mask_BT: Tensor) -> Tensor:
        """Values of the answer tokens (as in `tokens`) where `mask_BT` is 1, a row an answer that lies here; else 0."""
        return torch.zeros(mask_BT.shape, device=mask_BT.device).masked_scatter(mask_BT > 0, values_C)

    def in_order(self, values_B: Tensor) -> Tensor:
        """Values of the answers that lie here, brought into the caller's order; for rows that hold all of them."""
        return values_B[self.answer_B.argsort().to(values_B.device)]


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """Every token of every answer."""

    owner_C: Tensor
    """Which answer of the rows' B."""
    row_C: Tensor
    column_C: Tensor
    before_C: Tensor
    """Column whose state predicts the token: for an answer's first token the prompt's last, not its neighbour."""
    id_C: Tensor


def sequence_rows(ids_BT: Tensor, mask_BT: Tensor) -> AnswerRows:
    """Lay out one episode per row, its last token unread.

    Args:
        ids_BT: int64 [B, T + 1]; mask_BT: 1.0 at t where token t + 1 is the completion's, contiguous, never empty.
    """
    ids_BT, inside_BT = ids_BT.cpu(), mask_BT.cpu() > 0
    first_B, row_B = inside_BT.int().argmax(dim=1) + 1, torch.arange(len(ids_BT))
    last_B, zeros_BT = first_B + inside_BT.sum(dim=1) - 1, torch.zeros_like(ids_BT)
    return AnswerRows(
        ids_BT, zeros_BT, zeros_BT, row_B, row_B, first_B, last_B, first_B - 1, num_read=ids_BT.shape[1] - 1
    )


@dataclass(slots=True)
class _Row:
    prompt: tuple[int, ...]
    answers: list[int] = field(default_factory=list)
    length: int = 0


def answer_rows(
    prompts: Sequence[Ids], answers: Sequence[Ids], *, max_length: int, max_tokens: int | None = None
) -> list[AnswerRows]:
    """Lay out answers behind their prompts, one prompt an answer, in parts for one forward pass each.

    Args:
        max_length: tokens a model's context holds; a prompt whose answers need more gets several rows.
        max_tokens: of a part, padding included; None = one part. A row is shorter, too, unless one answer needs more.
    """
    rows = _plan(prompts, answers, min(max_length, LONGEST_ROW, max_tokens or LONGEST_ROW))
    if max_tokens is None:
        return [_lay_out(rows, answers)]
    parts = length_sorted_microbatches([row.length for row in rows], max_tokens)
    return [_lay_out([rows[index] for index in part], answers) for part in parts]


def _plan(prompts: Sequence[Ids], answers: Sequence[Ids], max_length: int) -> list[_Row]:
    """Which answers share a row: those of one prompt, in order, as many as fit."""
    rows: list[_Row] = []
    open_rows: dict[tuple[int, ...], _Row] = {}
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        key = tuple(prompt)
        row = open_rows.get(key)
        if row is None or row.length + len(answer) > max_length:
            row = open_rows[key] = _Row(key, length=len(key))
            rows.append(row)
        row.answers.append(number)
        row.length += len(answer)
    return rows


def _lay_out(rows: Sequence[_Row], answers: Sequence[Ids]) -> AnswerRows:
    shape = (len(rows), max(row.length for row in rows))
    ids_NT, positions_NT = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    segments_NT = torch.full(shape, -1)
    places: list[tuple[int, int, int, int, int]] = []
    for n, row in enumerate(rows):
        start = len(row.prompt)
        ids, positions, segments = list(row.prompt), list(range(start)), [SHARED] * start
        for segment, number in enumerate(row.answers):
            length = len(answers[number])
            first = len(ids) if length else start  # without tokens the last kept one is the prompt's, not a neighbour's
            places.append((number, n, first, first + length - 1, start - 1))
            ids += answers[number]
            positions += range(start, start + length)
            segments += [segment] * length
        ids_NT[n, : len(ids)] = torch.tensor(ids)
        positions_NT[n, : len(ids)] = torch.tensor(positions)
        segments_NT[n, : len(ids)] = torch.tensor(segments)
    answer_B, row_B, first_B, last_B, before_B = torch.tensor(places).T
    return AnswerRows(
        ids_NT, positions_NT, segments_NT, answer_B, row_B, first_B, last_B, before_B, num_read=ids_NT.shape[1]
    )
