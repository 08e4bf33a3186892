"""The engine of this process: one thread runs every loaded model's batch, the event loop hears what happened.

    engine = LocalEngine({"policy": "runs/demo/ppo"}, slots=16)
    await engine.start()

The thread owns models and batches. Everything else talks to it by a queue of commands, which it obeys between two
steps; it answers with one call into the event loop a step. So a cancel waits for one step, and no lock is needed.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import torch

from wuya.errors import ConfigError, DataError, WuyaError
from wuya.inference.backends.chat import encode_messages
from wuya.inference.backends.grammar import Grammar
from wuya.inference.backends.hosting import Hosted
from wuya.inference.backends.loading import Quantize, load_hosted
from wuya.inference.backends.protocol import (
    ContextTooLong,
    EngineInfo,
    EngineLost,
    Event,
    Failed,
    Finished,
    GenerationRequest,
    InvalidSchema,
    Overloaded,
    Started,
    TokenLogprob,
    UnknownModel,
)

LOG = logging.getLogger(__name__)
T = TypeVar("T")
P = ParamSpec("P")
COMPILE_SECONDS = 10.0
SHORT_TEXT = 8_192
"""Characters that are encoded in less time than a change of threads may take."""


async def _beside(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `work` at once, or in a thread if its text is long: the libraries let other threads run meanwhile, and the
    event loop, which every stream waits for, never holds still for a quarter of a million characters."""
    if size <= SHORT_TEXT:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


