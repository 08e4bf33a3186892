"""One loaded model with its queue, its batch and its memory. Lives in the engine's thread; nothing here is locked.

Rows and length of the cache follow what runs: it grows when a row outgrows it, within `cache_bytes`; when that is not
enough the youngest row goes back into the queue (its numbers are a hash of seed and count, so it will say the same),
and an idle model holds no cache. Finished rows leave their keys and values in a `PrefixStore`.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wuya.inference.backends.completion import Completion, Vocabulary
from wuya.inference.backends.grammar import Grammar, GrammarCompiler
from wuya.inference.backends.prefixes import PrefixStore, shared_length
from wuya.inference.backends.protocol import (
    Event,
    Failed,
    Finished,
    GenerationRequest,
    InvalidParameter,
    ModelInfo,
    TokenLogprob,
)
from wuya.inference.backends.scoring import embedding, token_logprobs
from wuya.inference.batch import Batch, StepOutput
from wuya.inference.caches import cache_bytes_per_token, new_cache
from wuya.inference.sampling import SamplingParams, draw_seeds
from wuya.inference.scheduler import Request
from wuya.models.decoder import Decoder
from wuya.tokenizer.bpe import Tokenizer

STEP_SECONDS = 0.15
"""A chunk of a prompt should take about so long: running streams wait for it, and so does a cancel."""
LONE_STEP_SECONDS = 0.4
"""Where nobody else writes, only a cancel waits."""
CHUNK_TOKENS = 32, 2048
STRIDE = 32
"""Tokens by which rows grow where memory is short."""


@dataclass(slots=True)
class Job:
    """One request and its completions."""

    request: GenerationRequest
    completions: list[Completion] = field(default_factory=list)

    @property
    def num_finished(self) -> int:
        return sum(completion.finished for completion in self.completions)

    def end(self) -> Finished:
        """Its last event."""
        tokens = sum(len(completion.ids) for completion in self.completions)
        return Finished(self.request.job, len(self.request.prompt_ids), tokens)


@dataclass(slots=True)
class Work:
    """Completions of one job that are read together: all of them, or those that were put back."""

    job: Job
    completions: list[Completion]
    order: tuple[int, ...]


class HostedModel:
    """Continuous batching of requests for one model."""

    def __init__(
        self, info: ModelInfo, model: Decoder, tokenizer: Tokenizer, *, slots: int, cache_bytes: int, prefix_bytes: int
    ) -> None:
        self.info, self.model, self.tokenizer, self.slots = info, model, tokenizer, slots
        self.context_length, self.vocab_size = info.context_length, model.config.vocab_size
        self.vocabulary = Vocabulary(tokenizer, model.config.vocab_size)
        self.bytes_per_token = cache_bytes_per_token(model)
        self.cache_bytes = max(cache_bytes, self.context_length * self.bytes_per_token)
        self.cache = new_cache(model, num_rows=1, length=1)
        self.prefixes = PrefixStore(prefix_bytes)
        self.jobs: dict[str, Job] = {}
        self.accepted: set[str] = set()
        """Jobs that have not begun, kept by the event loop's side and by `_request`; counting them is all it is for."""
        self.leaving = False
        """No longer behind its alias: to be forgotten when its jobs have ended."""
        self._events: list[Event] = []
        self._grammars: GrammarCompiler | None = None
        self._grammar_lock = threading.Lock()
        self._waiting: list[Work] = []
        self._by_sequence: dict[int, Completion] = {}
        self._work: dict[int, Work] = {}
        self._seeds = torch.Generator()
        self._seeds.seed()
        self._sequences = 0
        self._prefill_speed = 200.0
        self._new_batch()

    def _new_batch(self) -> None:
        self.batch = Batch(self.model, self.cache, max_length=self.context_length, max_rows=self.slots,
                           num_stops=len(self.vocabulary.stops), alternate=True,
                           num_tokens=self.tokenizer.vocab_size)  # fmt: skip
        self.batch.scheduler.patience_rows = 1
        self.batch.on_leave = self._keep_prefix

    # -- what the thread asks

    @property
    def busy(self) -> bool:
        """There is something to do."""
        return bool(self._waiting or self.batch.busy)

    @property
    def num_used(self) -> int:
        """Rows being read or written."""
        return self.batch.num_live

    @property
    def cache_ratio(self) -> float:
        """Share of the memory for keys and values that running rows fill."""
        used = int(self.cache.lengths_R[: self.batch.num_live].sum()) * self.bytes_per_token if self.busy else 0
        return min(1.0, used / self.cache_bytes)

    def take_events(self) -> list[Event]:
        """What happened since the last call."""
        events, self._events = self._events, []
        return events

    def check(self, request: GenerationRequest) -> None:
        """Numbers out of range are refused."""
        _sampling(request)
        if unknown := [id for id in request.params.logit_bias if not 0 <= id < self.vocab_size]:
            raise InvalidParameter(
                f"`logit_bias` names a token that this model does not have; its ids are 0 to {self.vocab_size - 1}",
                param="logit_bias",
                found=", ".join(map(str, unknown[:3])),
            )

    def compile_schema(self, schema: Mapping[str, Any]) -> Grammar:
        """The grammar of a JSON schema; from any thread."""
        with self._grammar_lock:
            if self._grammars is None:
                self._grammars = GrammarCompiler(self.tokenizer, self.model.config.vocab_size)
        return self._grammars.compile(schema)

    @property
    def num_waiting(self) -> int:
        """Jobs none of whose completions has begun."""
        return len(self.accepted)

    def add(self, request: GenerationRequest, grammar: Grammar | None = None) -> None:
        """Queue a request, its JSON schema compiled."""
        params, job = request.params, Job(request)
        self.jobs[request.job] = job
        self.accepted.add(request.job)
        generator = self._seeds if params.seed is None else torch.Generator().manual_seed(params.seed % (1 << 63))
        for index, seed in enumerate(draw_seeds(params.n, generator).tolist()):
            self._sequences += 1
            own = None if grammar is None else grammar.copy()
            completion = Completion(request.job, index, request.prompt_ids, params, self.vocabulary,
                                    sequence=self._sequences, seed=seed, grammar=own)  # fmt: skip
            job.completions.append(completion)
        width = min(self.slots, params.n)
        for start in range(0, params.n, width):  # more completions than slots: in several groups
            part = job.completions[start : start + width]
            self._queue(Work(job, part, (request.priority, part[0].sequence)))

    def cancel(self, name: str) -> None:
        """End a job wherever it is."""
        self.accepted.discard(name)
        if (job := self.jobs.get(name)) is None:
            return
        self._waiting = [work for work in self._waiting if work.job is not job]
        live = [completion for completion in job.completions if not completion.finished]
        self.batch.cancel_now([c.sequence for c in live if c.sequence in self._by_sequence])
        for completion in live:
            self._forget(completion)
            self._events += completion.end("cancelled")
        self._end(job)

    def fail(self, code: str, message: str) -> None:
        """Every job ends in failure; the next one finds a fresh batch."""
        self._events += [Failed(name, code, message) for name in self.jobs]
        self.jobs, self._waiting, self._by_sequence, self._work = {}, [], {}, {}
        self.accepted.clear()
        self.cache.resize(1, 1, live_rows=0)
        self._new_batch()

    def step(self) -> None:
        """Admit, one forward, tell what became known."""
        self._admit()
        self._grow()
        chunk = int(self._prefill_speed * (STEP_SECONDS if self.batch.num_running else LONE_STEP_SECONDS)) // 16 * 16
        self.batch.scheduler.prefill_tokens = min(max(chunk, CHUNK_TOKENS[0]), CHUNK_TOKENS[1])
        before, began = self.batch.num_prefilled, time.perf_counter()
        output = self.batch.step()
        if num_read := self.batch.num_prefilled - before:
            speed = num_read / (time.perf_counter() - began)
            self._prefill_speed = 0.7 * self._prefill_speed + 0.3 * speed
        if output is not None:
            self._tell(output)
        if not self.busy:
            self.cache.resize(1, 1, live_rows=0)

    def embed(self, ids: Sequence[int]) -> list[float]:
        """See `scoring`."""
        return embedding(self.model, ids)

    def score(self, ids: Sequence[int], top: int) -> list[TokenLogprob]:
        """See `scoring`."""
        return token_logprobs(self.model, self.vocabulary, ids, top)

    # -- schedule

    def _queue(self, work: Work) -> None:
        self._waiting.append(work)
        self._waiting.sort(key=lambda item: item.order)

    def _admit(self) -> None:
        """Hand the batch as many of the waiting as it has rows and memory for, in their order."""
        if self.batch.reading:
            return
        rows, longest = self._committed()
        while self._waiting:
            work = self._waiting[0]
            length = max(longest, len(work.completions[0].all_ids) + 1)
            length = min(self.context_length, length + STRIDE) if rows else length  # or it might be put back at once
            if rows + len(work.completions) > self.slots:
                return
            if not self._make_room(rows + len(work.completions), length):
                if rows or len(work.completions) == 1:
                    return
                self._split(self._waiting.pop(0))  # too many of such length even in an empty cache: one at a time
                continue
            rows, longest = rows + len(work.completions), length
            self.batch.submit(self._request(self._waiting.pop(0)))

    def _request(self, work: Work) -> Request:
        first, params = work.completions[0], work.job.request.params
        prompt = first.all_ids
        prefix = self._find_prefix(prompt)
        self.accepted.discard(work.job.request.job)
        for completion in work.completions:
            self._by_sequence[completion.sequence] = completion
            self._work[completion.sequence] = work
        return Request(
            prompt=prompt,
            sampling=_sampling(work.job.request),
            stop_token_ids=() if params.ignore_eos else self.vocabulary.stops,
            sequences=tuple(completion.sequence for completion in work.completions),
            seeds=tuple(completion.seed for completion in work.completions),
            num_cached=0 if prefix is None else prefix.shape[3],
            prefix=prefix,
            num_sampled=len(first.ids),
            hooks=tuple(completion if completion.needs_hook else None for completion in work.completions),
        )  # fmt: skip

    def _split(self, work: Work) -> None:
        for completion in work.completions:
            self._queue(Work(work.job, [completion], (work.order[0], completion.sequence)))

    # -- memory

    def _committed(self) -> tuple[int, int]:
        """Rows and length which the batch will need in its next step."""
        handed = self.batch.scheduler.waiting
        rows = self.batch.num_live + sum(len(request.sequences) for request in handed)
        return rows, max([self.batch.longest, *(len(request.prompt) + 1 for request in handed)])

    def _make_room(self, num_rows: int, length: int) -> bool:
        """Let the cache hold so many rows of such length; False if the memory for it is not allowed."""
        cache, live = self.cache, self.batch.num_live
        if cache.num_rows >= num_rows and cache.length >= length:
            return True
        rows = min(self.slots, _power_of_two(num_rows))
        longer = min(self.context_length, 64 * _power_of_two(-(-length // 64)))
        exact = min(self.context_length, -(-length // STRIDE) * STRIDE)  # not a copy of everything for each token
        generous = max(rows, cache.num_rows), max(longer, cache.length)
        for shape in (generous, (rows, longer), (num_rows, longer), (num_rows, exact)):
            if shape[0] * shape[1] * self.bytes_per_token <= self.cache_bytes:
                cache.resize(*shape, live_rows=live)
                return True
        return False

    def _grow(self) -> None:
        """Before a step: room for one more token in each row; the youngest go back into the queue if there is none."""
        while not self._make_room(*self._committed()):
            youngest = max(self._by_sequence)
            work = self._work[youngest]
            together = work.completions if self.batch.row_of(youngest) is None else [self._by_sequence[youngest]]
            self.batch.on_leave = None
            self.batch.cancel_now([completion.sequence for completion in together])
            self.batch.on_leave = self._keep_prefix
            for completion in together:
                self._forget(completion)
                self._queue(Work(work.job, [completion], (work.order[0], completion.sequence)))

    def _find_prefix(self, prompt: tuple[int, ...]) -> Tensor | None:
        """What is known of the prompt's start: from finished completions, or from one that runs."""
        wanted = np.asarray(prompt[:-1], dtype=np.int32)  # one token must be read for its logits
        found = self.prefixes.find(wanted)
        longest = 15 if found is None else found.shape[3]
        for sequence, completion in self._by_sequence.items():
            shared = shared_length(np.asarray(completion.all_ids[:-1], dtype=np.int32), wanted)
            if shared > longest and (row := self.batch.row_of(sequence)) is not None:
                longest, found = shared, self.cache.read_row(row, shared).clone()
        return found

    def _keep_prefix(self, sequence: int, prefix: Tensor) -> None:
        completion = self._by_sequence[sequence]
        self.prefixes.keep(completion.all_ids[: prefix.shape[3]], prefix)

    # -- tell

    def _tell(self, output: StepOutput) -> None:
        finished, stopped = output.finished_B.tolist(), output.stopped_B.tolist()
        for row, (sequence, token) in enumerate(zip(output.sequence_B.tolist(), output.token_B.tolist(), strict=True)):
            completion = self._by_sequence.get(sequence)
            if completion is None:  # its job has just failed with another of its completions
                continue
            if completion.failure is not None:
                self._fail_job(completion, ended=finished[row])
                continue
            self._events += completion.advance(token, finished=finished[row], stopped=stopped[row])
            if completion.finished:
                if not finished[row]:  # a stop string
                    self.batch.cancel_now([sequence])
                self._forget(completion)
                job = self.jobs[completion.job]
                if job.num_finished == len(job.completions):
                    self._end(job)

    def _fail_job(self, completion: Completion, *, ended: bool) -> None:
        """One completion cannot go on: its job fails, every other job is left alone."""
        assert completion.failure is not None
        job, (code, message) = self.jobs.pop(completion.job), completion.failure
        self._waiting = [work for work in self._waiting if work.job is not job]
        live = [c.sequence for c in job.completions if c.sequence in self._by_sequence]
        self.batch.cancel_now([sequence for sequence in live if not (ended and sequence == completion.sequence)])
        for other in job.completions:
            other.finished = True
            self._forget(other)
        self._events.append(Failed(job.request.job, code, message))

    def _end(self, job: Job) -> None:
        del self.jobs[job.request.job]
        self._events.append(job.end())

    def _forget(self, completion: Completion) -> None:
        self._by_sequence.pop(completion.sequence, None)
        self._work.pop(completion.sequence, None)


def _sampling(request: GenerationRequest) -> SamplingParams:
    params = request.params
    return SamplingParams(max_tokens=params.max_tokens, temperature=params.temperature, top_k=params.top_k,
                          top_p=params.top_p, min_p=params.min_p)  # fmt: skip


def _power_of_two(number: int) -> int:
    """The smallest one not below `number`."""
    return 1 << (number - 1).bit_length()
