"""Which chat a prompt's ids were made from, for those who read the same chat through another tokenizer.

PPO, best-of-n and evaluation know prompts as ids. A published reward model wants the messages, to render them by its
own template; from the ids they could only be guessed.
"""

from collections.abc import Sequence

from wuya.errors import DataError
from wuya.records import Message

Chat = tuple[tuple[Message, ...], tuple[str, ...]]
"""Messages, and the tools offered as JSON text."""


class PromptMemory:
    """Chats by the ids of their prompts. Keeps nothing until `start`."""

    def __init__(self) -> None:
        self._chats: dict[tuple[int, ...], Chat] | None = None

    def start(self) -> None:
        """Keep the chats of all prompts that are encoded from now on."""
        if self._chats is None:
            self._chats = {}

    def note(self, ids: Sequence[int], messages: Sequence[Message], tools: Sequence[str] = ()) -> None:
        """A chat was encoded as these ids."""
        if self._chats is not None:
            self._chats[tuple(ids)] = tuple(messages), tuple(tools)

    def chat(self, ids: Sequence[int]) -> Chat:
        """The messages and tools of a prompt; DataError for ids that no chat was encoded as."""
        found = (self._chats or {}).get(tuple(ids))
        if found is None:
            raise DataError(
                "a reward model with its own chat template scores chats, and this prompt is none",
                found=f"{len(ids)} tokens that were not encoded from messages",
                hint="give prompts as messages, or use a reward model with the policy's tokenizer",
            )
        return found
