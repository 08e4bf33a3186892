"""Any causal language model of `transformers` behind the interface of `GPT`: ids in, hidden states out, then logits.

    model = TransformersModel(AutoModelForCausalLM.from_pretrained(folder))
    hidden_BTD = model(ids_BT)                    # right padding needs no mask: nothing looks ahead
    logits_BTV = model.logits(hidden_BTD)         # with the scales and caps of the model's own forward

Families that `checkpoints/pretrained.py` knows run on our decoder; everything else runs on its own code, in here. A
probe compares on load what the architecture does with what we need (`wrapped_probe.py`): where it takes a mask and
positions for each token, packed rows and shared prompts go through it as they are; else every sequence becomes a row
of its own, which is slower and gives the same numbers. Recurrent models work this way.
Dimension key: B sequences, T tokens, S keys, D model width, V vocabulary, N wanted positions.
"""

import copy
import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import noop_context_fn

from wuya.errors import CheckpointError, DataError
from wuya.models.gpt import SHARED, RecomputeContexts, segment_mask
from wuya.models.wrapped_states import States

DROPOUTS = ("dropout", "attention_dropout", "hidden_dropout", "activation_dropout", "dropout_p", "resid_pdrop",
            "attn_pdrop", "embd_pdrop", "attn_dropout_p", "resid_dropout", "hidden_dropout_prob")  # fmt: skip
"""Attributes that hold a probability where a module does not use `nn.Dropout`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedConfig:
    """The facts about a wrapped model that recipes and engines ask for; its own config.json holds the rest."""

    vocab_size: int
    """Rows of the output matrix; ids are 0 .. vocab_size - 1."""
    context_length: int
    """Tokens the model was made for."""
    model_dim: int
    """Width of the final hidden states."""
    num_layers: int
    """Blocks."""
    num_parameters: int
    """Every parameter; tied ones count once."""
    family: str
    """`model_type` of its config.json."""
    packs: bool = False
    """Takes a mask and a position for each token, so that several sequences share a row."""
    cache_layers: tuple[tuple[int, int, int, int], ...] = ()
    """Heads and channels of keys and of values in each layer; empty: its state is no list of keys and values."""
    own_cache: Literal["", "equal lengths", "any lengths"] = ""
    """Where ours does not fit: which rows can share a cache of the model's own; empty: none, every step reads all."""
    softcap: float = 0.0
    """Always 0 here: the model's own forward caps its logits."""

    @property
    def cache_width(self) -> int:
        """Numbers that the keys (or the values, whichever is more) of one token take in all layers."""
        keys = sum(heads * channels for heads, channels, _, _ in self.cache_layers)
        values = sum(heads * channels for _, _, heads, channels in self.cache_layers)
        return max(keys, values)


