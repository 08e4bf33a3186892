"""What programs may send to `/v1`: OpenAI's request bodies, checked here and translated nowhere else.

Types are strict ("0.5" is no number), unknown fields are kept aside (`ignored`) and named in the answer's
`x-ignored-params`; what would change the answer and cannot be done here is refused (`unsupported_parameter`).
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

MAX_N = 8
MAX_MESSAGES = 500
MAX_TEXT = 256 << 10
MAX_PROMPTS = 64
MAX_EMBEDDINGS = 2048
MAX_DEPTH = 32

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


def unsupported(param: str, why: str) -> PydanticCustomError:
    """What a validator raises for a feature that OpenAI has and this service does not."""
    return PydanticCustomError("unsupported_parameter", "{why}", {"why": why, "param": param})


def invalid(param: str, why: str) -> PydanticCustomError:
    """What a validator raises for values that do not go together."""
    return PydanticCustomError("invalid_value", "{why}", {"why": why, "param": param})


def depth(value: Any) -> int:
    """Levels of lists and objects within each other, counted without recursion."""
    deepest, todo = 0, [(value, 1)]
    while todo:
        item, level = todo.pop()
        if isinstance(item, dict | list):
            deepest = max(deepest, level)
            todo += [(part, level + 1) for part in (item.values() if isinstance(item, dict) else item)]
    return deepest


def _shallow(value: Any) -> Any:
    if depth(value) > MAX_DEPTH:
        raise invalid("", f"at most {MAX_DEPTH} levels of nesting are read")
    return value


def _text_parts_only(value: Any) -> Any:
    """Images, audio and files are refused by name rather than as a type error."""
    for part in value if isinstance(value, list) else ():
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("image_url", "input_image", "input_audio", "audio", "file", "input_file", "video_url"):
            raise unsupported("", f"`{kind}` parts are not supported: this service reads text only")
    return value


Text = Annotated[str, Field(max_length=MAX_TEXT)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
JsonObject = Annotated[dict[str, Any], BeforeValidator(_shallow)]


class Body(BaseModel):
    """A part of a request; a field that OpenAI adds some day is no error."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class TextPart(Body):
    """One piece of a message's text."""

    type: Literal["text"]
    text: Text


Content = Annotated[Text | Annotated[list[TextPart], Field(max_length=256)], BeforeValidator(_text_parts_only)]


class FunctionCall(Body):
    """What an earlier answer called."""

    name: Annotated[str, Field(max_length=64)]
    arguments: Text


class ToolCall(Body):
    """A call in an assistant message."""

    id: Annotated[str, Field(max_length=128)]
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Body):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: Annotated[str, Field(max_length=64)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=128)] | None = None
    tool_call_id: Annotated[str, Field(max_length=128)] | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise invalid("content", f"a message of role `{self.role}` needs `content`")
        return self

    @property
    def text(self) -> str:
        """Its text in one piece; parts are joined by line ends."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class Function(Body):
    """A function that the model may call."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: Annotated[str, Field(max_length=8192)] | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class Tool(Body):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    """The name in `tool_choice`."""

    name: Annotated[str, Field(max_length=64)]


class NamedTool(Body):
    """`tool_choice` for one function."""

    type: Literal["function"]
    function: NamedFunction


class SchemaFormat(Body):
    """The schema in `response_format`."""

    name: Annotated[str, Field(max_length=64)]
    description: str | None = None
    schema_: JsonObject | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """Free text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None

    @model_validator(mode="after")
    def _with_schema(self) -> Self:
        if self.type == "json_schema" and (self.json_schema is None or self.json_schema.schema_ is None):
            raise invalid("json_schema", "`json_schema` needs a `schema`")
        return self


class StreamOptions(Body):
    """What a stream ends with."""

    include_usage: bool | None = None