class LocalEngine:
    """Implements `protocol.ServingEngine` with torch in a thread."""

    def __init__(
        self,
        models: Mapping[str, Path | str],
        *,
        slots: int = 16,
        queue_limit: int = 64,
        cache_bytes: int = 1 << 30,
        prefix_bytes: int = 256 << 20,
        device: str = "auto",
        dtype: str = "auto",
        quantize: Quantize = "none",
        max_context: int | None = None,
        library: Literal["torch", "openvino"] = "torch",
    ) -> None:
        """
        Args:
            models: alias -> checkpoint: run folder, Hugging Face folder, .gguf file, `smollm2`, `package:NAME`.
            slots: completions of one model written at the same time.
            queue_limit: requests that may wait; more are refused.
            cache_bytes: of each model, for keys and values of what runs; at least one whole context.
            prefix_bytes: of each model, for those of finished completions, which the next turn of a chat begins with.
            max_context: cut the models' contexts to so many tokens.
            library: what computes; see `openvino` for what that one cannot do.
        """
        self._paths = {alias: str(path) for alias, path in models.items()}
        self.slots, self.queue_limit, self.library = slots, queue_limit, library
        self._load_options: dict[str, Any] = {
            "slots": slots, "cache_bytes": cache_bytes, "prefix_bytes": prefix_bytes, "device": device, "dtype": dtype,
            "quantize": quantize, "max_context": max_context,
        }  # fmt: skip
        self._models: dict[str, Hosted] = {}
        self._hosted: list[Hosted] = []  # the thread's: also those which only finish their streams
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._streams: dict[str, asyncio.Queue[Event]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closing = False
        self._compilers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="schema")

    async def start(self) -> None:
        """Load the models, start the thread."""
        self._loop, self._closing = asyncio.get_running_loop(), False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        try:
            for alias, path in self._paths.items():
                await self.load(alias, path)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End all jobs and the thread."""
        if self._thread is None:
            return
        self._commands.put(self._end_everything)
        await asyncio.to_thread(self._thread.join)
        self._thread, self._models, self._hosted = None, {}, []

    def info(self) -> EngineInfo:
        """Numbers the thread keeps; reading them needs no lock."""
        hosted = list(self._models.values())
        return EngineInfo(
            models=tuple(model.info for model in hosted),
            slots_total=self.slots * max(1, len(hosted)),
            slots_used=sum(model.num_used for model in hosted),
            queue_length=sum(model.num_waiting for model in hosted),
            kv_cache_ratio=max((model.cache_ratio for model in hosted), default=0.0),
            ready=self._thread is not None and self._thread.is_alive() and not self._closing,
        )

    # -- text

    async def tokenize(self, model: str, text: str) -> list[int]:
        """As `transformers` encodes a text, with the BOS token where the tokenizer adds one; special tokens in the text
        are plain characters."""
        return await _beside(len(text), self._need(model).tokenizer.encode_document, text)

    async def encode_chat(
        self, model: str, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """The chat in the checkpoint's own template."""
        size = sum(len(str(message.get("content"))) for message in messages)
        tokenizer = self._need(model).tokenizer
        return await _beside(size, lambda: encode_messages(tokenizer, messages, tools=tools))

    async def decode(self, model: str, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        return self._need(model).tokenizer.decode(ids, skip_special=True)

    # -- generation

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """See `protocol`."""
        hosted = self._check(request)
        grammar = None if request.params.json_schema is None else await self._compile(hosted, request)
        ahead = self._num_ahead(hosted)
        if ahead >= self.queue_limit:
            raise Overloaded(found=f"{ahead} requests wait, {self.queue_limit} may")
        events: asyncio.Queue[Event] = asyncio.Queue()
        self._streams[request.job] = events
        hosted.accepted.add(request.job)
        self._commands.put(lambda: self._add(hosted, request, grammar))
        ended = False
        try:
            yield Started(request.job, len(request.prompt_ids), ahead)
            while not ended:
                event = await events.get()
                ended = isinstance(event, Finished | Failed)
                yield event
        finally:
            del self._streams[request.job]
            if not ended:
                self._commands.put(lambda: hosted.cancel(request.job))

    async def cancel(self, job: str) -> None:
        """Within one step."""
        self._commands.put(lambda: self._cancel(job))

    async def embed(self, model: str, inputs: Sequence[Sequence[int]]) -> list[list[float]]:
        """One forward an input, between two steps of the batch."""
        hosted = self._need(model)
        for ids in inputs:
            self._check_length(hosted, len(ids), 0)
        return [await self._call(lambda ids=ids: hosted.embed(ids)) for ids in inputs]  # type: ignore[misc]

    async def score(self, model: str, ids: Sequence[int], top: int) -> list[TokenLogprob]:
        """One forward without cache."""
        hosted = self._need(model)
        self._check_length(hosted, len(ids), 0)
        return await self._call(lambda: hosted.score(ids, top))

    # -- models

    async def load(self, alias: str, path: str) -> None:
        """Beside what runs; then new requests get the new model."""
        new = await asyncio.to_thread(self._load, alias, path)
        old, self._models[alias] = self._models.get(alias), new
        self._commands.put(lambda: self._exchange(old, new))

    async def unload(self, alias: str) -> None:
        """Its streams finish first."""
        old = self._need(alias)
        del self._models[alias]
        self._commands.put(lambda: self._exchange(old, None))

    def _load(self, alias: str, path: str) -> Hosted:
        if self.library == "torch":
            return load_hosted(alias, path, **self._load_options)
        try:
            from wuya.inference.backends.openvino import load_openvino
        except ImportError as error:
            hint = "install it: `pip install 'wuya[openvino]'`"
            raise ConfigError("OpenVINO GenAI is not installed", found=str(error), hint=hint) from error
        return load_openvino(alias, path, **self._load_options)

    # -- helpers of the event loop's side

    def _need(self, alias: str) -> Hosted:
        if alias not in self._models:
            raise UnknownModel(alias, list(self._models))
        return self._models[alias]

    def _check(self, request: GenerationRequest) -> Hosted:
        hosted, params = self._need(request.model), request.params
        if self._closing or self._thread is None or not self._thread.is_alive():
            raise EngineLost("the engine is not running")
        self._check_length(hosted, len(request.prompt_ids), params.max_tokens)
        if request.job in self._streams:
            raise WuyaError(f"there is a job `{request.job}` already")
        if not all(0 <= id < hosted.vocab_size for id in request.prompt_ids):
            raise DataError("the prompt holds token ids this model does not have", found=f"{hosted.vocab_size} tokens")
        hosted.check(request)
        return hosted

    def _check_length(self, hosted: Hosted, prompt: int, wanted: int) -> None:
        if prompt < 1:
            raise DataError("the prompt is empty", hint="give it at least one token")
        if prompt + wanted > hosted.info.context_length:
            raise ContextTooLong(prompt_tokens=prompt, max_tokens=wanted, context_length=hosted.info.context_length)

    async def _compile(self, hosted: Hosted, request: GenerationRequest) -> Grammar:
        """In a thread of its own kind: a schema that takes for ever holds up no other work, only other schemas."""
        schema = request.params.json_schema or {}
        compiled = asyncio.get_running_loop().run_in_executor(self._compilers, hosted.compile_schema, schema)
        try:
            return await asyncio.wait_for(compiled, COMPILE_SECONDS)
        except TimeoutError:
            raise InvalidSchema(
                "the JSON schema takes too long to compile", found=f"more than {COMPILE_SECONDS:g} seconds"
            ) from None

    def _num_ahead(self, hosted: Hosted) -> int:
        """Requests that would be served before a new one."""
        return max(0, len(hosted.accepted) - max(0, self.slots - hosted.num_used))

    async def _call(self, work: Callable[[], T]) -> T:
        """Run something in the engine's thread, between two steps."""
        future: Future[T] = Future()

        def obey() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except Exception as error:  # noqa: BLE001  whatever it is, it belongs to the caller
                future.set_exception(error)

        self._commands.put(obey)
        return await asyncio.wrap_future(future)

    def _deliver(self, events: list[Event]) -> None:
        for event in events:
            if stream := self._streams.get(event.job):
                stream.put_nowait(event)

    # -- the thread

    def _run(self) -> None:
        with torch.inference_mode():
            while not self._closing:
                self._obey(wait=not any(hosted.busy for hosted in self._hosted))
                for hosted in self._hosted:
                    if hosted.busy:
                        self._step(hosted)
                self._publish()
                self._hosted = [hosted for hosted in self._hosted if not hosted.leaving or hosted.jobs]

    def _obey(self, *, wait: bool) -> None:
        """All commands there are; if there is nothing else to do, wait for one."""
        try:
            while True:
                command = self._commands.get(block=wait)
                wait = False
                try:
                    command()
                except Exception:  # a bug, but not one that may end the thread
                    LOG.exception("a command failed")
        except queue.Empty:
            pass

    def _add(self, hosted: Hosted, request: GenerationRequest, grammar: Grammar | None) -> None:
        try:
            hosted.add(request, grammar)
        except Exception as error:
            self._deliver_soon([Failed(request.job, "internal_error", f"{type(error).__name__} in the engine")])
            raise

    def _cancel(self, job: str) -> None:
        for hosted in self._hosted:
            hosted.cancel(job)

    def _step(self, hosted: Hosted) -> None:
        try:
            hosted.step()
        except Exception as error:  # whatever it is, the other models and the next requests go on
            LOG.exception("a step of model %s failed", hosted.info.alias)
            hosted.fail("internal_error", f"{type(error).__name__} in the engine")

    def _publish(self) -> None:
        events = [event for hosted in self._hosted for event in hosted.take_events()]
        self._deliver_soon(events)

    def _deliver_soon(self, events: list[Event]) -> None:
        if events and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, events)

    def _exchange(self, old: Hosted | None, new: Hosted | None) -> None:
        if old is not None:
            old.leaving = True
        if new is not None:
            self._hosted.append(new)

    def _end_everything(self) -> None:
        for hosted in self._hosted:
            for job in list(hosted.jobs):
                hosted.cancel(job)
        self._publish()
        self._closing = True
