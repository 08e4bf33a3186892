"""Byte-level byte-pair encoding: train, save, load, encode, decode (Sennrich et al. 2016; bytes as in GPT-2).

Any text round-trips, whatever bytes are in it: nothing is normalised (Qwen2 applies NFC, which rewrites "e" + accent,
so the original could not be restored), and all 256 bytes are tokens. Training and the file format are those of
`tokenizers`.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend
from tokenizers import models, trainers

from wuya.errors import ConfigError, DataError
from wuya.files import write_atomic
from wuya.tokenizer import texts as raw
from wuya.tokenizer.control_tokens import ControlTokens
from wuya.tokenizer.decoding import TokenDecoder
from wuya.tokenizer.foreign import read_backend, read_settings, read_template, token_content
from wuya.tokenizer.pre_tokenizers import (
    PreTokenizerName,
    byte_level_backend,
    make_byte_level,
    special_token,
)
from wuya.tokenizer.prompt_memory import PromptMemory
from wuya.tokenizer.rust_trainer import learned_tokens, merges_of
from wuya.tokenizer.template_facts import TemplateFacts, template_facts
from wuya.tokenizer.templates import CHATML
from wuya.tokenizer.texts import encode_text, without_surrogates
from wuya.tokenizer.tiktoken_twin import BYTE_OF, overflows_tiktoken, proven_twin
from wuya.tokenizer.turn_end import TurnEnd, as_list, decide_turn_end, split_ends

DOCUMENT_END = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
SPECIAL_TOKENS = (DOCUMENT_END, TURN_START, TURN_END)
"""Ids 0, 1 and 2 of every tokenizer we train."""

SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)


class Tokenizer:
    """Text to token ids and back, from one `tokenizer.json`."""

    def __init__(
        self,
        backend: Backend,
        settings: Mapping[str, Any],
        *,
        chat_template: str = "",
        end_ids: Sequence[object] = (),
        template_name: str = "the chat template",
    ) -> None:
        """Args:
        backend: the `tokenizers` object that holds vocabulary and merges.
        settings: what stands in tokenizer_config.json; names the end, padding and beginning tokens.
        chat_template: Jinja source; empty when the model has none.
        end_ids: further tokens that end an answer, as the model's files name them.
        template_name: what messages call the template.
        """
        self._backend = backend
        self._backend.encode_special_tokens = True  # specials in a text are text; we place the real ones ourselves
        self._settings = dict(settings)
        self.prompts = PromptMemory()
        self.chat_template, self.template_name, self._end_ids = chat_template, template_name, tuple(end_ids)
        self._added = dict(sorted(backend.get_added_tokens_decoder().items()))
        self._special = {token.content: id for id, token in self._added.items() if token.special}
        self.vocab_size: int = raw.vocabulary_size(backend.get_vocab(with_added_tokens=True))
        self.eos_token: str = self._named("eos_token", (TURN_END, DOCUMENT_END, "<|end_of_text|>", "</s>"))
        self.document_end_token: str = self._first((DOCUMENT_END, "<|end_of_text|>", "</s>")) or self.eos_token
        self.pad_token: str = self._named("pad_token", (self.document_end_token,))
        self.bos_token: str | None = token_content(self._settings.get("bos_token"))
        self.eos_id = self._id(self.eos_token)
        self.document_end_id = self._id(self.document_end_token)
        self.pad_id = self._id(self.pad_token)
        self.bos_id: int | None = self._id(self.bos_token) if self.bos_token else None
        self._twin = proven_twin(backend, self.control_ids)

    # -- places

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """Read a folder with tokenizer.json (and tokenizer_config.json, chat_template.jinja), or that file itself."""
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        backend = read_backend(file)
        settings = read_settings(file.with_name("tokenizer_config.json"))
        template, place = read_template(file.with_name("chat_template.jinja"), settings)
        generation = read_settings(file.with_name("generation_config.json"))
        return cls(
            backend, settings, chat_template=template, end_ids=as_list(generation.get("eos_token_id")),
            template_name=f"the chat template in `{place}`",
        )  # fmt: skip

    @classmethod
    def from_parts(
        cls,
        vocab: dict[str, int],
        merges: Sequence[tuple[str, str]],
        *,
        pre_tokenizer: PreTokenizerName,
        special_tokens: Mapping[str, int],
        eos_token: str,
        pad_token: str,
        bos_token: str | None = None,
        chat_template: str = "",
        added_tokens: Mapping[str, int] | None = None,
        end_ids: Sequence[object] = (),
        template_name: str = "the chat template",
    ) -> "Tokenizer":
        """Build a byte-level BPE tokenizer of a known family.

        Args:
            vocab: token (spelled in GPT-2's byte characters) -> id, specials included or not.
            merges: pairs of tokens in the order they were learned.
            pre_tokenizer: GGUF's `tokenizer.ggml.pre`.
            special_tokens: control token -> id.
            added_tokens: user-defined token -> id: found whole in every text, not cut by the pre-tokenizer.
        """
        backend = byte_level_backend(vocab, merges, pre_tokenizer, special_tokens, added_tokens or {})
        settings = {"eos_token": eos_token, "pad_token": pad_token, "bos_token": bos_token}
        return cls(backend, settings, chat_template=chat_template, end_ids=end_ids, template_name=template_name)

    def save(self, folder: Path | str) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which transformers, vLLM and llama.cpp read."""
        folder = Path(folder)
        settings: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",  # the generic class: takes tokenizer.json as it is
            "clean_up_tokenization_spaces": False,
            **self._settings,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "pad_token": self.pad_token,
        }
        settings.pop("chat_template", None)
        if self.chat_template:
            settings["chat_template"] = self.chat_template
        write_atomic(folder / "tokenizer.json", self._backend.to_str(pretty=True) + "\n")
        write_atomic(folder / "tokenizer_config.json", json.dumps(settings, indent=2, ensure_ascii=False) + "\n")

    def to_json(self) -> str:
        """What stands in tokenizer.json."""
        return str(self._backend.to_str())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as text, so that worker processes can have a copy."""
        return _unpickle, (self._backend.to_str(), self._settings, self._parts)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary, merges and rules: equal means equal ids for every text."""
        return sha256(self._backend.to_str().encode()).hexdigest()

    # -- text to ids

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Token ids of a text.

        Args:
            allow_special: read `<|im_end|>` and the like as control tokens. Never for text a person typed: without it
                they are ordinary characters, so nobody can end a turn or open a system message by typing it.
        """
        return self.encode_rendered(text) if allow_special else self._encode_plain(text)

    def encode_document(self, text: str) -> list[int]:
        """Token ids of a text that stands alone, as `transformers` gives them: with the frame, a BOS token mostly."""
        return [*self.frame[0], *self._encode_plain(text), *self.frame[1]]

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """What the tokenizer's post-processor puts before and behind a text; templates write theirs themselves."""
        return raw.frame_of(self._backend)

    @property
    def document_start(self) -> list[int]:
        """What a raw text is read after: the tokenizer's own beginning, else the end of another document."""
        return self.frame[0] or [self.document_end_id]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts (specials are text), on all cores."""
        texts = [without_surrogates(text) for text in texts]
        if self._twin is not None and not any(overflows_tiktoken(text) for text in texts):
            return self._twin.encode_ordinary_batch(texts)
        if self._control.needs_marks:
            return self._control.encode_batch(texts)
        return [encoding.ids for encoding in self._backend.encode_batch(texts, add_special_tokens=False)]

    def encode_bytes(self, data: bytes) -> list[int]:
        """Token ids of any bytes, UTF-8 or not: what is no character is spelled byte by byte."""
        pieces = raw.stray_bytes(data)
        found = [self._encode_plain(p) if isinstance(p, str) else [self._byte_id(p)] for p in pieces]
        return [id for ids in found for id in ids]

    def encode_rendered(self, text: str, show: Callable[[str], str] = str) -> list[int]:
        """Token ids of a text whose control tokens count, as `transformers` gives them.

        Args:
            show: puts back what was hidden in the text before (see `Shield`), which is plain text.
        """
        if self._twin is None and self._control.needs_marks:
            return self._control.encode(without_surrogates(show(self._control.marked(text))))
        ids: list[int] = []
        for piece in self.split_special(text):
            ids += [piece] if isinstance(piece, int) else self._encode_plain(show(piece))
        return ids

    def split_special(self, text: str) -> list[str | int]:
        """Cut at control tokens: strings between them, ids for them; no empty strings."""
        return self._control.split(text)

    def control_places(self, text: str) -> Iterator[tuple[int, int, int]]:
        """(start, stop, id) of the control tokens in a text."""
        return self._control.places(text)

    def _encode_plain(self, text: str) -> list[int]:
        text = without_surrogates(text)
        if self._twin is not None and not overflows_tiktoken(text):
            return self._twin.encode_ordinary(text)
        if self._control.needs_marks:
            return self._control.encode(text)
        return encode_text(self._backend, text)

    # -- ids to text

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Text of token ids; bytes that are not UTF-8 become U+FFFD."""
        return self._decoder.text(ids, self.special_ids.values() if skip_special else ())

    def decode_bytes(self, ids: Iterable[int], *, skip_special: bool = False) -> bytes:
        """The exact bytes of token ids. Ids without a token (models pad their vocabulary) give nothing."""
        return self._decoder.bytes(ids, self.special_ids.values() if skip_special else ())

    def decode_stream(self, ids: Iterable[int], *, skip_special: bool = True) -> Iterator[str]:
        """`decode` as tokens arrive: characters that span tokens appear once they are whole."""
        return self._decoder.stream(ids, self.special_ids.values() if skip_special else ())

    @property
    def skips_first_space(self) -> bool:
        """A text begins without the space that its first token spells (SentencePiece)."""
        return self._decoder.skips_first_space

    @cached_property
    def token_bytes(self) -> NDArray[np.int32]:
        """Length in bytes of each token, [vocab_size]; 0 for specials, which are no text (for bits per byte)."""
        lengths = np.array([len(token) for token in self._decoder.table], dtype=np.int32)
        lengths[list(self.special_ids.values())] = 0
        return lengths

    def _byte_id(self, byte: int) -> int:
        if (id := self._id_of_byte.get(byte)) is None:
            raise DataError(f"the vocabulary has no token for the byte 0x{byte:02x}")
        return id

    @cached_property
    def _id_of_byte(self) -> dict[int, int]:
        return {data[0]: id for id, data in enumerate(self._decoder.table) if len(data) == 1}

    @cached_property
    def _decoder(self) -> TokenDecoder:
        return TokenDecoder(self._backend, self.vocab_size)

    # -- special tokens

    @cached_property
    def template_facts(self) -> TemplateFacts:
        """What the chat template does, found by rendering probe chats; nothing is known of a tokenizer without one."""
        if not self.chat_template:
            return TemplateFacts(refused="there is none")
        return template_facts(self.chat_template, self.template_variables, [t.content for t in self._added.values()])

    @property
    def system_prompt(self) -> str:
        """The system message that the chat template writes into chats without one; empty where it writes none."""
        return self.template_facts.default_system

    def with_template(self, chat_template: str) -> "Tokenizer":
        """The same tokenizer with another chat template."""
        return Tokenizer(self._backend, self._settings, **{**self._parts, "chat_template": chat_template})

    @property
    def _parts(self) -> dict[str, Any]:
        name = self.template_name
        return {"chat_template": self.chat_template, "end_ids": self._end_ids, "template_name": name}

    @property
    def template_variables(self) -> dict[str, str]:
        """The special tokens that templates may write, by name."""
        named = {name: token_content(token) for name, token in self._settings.items() if name.endswith("_token")}
        named |= {"bos_token": self.bos_token, "eos_token": self.eos_token, "pad_token": self.pad_token}
        return {name: token for name, token in named.items() if token is not None}

    @cached_property
    def turn_end(self) -> TurnEnd:
        """The tokens that end an answer."""
        added = {token.content: id for id, token in self._added.items()}
        others = [*split_ends(self._end_ids, self.vocab_size)[0], self.document_end_id]
        return decide_turn_end(self.template_facts, added, self.eos_id, others)

    @property
    def unknown_ends(self) -> list[object]:
        """Ends of an answer in the model's files that are no tokens: ids outside the vocabulary, or no ids at all."""
        return split_ends(self._end_ids, self.vocab_size)[1]

    @cached_property
    def special_ids(self) -> dict[str, int]:
        """Tokens that are no text: those flagged `special`, and those that end an answer. Spelling -> id."""
        ends = set(self.turn_end.ids)
        return self._special | {token.content: id for id, token in self._added.items() if id in ends}

    @cached_property
    def control_ids(self) -> dict[str, int]:
        """Tokens that no text a person wrote becomes: the special ones, and whatever the chat template writes."""
        written = self.template_facts.control
        return self.special_ids | {token.content: id for id, token in self._added.items() if token.content in written}

    @cached_property
    def _control(self) -> ControlTokens:
        return ControlTokens(self._backend, self.control_ids)

    def _named(self, setting: str, fallbacks: Sequence[str]) -> str:
        token = token_content(self._settings.get(setting))
        if token is None or self._backend.token_to_id(token) is None:
            token = self._first(fallbacks)
        if token is None:
            raise DataError(
                f"the tokenizer has no {setting}",
                found=", ".join(self._special) or "no special tokens",
                hint=f"name it in tokenizer_config.json as `{setting}`",
            )
        return token

    def _first(self, tokens: Sequence[str]) -> str | None:
        return next((token for token in tokens if self._backend.token_to_id(token) is not None), None)

    def _id(self, token: str) -> int:
        id = self._backend.token_to_id(token)
        if id is None:
            raise DataError(f"the tokenizer has no token `{token}`", found="named in tokenizer_config.json only")
        return id


