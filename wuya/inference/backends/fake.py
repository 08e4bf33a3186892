"""An engine without a model: the same words for the same prompt, at a set speed. For tests and for trying the pages.

    FakeEngine(script="Hello there.", tokens_per_second=30)            # always this text
    FakeEngine(script=lambda request, index: "...")                    # a text a completion
    FakeEngine(fail_after=5)                                           # Failed("engine_lost") after five tokens

It keeps every rule of `protocol`: queue, slots, cancel, stop strings, n interleaved, log-probs, JSON.
"""

import asyncio
import json
import math
import random
import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any
from zlib import crc32

from wuya.errors import WuyaError
from wuya.inference.backends.protocol import (
    ContextTooLong,
    Delta,
    Done,
    EngineInfo,
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    ModelInfo,
    Overloaded,
    Started,
    TokenLogprob,
    TopToken,
    UnknownModel,
)
from wuya.inference.backends.text import TextStream

Script = str | Callable[[GenerationRequest, int], str]

WORDS = ("the model reads your words and writes one token after another until it has said enough about rivers "
         "mountains bread weather music ships and numbers").split()  # fmt: skip
PIECE = re.compile(r"\s*[\u2e80-\u9fff\uac00-\ud7a3\uff00-\uffef]|\s*[^\s\u2e80-\u9fff\uac00-\ud7a3\uff00-\uffef]+|\s+")
"""A token: a word or one CJK character, with the space before it."""
TURN_START, TURN_END = 1, 2


