"""What an architecture of `transformers` can do, found by trying: a few tokens through every way of reading them.

Nothing here trusts a list of names. Packed rows and our cache are used only if they give the hidden states of plain
sequences, on a row where the wrong mask would give others; a model that looks ahead is refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from wuya.errors import CheckpointError, UnsupportedModel
from wuya.models.gpt import SHARED
from wuya.models.wrapped_states import States, cache_in, has_lengths

if TYPE_CHECKING:
    from wuya.models.wrapped import TransformersModel, WrappedConfig

CONTEXTS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx",
            "context_length")  # fmt: skip
UNBOUNDED = 2048
"""Tokens of context for a model that states none, as recurrent ones."""
SEGMENTS = [SHARED] * 5 + [0] * 7 + [1] * 6 + [2] * 2 + [-1] * 2
NARROW = 4
"""Sliding windows are made so narrow for the probe that its short rows reach beyond them."""


def probe(model: "TransformersModel") -> "WrappedConfig":
    """The facts of a model, and which ways of reading it takes."""
    from wuya.models.wrapped import WrappedConfig, text_config

    inner: Any = model.inner
    facts = text_config(inner)
    outputs = inner.get_output_embeddings() if model.has_head else None
    inputs = inner.get_input_embeddings()
    rows = min(matrix.weight.shape[0] for matrix in (inputs, outputs) if matrix is not None)
    family = str(inner.config.model_type)
    stated = [getattr(facts, name, None) for name in CONTEXTS]
    context = next((length for length in stated if isinstance(length, int) and length > 0), UNBOUNDED)
    with torch.no_grad(), frozen_randomness():
        generator = torch.Generator().manual_seed(0)
        ids_1T = torch.randint(0, rows, (1, min(len(SEGMENTS), context)), generator=generator).to(model.device)
        hidden_1TD = _first_forward(model, ids_1T, family)
        config = WrappedConfig(vocab_size=rows, context_length=context, model_dim=hidden_1TD.shape[-1],
                               num_layers=int(getattr(facts, "num_hidden_layers", 0)), family=family,
                               num_parameters=sum(parameter.numel() for parameter in inner.parameters()))  # fmt: skip
        model.config = config
        _require_causal(model, ids_1T, hidden_1TD)
        if model.has_head:
            _require_logits(model, ids_1T, hidden_1TD)
        with narrow_windows(facts):
            if ids_1T.shape[1] == len(SEGMENTS) and _packs(model, ids_1T):
                config = model.config = replace(config, packs=True)
                layers = _cache_layers(model, ids_1T)
                if layers and _caches(model, replace(config, cache_layers=layers), ids_1T):
                    config = replace(config, cache_layers=layers)
            if ids_1T.shape[1] == len(SEGMENTS) and not config.cache_layers:
                config = replace(config, own_cache=_own_cache(model, ids_1T))
    return config


def close(left: Tensor, right: Tensor) -> bool:
    """Equal within the rounding of the dtype, relative to the largest number."""
    return error(left, right) <= (1e-4 if left.dtype == torch.float32 else 0.05)


def error(left: Tensor, right: Tensor) -> float:
    """Largest difference, relative to the largest number."""
    scale = right.float().abs().max().clamp(min=1e-12)
    return float((left.float() - right.float()).abs().max() / scale)


def _first_forward(model: "TransformersModel", ids_1T: Tensor, family: str) -> Tensor:
    try:
        return model.plain(ids_1T)
    except Exception as error:  # foreign code raises what it likes
        raise UnsupportedModel(
            f"`{family}` does not run on token ids alone",
            found=f"{type(error).__name__}: {error}"[:200],
            hint="models of text only; packages that its code needs must be installed",
        ) from error


def _require_causal(model: "TransformersModel", ids_1T: Tensor, hidden_1TD: Tensor) -> None:
    short = model.plain(ids_1T[:, :-3])
    if not close(short, hidden_1TD[:, :-3]):
        raise CheckpointError(
            f"`{model.config.family}` is not a causal language model: what a token's state is depends on later tokens",
            found=f"architectures {getattr(model.inner.config, 'architectures', None)}",
            hint="decoders only; an encoder can still be a reward: `wuya ppo --reward FOLDER`",
        )


def _require_logits(model: "TransformersModel", ids_1T: Tensor, hidden_1TD: Tensor) -> None:
    """Hidden states must be all that logits need, and our way from one to the other the model's own."""
    wanted = model.inner(input_ids=ids_1T, use_cache=False).logits.float()
    problem = ""
    try:
        if not close(model.logits(hidden_1TD), wanted):
            problem = "they differ"
    except Exception as problem_found:  # noqa: BLE001 -- any error of foreign code means the same
        problem = f"{type(problem_found).__name__}: {problem_found}"
    if problem:
        raise CheckpointError(
            f"`{model.config.family}` cannot be split into hidden states and logits",
            found=problem[:200],
            hint="this architecture needs support of its own: please open an issue",
        )


