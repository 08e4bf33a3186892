"""The words every part of wuya shares: what people write, what models answer, what people think of it.

Frozen dataclasses without behaviour. Names follow InstructGPT (arXiv:2203.02155): a *demonstration* is an answer a
labeler wrote, a *ranking* orders K answers to one prompt, a *comparison* is one pair taken out of a ranking.
"""

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One function call that the assistant writes instead of, or beside, text."""

    name: str
    arguments: str
    """The arguments as JSON text of an object, as OpenAI's API sends them."""
    id: str = ""
    """Links the call to the tool message that answers it."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    """Functions that this assistant turn calls."""
    tool_call_id: str = ""
    """The call that this tool turn answers."""
    name: str = ""
    """The function that this tool turn reports on, or the speaker's name."""
    reasoning: str = ""
    """What the assistant thought before it answered (`reasoning_content`)."""
    learn: float = 1.0
    """Weight of an assistant turn's tokens in the loss of SFT; 0 keeps it in the context only (`weight: 0`,
    `train: false`)."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A chat that ends where the assistant should answer."""

    id: str
    messages: tuple[Message, ...]
    source: str = ""
    """Where it came from: a corpus, a file, an import, a chat."""
    author: str = ""
    """Who wrote it (hashed if a real person): splits are by author, and no author gives too many prompts."""
    tools: tuple[str, ...] = ()
    """Functions the assistant may call, each as JSON text in OpenAI's form
    `{"type": "function", "function": {...}}`."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A chat whose last message is the assistant's, written by a person (InstructGPT step 1)."""

    prompt: Prompt
    answer: Message
    """The assistant's turn: a text, calls of tools, or both."""
    labeler: str = ""

    @property
    def completion(self) -> str:
        """The text of the answer; empty where it only calls tools."""
        return self.answer.content

    @property
    def messages(self) -> tuple[Message, ...]:
        """The whole chat, answer included."""
        return (*self.prompt.messages, self.answer)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One sampled (or written) answer to a prompt, with where it came from."""

    text: str
    token_ids: tuple[int, ...] = ()
    """The ids as sampled, end token included when there was one; text may re-encode to other ids."""
    model: str = ""
    """Checkpoint that sampled it (folder or alias), or `human`."""
    finished: bool = True
    """False when the token limit cut it before its end token."""
    temperature: float = 1.0
    tool_calls: tuple[ToolCall, ...] = ()
    """Functions that the answer calls, for files of rankings; the labeling database keeps texts only."""
    reasoning: str = ""
    """What was thought before the answer, likewise."""

    @property
    def message(self) -> Message:
        """The answer as a turn of the chat."""
        return Message("assistant", self.text, self.tool_calls, reasoning=self.reasoning)

    @property
    def is_text(self) -> bool:
        """Whether the text is all there is to the answer."""
        return not (self.tool_calls or self.reasoning)


@dataclass(frozen=True, slots=True)
class Ranking:
    """One labeler's order of K candidates of one prompt."""

    prompt: Prompt
    candidates: tuple[Candidate, ...]
    ranks: tuple[int, ...]
    """Dense ranks, 1 is best, equal means tie; one per candidate, in the candidates' order."""
    labeler: str
    round: int = 0
    source: str = "ranking"
    created_at: str = ""
    flags: dict[str, bool | int | None] = field(default_factory=dict)
    weight: float = 1.0
    """How much the vote counts in training: a guess from a regenerated answer less than a labeler's ranking."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One pair: `chosen` was preferred to `rejected` for this prompt."""

    prompt: Prompt
    chosen: str
    rejected: str
    labeler: str = ""
    group: str = ""
    """Pairs of one ranking share a group; a split never separates a group."""
    source: str = ""
    """What it was read off: ranking, compare, thumbs, better_answer, edit, regenerate, eval."""
    weight: float = 1.0
    """How much it counts in training."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a user said about one answer in a chat."""

    prompt: Prompt
    completion: str
    value: Literal[-1, 1]
    reasons: tuple[str, ...] = ()
    comment: str = ""
    better_answer: str = ""
    labeler: str = ""


@dataclass(frozen=True, slots=True)
class Rating:
    """What somebody said of one answer by itself: good or bad, compared with nothing."""

    prompt: Prompt
    candidate: Candidate
    desirable: bool
    labeler: str = ""
    weight: float = 1.0
    """How much it counts in training."""
