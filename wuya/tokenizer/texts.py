"""Texts on their way to the encoder: half surrogates, long ones, pieces to train on."""

import re
from collections.abc import Iterable, Iterator, Mapping

from tokenizers import Tokenizer as Backend
from tokenizers.processors import PostProcessor, TemplateProcessing

from wuya.errors import DataError

LONG_TEXT = 8_192
"""Characters from which encoding is worth a call that lets other threads run."""


def encode_text(backend: Backend, text: str) -> list[int]:
    """Ids of a text without what the post-processor adds."""
    if len(text) > LONG_TEXT:  # unlike `encode` it lets other threads run, and keeps no offsets: a third of the time
        found: list[int] = backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return found
    ids: list[int] = backend.encode(text, add_special_tokens=False).ids
    return ids


def stray_bytes(data: bytes) -> Iterator[str | int]:
    """Any bytes as the texts in them and, between those, the bytes that are no UTF-8."""
    for number, piece in enumerate(re.split("([\udc80-\udcff])", data.decode("utf-8", "surrogateescape"))):
        yield ord(piece) - 0xDC00 if number % 2 else piece  # how surrogateescape writes a stray byte


def frame_of(backend: Backend) -> tuple[list[int], list[int]]:
    """(ids before, ids behind) that the post-processor puts around a text."""
    around = backend.post_process(backend.encode("", add_special_tokens=False), add_special_tokens=True).ids
    framed: list[int] = backend.encode("a", add_special_tokens=True).ids
    plain: list[int] = backend.encode("a", add_special_tokens=False).ids
    for start in range(len(framed) - len(plain) + 1):
        if framed[start : start + len(plain)] == plain and len(around) == len(framed) - len(plain):
            return framed[:start], framed[start + len(plain) :]
    return [], []


def bos_processor(token: str, id: int) -> PostProcessor:
    """A post-processor that puts one token before every text."""
    return TemplateProcessing(
        single=f"{token}:0 $A:0", pair=f"{token}:0 $A:0 {token}:1 $B:1", special_tokens=[(token, id)]
    )


def without_surrogates(text: str) -> str:
    """Half surrogates (from broken JSON escapes) are no characters: pairs are joined, lone ones become U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def training_pieces(texts: Iterable[str], size: int = 1 << 16) -> Iterator[str]:
    """Cut long documents where a line ends and text follows: the pre-tokenizer cuts there too, so nothing changes."""
    empty = True
    for text in texts:
        text = without_surrogates(text)
        empty = empty and not text
        start = 0
        while match := re.compile(r"\n(?=\S)").search(text, start + size):
            yield text[start : match.end()]
            start = match.end()
        yield text[start:]
    if empty:
        raise DataError("there is no text to train a tokenizer on", hint="check that the inputs hold text")


MOST_UNUSED_IDS = 2**18
"""Ids without a token that a vocabulary may have: some models keep a few thousand for later."""


def vocabulary_size(vocabulary: Mapping[str, int]) -> int:
    """The largest id and one. Tables are as long as this, so an id far beyond the number of tokens is refused."""
    if not vocabulary:
        raise DataError("the tokenizer has no tokens", hint="get tokenizer.json again")
    token, largest = max(vocabulary.items(), key=lambda item: item[1])
    if largest >= len(vocabulary) + MOST_UNUSED_IDS:
        raise DataError(
            "a token of the tokenizer has an id far beyond their number",
            found=f"{token[:40]!r} is {largest:,} of {len(vocabulary):,} tokens",
            hint="get tokenizer.json again, from where the weights are from",
        )
    return largest + 1