class RowCache(Protocol):
    """What a wrapped model asks of a cache whose rows hold keys and values (see inference/caches.py)."""

    def num_keys(self, new: int) -> int:
        """Tokens that a forward of `new` tokens per row may see, padding included; key s stands at position s."""
        ...

    def keep(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens' keys and values, [B, heads, T, channels]; returns those of all tokens, S long."""
        ...


class ReplayedCache(Protocol):
    """A cache that holds the tokens themselves: forwards read the rows from their beginning, but for known states."""

    states: States | None
    """States of the model's own cache, found by the tokens they were made from."""

    def replay(self, ids_BT: Tensor) -> Tensor:
        """Store these tokens; returns the ids of the rows from their beginning, [B, S], padded on the right."""
        ...


class TransformersModel(nn.Module):
    """A causal model of `transformers`. Its inner model stays in eval mode while dropout is 0, so nothing is random."""

    config: WrappedConfig

    def __init__(self, inner: nn.Module) -> None:
        """
        Args:
            inner: an `AutoModelForCausalLM`, or a bare `AutoModel` for a reward model's trunk, which has no logits.
        """
        super().__init__()
        self.inner = inner
        self._trunk_name = _trunk_name(inner)
        self.arguments = set(inspect.signature(self.trunk.forward).parameters)
        self._dropout = 0.0
        self._checkpointing = False
        self.recompute_contexts: RecomputeContexts = noop_context_fn
        set_probabilities(inner, 0.0)
        inner.eval()
        from wuya.models.wrapped_probe import probe  # it runs the model, so it needs what is above

        self.config = probe(self)

    @property
    def trunk(self) -> nn.Module:
        """The part of the inner model that gives hidden states."""
        return self.inner.get_submodule(self._trunk_name)  # the empty name: itself

    @property
    def has_head(self) -> bool:
        """True for a language model, False for a bare trunk."""
        return bool(self._trunk_name)

    def forward(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        cache: Any = None,
        wanted_BT: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states after the last norm; the arguments are those of `GPT.forward`."""
        if ids_BT.shape[1] > self.config.context_length:
            raise DataError(
                "a sequence is longer than the model's context",
                found=f"{ids_BT.shape[1]} tokens, context_length {self.config.context_length}",
            )
        if cache is not None:
            assert positions_BT is not None and segments_BT is None, "a cache needs positions, no segments"
            hidden_BTD = self._cached(ids_BT, positions_BT, cache)
        elif segments_BT is None:
            hidden_BTD = self.plain(ids_BT)
        elif self.config.packs:
            assert positions_BT is not None, "packed rows need positions"
            hidden_BTD = self.packed(ids_BT, positions_BT, segments_BT)
        else:
            hidden_BTD = self.unpacked(ids_BT, segments_BT)
        return hidden_BTD if wanted_BT is None else hidden_BTD[wanted_BT]

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits, float32 [..., V], of hidden states [..., D]: what its forward does after the trunk."""
        if not self.has_head:
            raise CheckpointError("this model is a trunk without an output matrix: it has no logits")
        head = copy.copy(self.inner)
        head.__dict__["_modules"] = {**self.inner._modules, self._trunk_name: _Echo(self.trunk)}
        flat_1ND = hidden.reshape(1, -1, hidden.shape[-1])
        logits_1NV: Tensor = head(inputs_embeds=flat_1ND, use_cache=False).logits
        return logits_1NV.view(*hidden.shape[:-1], -1).float()

    # -- ways to read a row

    def plain(self, ids_BT: Tensor) -> Tensor:
        """Hidden states of one sequence per row."""
        return self.run(input_ids=ids_BT)

    def packed(self, ids_BT: Tensor, positions_BT: Tensor, segments_BT: Tensor) -> Tensor:
        """Hidden states of rows that hold several sequences, through a mask."""
        seen_B1TT = segment_mask(segments_BT)
        masks = self._masks(seen_B1TT, positions_BT, positions_BT)
        return self.run(input_ids=ids_BT, attention_mask=masks, position_ids=positions_BT)

    def unpacked(self, ids_BT: Tensor, segments_BT: Tensor) -> Tensor:
        """The same with every sequence in a row of its own, behind a copy of its prompt where that is shared."""
        sequences = _sequences(segments_BT)
        width = max(len(columns) for _, columns in sequences)
        padded_NT = torch.zeros(len(sequences), width, dtype=torch.int64)
        index_BT = torch.zeros(segments_BT.shape, dtype=torch.int64)
        for number, (row, columns) in enumerate(sequences):
            padded_NT[number, : len(columns)] = ids_BT[row, columns].cpu()
            index_BT[row, columns] = number * width + torch.arange(len(columns))  # of a shared prompt the last copy
        hidden_NTD = self.plain(padded_NT.to(ids_BT.device))
        return hidden_NTD.flatten(0, 1)[index_BT.to(ids_BT.device)]

    def _cached(self, ids_BT: Tensor, positions_BT: Tensor, cache: Any) -> Tensor:
        if not self.config.cache_layers:
            ids_BS = cache.replay(ids_BT)
            if cache.states is not None and ids_BT.shape[1] == 1 and bool(positions_BT.min() > 0):
                rows = zip(ids_BS, positions_BT[:, 0].tolist(), strict=True)
                stepped_B1D: Tensor = cache.states.step(self, [ids_S[: last + 1] for ids_S, last in rows])
                return stepped_B1D
            hidden_BSD = self.plain(ids_BS)
            return hidden_BSD[torch.arange(len(ids_BS), device=ids_BS.device)[:, None], positions_BT]
        from wuya.models.wrapped_cache import bridge

        key_S = torch.arange(cache.num_keys(ids_BT.shape[1]), device=ids_BT.device)
        seen_B1TS = (key_S <= positions_BT[:, :, None])[:, None]
        masks = self._masks(seen_B1TS, positions_BT, key_S.expand(len(ids_BT), -1))
        name = "cache" if "cache" in self.arguments else "past_key_values"
        return self.run(input_ids=ids_BT, attention_mask=masks, position_ids=positions_BT, use_cache=True,
                        **{name: bridge(cache, len(self.config.cache_layers), new=ids_BT.shape[1])})  # fmt: skip

    def run(self, **arguments: Any) -> Tensor:
        """Hidden states of one forward of the trunk."""
        output = self.call(**arguments)
        hidden_BTD: Tensor = output.last_hidden_state if hasattr(output, "last_hidden_state") else output[0]
        return hidden_BTD

    def call(self, **arguments: Any) -> Any:
        """One forward of the trunk."""
        with self._mode():
            return self.trunk(**{"use_cache": False, "return_dict": True, **arguments})

    def _masks(self, seen_B1TS: Tensor, query_BT: Tensor, key_BS: Tensor) -> Any:
        """What the architecture takes as attention mask: one, or one for each kind of layer it has."""
        facts = text_config(self.inner)
        distance_B1TS = (query_BT[:, :, None] - key_BS[:, None])[:, None]
        kinds = {"full_attention": seen_B1TS}
        if window := getattr(facts, "sliding_window", None):
            kinds["sliding_attention"] = seen_B1TS & (distance_B1TS < window)
        if chunk := getattr(facts, "attention_chunk_size", None):
            same_BTS = query_BT[:, :, None] // chunk == key_BS[:, None] // chunk
            kinds["chunked_attention"] = seen_B1TS & same_BTS[:, None]
        if getattr(facts, "_attn_implementation", "sdpa") != "sdpa":  # eager attention adds its mask to the scores
            lowest = torch.finfo(self.dtype).min
            kinds = {kind: torch.zeros_like(seen, dtype=self.dtype).masked_fill_(~seen, lowest)
                     for kind, seen in kinds.items()}  # fmt: skip
        used = set(getattr(facts, "layer_types", None) or ())
        if len(used & set(kinds)) > 1 or (len(used) == 1 and takes_several_masks(self.trunk)):
            return kinds
        windowed = "sliding_attention" in kinds and used <= {"sliding_attention"}
        return kinds["sliding_attention" if windowed else "full_attention"]

    # -- modes

    @property
    def activation_checkpointing(self) -> bool:
        """Recompute each block in the backward pass."""
        return self._checkpointing

    @activation_checkpointing.setter
    def activation_checkpointing(self, on: bool) -> None:
        if on and not getattr(self.inner, "supports_gradient_checkpointing", False):
            raise CheckpointError(
                f"`{self.config.family}` cannot recompute its blocks in the backward pass",
                hint="leave `activation_checkpointing` off and lower the microbatch",
            )
        if on or self._checkpointing:
            new = hasattr(self.inner, "activation_checkpointing_enable")  # its name since transformers 5
            name = f"{'activation' if new else 'gradient'}_checkpointing_{'enable' if on else 'disable'}"
            getattr(self.inner, name)(
                *([{"use_reentrant": False, "context_fn": self._recompute_contexts}] if on else [])
            )
        self._checkpointing = on

    def set_dropout(self, dropout: float) -> None:
        """Dropout while training, everywhere the architecture has one; never part of the saved model."""
        self._dropout = dropout
        set_probabilities(self.inner, dropout)

    def train(self, mode: bool = True) -> "TransformersModel":
        """The inner model follows for a forward pass only, and only where it changes something: see `_mode`."""
        self.training = mode
        return self

    @contextmanager
    def _mode(self) -> Iterator[None]:
        """Training mode for one forward if there is dropout, or blocks to recompute: other randomness stays off."""
        if self._dropped or (self._checkpointing and torch.is_grad_enabled()):
            with self._inner_trains(self._dropped):
                yield
        else:
            yield

    @property
    def _dropped(self) -> float:
        return self._dropout if self.training else 0.0

    @contextmanager
    def _inner_trains(self, dropout: float) -> Iterator[None]:
        self.inner.train()
        if dropout != self._dropout:
            set_probabilities(self.inner, dropout)
        try:
            yield
        finally:
            self.inner.eval()
            if dropout != self._dropout:
                set_probabilities(self.inner, self._dropout)

    def _recompute_contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """A block is computed again with the dropout and the adapter of its first time (see `GPT`)."""
        first, again = self.recompute_contexts()
        return first, _both(self._inner_trains(self._dropped), again)

    # -- facts

    @property
    def output_matrix(self) -> Tensor | None:
        """The matrix whose product with a hidden state is its logits; None where logits need more than that."""
        return None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.inner.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are stored in."""
        return next(parameter.dtype for parameter in self.inner.parameters() if parameter.is_floating_point())


@contextmanager
def _both(first: AbstractContextManager[Any], second: AbstractContextManager[Any]) -> Iterator[None]:
    with first, second:
        yield


class _Echo(nn.Module):
    """Stands in for a trunk whose hidden states are known: it returns them; its settings are the trunk's."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.__dict__["_of"] = trunk  # no submodule: its parameters stay the trunk's

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> "_Output":
        return _Output(inputs_embeds)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.__dict__["_of"], name)
        return self if hasattr(value, "base_model_prefix") else value  # a decoder inside the trunk (OPT)


class _Output:
    """A model output of which only the hidden states exist; every other field is None."""

    def __init__(self, hidden_BTD: Tensor) -> None:
        self.last_hidden_state = hidden_BTD

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)

    def __getitem__(self, index: int | slice) -> Any:
        return (self.last_hidden_state,)[index]


