"""How `wuya sft` lays out its rows: how long they are, how many an update has, how many one pass takes.

    lengths = [len(chat.ids) for chat in encode_demonstrations(demonstrations, tokenizer, last_only=False)]
    plan = choose_rows(lengths, model.config, context_length=None, batch_size=0, microbatch_size=0,
                       free_bytes=..., device="cpu")

`wuya plan` asks the same function, so what it promises is what `wuya sft` does. Row length and rows per update follow
the data alone, so they are the same on every machine; only the microbatch follows the memory, which changes no result.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from wuya.console import say, warn
from wuya.data.batches import PackedRows, best_fit, pack_rows
from wuya.errors import DataError
from wuya.models.config import GPTConfig
from wuya.models.wrapped import WrappedConfig
from wuya.planning.planner import FLOAT, run_peak, training_memory
from wuya.records import Demonstration
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import EncodedChat, encode_demonstration

ROUND_TO = 64
"""Rows are a multiple of so many tokens: one block of queries in attention."""
DEMONSTRATIONS_PER_UPDATE = 32
"""InstructGPT's batch (section C.1): what `batch_size` 0 aims at."""
MEMORY_SHARE = 0.7
"""Share of the free memory that one pass may take: the allocator rounds up, and others live on the machine."""
MOST_TOKENS = {"cpu": 8192, "cuda": 65_536}
"""Tokens of a pass beyond which more at once is no faster."""
FEW_UPDATES = 10
"""A run with fewer updates than this learns little, whatever its rate."""


@dataclass(frozen=True, slots=True)
class RowPlan:
    """What was chosen, and what it takes."""

    context_length: int
    """Tokens of a packed row."""
    batch_size: int
    """Packed rows per update, summed over all ranks."""
    microbatch_size: int
    """Packed rows of one forward and backward pass of a rank."""
    num_rows: int
    num_chats: int
    """Demonstrations that fit the row."""
    num_tokens: int
    """Tokens of those demonstrations."""
    peak_bytes: int
    """The most memory the run needs, by the arithmetic of planning/planner.py."""
    free_bytes: int

    @property
    def chats_per_update(self) -> float:
        """Demonstrations of an update, on average."""
        return self.batch_size * self.num_chats / self.num_rows

    @property
    def fits(self) -> bool:
        """Whether the run needs no more than is free."""
        return self.peak_bytes <= self.free_bytes

    def advice(self, num_updates: int) -> str:
        """What to change when large rows and few demonstrations leave hardly an update to learn from; else empty."""
        if num_updates >= FEW_UPDATES or self.batch_size == 1 or self.chats_per_update <= 2 * DEMONSTRATIONS_PER_UPDATE:
            return ""
        smaller = _rows_per_update(self.num_rows, self.num_chats, 1)
        return (
            f"only {num_updates} updates: {self.batch_size} packed rows hold {self.chats_per_update:.0f} "
            f"demonstrations; `--batch_size {smaller}` holds about {DEMONSTRATIONS_PER_UPDATE}"
        )

    def summary(self) -> str:
        """One sentence for the terminal."""
        return (
            f"rows of {self.context_length:,} tokens, {self.batch_size:,} per update (about "
            f"{self.chats_per_update:.0f} demonstrations), {self.microbatch_size:,} in one pass: "
            f"{self.peak_bytes / 2**30:.1f} of {self.free_bytes / 2**30:.1f} GiB"
        )


