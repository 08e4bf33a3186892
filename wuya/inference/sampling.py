"""From logits to tokens: temperature, top-k, top-p, min-p, greedy; vectorised over rows that may want different things.

One uniform number decides one token by inverting the cumulative distribution: one exp, one cumsum, one binary search.
On a CPU that is some fifteen times faster than `torch.multinomial` or the Gumbel trick, which need a random number for
every word of the vocabulary.

The uniform number is a hash of (the sequence's seed, how many tokens it has so far), so what a sequence samples does
not depend on which other sequences share its batch, when it was admitted or who retired before it.

Dimension key: B rows, V vocabulary, S stop tokens.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wuya.errors import ConfigError, NotFinite


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to sample one completion."""

    max_tokens: int = 256
    """Most tokens of a completion, its end token included."""
    temperature: float = 1.0
    """Logits are divided by it; 0 means greedy: always the likeliest token. PPO must use the same value everywhere."""
    top_k: int = 0
    """Keep only the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the fewest likeliest tokens whose probabilities sum to at least this (nucleus sampling); 1 keeps all."""
    min_p: float = 0.0
    """Keep tokens at least this likely relative to the likeliest one; 0 keeps all."""
    stop_token_ids: tuple[int, ...] = ()
    """A completion ends with the first of these, which is kept as its last token. Empty: the engine's tokenizer's end
    token, or, for an engine without a tokenizer, no stop but `max_tokens`."""
    seed: int | None = None
    """None draws from the engine's generator (two calls differ); a number gives the same completions every time."""

    def __post_init__(self) -> None:
        checks = {
            "max_tokens": (self.max_tokens >= 1, "at least 1"),
            "temperature": (math.isfinite(self.temperature) and self.temperature >= 0, "a finite number, at least 0"),
            "top_k": (self.top_k >= 0, "at least 0"),
            "top_p": (0 < self.top_p <= 1, "above 0, at most 1"),
            "min_p": (0 <= self.min_p <= 1, "between 0 and 1"),
        }
        for name, (good, wanted) in checks.items():
            if not good:
                raise ConfigError(f"`{name}` must be {wanted}", found=str(getattr(self, name)))

    @property
    def truncates(self) -> bool:
        """True if some tokens can never be sampled: log-probs of the full distribution are not the sampler's."""
        return self.temperature == 0 or self.top_k > 0 or self.top_p < 1 or self.min_p > 0


# splitmix64 (Steele, Lea, Flood 2014): int64 arithmetic wraps, `>>` is arithmetic, hence the masks.
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX2 = 0x94D049BB133111EB - (1 << 64)


def uniforms(seed_B: Tensor, count_B: Tensor) -> Tensor:
    """The `count`-th number of each row's random stream.

    Args:
        seed_B: int64, the row's seed: any 64 bits.
        count_B: int64, tokens the row has sampled so far.
    Returns: float32 in [0, 1), multiples of 2^-24; the same for the same arguments on every device.
    """
    z_B = seed_B + (count_B + 1) * _GAMMA
    z_B = (z_B ^ ((z_B >> 30) & ((1 << 34) - 1))) * _MIX1
    z_B = (z_B ^ ((z_B >> 27) & ((1 << 37) - 1))) * _MIX2
    z_B = z_B ^ ((z_B >> 31) & ((1 << 33) - 1))
    return ((z_B >> 40) & 0xFFFFFF).to(torch.float32) * 2.0**-24


def draw_seeds(count: int, generator: torch.Generator) -> Tensor:
    """`count` int64 seeds, one a sequence; advances the generator."""
    return torch.randint(-(1 << 63), (1 << 63) - 1, (count,), generator=generator, dtype=torch.int64)


