"""What models say of completions laid out in rows: log-probs and values of each token, scores.

Dimension key: N rows, T columns, B completions, C tokens of all completions laid end to end, W wanted, D model width.
"""

import torch
from torch import Tensor

from wuya.models.protocols import LanguageModel, TokenValues
from wuya.rlhf.answer_rows import AnswerRows
from wuya.training.token_logprobs import hidden_logprobs


def completion_logprobs(
    model: LanguageModel, rows: AnswerRows, *, device: torch.device | str, temperature: float = 1.0
) -> Tensor:
    """Log-prob of every completion token at a temperature, nats, float32 [C] as in `rows.tokens()`; carries gradient.

    The head and the last MLP are applied only where a completion token is predicted.
    """
    tokens = rows.tokens()
    wanted_NT, place_C = _wanted(rows, tokens.row_C, tokens.before_C)
    hidden_WD = model(**rows.inputs(device), wanted_BT=wanted_NT.to(device))
    return hidden_logprobs(model, hidden_WD[place_C.to(device)], tokens.id_C.to(device), temperature=temperature)


def completion_values(model: TokenValues, rows: AnswerRows, *, device: torch.device | str) -> Tensor:
    """Value of the state before every completion token, in units of the re-centred score, [C]; carries gradient."""
    tokens = rows.tokens()
    wanted_NT, place_C = _wanted(rows, tokens.row_C, tokens.before_C)
    values_W = model.values(**rows.inputs(device), wanted_BT=wanted_NT.to(device)) - model.bias
    return values_W[place_C.to(device)]


def answer_scores(model: TokenValues, rows: AnswerRows) -> Tensor:
    """Score of every completion, float32 [B]: the scalar at its last token, less the bias. Carries gradient."""
    device = model.bias.device
    wanted_NT, place_B = _wanted(rows, rows.row_B, rows.last_B)
    values_W = model.values(**rows.inputs(device), wanted_BT=wanted_NT.to(device))
    return values_W[place_B.to(device)] - model.bias


def _wanted(rows: AnswerRows, row_W: Tensor, column_W: Tensor) -> tuple[Tensor, Tensor]:
    """Where the decoder's output is looked at, [N, T], and which of the outputs, row after row, each place reads."""
    wanted_NT = torch.zeros(rows.ids_NT.shape[0], rows.num_read, dtype=torch.bool)
    wanted_NT[row_W, column_W] = True
    flat_W = row_W * wanted_NT.shape[1] + column_W
    return wanted_NT, torch.searchsorted(wanted_NT.flatten().nonzero().squeeze(1), flat_W)
