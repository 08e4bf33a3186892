"""A prompt read once for all its answers: the answers stand side by side behind it, in one row.

Each answer sees the prompt and itself, at the positions it would have alone, so hidden states (and what follows from
them: scores, log-probs, gradients) are those of one sequence an answer, within rounding. With six answers of 20 tokens
to a prompt of 60 that is 180 tokens instead of 480. Answers whose prompts are equal share rows; a prompt that comes
once is an ordinary sequence.

    for rows in answer_rows(prompts, answers, max_length=limit, max_tokens=8192):
        scores[rows.answer_B] = answer_scores(reward_model, rows)

Dimension key: N rows, T tokens, B answers, C tokens of all answers laid end to end, D model width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from wuya.data.batches import length_sorted_microbatches
from wuya.losses.language_model import token_logprobs
from wuya.models.gpt import GPT, SHARED
from wuya.training.ppo_batches import LanguageModel, TokenValues

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
    before_B: Tensor
    """Column of the prompt's last token, whose state predicts the answer's first."""

    def inputs(self, device: torch.device | str) -> dict[str, Any]:
        """What the decoder is given."""
        shared = bool((self.segments_NT > 0).any())  # else every row is a sequence: plain causal attention is faster
        return {
            "ids_BT": self.ids_NT.to(device),
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


def answer_scores(model: TokenValues, rows: AnswerRows) -> Tensor:
    """Score of every answer, float32 [B]: the scalar at its last token, less the bias. Carries gradient."""
    device = model.bias.device
    wanted_NT, place_B = _wanted(rows, rows.row_B, rows.last_B)
    values_W = model.values(**rows.inputs(device), wanted_BT=wanted_NT.to(device))
    return values_W[place_B.to(device)] - model.bias


def answer_states(model: GPT, rows: AnswerRows) -> tuple[AnswerTokens, Tensor, Tensor]:
    """Every answer token, its hidden state [C, D], and its log-prob given what stands before it, nats [C]."""
    device = model.device
    hidden_NTD = model(**rows.inputs(device))
    tokens = rows.tokens()
    row_C = tokens.row_C.to(device)
    logits_CV = model.logits(hidden_NTD[row_C, tokens.before_C.to(device)])
    return tokens, hidden_NTD[row_C, tokens.column_C.to(device)], token_logprobs(logits_CV, tokens.id_C.to(device))


def answer_token_logprobs(
    model: LanguageModel, rows: AnswerRows, *, device: torch.device | str, temperature: float = 1.0
) -> Tensor:
    """Log-prob of every answer token at a temperature, nats, float32 [C] as in `rows.tokens()`. Carries gradient."""
    tokens = rows.tokens()
    wanted_NT, place_C = _wanted(rows, tokens.row_C, tokens.before_C)
    hidden_WD = model(**rows.inputs(device), wanted_BT=wanted_NT.to(device))
    logits_CV = model.logits(hidden_WD[place_C.to(device)])
    return token_logprobs(logits_CV, tokens.id_C.to(device), temperature=temperature)


def answer_token_values(model: TokenValues, rows: AnswerRows, *, device: torch.device | str) -> Tensor:
    """Value of the state before every answer token, in units of the re-centred score, [C]. Carries gradient."""
    tokens = rows.tokens()
    wanted_NT, place_C = _wanted(rows, tokens.row_C, tokens.before_C)
    values_W = model.values(**rows.inputs(device), wanted_BT=wanted_NT.to(device)) - model.bias
    return values_W[place_C.to(device)]


def answer_logprobs(model: GPT, rows: AnswerRows) -> Tensor:
    """log pi(answer | prompt) of every answer, nats, float32 [B]. Carries gradient."""
    logprobs_C = answer_token_logprobs(model, rows, device=model.device)
    sums_B = torch.zeros(len(rows.answer_B), device=model.device)
    return sums_B.index_add(0, rows.tokens().owner_C.to(model.device), logprobs_C)


def _wanted(rows: AnswerRows, row_W: Tensor, column_W: Tensor) -> tuple[Tensor, Tensor]:
    """Where the decoder's output is looked at, [N, T], and which of the outputs, row after row, each place reads."""
    wanted_NT = torch.zeros(rows.ids_NT.shape, dtype=torch.bool)
    wanted_NT[row_W, column_W] = True
    flat_W = row_W * wanted_NT.shape[1] + column_W
    return wanted_NT, torch.searchsorted(wanted_NT.flatten().nonzero().squeeze(1), flat_W)


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
            places.append((number, n, len(ids), len(ids) + length - 1, start - 1))
            ids += answers[number]
            positions += range(start, start + length)
            segments += [segment] * length
        ids_NT[n, : len(ids)] = torch.tensor(ids)
        positions_NT[n, : len(ids)] = torch.tensor(positions)
        segments_NT[n, : len(ids)] = torch.tensor(segments)
    answer_B, row_B, first_B, last_B, before_B = torch.tensor(places).T
    return AnswerRows(ids_NT, positions_NT, segments_NT, answer_B, row_B, first_B, last_B, before_B)