def sample_rows(
    logits_BV: Tensor,
    uniform_B: Tensor,
    *,
    temperature_B: Tensor | None = None,
    top_k_B: Tensor | None = None,
    top_p_B: Tensor | None = None,
    min_p_B: Tensor | None = None,
    num_tokens: int | None = None,
) -> tuple[Tensor, Tensor]:
    """One token a row. `None` means what does nothing: temperature 1, no truncation.

    Args:
        logits_BV: float32 (anything else is converted).
        uniform_B: in [0, 1), decides the token.
        temperature_B: 0 marks a greedy row.
        top_k_B, top_p_B, min_p_B: see `SamplingParams`; applied in this order, after the temperature.
        num_tokens: tokens the tokenizer has. Models pad their output matrix with rows beyond it, which are never
            sampled; log-probs are over all rows, as in training, so PPO's ratios start at 1.
    Returns: token_B int64; and logprob_B: nats, of the token under the FULL distribution at the row's temperature
        (greedy rows: at temperature 1), also where top-k, top-p or min-p are on: then it is the model's opinion of the
        token, not the log-prob of the truncated distribution it was drawn from, and PPO must not use it.
    """
    logits_BV = logits_BV.float()
    greedy_B1 = None
    if temperature_B is not None:
        temperature_B1 = temperature_B.float().unsqueeze(1)
        greedy_B1 = temperature_B1 == 0
        logits_BV = logits_BV / temperature_B1.masked_fill(greedy_B1, 1.0)
    full_B1 = None
    if num_tokens is not None and num_tokens < logits_BV.shape[1]:
        full_B1 = logits_BV.logsumexp(dim=1, keepdim=True)
        logits_BV = logits_BV[:, :num_tokens]
    top_B1 = logits_BV.amax(dim=1, keepdim=True)
    if not bool(top_B1.isfinite().all()):
        raise NotFinite(
            "the model's logits are not finite",
            found="NaN or infinity",
            hint="its weights are damaged or diverged: take an earlier checkpoint of its run",
        )
    # weight = unnormalised probability, 1 for the likeliest; cumsum accumulates in double on CPU, so sums are exact
    weight_BV = (logits_BV - top_B1).exp_()
    if top_k_B is None and top_p_B is None and min_p_B is None:
        cumulative_BV = weight_BV.cumsum(dim=1)
        total_B1 = cumulative_BV[:, -1:]
        token_B1 = _invert(cumulative_BV, uniform_B)
    else:
        total_B1 = weight_BV.sum(dim=1, keepdim=True)
        free_B = None if greedy_B1 is None else greedy_B1.squeeze(1)
        token_B1 = _sample_truncated(weight_BV, uniform_B, top_k_B, top_p_B, min_p_B, free_B)
    if greedy_B1 is not None:
        token_B1 = torch.where(greedy_B1, logits_BV.argmax(dim=1, keepdim=True), token_B1)
    logprob_B1 = logits_BV.gather(1, token_B1) - (top_B1 + total_B1.log() if full_B1 is None else full_B1)
    return token_B1.squeeze(1), logprob_B1.squeeze(1)


