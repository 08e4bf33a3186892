"""Byte-level byte-pair encoding: train, save, load, encode, decode (Sennrich et al. 2016; bytes as in GPT-2).

Any text round-trips, whatever bytes are in it: nothing is normalised (Qwen2 applies NFC, which rewrites "e" + accent,
so the original could not be restored), and all 256 bytes are tokens. Training and the file format are those of
`tokenizers`.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, decoders, models, processors, trainers
from tokenizers import Tokenizer as Backend

from wuya.errors import ConfigError, DataError
from wuya.files import write_atomic
from wuya.tokenizer.foreign import foreign_bytes, read_settings, read_template, token_content
from wuya.tokenizer.pre_tokenizers import PreTokenizerName, named_pre_tokenizer
from wuya.tokenizer.rust_trainer import learned_tokens, merges_of
from wuya.tokenizer.templates import CHATML
from wuya.tokenizer.tiktoken_twin import BYTE_OF, LONG_WHITESPACE, proven_twin, token_to_bytes

DOCUMENT_END = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
SPECIAL_TOKENS = (DOCUMENT_END, TURN_START, TURN_END)
"""Ids 0, 1 and 2 of every tokenizer we train."""

SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)


class Tokenizer:
    """Text to token ids and back, from one `tokenizer.json`."""

    def __init__(self, backend: Backend, settings: Mapping[str, Any], *, chat_template: str = "") -> None:
        """Args:
        backend: the `tokenizers` object that holds vocabulary and merges.
        settings: what stands in tokenizer_config.json; names the end, padding and beginning tokens.
        chat_template: Jinja source; empty when the model has none.
        """
        self._backend = backend
        self._backend.encode_special_tokens = True  # specials in a text are text; we place the real ones ourselves
        self._settings = dict(settings)
        self.chat_template = chat_template
        added = backend.get_added_tokens_decoder()
        self.special_ids: dict[str, int] = {token.content: id for id, token in sorted(added.items()) if token.special}
        self.vocab_size: int = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        self.eos_token: str = self._named("eos_token", (TURN_END, DOCUMENT_END, "<|end_of_text|>", "</s>"))
        self.document_end_token: str = self._first((DOCUMENT_END, "<|end_of_text|>", "</s>")) or self.eos_token
        self.pad_token: str = self._named("pad_token", (self.document_end_token,))
        self.bos_token: str | None = token_content(self._settings.get("bos_token"))
        self.eos_id = self._id(self.eos_token)
        self.document_end_id = self._id(self.document_end_token)
        self.pad_id = self._id(self.pad_token)
        self.bos_id: int | None = self._id(self.bos_token) if self.bos_token else None
        self._special_pattern = re.compile("|".join(map(re.escape, sorted(self.special_ids, key=len, reverse=True))))
        self._twin = proven_twin(backend)

    # -- places

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """Read a folder with tokenizer.json (and tokenizer_config.json, chat_template.jinja), or that file itself."""
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            found = ", ".join(sorted(item.name for item in path.iterdir())[:8]) or "nothing" if path.is_dir() else ""
            raise DataError(
                f"`{file}` does not exist",
                found=found,
                hint="train a tokenizer: `wuya tokenizer --inputs text.txt --vocab_size 4096 --out runs/tokenizer`",
            )
        try:
            backend = Backend.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # `tokenizers` raises bare Exception for every kind of malformed file
            raise DataError(
                f"`{file}` is not a tokenizer.json", found=str(error)[:200], hint="get the file again, or retrain"
            ) from error
        settings = read_settings(file.with_name("tokenizer_config.json"))
        return cls(backend, settings, chat_template=read_template(file.with_name("chat_template.jinja"), settings))

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
    ) -> "Tokenizer":
        """Build a byte-level BPE tokenizer from what a GGUF file holds.

        Args:
            vocab: token (spelled in GPT-2's byte characters) -> id, specials included or not.
            merges: pairs of tokens in the order they were learned.
            pre_tokenizer: GGUF's `tokenizer.ggml.pre`.
            special_tokens: control token -> id.
        """
        backend = Backend(models.BPE(vocab=vocab, merges=list(merges), ignore_merges=pre_tokenizer == "llama3"))
        _make_byte_level(backend, pre_tokenizer)
        backend.add_special_tokens(
            [_special(token) for token, _ in sorted(special_tokens.items(), key=lambda item: item[1])]
        )
        for token, id in special_tokens.items():
            if backend.token_to_id(token) != id:
                raise DataError(
                    f"special token `{token}` cannot have id {id}", found=f"id {backend.token_to_id(token)}"
                )
        settings = {"eos_token": eos_token, "pad_token": pad_token, "bos_token": bos_token}
        return cls(backend, settings, chat_template=chat_template)

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
        text: str = self._backend.to_str()
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as text, so that worker processes can have a copy."""
        return _unpickle, (self._backend.to_str(), self._settings, self.chat_template)

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
        if not allow_special or not self.special_ids:
            return self._encode_plain(text)
        return [id for piece in self.split_special(text) for id in self._encode_piece(piece)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts (specials are text), on all cores."""
        texts = [_without_surrogates(text) for text in texts]
        if self._twin is not None and not any(_overflows_tiktoken(text) for text in texts):
            return self._twin.encode_ordinary_batch(texts)
        return [encoding.ids for encoding in self._backend.encode_batch(texts, add_special_tokens=False)]

    def encode_bytes(self, data: bytes) -> list[int]:
        """Token ids of any bytes, UTF-8 or not: what is no character is spelled byte by byte."""
        ids: list[int] = []
        for number, piece in enumerate(re.split("([\udc80-\udcff])", data.decode("utf-8", "surrogateescape"))):
            if number % 2 == 0:
                ids += self._encode_plain(piece)
            elif (byte := ord(piece) - 0xDC00) in self._id_of_byte:  # how surrogateescape writes a stray byte
                ids.append(self._id_of_byte[byte])
            else:
                raise DataError(f"the vocabulary has no token for the byte 0x{byte:02x}")
        return ids

    def split_special(self, text: str) -> list[str | int]:
        """Cut at special tokens: strings between them, ids for them; no empty strings."""
        pieces: list[str | int] = []
        end = 0
        for match in self._special_pattern.finditer(text) if self.special_ids else ():
            pieces += [text[end : match.start()], self.special_ids[match.group()]]
            end = match.end()
        return [piece for piece in (*pieces, text[end:]) if piece != ""]

    def _encode_piece(self, piece: str | int) -> list[int]:
        return [piece] if isinstance(piece, int) else self._encode_plain(piece)

    def _encode_plain(self, text: str) -> list[int]:
        text = _without_surrogates(text)
        if self._twin is not None and not _overflows_tiktoken(text):
            return self._twin.encode_ordinary(text)
        return self._backend.encode(text, add_special_tokens=False).ids

    # -- ids to text

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Text of token ids; bytes that are not UTF-8 become U+FFFD."""
        if self._is_byte_level:
            return self.decode_bytes(ids, skip_special=skip_special).decode("utf-8", "replace")
        return self._backend.decode(list(ids), skip_special_tokens=skip_special)

    def decode_bytes(self, ids: Iterable[int], *, skip_special: bool = False) -> bytes:
        """The exact bytes of token ids. Ids without a token (models pad their vocabulary) give nothing."""
        table = self._bytes_of
        specials = set(self.special_ids.values()) if skip_special else ()
        return b"".join(table[id] for id in ids if 0 <= id < len(table) and id not in specials)

    def decode_stream(self, ids: Iterable[int], *, skip_special: bool = True) -> Iterator[str]:
        """Text as its tokens arrive: characters that span tokens appear once they are whole."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for id in ids:
            if text := decoder.decode(self.decode_bytes([id], skip_special=skip_special)):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text

    @cached_property
    def token_bytes(self) -> NDArray[np.int32]:
        """Length in bytes of each token, [vocab_size]; 0 for specials, which are no text (for bits per byte)."""
        lengths = np.array([len(token) for token in self._bytes_of], dtype=np.int32)
        lengths[list(self.special_ids.values())] = 0
        return lengths

    @cached_property
    def _bytes_of(self) -> list[bytes]:
        table = [b""] * self.vocab_size
        added = {token.content for token in self._backend.get_added_tokens_decoder().values()}
        for token, id in self._backend.get_vocab(with_added_tokens=True).items():
            known = token_to_bytes(token) if self._is_byte_level and token not in added else None
            table[id] = known if known is not None else foreign_bytes(token, literal=token in added)
        return table

    @cached_property
    def _id_of_byte(self) -> dict[int, int]:
        return {data[0]: id for id, data in enumerate(self._bytes_of) if len(data) == 1}

    @cached_property
    def _is_byte_level(self) -> bool:
        """Whether tokens are spelled in byte characters (GPT-2's way); else SentencePiece's or GPT-1's."""
        return self._backend.decoder is not None and "ByteLevel" in repr(self._backend.decoder)

    # -- special tokens

    def _named(self, setting: str, fallbacks: Sequence[str]) -> str:
        token = token_content(self._settings.get(setting))
        if token is None or self._backend.token_to_id(token) is None:
            token = self._first(fallbacks)
        if token is None:
            raise DataError(
                f"the tokenizer has no {setting}",
                found=", ".join(self.special_ids) or "no special tokens",
                hint=f"name it in tokenizer_config.json as `{setting}`",
            )
        return token

    def _first(self, tokens: Sequence[str]) -> str | None:
        return next((token for token in tokens if self._backend.token_to_id(token) is not None), None)

    def _id(self, token: str) -> int:
        id = self._backend.token_to_id(token)
        assert id is not None, token
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
        return _from_tokens(learned_tokens(_training_pieces(texts), vocab_size - len(SPECIAL_TOKENS)))
    backend = Backend(models.BPE())
    _make_byte_level(backend, "qwen2")
    learner = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=1,
        special_tokens=[_special(token) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(BYTE_OF),
        show_progress=False,
    )
    backend.train_from_iterator(_training_pieces(texts), learner)
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


def _training_pieces(texts: Iterable[str], size: int = 1 << 16) -> Iterator[str]:
    """Cut long documents where a line ends and text follows: the pre-tokenizer cuts there too, so nothing changes."""
    empty = True
    for text in texts:
        text = _without_surrogates(text)
        empty = empty and not text
        start = 0
        while match := re.compile(r"\n(?=\S)").search(text, start + size):
            yield text[start : match.end()]
            start = match.end()
        yield text[start:]
    if empty:
        raise DataError("there is no text to train a tokenizer on", hint="check that the inputs hold text")


def _make_byte_level(backend: Backend, pre_tokenizer: PreTokenizerName) -> None:
    backend.pre_tokenizer = named_pre_tokenizer(pre_tokenizer)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)


def _special(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False)


def _unpickle(spec: str, settings: dict[str, Any], chat_template: str) -> Tokenizer:
    return Tokenizer(Backend.from_str(spec), settings, chat_template=chat_template)


def _overflows_tiktoken(text: str) -> bool:
    return len(text) >= 4096 and LONG_WHITESPACE.search(text) is not None


def _without_surrogates(text: str) -> str:
    """Half surrogates (from broken JSON escapes) are no characters: pairs are joined, lone ones become U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
