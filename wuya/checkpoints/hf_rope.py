"""Rotary positions as config.json spells them: `rope_theta`, `rope_scaling`, `rope_parameters` to our fields and back.

transformers 4 writes the first two, transformers 5 the third, by layer type where there are several kinds; published
files hold any mixture. As there, `rope_scaling` wins over `rope_parameters`.
"""

from dataclasses import dataclass
from typing import Any, Literal, cast

from wuya.checkpoints.hf_fields import Fields, as_number
from wuya.errors import CheckpointError, UnsupportedModel
from wuya.models.config import GPTConfig, RopeScaling

Kind = Literal["linear", "dynamic", "yarn", "llama3", "longrope"]
KEYS: dict[str, set[str]] = {
    "default": set(),
    "linear": {"factor"},
    "dynamic": {"factor"},
    "yarn": {"factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor"},
    "longrope": {"factor", "attention_factor", "short_factor", "long_factor"},
}
"""What each kind of scaling reads, besides `ALWAYS`."""
ALWAYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings"}


@dataclass(frozen=True, slots=True)
class Rope:
    """What a config.json says of rotary positions."""

    base: float
    scaling: RopeScaling | None
    context_length: int
    fraction: float
    """Share of each head's channels that turn."""


def read_rope(fields: Fields, *, default_base: float = 10_000.0, family: str = "") -> Rope:
    """The one set of rotary positions of a family that has no others."""
    settings = fields.get("rope_scaling") or fields.get("rope_parameters") or {}
    fields.raw("rope_parameters")
    if not isinstance(settings, dict):
        raise CheckpointError("`rope_parameters` in config.json is no object", found=str(settings)[:80])
    declared = fields.get("rope_theta", default_base)
    base = as_number("rope_theta", settings.get("rope_theta") or declared)
    return rope_of(fields, dict(settings), base=base, family=family)


def rope_of(fields: Fields, settings: dict[str, Any], *, base: float, family: str = "") -> Rope:
    """Rotary positions from one dict of settings; any setting its kind does not have is refused."""
    length = fields.context("max_position_embeddings")
    kind = settings.get("rope_type") or settings.get("type") or "default"
    if family == "phi3" and kind in ("su", "yarn"):  # earlier names
        kind = "longrope"
    if not isinstance(kind, str) or kind not in (("default", "longrope") if family == "phi3" else KEYS):
        raise UnsupportedModel(
            "this kind of rescaled rotary positions is not supported",
            found=f"rope_type {kind!r}",
            hint=f"supported: {', '.join(KEYS)}",
        )
    for key, value in settings.items():
        if key not in KEYS[kind] | ALWAYS and value:
            raise CheckpointError(
                f"rotary positions of the kind `{kind}` have no setting `{key}`", found=f"{key}: {str(value)[:80]}"
            )
    partial = 1.0
    if family == "phi3":
        partial = fields.get("partial_rotary_factor", 1.0)
        fields.raw("original_max_position_embeddings")
    fraction = settings.get("partial_rotary_factor") or partial
    if fraction != 1.0 and family != "phi3":
        raise CheckpointError(  # not UnsupportedModel: transformers reads the field here and then turns all channels
            "`partial_rotary_factor` is not supported for this family", found=repr(fraction)
        )
    if kind == "default":
        return Rope(base, None, length, float(fraction))
    scaling = read_scaling(fields, settings, cast(Kind, kind), length, family)
    if kind == "longrope":  # longer sequences would need the other set of factors, for the tokens before them as well
        length = min(length, scaling.original_length)
    return Rope(base, scaling, length, float(fraction))


def read_scaling(fields: Fields, settings: dict[str, Any], kind: Kind, length: int, family: str) -> RopeScaling:
    """The settings of one kind, with the defaults of `transformers`."""

    def number(key: str, default: float | None = None) -> float:
        if (value := settings.get(key)) is None:
            value = default
        if value is None:
            raise CheckpointError(f"rotary positions of the kind `{kind}` need `{key}`", found=str(sorted(settings)))
        return as_number(key, value)

    original = int(number("original_max_position_embeddings", length))
    if family == "phi3":  # its own field goes first, as in its class
        original = fields.size("original_max_position_embeddings", 4096)
    if kind == "dynamic" and original != length:
        raise CheckpointError(
            "`original_max_position_embeddings` of dynamic rotary positions is not the model's context",
            found=f"{original} and {length}",
        )
    factor = number("factor", length / original if kind == "longrope" else None)
    if factor <= 0 or original < 1:
        raise CheckpointError("rotary positions are stretched by a positive factor", found=f"{factor}, from {original}")
    scaling = RopeScaling(
        kind=kind, factor=factor, original_length=original, attention_factor=number("attention_factor", 0.0),
        beta_fast=settings.get("beta_fast") or 32.0, beta_slow=settings.get("beta_slow") or 1.0,
        mscale=number("mscale", 0.0), mscale_all_dim=number("mscale_all_dim", 0.0),
        truncate=bool(settings.get("truncate", True)),
        low_freq_factor=number("low_freq_factor", None if kind == "llama3" else 1.0),
        high_freq_factor=number("high_freq_factor", None if kind == "llama3" else 4.0),
        short_factor=_factors(settings, "short_factor", kind), long_factor=_factors(settings, "long_factor", kind),
    )  # fmt: skip
    return scaling


def _factors(settings: dict[str, Any], key: str, kind: str) -> tuple[float, ...]:
    values = settings.get(key)
    if kind == "longrope" and (not isinstance(values, list) or not values):
        raise CheckpointError(f"rotary positions of the kind `longrope` need a list `{key}`", found=repr(values))
    return tuple(as_number(key, value) for value in values or ())


def write_rope(config: GPTConfig, family: str) -> dict[str, Any]:
    """The fields of config.json, for transformers 4 (the first two) and 5."""
    theta, fraction = config.rope_base, config.turned_channels / config.head_dim
    partial = {"partial_rotary_factor": fraction} if family == "phi3" else {}
    settings = write_scaling(config.rope_scaling)
    hf: dict[str, Any] = {
        "rope_theta": theta,
        **partial,
        "rope_parameters": {"rope_theta": theta, **partial, **settings},
    }
    if config.rope_scaling is not None:
        hf["rope_scaling"] = {**settings, **partial}
    if family == "phi3":
        scaling = config.rope_scaling
        hf["original_max_position_embeddings"] = scaling.original_length if scaling else config.context_length
    return hf


def declared_length(config: GPTConfig) -> int:
    """`max_position_embeddings`: the context that the model was stretched to, of which longrope offers less here."""
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "longrope":
        return config.context_length
    return max(config.context_length, round(scaling.original_length * scaling.factor))


def write_scaling(scaling: RopeScaling | None) -> dict[str, Any]:
    """One dict of settings, without what its kind does not read."""
    if scaling is None:
        return {"rope_type": "default"}
    hf: dict[str, Any] = {"rope_type": scaling.kind}
    for key in sorted(KEYS[scaling.kind]):
        value = getattr(scaling, key)
        if value or key == "truncate":
            hf[key] = list(value) if isinstance(value, tuple) else value
    if scaling.kind != "dynamic" and scaling.kind != "linear":
        hf["original_max_position_embeddings"] = scaling.original_length
    return hf
