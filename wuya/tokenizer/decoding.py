"""Token ids back to bytes and text, the same whether a text is read whole or token by token.

Every token has its own bytes, whatever stands beside it, but for spaces: SentencePiece and WordPiece spell the space
before a word, GPT-1 the one after it, and a text begins and ends without.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import Tokenizer as Backend

from wuya.tokenizer.tiktoken_twin import token_to_bytes


class TokenDecoder:
    """The bytes of every token of one vocabulary."""

    def __init__(self, backend: Backend, vocab_size: int) -> None:
        steps = _steps(json.loads(backend.to_str()).get("decoder"))
        kinds = {step["type"] for step in steps}
        self.is_byte_level = "ByteLevel" in kinds
        """Tokens are spelled in byte characters (GPT-2's way)."""
        self.skips_first_space = any(map(_skips_first_space, steps))
        self.skips_last_space = "BPEDecoder" in kinds
        prefix = next((step["prefix"] for step in steps if step["type"] == "WordPiece"), None)
        suffix = next((step["suffix"] for step in steps if step["type"] == "BPEDecoder"), None)
        spaced = bool(kinds & {"Metaspace", "Replace"}) or not kinds
        self.table = [b""] * vocab_size
        added = backend.get_added_tokens_decoder()
        self.added = frozenset(id for id, token in added.items() if token.special or self.is_byte_level)
        """Tokens that are spelled as they are; other added ones are words, normalised as the vocabulary is."""
        for token, id in backend.get_vocab(with_added_tokens=True).items():
            if id in self.added:
                self.table[id] = added[id].content.encode("utf-8", "replace")
            elif id in added:
                word = backend.id_to_token(id) or token
                self.table[id] = _spelled(word, spaced=spaced, prefix=prefix, suffix=suffix)
            elif self.is_byte_level and (known := token_to_bytes(token)) is not None:
                self.table[id] = known
            else:
                self.table[id] = _spelled(token, spaced=spaced, prefix=prefix, suffix=suffix)

    def bytes(self, ids: Iterable[int], hidden: Iterable[int] = ()) -> bytes:
        """The bytes of ids laid end to end; nothing for hidden ones and for ids without a token."""
        skipped = frozenset(hidden)
        return b"".join(self.table[id] for id in ids if 0 <= id < len(self.table) and id not in skipped)

    def text(self, ids: Iterable[int], hidden: Iterable[int] = ()) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD."""
        skipped = frozenset(hidden)
        shown = [id for id in ids if 0 <= id < len(self.table) and id not in skipped]
        data = self.bytes(shown)
        if self.skips_first_space and shown and shown[0] not in self.added:
            data = data.removeprefix(b" ")
        if self.skips_last_space and shown and shown[-1] not in self.added:
            data = data.removesuffix(b" ")
        return data.decode("utf-8", "replace")

    def stream(self, ids: Iterable[int], hidden: Iterable[int] = ()) -> Iterator[str]:
        """`text` in pieces: characters that span tokens appear once they are whole."""
        skipped = frozenset(hidden)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        first, held = True, b""
        for id in ids:
            if not 0 <= id < len(self.table) or id in skipped:
                continue
            data = held + self.table[id]
            if first and self.skips_first_space and id not in self.added:
                data = data.removeprefix(b" ")
            first, held = False, b""
            if self.skips_last_space and id not in self.added and data.endswith(b" "):
                data, held = data[:-1], b" "
            if text := decoder.decode(data):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text


def _steps(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    return [step for one in decoder["decoders"] for step in _steps(one)] if "decoders" in decoder else [decoder]


def _skips_first_space(step: dict[str, Any]) -> bool:
    if step["type"] == "Strip":
        return bool(step.get("content") == " " and step.get("start", 0) > 0)
    if step["type"] == "Metaspace":
        scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
        return bool(scheme != "never")
    return bool(step["type"] == "WordPiece")


def _spelled(token: str, *, spaced: bool, prefix: str | None, suffix: str | None) -> bytes:
    """The bytes of a token that is not spelled in byte characters."""
    if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
        return bytes([int(token[3:5], 16)])
    if prefix is not None:
        token = token.removeprefix(prefix) if token.startswith(prefix) else f" {token}"
    if suffix is not None:
        token = token.replace(suffix, " ")
    if spaced:
        token = token.replace("\u2581", " ").replace("</w>", " ")
    return token.encode("utf-8", "replace")
