"""Guesses of the next tokens, from the text itself: what followed the last time (prompt lookup decoding).

An answer that quotes, corrects or continues what was said repeats stretches of it. A guess costs little where a forward
over a few tokens costs little more than one over a single token, because reading the weights takes the time; it is
checked by the model, so what is sampled does not change (`Batch._step_ahead`).
"""

from collections.abc import Sequence

LONGEST, SHORTEST = 3, 2
"""Tokens that must have stood there before, in a row."""


def followers(ids: Sequence[int], count: int) -> list[int]:
    """At most `count` tokens that followed the latest earlier place of the last tokens of `ids`; none found: empty."""
    for length in range(LONGEST, SHORTEST - 1, -1) if count > 0 else ():
        tail = ids[-length:]
        for start in range(len(ids) - length - 1, -1, -1):
            if ids[start] == tail[0] and ids[start : start + length] == tail:
                return list(ids[start + length : start + length + count])
    return []
