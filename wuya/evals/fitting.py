"""Prompts that every model and every judge of an evaluation can read; what is left out is left out for all of them.

A prompt that one model alone could not answer would make the comparison unpaired: the others would be judged on other
prompts than that one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wuya.data.chitchat import transcript_prompt
from wuya.errors import DataError
from wuya.records import Prompt
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import encode_prompt

MAX_NAMED = 5
"""Prompts named in a message; evaluation.json names all."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One prompt that is not evaluated, and why."""

    id: str
    reason: str

    def to_dict(self) -> dict[str, str]:
        """For JSON."""
        return {"id": self.id, "reason": self.reason}


def prompts_that_fit(
    prompts: Sequence[Prompt], tokenizer: Tokenizer, rooms: Mapping[str, int], *, transcript_room: int | None = None
) -> tuple[list[Prompt], list[LeftOut]]:
    """(prompts that all can read, the others with the reason).

    Args:
        rooms: who reads the chat -> most tokens of a prompt that leave room for an answer.
        transcript_room: the same for a base model, which is asked in a transcript.
    """
    name, room = min(rooms.items(), key=lambda item: item[1])
    kept: list[Prompt] = []
    left_out: list[LeftOut] = []
    for prompt in prompts:
        try:
            length = len(encode_prompt(tokenizer, prompt))
        except DataError as error:  # the template refuses these turns
            left_out.append(LeftOut(prompt.id, str(error.what)))
            continue
        if length > room:
            left_out.append(LeftOut(prompt.id, f"{length} tokens, `{name}` has room for {room} beside an answer"))
        elif transcript_room is not None and _transcript_length(prompt, tokenizer) > transcript_room:
            left_out.append(
                LeftOut(prompt.id, f"longer as a transcript than the {transcript_room} tokens `base` reads")
            )
        else:
            kept.append(prompt)
    return kept, left_out


def say_left_out(left_out: Sequence[LeftOut], path: Path, kept: int) -> str:
    """The first of them in words; empty where nothing was left out.

    Raises: DataError when no prompt is left.
    """
    if not left_out:
        return ""
    lines = [f"  prompt {row.id}: {row.reason}" for row in left_out[:MAX_NAMED]]
    if len(left_out) > MAX_NAMED:
        lines.append(f"  ... and {len(left_out) - MAX_NAMED:,} more")
    if not kept:
        raise DataError(
            f"no prompt in `{path}` fits into the context of every model and judge",
            found="\n".join(["", *lines]),
            hint="lower `--max_tokens`, or leave out the model or judge with the shortest context",
        )
    count = "1 prompt" if len(left_out) == 1 else f"{len(left_out):,} prompts"
    verb = "is" if len(left_out) == 1 else "are"
    return "\n".join([f"{count} of `{path}` {verb} left out, for all models alike:", *lines])


def _transcript_length(prompt: Prompt, tokenizer: Tokenizer) -> int:
    return len(tokenizer.document_start) + len(tokenizer.encode(transcript_prompt(prompt)))
