"""What a model thinks of a given text: log-probs of its tokens, and the mean of its hidden states.

Dimension key: B sequences, T tokens, D model width, V vocabulary.
"""

import math
from collections.abc import Sequence

import torch

from wuya.inference.backends.completion import Vocabulary
from wuya.inference.backends.protocol import TokenLogprob
from wuya.models.decoder import Decoder

CHUNK = 128
"""Positions whose logits are held at once."""


@torch.inference_mode()
def token_logprobs(model: Decoder, vocabulary: Vocabulary, ids: Sequence[int], top: int) -> list[TokenLogprob]:
    """One record a token; the first has no log-prob (NaN), for nothing stands before it."""
    if not ids:
        return []
    ids_1T = torch.tensor([list(ids)], device=model.device)
    hidden_TD = model(ids_1T)[0]
    records = [vocabulary.logprob(ids[0], math.nan, ())]
    for start in range(0, len(ids) - 1, CHUNK):
        end = min(start + CHUNK, len(ids) - 1)
        logprobs_TV = model.logits(hidden_TD[start:end]).log_softmax(-1)
        next_T1 = ids_1T[0, start + 1 : end + 1].unsqueeze(1)
        values = logprobs_TV.gather(1, next_T1).squeeze(1).tolist()
        best = logprobs_TV.topk(min(top, logprobs_TV.shape[1]), dim=1)
        tops = [list(zip(i, v, strict=True)) for i, v in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
        for id, value, alternatives in zip(ids[start + 1 : end + 1], values, tops, strict=True):
            records.append(vocabulary.logprob(id, value, alternatives))
    return records


@torch.inference_mode()
def embedding(model: Decoder, ids: Sequence[int]) -> list[float]:
    """The mean of the last hidden states, scaled to length one."""
    hidden_TD = model(torch.tensor([list(ids)], device=model.device))[0].float()
    vector: list[float] = torch.nn.functional.normalize(hidden_TD.mean(0), dim=0).tolist()
    return vector
