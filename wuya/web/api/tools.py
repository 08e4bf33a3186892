"""Tool calls in a model's text: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, or the JSON alone.

The first is what the templates of Qwen, SmolLM2 and Hermes teach (one call or a list of them), the second those of
Llama 3 and Mistral, whose markers are special tokens and never reach the text. What does not parse stays text.
"""

import json
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

OPEN, CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class Call:
    """A function that the model wants called."""

    id: str
    name: str
    arguments: str
    """JSON."""

    def as_json(self) -> dict[str, Any]:
        """OpenAI's object."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


def parse_calls(text: str, names: Collection[str]) -> list[Call]:
    """The calls that a piece of JSON stands for; none if it is not exactly that."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    calls: list[Call] = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict) and isinstance(item.get("function"), dict):
            item = item["function"]
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str) or name not in names:
            return []
        arguments = item.get("arguments", item.get("parameters", {}))
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        calls.append(Call(f"call_{secrets.token_hex(12)}", name, text))
    return calls


class ToolCallReader:
    """Splits one completion, as it grows, into text to show and calls.

    Text that may become a call is held back; white space before a call is dropped.
    """

    def __init__(self, names: Collection[str], *, limit: int | None = None) -> None:
        """`limit` is the most calls to report (1 where parallel calls are not wanted)."""
        self._names = frozenset(names)
        self._left = limit if limit is not None else 1 << 30
        self._held = ""
        self._begun = False
        """Something was shown or called, so JSON alone is text from here on."""
        self._inside = False
        self._called = False

    def push(self, text: str) -> tuple[str, list[Call]]:
        """More text; what can be told of it now."""
        self._held += text
        shown = ""
        calls: list[Call] = []
        while True:
            if self._inside:
                inner, closed, rest = self._held.partition(CLOSE)
                if not closed:
                    return shown, calls
                self._held, self._inside = rest, False
                found = parse_calls(inner, self._names)
                if found:
                    calls += self._counted(found)
                else:
                    shown += OPEN + inner + CLOSE
                continue
            if not self._begun and self._held.lstrip()[:1] in ("", "{", "["):
                return shown, calls
            before, opened, rest = self._held.partition(OPEN)
            if opened:
                shown += before.rstrip()
                self._held, self._inside, self._begun = rest, True, True
                continue
            end = len(self._held[: len(self._held) - _overlap(self._held, OPEN)].rstrip())
            new, self._held = self._held[:end], self._held[end:]
            self._begun = self._begun or bool(new.strip())
            return shown + new, calls

    def finish(self) -> tuple[str, list[Call]]:
        """The end of the completion: what was held back is a call or text."""
        held, self._held = self._held, ""
        if self._inside or (not self._begun and held.strip()):
            found = parse_calls(held, self._names)
            if found:
                return "", self._counted(found)
        if self._called and not self._inside and not held.strip():
            return "", []
        return (OPEN if self._inside else "") + held, []

    def _counted(self, calls: list[Call]) -> list[Call]:
        self._called = True
        kept = calls[: self._left]
        self._left -= len(kept)
        return kept


def _overlap(text: str, marker: str) -> int:
    return next((n for n in range(min(len(marker) - 1, len(text)), 0, -1) if text.endswith(marker[:n])), 0)
