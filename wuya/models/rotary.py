"""Rotary positions (arXiv:2104.09864, the rotate-half form of GPT-NeoX) and the ways to stretch them.

The formulas are those of `transformers`, operation by operation: at position 100,000 the last bit of a frequency moves
an angle by a hundredth. A scaling depends on the config alone, never on the length of a batch, so that a cached decode
step and a full pass agree: `dynamic` is the unscaled rotation up to its original context, and `longrope` uses its short
factors there; a longer context than that is not offered for either (checkpoints/hf_rope.py).

Dimension key: B sequences, T tokens, H heads, C channels of a head, R channels that are turned.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from wuya.models.config import GPTConfig, RopeScaling


def rotary_tables(length: int, channels: int, base: float, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """cos and signed sin, both [length, channels] float32, of unscaled frequencies."""
    return tables_of(frequencies(channels, base, device), length)


def scaled_tables(config: GPTConfig, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """The tables that a model's config asks for, rescaled where it says so: [context_length, turned channels]."""
    frequencies_R = frequencies(config.turned_channels, config.rope_base, device)
    scaling = config.rope_scaling
    if scaling is None:
        return tables_of(frequencies_R, config.context_length)
    frequencies_R = scaled_frequencies(frequencies_R, scaling, config.rope_base)
    return tables_of(frequencies_R, config.context_length, attention_factor(scaling))


def frequencies(channels: int, base: float, device: torch.device | None = None) -> Tensor:
    """Radians per token of each pair of channels, [channels / 2] float32."""
    exponents_R = torch.arange(0, channels, 2, dtype=torch.float32, device=device) / channels
    return 1.0 / base**exponents_R


def scaled_frequencies(frequencies_R: Tensor, scaling: RopeScaling, base: float) -> Tensor:
    """The frequencies of `base` after stretching."""
    return SCALINGS[scaling.kind](frequencies_R, scaling, base)


def tables_of(frequencies_R: Tensor, length: int, factor: float = 1.0) -> tuple[Tensor, Tensor]:
    """cos and signed sin of every position, times `factor`.

    The sine carries the sign of rotate-half, so a rotation is `x * cos + roll(x, R/2) * sin`: two products and a roll.
    """
    angles_TR = torch.arange(length, dtype=torch.float32, device=frequencies_R.device)[:, None] * frequencies_R
    cos_TR, sin_TR = angles_TR.cos() * factor, angles_TR.sin() * factor
    return torch.cat((cos_TR, cos_TR), dim=-1), torch.cat((-sin_TR, sin_TR), dim=-1)


def rotate(x_BTHC: Tensor, cos_BT1R: Tensor, sin_BT1R: Tensor) -> Tensor:
    """Turn channel pair (c, c + R/2) of each head by its position's angle; channels from R on stay as they are."""
    R = cos_BT1R.shape[-1]
    if x_BTHC.shape[-1] > R:
        return torch.cat((rotate(x_BTHC[..., :R], cos_BT1R, sin_BT1R), x_BTHC[..., R:]), dim=-1)
    return torch.addcmul(x_BTHC * cos_BT1R, x_BTHC.roll(R // 2, dims=-1), sin_BT1R)


# -- scalings: frequencies, settings and base in, frequencies out


def _linear(frequencies_R: Tensor, scaling: RopeScaling, base: float) -> Tensor:
    return frequencies_R / scaling.factor


def _unchanged(frequencies_R: Tensor, scaling: RopeScaling, base: float) -> Tensor:
    return frequencies_R


def _llama3(frequencies_R: Tensor, scaling: RopeScaling, base: float) -> Tensor:
    """Slow channels are divided by the factor, fast ones kept, those between blended (Llama 3.1's release)."""
    length, low, high = scaling.original_length, scaling.low_freq_factor, scaling.high_freq_factor
    wavelengths_R = 2 * math.pi / frequencies_R
    slowed_R = torch.where(wavelengths_R > length / low, frequencies_R / scaling.factor, frequencies_R)
    share_R = (length / wavelengths_R - low) / (high - low)
    blended_R = (1 - share_R) * slowed_R / scaling.factor + share_R * slowed_R
    between_R = (wavelengths_R >= length / high) & (wavelengths_R <= length / low)
    return torch.where(between_R, blended_R, slowed_R)


def _yarn(frequencies_R: Tensor, scaling: RopeScaling, base: float) -> Tensor:
    """Channels that turn often keep their frequency, slow ones are divided, with a linear ramp between."""
    half = len(frequencies_R)

    def channel_of(rotations: float) -> float:
        return 2 * half * math.log(scaling.original_length / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = channel_of(scaling.beta_fast), channel_of(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * half - 1)
    high += 0.001 if low == high else 0
    channels_R = torch.arange(half, dtype=torch.float32, device=frequencies_R.device)
    kept_R = 1 - ((channels_R - low) / (high - low)).clamp(0, 1)
    return frequencies_R / scaling.factor * (1 - kept_R) + frequencies_R * kept_R


def _longrope(frequencies_R: Tensor, scaling: RopeScaling, base: float) -> Tensor:
    return frequencies_R / torch.tensor(scaling.short_factor, dtype=torch.float32, device=frequencies_R.device)


SCALINGS: dict[str, Callable[[Tensor, RopeScaling, float], Tensor]] = {
    "linear": _linear, "dynamic": _unchanged, "llama3": _llama3, "yarn": _yarn, "longrope": _longrope,
}  # fmt: skip


def attention_factor(scaling: RopeScaling) -> float:
    """What cosines and sines are multiplied by: given, or the formula of the paper."""
    if scaling.kind not in ("yarn", "longrope") or scaling.attention_factor:
        return scaling.attention_factor or 1.0
    if scaling.kind == "longrope":
        stretched = math.log(scaling.factor) / math.log(scaling.original_length)
        return math.sqrt(1 + stretched) if scaling.factor > 1 else 1.0
    if scaling.mscale and scaling.mscale_all_dim:
        return _mscale(scaling.factor, scaling.mscale) / _mscale(scaling.factor, scaling.mscale_all_dim)
    return _mscale(scaling.factor, 1.0)


def _mscale(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0