def _trunk_name(inner: nn.Module) -> str:
    """Attribute of a language model that gives its hidden states; empty for a bare trunk."""
    prefix = getattr(inner, "base_model_prefix", "")
    if prefix and hasattr(inner, prefix):
        return str(prefix)
    if inner.get_output_embeddings() is None:  # type: ignore[operator]
        return ""
    inside = [name for name, child in inner.named_children() if hasattr(child, "base_model_prefix")]
    if len(inside) != 1:
        raise CheckpointError(
            f"`{type(inner).__name__}` has no single part that gives hidden states",
            found=", ".join(inside) or "no part of it is a model",
        )
    return inside[0]


def _sequences(segments_BT: Tensor) -> list[tuple[int, Tensor]]:
    """(row, its columns) of every sequence: a segment behind the shared tokens of its row; padding is left out."""
    sequences = []
    for row, segments_T in enumerate(segments_BT.cpu()):
        shared = (segments_T == SHARED).nonzero().squeeze(1)
        own = [int(segment) for segment in segments_T.unique() if segment >= 0]
        for segment in own:
            sequences.append((row, torch.cat((shared, (segments_T == segment).nonzero().squeeze(1)))))
        if not own and len(shared):
            sequences.append((row, shared))
    return sequences


def text_config(model: nn.Module) -> Any:
    """The part of a config that describes the decoder, also in a model that sees pictures."""
    config: Any = model.config
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def takes_several_masks(trunk: nn.Module) -> bool:
    """Whether a trunk's forward looks for a mask for each kind of layer."""
    source = inspect.getsource(inspect.unwrap(type(trunk).forward))
    return "attention_mask, dict)" in source


def set_probabilities(model: Any, dropout: float) -> None:
    """Set every dropout of a model of `transformers`; layers are never dropped as a whole."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        for name in DROPOUTS:
            if isinstance(module.__dict__.get(name), float):
                setattr(module, name, dropout)
        if isinstance(module.__dict__.get("layerdrop"), float):
            module.layerdrop = 0.0
