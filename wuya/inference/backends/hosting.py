"""What `LocalEngine` asks of a loaded model, whatever computes it: torch (`hosted`) or OpenVINO GenAI (`openvino`)."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from wuya.inference.backends.protocol import Event, GenerationRequest, ModelInfo, TokenLogprob
from wuya.tokenizer.bpe import Tokenizer


class Hosted(Protocol):
    """One model with its queue. Lives in the engine's thread, but for what is marked."""

    info: ModelInfo
    tokenizer: Tokenizer
    vocab_size: int
    accepted: set[str]
    """Jobs that have not begun, which the event loop's side adds to."""
    leaving: bool
    """No longer behind its alias: to be forgotten when its jobs have ended."""

    @property
    def jobs(self) -> Collection[str]:
        """Names of all that have not ended."""
        ...

    @property
    def busy(self) -> bool:
        """There is something to do."""
        ...

    @property
    def num_used(self) -> int:
        """Completions being read or written."""
        ...

    @property
    def num_waiting(self) -> int:
        """Jobs none of whose completions has begun."""
        ...

    @property
    def cache_ratio(self) -> float:
        """Share of the keys' and values' memory in use, 0 .. 1."""
        ...

    def check(self, request: GenerationRequest) -> None:
        """Raise for parameters it cannot follow; from any thread."""
        ...

    def compile_schema(self, schema: Mapping[str, Any]) -> Any:
        """What `add` needs for a JSON schema; from any thread."""
        ...

    def add(self, request: GenerationRequest, grammar: Any = None) -> None: ...

    def cancel(self, name: str) -> None:
        """End a job wherever it is; of unknown ones: nothing."""
        ...

    def fail(self, code: str, message: str) -> None:
        """End every job."""
        ...

    def step(self) -> None:
        """One forward, and what became known by it."""
        ...

    def take_events(self) -> list[Event]:
        """What happened since the last call."""
        ...

    def embed(self, ids: Sequence[int]) -> list[float]: ...

    def score(self, ids: Sequence[int], top: int) -> list[TokenLogprob]: ...
