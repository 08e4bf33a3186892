"""Small, seeded damage: a JSON value with another type or size somewhere, text and bytes with a few wrong places."""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 64, 2**31 - 1, 2**31, 2**63, -(2**63), 10**9, 10**30, 0.5, -0.5, 1e308,
    float("nan"), float("inf"), float("-inf"), "", "a", "\x00", "\ud800", "\u2028", "a" * 10_000, "../../etc/passwd",
    "{{ 1 }}", "<|im_end|>", [], {}, [[]], [None], [1, 2, 3], ["a"], {"a": 1}, {"": None}, [{}], "1", "1e9", "null",
)  # fmt: skip
"""What takes a value's place."""
BYTES = (b"\x00", b"\xff", b"\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"{", b"}", b"[", b'"', b"\n", b"\r", b"\\u",
         b"9" * 40, b"-", b"\xef\xbb\xbf", b"NaN", b"1e999", b"PAR1", b"GGUF")  # fmt: skip


def json_value(value: Any, rng: random.Random) -> Any:
    """A copy with one to three changes: another value, a key gone, doubled, renamed, or nested deeply."""
    changed = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(changed))
        if not places:
            return rng.choice(VALUES)
        holder, key = rng.choice(places)
        rng.choice(CHANGES)(holder, key, rng)
    return changed


def _places(value: Any, depth: int = 0) -> list[tuple[Any, Any]]:
    """(holder, key) of every value inside; long lists by a few of their places."""
    if depth > 6:
        return []
    keys: list[Any] = []
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = [*range(min(len(value), 4)), *range(max(len(value) - 2, 4), len(value))]
    return [(value, key) for key in keys] + [found for key in keys for found in _places(value[key], depth + 1)]


def _replace(holder: Any, key: Any, rng: random.Random) -> None:
    holder[key] = copy.deepcopy(rng.choice(VALUES))


def _remove(holder: Any, key: Any, rng: random.Random) -> None:
    del holder[key]


def _rename(holder: Any, key: Any, rng: random.Random) -> None:
    if isinstance(holder, dict):
        holder[rng.choice(("type", "id", "", "a", str(key).upper(), f"{key}s"))] = holder.pop(key)
    else:
        holder.insert(key, copy.deepcopy(holder[key]))


def _wrap(holder: Any, key: Any, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 50))):
        holder[key] = [holder[key]] if rng.random() < 0.5 else {"a": holder[key]}


def _scale(holder: Any, key: Any, rng: random.Random) -> None:
    value = holder[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        holder[key] = str(value) if not isinstance(value, str) else value * rng.choice((0, 2, 100))
    else:
        holder[key] = rng.choice((-value, value + 1, value - 1, value * 2, value * 10**6, value / 3))


CHANGES: tuple[Callable[[Any, Any, random.Random], None], ...] = (_replace, _replace, _remove, _rename, _wrap, _scale)


def json_text(value: Any, rng: random.Random) -> bytes:
    """The value changed and written; sometimes the text is damaged, too, or a key is there twice."""
    text = json.dumps(json_value(value, rng) if rng.random() < 0.9 else value).encode("utf-8", "surrogatepass")
    kind = rng.random()
    if kind < 0.12:
        return some_bytes(text, rng)
    if kind < 0.15 and text.startswith(b"{"):
        return b'{"a":1,"a":2,' + text[1:]
    if kind < 0.17:
        return b"[" * 5_000 + text
    return text


def some_bytes(data: bytes, rng: random.Random, *, within: int | None = None) -> bytes:
    """One to eight places flipped, replaced, cut out or doubled; or the end is gone.

    Args:
        within: change only so many of the first bytes (a header).
    """
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        size = min(len(changed), within or len(changed))
        if not size:
            break
        at = rng.randrange(size)
        match rng.randrange(6):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at] = rng.randrange(256)
            case 2:
                changed[at : at + 1] = rng.choice(BYTES)
            case 3:
                del changed[at : at + rng.choice((1, 4, 64))]
            case 4:
                changed[at:at] = changed[at : at + rng.choice((1, 8, 200))]
            case _:
                changed[at : at + 8] = rng.choice((b"\xff" * 8, b"\x00" * 8, b"\xff" * 7 + b"\x7f"))
    return bytes(changed[: rng.randrange(len(changed) + 1)] if rng.random() < 0.1 else changed)
