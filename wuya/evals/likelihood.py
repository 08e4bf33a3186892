"""What a model thinks of a text: bits per byte, and KL between a policy and its reference on the policy's answers.

Bits per byte = nats / (ln 2 x bytes of the predicted tokens): comparable across tokenizers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wuya.data.batches import length_sorted_microbatches, pad_right
from wuya.evals.bootstrap import Interval, mean_interval, ratio_interval
from wuya.models.decoder import Decoder
from wuya.rlhf.answer_rows import answer_rows
from wuya.rlhf.pair_gradients import answer_logprobs
from wuya.tokenizer.bpe import Tokenizer
from wuya.training.token_logprobs import hidden_logprobs

MICROBATCH_TOKENS = 4_096


@dataclass(frozen=True, slots=True)
class TextScore:
    """Nats a model needs for some text and the text's bytes; special tokens have no bytes but their nats count."""

    nats: float
    num_bytes: int


@torch.inference_mode()
def token_logprobs(model: Decoder, sequences: Sequence[Sequence[int]], *, temperature: float = 1.0) -> list[Tensor]:
    """Log-probability in nats of each token given those before it: one tensor [len - 1] a sequence, in order."""
    model.eval()
    results: list[Tensor] = [torch.empty(0)] * len(sequences)
    for indices in length_sorted_microbatches([len(s) for s in sequences], max_tokens=MICROBATCH_TOKENS):
        ids_BT, _ = pad_right([list(sequences[i]) for i in indices], pad_id=0)
        ids_BT = ids_BT.to(next(model.parameters()).device)
        hidden_ND, targets_BT = model(ids_BT[:, :-1]).flatten(0, 1), ids_BT[:, 1:]
        logprobs_N = hidden_logprobs(model, hidden_ND, targets_BT.flatten(), temperature=temperature)
        logprobs_BT = logprobs_N.view(targets_BT.shape)
        for row, index in enumerate(indices):
            results[index] = logprobs_BT[row, : len(sequences[index]) - 1].cpu()
    return results


def score_texts(model: Decoder, tokenizer: Tokenizer, texts: Sequence[str], *, context_length: int) -> list[TextScore]:
    """Nats and bytes of each text, read after the start of a document in windows of `context_length` that each start
    afresh."""
    start_ids = tokenizer.document_start
    room = context_length - len(start_ids)
    windows: list[list[int]] = []
    owners: list[int] = []
    for owner, ids in enumerate(tokenizer.encode_batch(list(texts))):
        for start in range(0, len(ids), room):
            windows.append([*start_ids, *ids[start : start + room]])
            owners.append(owner)
    nats, num_bytes = [0.0] * len(texts), [0] * len(texts)
    for owner, window, logprobs_T in zip(owners, windows, token_logprobs(model, windows), strict=True):
        nats[owner] -= float(logprobs_T[len(start_ids) - 1 :].double().sum())
        num_bytes[owner] += int(tokenizer.token_bytes[window[len(start_ids) :]].sum())
    return [TextScore(n, b) for n, b in zip(nats, num_bytes, strict=True)]


@torch.inference_mode()
def completion_nats(
    model: Decoder, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> list[float]:
    """-log p(completion | prompt) in nats; a prompt that comes often is read once."""
    model.eval()
    nats_B = torch.zeros(len(completions), dtype=torch.float64)
    parts = answer_rows(prompts, completions, max_length=model.config.context_length, max_tokens=MICROBATCH_TOKENS)
    for rows in parts:
        nats_B[rows.answer_B] = -answer_logprobs(model, rows).double().cpu()
    return nats_B.tolist()


def score_completions(
    model: Decoder, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> list[TextScore]:
    """Nats of each completion given its prompt, and the completion's bytes."""
    nats = completion_nats(model, prompts, completions)
    return [TextScore(n, int(tokenizer.token_bytes[list(c)].sum())) for n, c in zip(nats, completions, strict=True)]


def bits_per_byte(scores: Sequence[TextScore]) -> Interval:
    """Total bits over total bytes, with an interval over texts."""
    return ratio_interval([s.nats / math.log(2) for s in scores], [s.num_bytes for s in scores])


def alignment_tax(policy: Sequence[TextScore], sft: Sequence[TextScore]) -> Interval:
    """Bits per byte of the policy less the SFT model's on the same texts, paired by text: above 0 is worse."""
    differences = [(p.nats - s.nats) / math.log(2) for p, s in zip(policy, sft, strict=True)]
    return ratio_interval(differences, [s.num_bytes for s in sft])


def tax_beyond_half(policy: Sequence[TextScore], other: Sequence[TextScore], sft: Sequence[TextScore]) -> Interval:
    """The policy's tax less half of the other's, bits per byte, paired by text: at or below 0 it halves that tax."""
    differences = [
        (p.nats - s.nats - (o.nats - s.nats) / 2) / math.log(2) for p, o, s in zip(policy, other, sft, strict=True)
    ]
    return ratio_interval(differences, [s.num_bytes for s in sft])


@dataclass(frozen=True, slots=True)
class KLEstimate:
    """KL(policy || reference), Monte Carlo over the policy's own answers (k1), in nats."""

    per_response: Interval
    per_token: Interval

    def to_dict(self) -> dict[str, float]:
        """For JSON: the means under their names, and each with _low and _high."""
        figures = {"per_response": self.per_response, "per_token": self.per_token}
        return {
            f"{name}{end}": value
            for name, interval in figures.items()
            for end, value in (("", interval.mean), ("_low", interval.low), ("_high", interval.high))
        }


def kl_divergence(
    policy: Decoder, reference: Decoder, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> KLEstimate:
    """KL of exactly these weights on `completions` sampled from the policy at temperature 1."""
    ours, theirs = completion_nats(policy, prompts, completions), completion_nats(reference, prompts, completions)
    nats = [r - p for p, r in zip(ours, theirs, strict=True)]
    return KLEstimate(mean_interval(nats), ratio_interval(nats, [len(c) for c in completions]))
