"""The tokens that end an answer, decided once per tokenizer and asked for wherever an answer stops or is completed.

An answer ends where the chat template ends it. Training appends that token; generation stops there, and at every other
token that the model's files name as an end: `eos_token` of the tokenizer, the list in generation_config.json, the end
tokens of a GGUF file.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from wuya.tokenizer.template_facts import TemplateFacts


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """Which tokens end an answer."""

    id: int
    """The token that training appends to a finished answer."""
    ids: tuple[int, ...]
    """Every token after which generation stops, `id` first."""
    kind: Literal["template", "next role", "eos"] = "eos"
    """Who names `id`: the template writes it after an answer; or it opens the next turn; or it is the tokenizer's."""

    def __post_init__(self) -> None:
        assert self.ids[:1] == (self.id,), self

    @property
    def json(self) -> int | list[int]:
        """`eos_token_id` as generation_config.json has it: a number, or a list of several."""
        return self.id if len(self.ids) == 1 else list(self.ids)


def decide_turn_end(facts: TemplateFacts, added: Mapping[str, int], eos_id: int, others: Iterable[int]) -> TurnEnd:
    """The template's own end; without one the mark of the next role; without that the tokenizer's `eos_token`.

    Args:
        added: spelling -> id of every added token.
        others: further ids that end an answer, from the model's files.
    """
    id, kind = eos_id, "eos"
    if facts.end:
        id, kind = added[facts.end], "template"
    elif facts.role_mark:
        id, kind = added[facts.role_mark], "next role"
    return TurnEnd(id, tuple(dict.fromkeys((id, eos_id, *others))), kind)  # type: ignore[arg-type]


def as_list(value: object) -> list[object]:
    """`eos_token_id` of a generation_config.json: a number, a list or nothing, not yet checked."""
    return value if isinstance(value, list) else [] if value is None else [value]


def split_ends(values: Iterable[object], vocab_size: int) -> tuple[list[int], list[object]]:
    """(ids of tokens, what is none: ids outside the vocabulary, texts)."""
    known: list[int] = []
    unknown: list[object] = []
    for value in values:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < vocab_size:
            known.append(value)
        else:
            unknown.append(value)
    return known, unknown