def _packs(model: "TransformersModel", ids_1T: Tensor) -> bool:
    segments_1T = torch.tensor([SEGMENTS], device=ids_1T.device)
    positions_1T = torch.tensor([_positions(SEGMENTS)], device=ids_1T.device)
    real_T = segments_1T[0] >= SHARED
    real_T &= segments_1T[0] != -1
    wanted = model.unpacked(ids_1T, segments_1T)[:, real_T]
    with suppress(Exception):
        got = model.packed(ids_1T, positions_1T, segments_1T)[:, real_T]
        blind = model.plain(ids_1T)[:, real_T]  # where even this is close, the comparison says nothing
        return close(got, wanted) and not close(blind, wanted)
    return False


def _positions(segments: list[int]) -> list[int]:
    start = segments.count(SHARED)
    seen: dict[int, int] = {}
    positions = []
    for segment in segments:
        seen[segment] = seen.get(segment, 0) + 1
        positions.append(seen[segment] - 1 + (start if segment >= 0 else 0))
    return positions


def _cache_layers(model: "TransformersModel", ids_1T: Tensor) -> tuple[tuple[int, int, int, int], ...]:
    """Shapes of keys and values in each layer of the model's own cache; empty if it keeps anything else."""
    from transformers.cache_utils import DynamicCache

    with suppress(Exception):
        output = model.trunk(input_ids=ids_1T[:, :3], use_cache=True)
        cache: Any = getattr(output, "cache", None) or output.past_key_values
        if not isinstance(cache, DynamicCache):
            return ()
        shapes = []
        layers: list[Any] = cache.layers
        for layer in layers:
            keys, values = layer.keys, layer.values
            if not keys.shape[2] == values.shape[2] == 3 or hasattr(layer, "conv_states"):
                return ()
            shapes.append((keys.shape[1], keys.shape[3], values.shape[1], values.shape[3]))
        return tuple(shapes)
    return ()


def _caches(model: "TransformersModel", config: "WrappedConfig", ids_1T: Tensor) -> bool:
    """Read all but the last tokens, then one token at a time."""
    wanted = model.plain(ids_1T)
    model.config, before = config, model.config
    rows = _TrialRows()
    last = ids_1T.shape[1]
    with suppress(Exception):
        parts = []
        for start, end in ((0, 4), (4, last - 3), *((place, place + 1) for place in range(last - 3, last))):
            positions_1T = torch.arange(start, end, device=ids_1T.device)[None]
            parts.append(model(ids_1T[:, start:end], positions_BT=positions_1T, cache=rows))
            rows.held = end
        model.config = before
        return close(torch.cat(parts, dim=1), wanted)
    model.config = before
    return False


def _own_cache(model: "TransformersModel", ids_1T: Tensor) -> Literal["", "equal lengths", "any lengths"]:
    """Three rows take steps together, in twos, and in another order."""
    rows = [ids_1T[0, :8], ids_1T[0, 5:13], ids_1T[0, 2:7]]
    with suppress(Exception):
        by_length = has_lengths(cache_in(model.call(input_ids=ids_1T[:, :3], use_cache=True)))
        states = States(by_length=by_length)
        for members in ((0, 1, 2), (0, 1, 2), (2, 0), (0, 2), (1, 0, 2)):
            for index in members:
                rows[index] = torch.cat((rows[index], ids_1T[0, len(rows[index]) :][:1]))
            got = states.step(model, [rows[index] for index in members])[:, 0]
            wanted = torch.cat([model.plain(rows[index][None])[:, -1] for index in members])
            if not close(got, wanted):
                return ""
        return "equal lengths" if by_length else "any lengths"
    return ""


class _TrialRows:
    """The plainest `RowCache`: one row, grown by concatenation."""

    def __init__(self) -> None:
        self.held = 0
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def num_keys(self, new: int) -> int:
        """See `RowCache`."""
        return self.held + new

    def keep(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See `RowCache`."""
        if layer in self._kept:
            old_keys, old_values = self._kept[layer]
            keys, values = torch.cat((old_keys, keys), dim=2), torch.cat((old_values, values), dim=2)
        self._kept[layer] = keys, values
        return keys, values


@contextmanager
def narrow_windows(facts: Any) -> Iterator[None]:
    """Let attention windows be so short that the probe's rows are longer."""
    names = [name for name in ("sliding_window", "attention_chunk_size") if getattr(facts, name, None)]
    before = {name: getattr(facts, name) for name in names}
    for name in names:
        setattr(facts, name, min(NARROW, before[name]))
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(facts, name, value)


@contextmanager
def frozen_randomness() -> Iterator[None]:
    """The probe takes nothing from anybody's random numbers."""
    with torch.random.fork_rng():
        yield
