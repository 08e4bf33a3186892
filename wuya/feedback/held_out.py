"""Rankings apart for two readers: some prompts train a reward model, the others a judge of what comes of it.

A policy optimised against a reward model looks better to that very model whatever happened. A judge that learned from
other prompts' rankings does not share what the first one over-fitted.
"""

import hashlib
from pathlib import Path

from wuya.files import read_jsonl, to_json, write_atomic


def hold_out(rankings: Path, training: Path, judging: Path, *, share: float) -> tuple[int, int]:
    """Write the rankings of a share of the prompts to `judging` and the others to `training`.

    A prompt's side depends on its text alone: all its votes stay together, and it never changes sides when a later
    round's rankings are added.

    Returns: rankings in `training` and in `judging` that prefer one answer to another.
    """
    counts = {False: 0, True: 0}
    sides: dict[bool, list[str]] = {False: [], True: []}
    for _, row in read_jsonl(rankings):
        digest = hashlib.sha256(to_json(row["prompt"]).encode(errors="surrogatepass")).digest()
        side = int.from_bytes(digest[:8], "big") < share * 2**64
        sides[side].append(to_json(row) + "\n")
        counts[side] += len(set(row["ranks"])) > 1
    write_atomic(training, "".join(sides[False]))
    write_atomic(judging, "".join(sides[True]))
    return counts[False], counts[True]
