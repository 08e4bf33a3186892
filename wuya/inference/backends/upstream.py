"""Somebody else's engine: any server that speaks OpenAI's API (llama-server, vLLM, Ollama, another `wuya serve`).

    engine = UpstreamEngine("http://127.0.0.1:8080/v1", api_key=os.environ.get("KEY"))

Such servers take and give text, not token ids. So a prompt is kept here as ids of our own, which stand for texts and
chats that were tokenised, and is sent as the text (`/completions`) or the messages (`/chat/completions`) it came from.
Counts are the server's own where it tells them; `tokenize` asks it (`/tokenize` of llama-server and vLLM, for chats
llama-server's `/apply-template` before), else it estimates. What such an API has no place for (scores of a given text,
loading models) is `Unsupported`.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import httpx

from wuya.inference.backends.openai_answer import Answer, refusal
from wuya.inference.backends.protocol import (
    ContextTooLong,
    EngineInfo,
    EngineLost,
    Event,
    Failed,
    Finished,
    GenerationRequest,
    ModelInfo,
    Overloaded,
    TokenLogprob,
    UnknownModel,
    Unsupported,
)

PLAIN_KEYS = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "n")
OWN_KEYS = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "ignore_eos": False}
"""Beyond OpenAI's API, sent only when they do something; with the value that does nothing."""
CHARACTERS_PER_TOKEN = 4
KEPT_PROMPTS = 4096
LOADING_SECONDS = 120.0
"""So long `start` waits for a server that says 503: llama-server does while it reads its model."""
ASK_AGAIN_SECONDS = 0.5


