"""What the service asks of an engine, and all it may know of one. Nothing here, nor in `fake`, imports torch.

    async with aclosing(engine.submit(request)) as events:     # leaving the block early cancels
        async for event in events: ...                         # Started, Delta ..., Done (one a completion), Finished

Rules every engine keeps:
- A request is refused (`Overloaded`, `UnknownModel`, `ContextTooLong`, `InvalidSchema`, `Unsupported`, or another
  WuyaError) by the FIRST `anext`, before any event. So a caller awaits one event, which comes at once, also while the
  request waits in the queue, and then answers HTTP 200.
- Events of one job: `Started`; `Delta`s of its n completions, interleaved; one `Done` a completion; `Finished`.
  Or `Failed` at any place after `Started`, which is then the last.
- `Delta.text` never ends inside a UTF-8 character, never holds (a part of) a stop string or a special token. The texts
  of one index joined are the completion. A `Delta` may have tokens without text, never neither.
- `cancel`, or closing the iterator, frees the slot within one step of the model, in the queue and in prefill too.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from wuya.errors import RunError, WuyaError

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParams:
    """How to sample; plain numbers which the caller has checked."""

    max_tokens: int
    """Most tokens of a completion."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps all."""
    min_p: float = 0.0
    presence_penalty: float = 0.0
    """Taken once from the logit of every token the completion already holds."""
    frequency_penalty: float = 0.0
    """Taken as often as the completion holds the token."""
    repetition_penalty: float = 1.0
    """Logits of tokens in prompt or completion are divided by it if positive, else multiplied (arXiv:1909.05858)."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Token id -> what is added to its logit; -100 and less forbid it."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these."""
    seed: int | None = None
    """With the same model and prompt the same seed gives the same text; None draws one."""
    n: int = 1
    """Completions of the prompt."""
    logprobs: int | None = None
    """None: none; 0 .. 20: the log-prob of each sampled token, and so many of the likeliest alternatives."""
    json_schema: Mapping[str, Any] | None = None
    """The text will be a JSON document of this schema; {} means any JSON object."""
    continues: bool = False
    """The completion goes on in the middle of a text, so a space before its first word is kept."""
    ignore_eos: bool = False
    """Go on after the end token, for benchmarks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One prompt and how to continue it."""

    job: str
    """Unique name, the caller's choice."""
    model: str
    """Alias."""
    prompt_ids: tuple[int, ...]
    params: GenerationParams
    priority: int = 0
    """Lower is served first; equal: first come, first served."""
    user: str = ""
    """Whom it is for; engines may be fair between users."""


# ---- events
@dataclass(frozen=True, slots=True)
class TopToken:
    """One of the likeliest tokens at a place."""

    token_id: int
    token: str
    """As text, with U+FFFD for bytes that are no character by themselves."""
    bytes: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and what the model thought of it."""

    token: str
    bytes: bytes
    """The exact bytes: a part of a character, perhaps. Joined they are the completion."""
    token_id: int
    logprob: float
    """Nats; of the model's own distribution at temperature 1, before penalties, bias and truncation."""
    top: tuple[TopToken, ...] = ()
    """The likeliest first; as many as asked for. The sampled token is not added if it is none of them."""


@dataclass(frozen=True, slots=True)
class Started:
    """The request was accepted; it runs now or waits in the queue."""

    job: str
    prompt_tokens: int
    position: int = 0
    """Requests before it in the queue; 0 means it starts at once."""


@dataclass(frozen=True, slots=True)
class Delta:
    """More of completion `index`."""

    job: str
    index: int
    text: str
    token_ids: tuple[int, ...] = ()
    """Tokens sampled since the last Delta, without the end token. Text held back for a stop string comes with later
    tokens, so tokens and text of one Delta need not match; joined they do, but for a stop string's own tokens."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One a token of `token_ids`, if asked for."""


@dataclass(frozen=True, slots=True)
class Done:
    """Completion `index` is whole."""

    job: str
    index: int
    finish_reason: FinishReason
    """`stop`: the end token or a stop string; `length`: `max_tokens`, or the context is full."""
    completion_tokens: int
    """Sampled, the end token and those of a stop string included."""


@dataclass(frozen=True, slots=True)
class Finished:
    """All completions are whole (or were cancelled); the last event."""

    job: str
    prompt_tokens: int
    """Counted once for all n."""
    completion_tokens: int
    """Sum over all n."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The job ended without a result; the last event."""

    job: str
    code: str
    """`engine_lost`: the engine's process died, try again; `invalid_schema`, `invalid_value`: the request cannot be
    followed; `internal_error`: a bug."""
    message: str
    retryable: bool = False


Event = Started | Delta | Done | Finished | Failed


# ---- what may go wrong before the first event
class EngineError(RunError):
    """An engine refuses a request; `code` is the name programs see."""

    code = "internal_error"