class _Pause:
    """Waiting that `stop` ends at once."""

    def __init__(self) -> None:
        self.stopped = False
        self._future: asyncio.Future[bool] | None = None

    def stop(self) -> None:
        self.stopped = True
        if self._future is not None and not self._future.done():
            self._future.set_result(False)

    async def wait(self, future: asyncio.Future[bool]) -> bool:
        if self.stopped:
            return False
        self._future = future
        return await future

    async def sleep(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_later(seconds, _resolve, future)
        try:
            await self.wait(future)
        finally:
            timer.cancel()


def _resolve(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(True)


class FakeEngine:
    """Deterministic words; everything a test wants to know is an attribute."""

    def __init__(
        self,
        *,
        script: Script | None = None,
        models: Sequence[str] = ("fake",),
        tokens_per_second: float = math.inf,
        prefill_seconds: float = 0.0,
        fail_after: int | None = None,
        slots: int = 8,
        queue_limit: int = 64,
        context_length: int = 4096,
        num_words: int = 40,
    ) -> None:
        """
        Args:
            script: the text, or what makes it from (request, index); absent: `num_words` words that depend on prompt,
                seed and index.
            tokens_per_second: of each completion.
            fail_after: tokens of a completion after which its job fails with `engine_lost`.
        """
        self.script, self.tokens_per_second, self.prefill_seconds = script, tokens_per_second, prefill_seconds
        self.fail_after, self.slots_total, self.queue_limit = fail_after, slots, queue_limit
        self.context_length, self.num_words = context_length, num_words
        self.slots_used = 0
        self.requests: list[GenerationRequest] = []
        """Every request accepted so far."""
        self.cancelled: list[str] = []
        """Jobs that ended by `cancel` or because nobody listened any more."""
        self._models = {alias: self._model(alias, "") for alias in models}
        self._pieces: dict[int, str] = {}
        self._waiting: list[tuple[int, int, asyncio.Future[bool], int]] = []
        self._running: dict[str, _Pause] = {}
        self._arrivals = 0

    async def start(self) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        """Cancels what runs."""
        for job in list(self._running):
            await self.cancel(job)

    def info(self) -> EngineInfo:
        """Slots and queue as they are."""
        ratio = self.slots_used / self.slots_total
        return EngineInfo(
            models=tuple(self._models.values()),
            slots_total=self.slots_total,
            slots_used=self.slots_used,
            queue_length=len(self._waiting),
            kv_cache_ratio=ratio,
        )

    # -- text

    async def tokenize(self, model: str, text: str) -> list[int]:
        """One id a word (or CJK character)."""
        self._need(model)
        return self._ids(text)

    async def encode_chat(
        self, model: str, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """Turns between ids 1 and 2, like ChatML."""
        self._need(model)
        ids = self._ids(json.dumps(list(tools))) if tools else []
        for message in messages:
            ids += [TURN_START, *self._ids(f"{message['role']}\n{message.get('content') or ''}"), TURN_END]
        return [*ids, TURN_START, *self._ids("assistant\n")]

    async def decode(self, model: str, ids: Sequence[int]) -> str:
        """Ids it has seen become words again; others are spelled as numbers."""
        self._need(model)
        return "".join(self._pieces.get(id, f" {id}") for id in ids if id not in (TURN_START, TURN_END))

    # -- generation

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """See `protocol`."""
        self._check(request)
        n = request.params.n
        pause = self._running[request.job] = _Pause()
        self.requests.append(request)
        granted = False
        try:
            yield Started(request.job, len(request.prompt_ids), self._position(request))
            granted = await self._acquire(request, pause)
            if granted:
                await pause.sleep(self.prefill_seconds)
            async with aclosing(self._write(request, pause)) as events:
                async for event in events:
                    yield event
        finally:
            self._running.pop(request.job, None)
            self._free(n if granted else 0)

    async def cancel(self, job: str) -> None:
        """Takes effect at once, in the queue and in prefill too."""
        if pause := self._running.get(job):
            pause.stop()

    async def _write(self, request: GenerationRequest, pause: "_Pause") -> AsyncGenerator[Event, None]:
        params, job = request.params, request.job
        pieces = [self._split(self._text(request, index)) for index in range(params.n)]
        streams = [TextStream(params.stop) for _ in range(params.n)]
        counts = [0] * params.n
        live = list(range(params.n))
        finished = False
        try:
            while live and not pause.stopped:
                for index in list(live):
                    reason: FinishReason | None = None
                    if counts[index] < min(len(pieces[index]), params.max_tokens):
                        piece = pieces[index][counts[index]]
                        counts[index] += 1
                        text = streams[index].push(piece.encode())
                        yield self._delta(request, index, text, piece)
                        if counts[index] == self.fail_after:
                            finished = True
                            yield Failed(job, "engine_lost", "the fake engine fails as told", retryable=True)
                            return
                        reason = "stop" if streams[index].stopped else None
                    if reason is None and counts[index] >= min(len(pieces[index]), params.max_tokens):
                        reason = "stop" if counts[index] < params.max_tokens else "length"
                    if reason:
                        if text := streams[index].finish():
                            yield Delta(job, index, text)
                        reason = "stop" if streams[index].stopped else reason
                        live.remove(index)
                        yield Done(job, index, reason, counts[index])
                await pause.sleep(1 / self.tokens_per_second)
            for index in live:
                yield Done(job, index, "cancelled", counts[index])
            finished = not live
            yield Finished(job, len(request.prompt_ids), sum(counts))
        finally:
            if not finished:
                self.cancelled.append(job)

    def _delta(self, request: GenerationRequest, index: int, text: str, piece: str) -> Delta:
        [id] = self._ids(piece)
        top = request.params.logprobs
        logprobs = () if top is None else (self._logprob(piece, id, top),)
        return Delta(request.job, index, text, (id,), logprobs)

    def _text(self, request: GenerationRequest, index: int) -> str:
        if request.params.json_schema is not None:
            return json.dumps(example(request.params.json_schema))
        if callable(self.script):
            return self.script(request, index)
        if self.script is not None:
            return self.script
        seed = request.params.seed if request.params.seed is not None else len(self.requests)
        rng = random.Random(f"{request.prompt_ids} {seed} {index}")
        text = " ".join(rng.choice(WORDS) for _ in range(self.num_words))
        return text.capitalize() + "."

    # -- the other answers

    async def embed(self, model: str, inputs: Sequence[Sequence[int]]) -> list[list[float]]:
        """Sixteen numbers of length one."""
        self._need(model)
        vectors = []
        for ids in inputs:
            rng = random.Random(str(list(ids)))
            vector = [rng.gauss(0, 1) for _ in range(16)]
            norm = math.sqrt(sum(x * x for x in vector))
            vectors.append([x / norm for x in vector])
        return vectors

    async def score(self, model: str, ids: Sequence[int], top: int) -> list[TokenLogprob]:
        """Made-up log-probs, the same for the same token."""
        pieces = [await self.decode(model, [id]) for id in ids]
        scored = [self._logprob(piece, id, top) for piece, id in zip(pieces, ids, strict=True)]
        if scored:
            scored[0] = TokenLogprob(pieces[0], pieces[0].encode(), ids[0], math.nan)
        return scored

    async def load(self, alias: str, path: str) -> None:
        """Any path will do."""
        self._models[alias] = self._model(alias, path)

    async def unload(self, alias: str) -> None:
        """New requests are refused."""
        self._need(alias)
        del self._models[alias]

    # -- inside

    def _model(self, alias: str, path: str) -> ModelInfo:
        return ModelInfo(alias=alias, context_length=self.context_length, fingerprint=f"fake-{crc32(path.encode()):x}",
                         path=path, has_tools=True, created=int(time.time()))  # fmt: skip

    def _need(self, model: str) -> None:
        if model not in self._models:
            raise UnknownModel(model, list(self._models))

    def _check(self, request: GenerationRequest) -> None:
        self._need(request.model)
        prompt, wanted = len(request.prompt_ids), request.params.max_tokens
        if not prompt or prompt + wanted > self.context_length:
            raise ContextTooLong(prompt_tokens=prompt, max_tokens=wanted, context_length=self.context_length)
        if request.job in self._running:
            raise WuyaError(f"there is a job `{request.job}` already")
        if request.params.n > self.slots_total or len(self._waiting) >= self.queue_limit:
            raise Overloaded(found=f"{len(self._waiting)} requests wait")

    def _position(self, request: GenerationRequest) -> int:
        full = self._waiting or self.slots_used + request.params.n > self.slots_total
        return len(self._waiting) + 1 if full else 0

    async def _acquire(self, request: GenerationRequest, pause: "_Pause") -> bool:
        """Wait for n slots; False if the job was cancelled first."""
        n = request.params.n
        if not self._waiting and self.slots_used + n <= self.slots_total:
            self.slots_used += n
            return True
        self._arrivals += 1
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        entry = (request.priority, self._arrivals, turn, n)
        self._waiting.append(entry)
        self._waiting.sort(key=lambda item: item[:2])
        try:
            return await pause.wait(turn)
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self._free(n)
            raise
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    def _free(self, num_slots: int) -> None:
        self.slots_used -= num_slots
        while self._waiting and self.slots_used + self._waiting[0][3] <= self.slots_total:
            _, _, turn, n = self._waiting.pop(0)
            if not turn.done():
                self.slots_used += n
                turn.set_result(True)

    def _split(self, text: str) -> list[str]:
        return PIECE.findall(text)

    def _ids(self, text: str) -> list[int]:
        ids = [1000 + crc32(piece.encode(errors="replace")) % (1 << 30) for piece in self._split(text)]
        self._pieces.update(zip(ids, self._split(text), strict=True))
        return ids

    def _logprob(self, piece: str, id: int, top: int) -> TokenLogprob:
        others = [(id, piece), *((3 + k, f" alternative{k}") for k in range(1, top))][:top]
        tops = tuple(TopToken(i, text, text.encode(), -0.5 - k) for k, (i, text) in enumerate(others))
        return TokenLogprob(piece, piece.encode(), id, -0.5, tops)


def example(schema: Mapping[str, Any]) -> Any:
    """A small value of a JSON schema (the common keywords)."""
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for keyword in ("anyOf", "oneOf", "allOf"):
        if schema.get(keyword):
            return example(schema[keyword][0])
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: example(part) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [example(schema.get("items", {"type": "string"}))] * max(1, schema.get("minItems", 1))
    return {"string": "text", "integer": schema.get("minimum", 1), "number": 1.5, "boolean": True, "null": None}[kind]
