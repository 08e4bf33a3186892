"""Ids of prompts from outside: names that files share by accident, so they neither join nor separate prompts."""

from dataclasses import dataclass, field, replace

from wuya.data.messages import prompt_key
from wuya.records import Prompt


@dataclass(slots=True)
class PromptIds:
    """Gives a prompt an id of its own where another prompt has its id: the first keeps it, others get `id~digits`."""

    _known: dict[str, int | str] = field(default_factory=dict)
    """id -> whose it is: the hash of a prompt seen here (many are read, few share an id), or a `prompt_key`."""

    def keep(self, id: str, key: str) -> None:
        """Say whose an id is already."""
        self._known[id] = key

    def settled(self, prompt: Prompt) -> Prompt:
        """The prompt under an id that no other prompt of this reader has."""
        quick = hash((prompt.messages, prompt.tools))
        known = self._known.setdefault(prompt.id, quick)
        if known == (quick if isinstance(known, int) else prompt_key(prompt)):
            return prompt
        own = own_id(prompt.id, prompt_key(prompt))
        self._known.setdefault(own, quick)
        return replace(prompt, id=own)


def own_id(id: str, key: str) -> str:
    """An id that says which prompt it is, for a prompt whose id is another's."""
    return f"{id}~{key[:8]}"


@dataclass(frozen=True, slots=True)
class Origin:
    """The file that rows come from, and the ids it has used."""

    source: str
    ids: PromptIds = field(default_factory=PromptIds)
