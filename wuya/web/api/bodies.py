"""What `/v1` answers: OpenAI's objects, for the OpenAPI document and the tests that hold every answer to them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from wuya.web.api.schema import FinishReason


class Answer(BaseModel):
    """A part of a response; only the fields named here are ever sent."""

    model_config = ConfigDict(extra="forbid")


class Error(Answer):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(Answer):
    """Body of every response that is not 2xx, and of the error event in a stream."""

    error: Error


class Model(Answer):
    """A model that this server answers for."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    context_length: int = Field(description="Tokens of prompt and completion together.")
    capabilities: list[str] = Field(description="`chat`, `completions`, `embeddings`, `tools`.")


class ModelList(Answer):
    """Every model that the key may use."""

    object: Literal["list"] = "list"
    data: list[Model]


class Usage(Answer):
    """Tokens of a request; the prompt counts once, whatever `n` is."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopLogprob(Answer):
    """One of the likeliest tokens at a place."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token that was written; `bytes` may be a part of a character."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer):
    """Log-probabilities in nats of the tokens of a message."""

    content: list[TokenLogprob] | None
    refusal: None = None


class CalledFunction(Answer):
    """Name, and arguments as JSON text."""

    name: str
    arguments: str


class ToolCall(Answer):
    """A function that the model wants called."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class AssistantMessage(Answer):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(Answer):
    """One of n answers."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(Answer):
    """Answer of `POST /v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class StreamedToolCall(ToolCall):
    """A call in a stream; it comes whole."""

    index: int


class ChatDelta(Answer):
    """What a chunk adds to a message."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: None = None
    tool_calls: list[StreamedToolCall] | None = None


class ChatChunkChoice(Answer):
    """More of one choice."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatChunk(Answer):
    """One event of a streamed chat; the last one has no choices but the usage, if asked for."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class CompletionLogprobs(Answer):
    """Parallel lists, one entry a token; null where nothing stands before the token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(Answer):
    """One continuation; choices of the first prompt come first."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(Answer):
    """Answer of `POST /v1/completions`, and each event of its stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class Embedding(Answer):
    """A unit vector, or base64 of its little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Answer):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Answer):
    """Answer of `POST /v1/embeddings`."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class Tokens(Answer):
    """Answer of `POST /v1/tokenize`."""

    tokens: list[int]
    count: int
    max_model_len: int


class DetokenizedText(Answer):
    """Answer of `POST /v1/detokenize`."""

    prompt: str


class ModerationResult(Answer):
    """What the rules say of one input."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[Literal["text"]]]


class Moderation(Answer):
    """Answer of `POST /v1/moderations`."""

    id: str
    model: str
    results: list[ModerationResult]


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        400: "The request can't be done as it is: `invalid_value`, `context_length_exceeded`, `unsupported_parameter`, "
        "`content_policy_violation`.",
        401: "`invalid_api_key`.",
        403: "`model_not_allowed`: the key lacks the scope or the model.",
        404: "`model_not_found`.",
        408: "`request_timeout`: the body did not arrive in time.",
        413: "`request_too_large`.",
        429: "`rate_limit_exceeded` (wait and try again) or `insufficient_quota` (don't).",
        500: "`internal_error`.",
        503: "`overloaded`: try again after `retry-after` seconds.",
    }.items()
} | {"4XX": {"model": ErrorBody, "description": "Any other refusal."}}
"""Documented on every route; "4XX" keeps FastAPI from documenting an answer 422 that is never sent."""