class SamplingBody(Body):
    """What chat and legacy completions share."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=1 << 31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: (
        Annotated[str, Field(min_length=1, max_length=64)]
        | Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=4)]
        | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=512)] | None = None

    @field_validator("logit_bias")
    @classmethod
    def _token_ids(cls, bias: dict[str, float] | None) -> dict[str, float] | None:
        if bias and (len(bias) > 1024 or any(not re.fullmatch(r"[0-9]{1,9}", key) for key in bias)):
            raise invalid("", "at most 1,024 token ids, each with a bias between -100 and 100")
        return bias

    @model_validator(mode="after")
    def _stream_options_belong_to_streams(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options", "`stream_options` is for `stream: true` only")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """Whether a stream shall end with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(SamplingBody):
    """Body of `POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[str] | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _refused(cls, body: Any) -> Any:
        reasons = {
            "audio": "audio is not supported: this service writes text only",
            "functions": "`functions` is the old name of `tools`; send `tools`",
            "function_call": "`function_call` is the old name of `tool_choice`; send `tool_choice`",
            "web_search_options": "this service does not search the web",
        }
        for name, why in reasons.items():
            if isinstance(body, dict) and body.get(name) is not None:
                raise unsupported(name, why)
        return body

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("top_logprobs", "`top_logprobs` needs `logprobs: true`")
        if self.modalities and self.modalities != ["text"]:
            raise unsupported("modalities", 'the only modality is "text"')
        names = {tool.function.name for tool in self.tools or ()}
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise invalid("tool_choice", f"`tools` has no function `{self.tool_choice.function.name}`")
        if self.tool_choice == "required" and not names:
            raise invalid("tool_choice", "`tool_choice` is for requests with `tools`")
        return self

    @property
    def wanted_tokens(self) -> int | None:
        """Most tokens to write; None: as many as the context holds."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


Prompts = (
    Text
    | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
    | Annotated[list[TokenId], Field(min_length=1, max_length=MAX_TEXT)]
    | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=MAX_PROMPTS)]
)


class CompletionRequest(SamplingBody):
    """Body of `POST /v1/completions`."""

    prompt: Prompts
    max_tokens: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    suffix: None = None

    @model_validator(mode="before")
    @classmethod
    def _no_suffix(cls, body: Any) -> Any:
        if isinstance(body, dict) and body.get("suffix"):
            raise unsupported("suffix", "`suffix` is not supported: the models write forwards only")
        return {**body, "suffix": None} if isinstance(body, dict) and "suffix" in body else body

    @model_validator(mode="after")
    def _best_of(self) -> Self:
        if self.best_of is not None and self.best_of < (self.n or 1):
            raise invalid("best_of", "`best_of` must be at least `n`")
        if self.stream and (self.best_of or 1) > (self.n or 1):
            raise invalid("best_of", "the best of several completions cannot be streamed")
        return self


class EmbeddingRequest(Body):
    """Body of `POST /v1/embeddings`."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    input: (
        Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
        | Annotated[
            list[Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]],
            Field(min_length=1, max_length=MAX_EMBEDDINGS),
        ]
        | Annotated[list[TokenId], Field(min_length=1, max_length=MAX_TEXT)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=MAX_EMBEDDINGS)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=65536)] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None


class TokenizeRequest(Body):
    """Body of `POST /v1/tokenize`: a text, or a chat as the model will read it."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    prompt: Text | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise invalid("prompt", "send either `prompt` or `messages`")
        return self


class DetokenizeRequest(Body):
    """Body of `POST /v1/detokenize`."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    tokens: Annotated[list[TokenId], Field(max_length=MAX_TEXT)]


class ModerationRequest(Body):
    """Body of `POST /v1/moderations`."""

    input: Content | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
    model: Annotated[str, Field(max_length=200)] | None = None


def ignored(body: Body) -> list[str]:
    """Fields of a body that were sent and have no effect here."""
    return sorted(name for name, value in (body.model_extra or {}).items() if value is not None)