def _invert(cumulative_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """First index whose cumulative weight exceeds uniform x total; never one of weight zero."""
    total_B1 = cumulative_BV[:, -1:]
    target_B1 = uniform_B.unsqueeze(1) * total_B1
    # rounding may lift uniform x total up to total, past the end: keep it below
    target_B1 = torch.minimum(target_B1, torch.nextafter(total_B1, torch.zeros_like(total_B1)))
    return torch.searchsorted(cumulative_BV, target_B1, right=True)


CANDIDATES = 512
"""Truncated rows are mostly decided among so many of the likeliest tokens, which are found without sorting the rest."""


def _sample_truncated(
    weight_BV: Tensor,
    uniform_B: Tensor,
    top_k_B: Tensor | None,
    top_p_B: Tensor | None,
    min_p_B: Tensor | None,
    free_B: Tensor | None,
) -> Tensor:
    """Token ids [B, 1] drawn after top-k, then top-p on what is left, then min-p. Ties go to the lower id.

    Args:
        free_B: rows whose token does not matter, as it is chosen otherwise.
    """
    num_words = weight_BV.shape[1]
    if num_words <= CANDIDATES:
        sorted_BV, index_BV = weight_BV.sort(dim=1, descending=True, stable=True)
        return _draw(sorted_BV, index_BV, uniform_B, top_k_B, top_p_B, min_p_B, None)
    id_BC = weight_BV.topk(CANDIDATES, dim=1, sorted=False).indices.sort(dim=1).values  # ties in order of their ids
    weight_BC, order_BC = weight_BV.gather(1, id_BC).sort(dim=1, descending=True, stable=True)
    total_B1 = weight_BV.sum(dim=1, keepdim=True, dtype=torch.float64).to(weight_BV.dtype)
    token_B1 = _draw(weight_BC, id_BC.gather(1, order_BC), uniform_B, top_k_B, top_p_B, min_p_B, total_B1)
    # a row is decided if all it keeps is likelier than the least likely candidate, beyond which others may be as likely
    least_B1 = weight_BC[:, -1:]
    likelier_BC = weight_BC > least_B1
    decided_B = torch.zeros_like(uniform_B, dtype=torch.bool)
    if top_p_B is not None:
        mass_B = (weight_BC * likelier_BC).sum(dim=1)
        decided_B |= (top_p_B < 1) & (mass_B > top_p_B * total_B1.squeeze(1) * 1.00001)
    if min_p_B is not None:
        decided_B |= (min_p_B > 0) & (least_B1.squeeze(1) < min_p_B)
    if top_k_B is not None:  # above all: top-p needs the sum of exactly these k
        decided_B = torch.where(top_k_B > 0, top_k_B <= likelier_BC.sum(dim=1), decided_B)
    if free_B is not None:
        decided_B |= free_B
    left_N = (~decided_B).nonzero().squeeze(1)
    if len(left_N):
        sorted_NV, index_NV = weight_BV[left_N].sort(dim=1, descending=True, stable=True)
        top_k_N, top_p_N, min_p_N = (
            None if column_B is None else column_B[left_N] for column_B in (top_k_B, top_p_B, min_p_B)
        )
        token_B1[left_N] = _draw(sorted_NV, index_NV, uniform_B[left_N], top_k_N, top_p_N, min_p_N, None)
    return token_B1


def _draw(
    sorted_BC: Tensor,
    index_BC: Tensor,
    uniform_B: Tensor,
    top_k_B: Tensor | None,
    top_p_B: Tensor | None,
    min_p_B: Tensor | None,
    total_B1: Tensor | None,
) -> Tensor:
    """Truncate weights sorted from the likeliest down, and draw from what is left.

    Args:
        total_B1: sum of all weights, if there are more than these and top-k is off.
    """
    if top_k_B is not None:
        rank_C = torch.arange(sorted_BC.shape[1], device=sorted_BC.device)
        last_B1 = torch.where(top_k_B > 0, top_k_B, sorted_BC.shape[1]).unsqueeze(1)
        sorted_BC = sorted_BC.masked_fill(rank_C >= last_B1, 0.0)
    if top_p_B is not None:
        cumulative_BC = sorted_BC.cumsum(dim=1)
        kept_B1 = cumulative_BC[:, -1:]
        if total_B1 is not None:
            kept_B1 = total_B1 if top_k_B is None else torch.where(top_k_B.unsqueeze(1) > 0, kept_B1, total_B1)
        before_BC = cumulative_BC - sorted_BC
        wanted_B1 = torch.where(top_p_B < 1, top_p_B, torch.inf).unsqueeze(1) * kept_B1
        sorted_BC = sorted_BC.masked_fill(before_BC >= wanted_B1, 0.0)
    if min_p_B is not None:
        sorted_BC = sorted_BC.masked_fill(sorted_BC < min_p_B.unsqueeze(1), 0.0)  # the likeliest token's weight is 1
    return index_BC.gather(1, _invert(sorted_BC.cumsum(dim=1), uniform_B))


def sample(logits_BV: Tensor, params: SamplingParams, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`sample_rows` where all rows share `params`: tokens int64 [B] and their log-probs [B] in nats."""
    num_rows = logits_BV.shape[0]

    def column(value: float, does_nothing: float) -> Tensor | None:
        return None if value == does_nothing else torch.full((num_rows,), value, device=logits_BV.device)

    uniform_B = torch.rand(num_rows, generator=generator, device=generator.device).to(logits_BV.device)
    return sample_rows(
        logits_BV,
        uniform_B,
        temperature_B=column(params.temperature, 1.0),
        top_k_B=column(params.top_k, 0),
        top_p_B=column(params.top_p, 1.0),
        min_p_B=column(params.min_p, 0.0),
    )