class UpstreamEngine:
    """Implements `protocol.ServingEngine` over HTTP."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        models: Sequence[str] = (),
        context_length: int = 8192,
        slots: int = 16,
        queue_limit: int = 64,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """
        Args:
            base_url: up to and with `/v1`.
            models: which of the server's to offer; absent: all it lists.
            context_length: of models whose server does not tell.
            slots: requests under way at once; `queue_limit` more may wait here.
        """
        self.base_url, self.context_length = base_url.rstrip("/"), context_length
        self.slots, self.queue_limit = slots, queue_limit
        self._wanted = tuple(models)
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._transport = transport
        self._client: httpx.AsyncClient | None = None
        self._models: dict[str, ModelInfo] = {}
        self._prompts: dict[int, str | dict[str, Any]] = {}
        self._slots = asyncio.Semaphore(slots)
        self._running: dict[str, asyncio.Event] = {}
        self._used = 0
        self._waiting = 0
        self._has_template = True

    async def start(self) -> None:
        """Ask the server for its models, again while it says that it is still loading."""
        timeout = httpx.Timeout(10.0, read=600.0)
        limits = httpx.Limits(max_connections=self.slots + 8)
        self._client = httpx.AsyncClient(
            base_url=self.base_url, headers=self._headers, timeout=timeout, limits=limits, transport=self._transport
        )
        try:
            answer = await self._client.get("/models")
            patience = time.monotonic() + LOADING_SECONDS
            while answer.status_code == 503 and time.monotonic() < patience:
                await asyncio.sleep(ASK_AGAIN_SECONDS)
                answer = await self._client.get("/models")
            answer.raise_for_status()
            listed = answer.json()["data"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            await self.close()
            raise EngineLost(f"`{self.base_url}` does not list its models", found=str(error)[:200]) from error
        for item in listed:
            if not self._wanted or item["id"] in self._wanted:
                self._models[item["id"]] = self._model(item)
        if missing := [name for name in self._wanted if name not in self._models]:
            await self.close()
            raise UnknownModel(missing[0], [item["id"] for item in listed])

    async def close(self) -> None:
        """Streams end as cancelled."""
        for stop in self._running.values():
            stop.set()
        if self._client is not None:
            await self._client.aclose()

    def info(self) -> EngineInfo:
        """What is under way from here; the server may have other callers."""
        return EngineInfo(models=tuple(self._models.values()), slots_total=self.slots, slots_used=self._used,
                          queue_length=self._waiting, kv_cache_ratio=0.0, ready=bool(self._models))  # fmt: skip

    # -- text

    async def tokenize(self, model: str, text: str) -> list[int]:
        """As many ids as the text has tokens, as far as is known; the first one stands for the text."""
        self._need(model)
        return await self._keep(text, await self._count(text, {"model": model, "content": text, "prompt": text}))

    async def encode_chat(
        self, model: str, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """Ids that stand for the chat; the server applies its own template."""
        self._need(model)
        body: dict[str, Any] = {"messages": [dict(message) for message in messages]}
        if messages and messages[-1].get("role") == "assistant" and not messages[-1].get("tool_calls"):
            body |= {"continue_final_message": True, "add_generation_prompt": False}  # vLLM's; llama-server needs none
        if tools:
            body["tools"] = [dict(tool) for tool in tools]
        text = "\n".join(str(message.get("content") or "") for message in messages)
        return await self._keep(body, await self._count(text, {"model": model, "content": text, **body}))

    async def decode(self, model: str, ids: Sequence[int]) -> str:
        """The text that ids of `tokenize` stand for."""
        kept = self._prompts.get(ids[0]) if ids else None
        return kept if isinstance(kept, str) else ""

    async def _keep(self, prompt: str | dict[str, Any], count: int) -> list[int]:
        number = secrets.randbits(52)  # not to be guessed: whoever knows it can have the prompt continued
        self._prompts[number] = prompt
        while len(self._prompts) > KEPT_PROMPTS:
            del self._prompts[next(iter(self._prompts))]
        return [number] + [0] * (max(1, count) - 1)

    async def _count(self, text: str, body: Mapping[str, Any]) -> int:
        """llama-server's `/tokenize` reads `content`, vLLM's `prompt` or, with its chat template, `messages`."""
        assert self._client is not None
        root = self.base_url.removesuffix("/v1")
        try:
            if "messages" in body and self._has_template:
                answer = await self._client.post(f"{root}/apply-template", json=body)
                if answer.status_code == 200:
                    body = {**body, "content": answer.json()["prompt"]}
                elif answer.status_code in (404, 405, 501):
                    self._has_template = False  # vLLM, and others: not asked again
            answer = await self._client.post(f"{root}/tokenize", json=body)
            data = answer.json() if answer.status_code == 200 else {}
            return int(data.get("count") or len(data["tokens"]))
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return -(-len(text.encode()) // CHARACTERS_PER_TOKEN)

    # -- generation

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """See `protocol`. The first event comes when the server has accepted; what it says before is a refusal."""
        self._need(request.model)
        if request.params.max_tokens >= self._models[request.model].context_length:
            raise self._too_long(request)
        if self._waiting >= self.queue_limit and self._slots.locked():
            raise Overloaded(found=f"{self._waiting} requests wait")
        stop = self._running[request.job] = asyncio.Event()
        self._waiting += 1
        taken = False
        try:
            if not (taken := await self._take_slot(stop)):
                answer = Answer(request)
                for event in (answer.started(), *answer.end("cancelled")):
                    yield event
                return
            self._waiting, self._used = self._waiting - 1, self._used + 1
            async with aclosing(self._stream(request, stop)) as events:
                async for event in events:
                    yield event
        finally:
            self._running.pop(request.job, None)
            if taken:
                self._used -= 1
                self._slots.release()
            else:
                self._waiting -= 1

    async def _take_slot(self, stop: asyncio.Event) -> bool:
        """Wait for a free slot; False if the job is cancelled first."""
        taking, stopping = asyncio.create_task(self._slots.acquire()), asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((taking, stopping), return_when=asyncio.FIRST_COMPLETED)
            return taking.done()
        finally:
            taking.cancel()
            stopping.cancel()

    async def cancel(self, job: str) -> None:
        """The connection is closed, on which such servers stop."""
        if stop := self._running.get(job):
            stop.set()

    async def _stream(self, request: GenerationRequest, stop: asyncio.Event) -> AsyncGenerator[Event, None]:
        path, body = self._body(request)
        assert self._client is not None
        answer = Answer(request)
        lines: asyncio.Queue[str | Exception | None] = asyncio.Queue()
        reading = asyncio.create_task(self._read(path, body, lines))
        stopping = asyncio.create_task(stop.wait())
        begun = False
        try:
            while True:
                getting = asyncio.create_task(lines.get())
                await asyncio.wait((getting, stopping), return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    getting.cancel()
                    events, item = ([] if begun else [answer.started()]) + answer.end("cancelled"), None
                elif isinstance(item := getting.result(), Exception):
                    if not begun:
                        raise self._too_long(request) if isinstance(item, ContextTooLong) else item
                    yield Failed(request.job, getattr(item, "code", "engine_lost"), str(item), retryable=True)
                    return
                else:
                    events = answer.broken() if item is None else answer.take(item)
                    events = events if begun else [answer.started(), *events]
                begun = True
                for event in events:
                    yield event
                if events and isinstance(events[-1], Finished | Failed):
                    return
        finally:
            for task in (reading, stopping):
                task.cancel()
            await asyncio.gather(reading, stopping, return_exceptions=True)

    def _too_long(self, request: GenerationRequest) -> ContextTooLong:
        return ContextTooLong(
            prompt_tokens=len(request.prompt_ids),
            max_tokens=request.params.max_tokens,
            context_length=self._models[request.model].context_length,
        )

    async def _read(self, path: str, body: dict[str, Any], lines: "asyncio.Queue[str | Exception | None]") -> None:
        """The data lines of the stream; then None, or what went wrong."""
        assert self._client is not None
        try:
            async with self._client.stream("POST", path, json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    lines.put_nowait(refusal(response, body["model"]))
                    return
                lines.put_nowait("{}")  # it was accepted
                async for line in response.aiter_lines():
                    if line.startswith("data:") and line[5:].strip():
                        lines.put_nowait(line[5:])
            lines.put_nowait(None)
        except httpx.HTTPError as error:
            lines.put_nowait(EngineLost(f"`{self.base_url}` does not answer", found=str(error)[:200]))

    def _body(self, request: GenerationRequest) -> tuple[str, dict[str, Any]]:
        params = request.params
        prompt = self._prompts.get(request.prompt_ids[0] if request.prompt_ids else 0)
        if prompt is None:
            what = "prompts for this engine are text, not token ids"
            raise Unsupported(what, param="prompt", hint="send the text itself")
        body: dict[str, Any] = {"model": request.model, "stream": True, "stream_options": {"include_usage": True},
                                "max_tokens": params.max_tokens}  # fmt: skip
        body |= {key: getattr(params, key) for key in PLAIN_KEYS if getattr(params, key) is not None}
        body |= {key: getattr(params, key) for key, off in OWN_KEYS.items() if getattr(params, key) != off}
        if params.stop:
            body["stop"] = list(params.stop)
        if params.logit_bias:
            body["logit_bias"] = {str(key): value for key, value in params.logit_bias.items()}
        if params.json_schema is not None:
            schema = {"name": "answer", "schema": dict(params.json_schema), "strict": True}
            body["response_format"] = (
                {"type": "json_schema", "json_schema": schema} if params.json_schema else {"type": "json_object"}
            )
        if isinstance(prompt, str):
            if params.logprobs is not None:
                body["logprobs"] = params.logprobs
            return "/completions", body | {"prompt": prompt}
        if params.logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": params.logprobs}
        return "/chat/completions", body | prompt

    # -- the rest

    async def embed(self, model: str, inputs: Sequence[Sequence[int]]) -> list[list[float]]:
        """By the server's `/embeddings`."""
        self._need(model)
        assert self._client is not None
        texts = [await self.decode(model, ids) for ids in inputs]
        answer = await self._client.post(
            "/embeddings", json={"model": model, "input": texts, "encoding_format": "float"}
        )
        if answer.status_code in (404, 405, 501):
            self._models[model] = replace(self._models[model], has_embeddings=False)
            what = "the upstream server gives no embeddings of this model"
            raise Unsupported(what, param="model", found=self.base_url)
        if answer.status_code != 200:
            raise refusal(answer, model)
        return [list(item["embedding"]) for item in sorted(answer.json()["data"], key=lambda item: item["index"])]

    async def score(self, model: str, ids: Sequence[int], top: int) -> list[TokenLogprob]:
        """Not by such an API."""
        raise Unsupported("log-probs of a given text need a model of our own", param="echo", found=self.base_url)

    async def load(self, alias: str, path: str) -> None:
        """Not by such an API."""
        raise Unsupported("models of another server are loaded there", found=self.base_url)

    async def unload(self, alias: str) -> None:
        """Offer it no longer."""
        self._need(alias)
        del self._models[alias]

    def _need(self, model: str) -> None:
        if model not in self._models:
            raise UnknownModel(model, list(self._models))

    def _model(self, item: Mapping[str, Any]) -> ModelInfo:
        meta = item.get("meta") or {}
        told = item.get("max_model_len") or meta.get("n_ctx") or meta.get("n_ctx_train")
        return ModelInfo(
            alias=item["id"],
            context_length=int(told or self.context_length),
            path=self.base_url,
            fingerprint=f"upstream-{item['id']}",
            has_tools=True,
            created=int(item.get("created") or 0),
        )
