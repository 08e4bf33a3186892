"""What the pages may send: bodies of `/api` for chats, checked before anything happens."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

StopText = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=40, pattern=r"^[a-z][a-z0-9_]*$")]
Id = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_.:-]+$")]
Uuid = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Title = Annotated[str, StringConstraints(max_length=200, strip_whitespace=True)]
Alias = Annotated[str, StringConstraints(max_length=200)]
SystemPrompt = Annotated[str, StringConstraints(max_length=32_000)]

MAX_SEED = 2**31 - 1 - 8
"""The database keeps 32 bits, and siblings count on from it."""
REASONS = {
    "good": ["accurate", "clear", "helpful", "style", "safe"],
    "bad": ["inaccurate", "unhelpful", "not_followed", "unsafe", "style", "too_long", "too_short", "refused"],
}
SYSTEM_PROMPTS = [
    {"name": "plain", "text": "You are a helpful assistant. Answer briefly and plainly."},
    {"name": "teacher", "text": "You are a patient teacher. Explain step by step, with one small example."},
    {"name": "editor", "text": "You are an editor. Improve the user's text; keep its meaning and its language."},
    {"name": "translator", "text": "Translate between Chinese and English. Answer with the translation only."},
    {"name": "coder", "text": "You are a careful programmer. Answer with working code and say what you did not test."},
]


class Body(BaseModel):
    """Unknown fields are mistakes."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=False)


class Params(Body):
    """How to sample; what is absent is the default."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=1000)
    min_p: float | None = Field(default=None, ge=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    stop: list[StopText] | None = Field(default=None, max_length=4)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)

    def given(self) -> dict[str, Any]:
        """What was set."""
        return self.model_dump(exclude_none=True)


PARAMS: dict[str, dict[str, Any]] = {
    "temperature": {"default": 0.8, "min": 0, "max": 2, "step": 0.05},
    "top_p": {"default": 0.95, "min": 0.05, "max": 1, "step": 0.05},
    "top_k": {"default": 0, "min": 0, "max": 1000, "step": 1},
    "min_p": {"default": 0.0, "min": 0, "max": 1, "step": 0.01},
    "max_tokens": {"default": 1024, "min": 1, "max": 1_000_000, "step": 1},
    "seed": {"default": None, "min": 0, "max": MAX_SEED, "step": 1},
    "stop": {"default": [], "max": 4},
    "presence_penalty": {"default": 0.0, "min": -2, "max": 2, "step": 0.1},
    "frequency_penalty": {"default": 0.0, "min": -2, "max": 2, "step": 0.1},
    "repetition_penalty": {"default": 1.0, "min": 0.1, "max": 10, "step": 0.05},
}
"""Defaults and ranges, as the parameters drawer shows them."""


class NewConversation(Body):
    """POST /conversations"""

    model: Alias = ""
    title: Title = ""
    system_prompt: SystemPrompt = ""
    params: Params = Params()
    mode: Literal["single", "compare"] = "single"
    data_use: bool | None = None


class ConversationChange(Body):
    """PATCH /conversations/{id}; what is absent stays."""

    title: Title | None = None
    model: Alias | None = None
    system_prompt: SystemPrompt | None = None
    params: Params | None = None
    mode: Literal["single", "compare"] | None = None
    data_use: bool | None = None
    archived: bool | None = None
    trashed: bool | None = None
    active_leaf_id: Id | None = None


class Bulk(Body):
    """POST /conversations/bulk"""

    ids: list[Id] = Field(max_length=200)
    action: Literal["archive", "unarchive", "trash", "restore", "delete"]


class DataUse(Body):
    """PUT /conversations/data_use"""

    data_use: bool


class Generate(Body):
    """How to answer: one answer, n siblings, or two side by side."""

    n: int = Field(default=1, ge=1, le=4)
    compare: bool = False
    model: Alias | None = None
    models: list[Alias] | None = Field(default=None, min_length=2, max_length=2)
    params: Params = Params()


class NewMessage(Body):
    """POST /conversations/{id}/messages"""

    content: str
    parent_id: Id | None = None
    id: Uuid | None = None
    generate: Generate | None = None


class Edit(Body):
    """POST /messages/{id}/edit"""

    content: str
    generate: Generate | None = None


class Opinion(Body):
    """PUT /messages/{id}/feedback"""

    value: Literal[-1, 1]
    reasons: list[Reason] = Field(default=[], max_length=8)
    comment: str = Field(default="", max_length=4000)
    better_answer: str = Field(default="", max_length=65_536)

    @field_validator("comment", "better_answer")
    @classmethod
    def _is_text(cls, value: str) -> str:
        if "\x00" in value or any("\ud800" <= c <= "\udfff" for c in value):
            raise ValueError("has characters that are no text")
        return value


class Vote(Body):
    """POST /comparisons"""

    comparison_id: Id
    outcome: Literal["left", "right", "tie", "both_bad"]
    strength: Literal[1, 2] | None = None
    reasons: list[Reason] = Field(default=[], max_length=8)


class NewShare(Body):
    """POST /conversations/{id}/share"""

    leaf_id: Id | None = None
    visibility: Literal["signed_in", "link"] = "signed_in"
    show_name: bool = False
    expires_in_days: int | None = Field(default=None, ge=1, le=365)


class Fork(Body):
    """POST /conversations/{id}/fork"""

    leaf_id: Id | None = None


class Tokenize(Body):
    """POST /tokenize"""

    text: str = Field(default="", max_length=1_000_000)
    model: Alias | None = None
    conversation_id: Id | None = None
    leaf_id: Id | None = None