def choose_rows(
    lengths: Sequence[int],
    architecture: GPTConfig | WrappedConfig,
    *,
    context_length: int | None,
    batch_size: int,
    microbatch_size: int,
    free_bytes: int,
    device: str,
    optimizer: Literal["adamw", "muon"] = "adamw",
    lora_rank: int = 0,
    activation_checkpointing: bool = False,
    world_size: int = 1,
) -> RowPlan:
    """Choose what is not set: rows hold the longest demonstration, updates about 32, passes what fits in memory.

    Args:
        lengths: tokens of every demonstration.
        context_length: tokens of a row; None chooses.
        batch_size: rows per update, summed over all ranks; 0 chooses.
        microbatch_size: rows of one pass of a rank; 0 chooses.
        free_bytes: memory that is free before the model is loaded.
    """
    row_length = min(context_length or row_length_for(lengths, architecture), architecture.context_length)
    fitting = [length for length in lengths if 0 < length <= row_length]
    num_rows = max(1, len(best_fit(lengths, row_length)))
    rows = min(num_rows, batch_size) or _rows_per_update(num_rows, len(fitting), world_size)
    share = -(-rows // world_size)

    def peak(at_once: int) -> int:
        if not isinstance(architecture, GPTConfig):
            return _wrapped_peak(architecture, at_once * row_length, trains_all=not lora_rank)
        memory = training_memory(
            architecture, batch_size=at_once, tokens=row_length, optimizer=optimizer, lora_rank=lora_rank,
            activation_checkpointing=activation_checkpointing, accumulates=at_once < share,
        )  # fmt: skip
        mask = at_once * row_length**2 * (FLOAT + 1)  # which token sees which: as booleans, and as attention adds them
        return run_peak(architecture, memory, lora_rank=lora_rank) + mask

    room = int(MEMORY_SHARE * free_bytes)
    at_once = min(microbatch_size, share) or _rows_at_once(share, row_length, room, device, peak)
    return RowPlan(row_length, rows, at_once, num_rows, len(fitting), sum(fitting), peak(at_once), free_bytes)


def _wrapped_peak(config: WrappedConfig, num_tokens: int, *, trains_all: bool) -> int:
    """Bytes of a training step of a model whose blocks we don't know, estimated by those of a usual transformer."""
    states = config.num_parameters * FLOAT * (4 if trains_all else 1)  # weights, gradients and Adam's two moments
    return states + num_tokens * FLOAT * (34 * config.num_layers * config.model_dim + 3 * config.vocab_size)


def row_length_for(lengths: Sequence[int], architecture: GPTConfig | WrappedConfig) -> int:
    """Tokens of a row that holds the longest demonstration the model can read."""
    longest = max((length for length in lengths if length <= architecture.context_length), default=1)
    return min(-(-longest // ROUND_TO) * ROUND_TO, architecture.context_length)


def _rows_per_update(num_rows: int, num_chats: int, world_size: int) -> int:
    """Rows that hold about `DEMONSTRATIONS_PER_UPDATE`; every rank has one."""
    wanted = round(DEMONSTRATIONS_PER_UPDATE * num_rows / max(1, num_chats))
    return min(num_rows, -(-max(1, wanted) // world_size) * world_size)


def _rows_at_once(share: int, row_length: int, room: int, device: str, peak: Callable[[int], int]) -> int:
    """The most rows of a rank's share that fit, halving: 1 where not even one does."""
    at_once = min(share, max(1, MOST_TOKENS.get(device, MOST_TOKENS["cuda"]) // row_length))
    while at_once > 1 and peak(at_once) > room:
        at_once = -(-at_once // 2)
    return at_once


def encode_demonstrations(
    demonstrations: Sequence[Demonstration], tokenizer: Tokenizer, *, last_only: bool
) -> list[EncodedChat]:
    """Token ids of every chat, and which of them are learned; see `encode_demonstration` for chats in several parts."""
    chats = [encode_demonstration(tokenizer, item, last_only=last_only) for item in demonstrations]
    if several := sum(len(sequences) > 1 for sequences in chats):
        say(
            f"{several:,} of {len(chats):,} demonstrations give a sequence for each answer: {tokenizer.template_name} "
            "writes earlier answers otherwise than the last one"
        )
    return [sequence for sequences in chats for sequence in sequences]


def pack_demonstrations(encoded: Sequence[EncodedChat], tokenizer: Tokenizer, context_length: int) -> PackedRows:
    """Several chats a row; chats longer than the row are dropped, counted and named."""
    rows = pack_rows(encoded, context_length=context_length, pad_id=tokenizer.pad_id)
    if rows.num_dropped:
        warn(
            f"{rows.num_dropped:,} of {len(encoded):,} demonstrations are longer than {context_length} tokens: dropped"
        )
    if not len(rows):
        raise DataError(
            "no demonstration fits the context",
            found=f"{len(encoded):,} demonstrations, context_length {context_length}",
            hint="use shorter chats, or a base model with a longer context",
        )
    if not bool(rows.mask_NT.any()):
        raise DataError("no demonstration has an assistant token to learn", hint="check the roles of the messages")
    return rows