class Overloaded(EngineError):
    """The queue is full: come back later."""

    code = "overloaded"

    def __init__(self, what: str = "the engine's queue is full", *, found: str = "", retry_after: float = 1.0) -> None:
        super().__init__(what, found=found, hint="try again in a moment")
        self.retry_after = retry_after
        """Seconds, a guess."""


class EngineLost(EngineError):
    """The engine's process is not there (it is being started again)."""

    code = "engine_lost"


class UnknownModel(WuyaError):
    """No model has this alias."""

    code = "model_not_found"

    def __init__(self, alias: str, known: Sequence[str] = ()) -> None:
        super().__init__(f"there is no model `{alias}`", found=", ".join(known) or "no models")
        self.alias = alias


class ContextTooLong(WuyaError):
    """Prompt and `max_tokens` do not fit the model's context."""

    code = "context_length_exceeded"

    def __init__(self, *, prompt_tokens: int, max_tokens: int, context_length: int) -> None:
        super().__init__(
            f"this model's context is {context_length} tokens",
            found=f"{prompt_tokens} of the prompt and {max_tokens} to be written",
        )
        self.prompt_tokens, self.max_tokens, self.context_length = prompt_tokens, max_tokens, context_length


class InvalidSchema(WuyaError):
    """The JSON schema cannot be followed."""

    code = "invalid_schema"


class InvalidParameter(WuyaError):
    """A value that no answer can keep, or that this model cannot take."""

    code = "invalid_value"

    def __init__(self, what: str, *, param: str, found: str = "", hint: str = "") -> None:
        super().__init__(what, found=found, hint=hint)
        self.param = param
        """OpenAI's name of the parameter."""


class Unsupported(WuyaError):
    """This engine, or this model, cannot do what was asked (tools without a template for them, embeddings, ...)."""

    code = "unsupported_parameter"

    def __init__(self, what: str, *, param: str = "", found: str = "", hint: str = "") -> None:
        super().__init__(what, found=found, hint=hint)
        self.param = param
        """OpenAI's name of what was asked with, where there is one."""


# ---- what there is
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A loaded model."""

    alias: str
    context_length: int
    fingerprint: str
    """Of weights, tokenizer and engine version: an equal one gives equal text for equal seeds."""
    path: str = ""
    has_chat: bool = True
    """It has a chat template."""
    has_tools: bool = False
    """Its chat template knows tools."""
    has_embeddings: bool = True
    """Its engine gives vectors of texts."""
    created: int = 0
    """Unix seconds, of the checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """State at this moment; made without asking the engine's process, so it is cheap."""

    models: tuple[ModelInfo, ...]
    slots_total: int
    slots_used: int
    """Completions being read or written now."""
    queue_length: int
    """Requests that wait for a slot."""
    kv_cache_ratio: float
    """Share of the keys' and values' memory in use, 0 .. 1."""
    ready: bool = True
    """False while the engine starts, restarts or is lost."""


class ServingEngine(Protocol):
    """An engine. Every method may be called from any task of the event loop `start` ran in."""

    async def start(self) -> None:
        """Load what there is to load; returns when requests are welcome."""
        ...

    async def close(self) -> None:
        """End running jobs (they see Done with `cancelled`, or Failed) and free everything."""
        ...

    def info(self) -> EngineInfo: ...

    async def tokenize(self, model: str, text: str) -> list[int]:
        """Ids of a text that stands alone, what the tokenizer adds before it (BOS) included; special tokens in it are
        plain characters."""
        ...

    async def encode_chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """Ids of a chat in the model's own template, with the opening of the assistant's turn.

        Args:
            messages: {role, content, ...} as in OpenAI's API, content a string; text in them never becomes a special
                token. A last message of role `assistant` is continued.
            tools: OpenAI's tool objects; `Unsupported` if the template has no place for them.
        """
        ...

    async def decode(self, model: str, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        ...

    def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """The job's events; see the top of this file."""
        ...

    async def cancel(self, job: str) -> None:
        """Stop a job: its completions end with `cancelled`, then Finished. Of unknown or ended jobs: nothing."""
        ...

    async def embed(self, model: str, inputs: Sequence[Sequence[int]]) -> list[list[float]]:
        """One unit vector an input: the mean of its tokens' last hidden states."""
        ...

    async def score(self, model: str, ids: Sequence[int], top: int) -> list[TokenLogprob]:
        """What the model thinks of each token of a text given those before it, `top` alternatives each.

        The first token's log-prob is NaN: nothing stands before it.
        """
        ...

    async def load(self, alias: str, path: str) -> None:
        """Put the checkpoint at `path` behind `alias`; running streams finish on the old weights."""
        ...

    async def unload(self, alias: str) -> None:
        """Forget a model once its streams have ended; new requests get `UnknownModel` at once."""
        ...