TrainerName = Literal["tokenizers", "rustbpe"]


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, trainer: TrainerName = "tokenizers") -> Tokenizer:
    """Learn byte-level BPE with Qwen2's pre-tokenizer; the same texts and trainer always give the same file.

    Args:
        texts: documents; read once, only counts of their pieces are kept in memory.
        vocab_size: tokens to learn, with the 256 bytes and 3 specials. Little text may not hold that many pairs: the
            result's `vocab_size` is what was found.
        trainer: who counts and merges; see `rust_trainer`.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise ConfigError(
            f"vocab_size must be at least {SMALLEST_VOCABULARY}: 256 bytes and {len(SPECIAL_TOKENS)} special tokens",
            found=str(vocab_size),
        )
    if trainer == "rustbpe":
        return _from_tokens(learned_tokens(raw.training_pieces(texts), vocab_size - len(SPECIAL_TOKENS)))
    backend = Backend(models.BPE())
    make_byte_level(backend, "qwen2")
    learner = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=1, special_tokens=[special_token(token) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(BYTE_OF), show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator(raw.training_pieces(texts), learner)
    return Tokenizer(backend, {"eos_token": TURN_END, "pad_token": DOCUMENT_END}, chat_template=CHATML)


def _from_tokens(tokens: list[bytes]) -> Tokenizer:
    """Ids as `tokenizers` gives them: specials, bytes in the order of their characters, merges as learned."""
    character_of = {byte: character for character, byte in BYTE_OF.items()}

    def spelled(data: bytes) -> str:
        return "".join(character_of[byte] for byte in data)

    ordered = [*SPECIAL_TOKENS, *sorted(BYTE_OF), *map(spelled, tokens[256:])]
    return Tokenizer.from_parts(
        {token: id for id, token in enumerate(ordered)},
        [(spelled(left), spelled(right)) for left, right in merges_of(tokens)],
        pre_tokenizer="qwen2", special_tokens={token: id for id, token in enumerate(SPECIAL_TOKENS)},
        eos_token=TURN_END, pad_token=DOCUMENT_END, chat_template=CHATML,
    )  # fmt: skip


def _unpickle(spec: str, settings: dict[str, Any], parts: dict[str, Any]) -> Tokenizer:
    return Tokenizer(Backend.from_str(spec), settings, **parts)
