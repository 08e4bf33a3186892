"""Who is read next: waiting requests, first come first served, grouped so that one prefill serves several prompts.

A request is one prompt with K completions wanted; its K rows are admitted together, because they share the prompt's
keys and values. Callers who want little padding submit requests sorted by length (`Engine.generate` does).
"""

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from wuya.inference.sampling import SamplingParams


class RowHook(Protocol):
    """What one sequence wants beyond `SamplingParams`: penalties, a grammar, its alternatives' log-probs."""

    def before(self, logits_V: Tensor) -> None:
        """Read the next token's logits (float32), and change them in place."""
        ...

    def after(self, token: int) -> None:
        """The token that was sampled from them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt and its K sequences."""

    prompt: tuple[int, ...]
    sampling: SamplingParams
    stop_token_ids: tuple[int, ...]
    sequences: tuple[int, ...]
    """The caller's number for each of the K completions."""
    seeds: tuple[int, ...]
    """One a sequence: with the model and the prompt they decide its tokens."""
    num_cached: int = 0
    """Tokens at the start of the prompt whose keys and values are known already (a chat's earlier turns): they lie in
    the batch's next free row, or in `prefix`."""
    prefix: Tensor | None = None
    """Keys and values [layers, 2, kv_heads, num_cached, channels] to be put there first (`KVCache.read_row`)."""
    num_sampled: int = 0
    """Tokens at the end of the prompt which this sequence sampled before it was put back into the queue."""
    hooks: tuple[RowHook | None, ...] = ()
    """One a sequence; empty: none."""


class Scheduler:
    """A queue that hands out groups which fit the free rows and one prefill's token budget."""

    def __init__(self, *, prefill_tokens: int, patience_rows: int) -> None:
        self.prefill_tokens = prefill_tokens
        """Most tokens, padding included, of one prefill forward; a longer prompt is read in chunks of this size."""
        self.patience_rows = patience_rows
        """While sequences are running, wait until this many rows are free: small prefills waste the machine."""
        self.waiting: deque[Request] = deque()

    def admit(self, *, num_free: int, num_active: int) -> list[Request]:
        """The next group to prefill: equal K, rows within `num_free`, padded tokens within the budget; may be empty."""
        if not self.waiting or (num_active and num_free < self.patience_rows):
            return []
        group: list[Request] = []
        longest = 0
        copies = len(self.waiting[0].sequences)
        while self.waiting:
            request = self.waiting[0]
            longest = max(longest, len(request.prompt))
            rows = (len(group) + 1) * copies
            too_wide = bool(group) and (len(group) + 1) * longest > self.prefill_tokens
            alone = bool(group) and (request.num_cached or group[0].num_cached)
            if rows > num_free or too_wide or alone or len(request.sequences) != copies:
                break
            group.append(self.waiting.popleft())
        return group

    def cancel(self, sequences: set[int]) -> None:
        """Forget waiting requests all of whose sequences are cancelled."""
        self.waiting = deque(request for request in self.waiting if not sequences.issuperset(request.sequences))
