"""Completions from a model in this process: one engine behind chat, sampling K answers, PPO rollouts and evaluation.

    engine = Engine(model, tokenizer, seed=0)
    [[first, second]] = engine.generate([tokenizer.encode("Hello")], SamplingParams(max_tokens=32), num_samples=2)
    for token_id in engine.stream(prompt_ids, SamplingParams()): ...     # close the generator to stop

What it promises, and tests hold it to: the same seed gives the same completions, whatever else is in the batch;
log-probs are those of a full forward; K completions of a prompt read it once; weights may change between two calls.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from wuya.errors import DataError
from wuya.inference.batch import Batch, StepOutput
from wuya.inference.caches import cache_bytes_per_token, fits, new_cache
from wuya.inference.kv_cache import KVCache, free_cache_bytes
from wuya.inference.sampling import SamplingParams, draw_seeds
from wuya.inference.scheduler import Request
from wuya.models.decoder import Decoder
from wuya.tokenizer.turn_end import TurnEnd

FinishReason = Literal["stop", "length", "cancelled"]


class HasEnd(Protocol):
    """The part of a tokenizer that the engine needs: the tokens that end an answer, and how many tokens there are."""

    @property
    def turn_end(self) -> TurnEnd: ...

    @property
    def vocab_size(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Generation:
    """One completion."""

    token_ids: tuple[int, ...]
    """As sampled, the stop token included when there was one."""
    logprobs: tuple[float, ...]
    """Nats, one a token, under the full distribution at the sampling temperature (greedy: at 1); see `sample_rows`."""
    finish_reason: FinishReason
    """`stop`: a stop token came; `length`: `max_tokens` or the context ran out; `cancelled`: the caller said so."""


class Engine:
    """Generates with `model` as it is at the time of the call (adapters, weights, device); never trains it."""

    def __init__(
        self,
        model: Decoder,
        tokenizer: HasEnd | None = None,
        *,
        max_batch_size: int = 256,
        max_length: int | None = None,
        seed: int = 0,
        prefill_tokens: int = 2048,
        max_cache_bytes: int | None = None,
        lookup: int = 0,
    ) -> None:
        """
        Args:
            tokenizer: gives the stop tokens for `SamplingParams` that name none.
            max_batch_size: sequences decoded at once; more wait for a free row.
            max_length: most tokens of prompt + completion; the model's context if absent.
            seed: of the generator behind calls without a seed of their own; its state can be saved and set:
                `engine.generator.get_state()`.
            prefill_tokens: most prompt tokens of one forward; a cancel waits for one forward at most.
            max_cache_bytes: keys and values held at once, at least one sequence's; longer sequences, fewer at a time.
                None: half of the memory that is free at the first call. What is sampled does not depend on it.
            lookup: tokens guessed ahead from what the text repeats, while one sequence runs alone in a model which the
                C++ step knows; faster where answers quote their prompt. What is sampled does not depend on it.
        """
        self.model = model
        self.max_batch_size = max_batch_size
        self.max_length = min(max_length or model.config.context_length, model.config.context_length)
        self.prefill_tokens = prefill_tokens
        self.max_cache_bytes, self.lookup = max_cache_bytes, lookup
        self.generator = torch.Generator().manual_seed(seed)
        self.num_tokens = None if tokenizer is None else tokenizer.vocab_size
        self.default_stops = () if tokenizer is None else tokenizer.turn_end.ids
        self._chat_ids: tuple[int, ...] = ()
        self._chat_cache: KVCache | None = None

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        *,
        num_samples: int = 1,
        seeds: Sequence[int] | None = None,
        on_progress: Callable[[int, int], bool | None] | None = None,
    ) -> list[list[Generation]]:
        """`num_samples` completions of every prompt, in the prompts' order.

        Args:
            prompts: token ids, at least one each, shorter than the context.
            seeds: one per completion, those of a prompt side by side, in place of seeds drawn from `sampling.seed`:
                what a completion becomes then depends on its own seed and prompt alone.
            on_progress: called after each step with (tokens sampled in it, sequences finished so far); returning False
                stops at once, and what was sampled so far comes back with finish_reason `cancelled`.
        """
        self._check(prompts)
        if not prompts:
            return []
        length = min(self.max_length, max(len(prompt) for prompt in prompts) + sampling.max_tokens)
        num_rows = min(len(prompts) * num_samples, self.rows_at_once(length))
        stops = sampling.stop_token_ids or self.default_stops
        cache = self._new_cache(num_rows, length)  # freed on return: training wants the memory
        batch = Batch(self.model, cache, max_length=self.max_length, num_stops=len(stops),
                      prefill_tokens=self.prefill_tokens, lookup=self.lookup,
                      num_tokens=self.num_tokens)  # fmt: skip
        if seeds is None:
            seeds = self._seeds(sampling, len(prompts) * num_samples).tolist()
        assert len(seeds) == len(prompts) * num_samples
        for request in self._requests(prompts, sampling, stops, seeds, num_rows):
            batch.submit(request)
        outputs: list[StepOutput] = []
        num_finished = 0
        while batch.busy:
            output = batch.step()
            if output is not None:
                outputs.append(output)
                num_finished += int(output.finished_B.sum())
            if on_progress is not None:
                num_tokens = 0 if output is None else output.token_B.shape[0]
                if on_progress(num_tokens, num_finished) is False:
                    break
        generations = _collect(outputs, len(prompts) * num_samples)
        return [generations[start : start + num_samples] for start in range(0, len(generations), num_samples)]

    def stream(
        self, prompt: Sequence[int], sampling: SamplingParams, *, reuse_prefix: bool = False
    ) -> Generator[int, None, None]:
        """Token ids of one completion as they are sampled, the stop token included.

        Closing the generator stops the work. With `reuse_prefix` the keys and values of this completion are kept, and
        the next such call reads only what its prompt adds to them: the turns of a chat. Only for weights that don't
        change.
        """
        self._check([prompt])
        prompt = tuple(prompt)
        length = min(self.max_length, len(prompt) + sampling.max_tokens)
        cache, num_cached = self._chat_prefix(prompt, length) if reuse_prefix else (self._new_cache(1, length), 0)
        stops = sampling.stop_token_ids or self.default_stops
        batch = Batch(self.model, cache, max_length=self.max_length, num_stops=len(stops),
                      prefill_tokens=self.prefill_tokens, lookup=self.lookup,
                      num_tokens=self.num_tokens)  # fmt: skip
        seed = int(self._seeds(sampling, 1)[0])
        batch.submit(Request(prompt=prompt, sampling=sampling, stop_token_ids=stops, sequences=(0,), seeds=(seed,),
                             num_cached=num_cached))  # fmt: skip
        ids = list(prompt)
        try:
            while batch.busy:
                output = batch.step()
                for token in () if output is None else output.token_B.tolist():
                    ids.append(token)
                    yield token
        finally:
            if reuse_prefix and len(ids) > len(prompt):
                self._chat_cache, self._chat_ids = cache, tuple(ids[:-1])  # the last token was never read

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _check(self, prompts: Sequence[Sequence[int]]) -> None:
        for number, prompt in enumerate(prompts):
            if not len(prompt):
                raise DataError(f"prompt {number} has no tokens", hint="give every prompt at least one token")
            if len(prompt) >= self.max_length:
                raise DataError(
                    f"prompt {number} leaves no room for an answer",
                    found=f"{len(prompt)} tokens, the context holds {self.max_length}",
                    hint="shorten the prompt, or use a model with a longer context",
                )

    def _requests(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        stops: tuple[int, ...],
        seeds: Sequence[int],
        num_rows: int,
    ) -> Iterator[Request]:
        """Longest prompts first: prefills with little padding, and the batch empties with the short ones."""
        num_samples = len(seeds) // len(prompts)
        for index in sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index)):
            sequences = range(index * num_samples, (index + 1) * num_samples)
            for start in range(0, num_samples, num_rows):  # more samples than rows: the prompt is read again
                part = tuple(sequences[start : start + num_rows])
                yield Request(prompt=tuple(prompts[index]), sampling=sampling, stop_token_ids=stops, sequences=part,
                              seeds=tuple(seeds[part[0] : part[-1] + 1]))  # fmt: skip

    def _seeds(self, sampling: SamplingParams, count: int) -> Tensor:
        if sampling.seed is None:
            return draw_seeds(count, self.generator)
        return draw_seeds(count, torch.Generator().manual_seed(sampling.seed))

    def rows_at_once(self, length: int) -> int:
        """Sequences of so many tokens, prompts included, that are decoded together."""
        if self.max_cache_bytes is None:  # kept from now on: the same batches in every call
            self.max_cache_bytes = free_cache_bytes(self.model.device)
        return min(self.max_batch_size, max(1, self.max_cache_bytes // (length * cache_bytes_per_token(self.model))))

    def _new_cache(self, num_rows: int, length: int) -> KVCache:
        return new_cache(self.model, num_rows=num_rows, length=length)

    def _chat_prefix(self, prompt: tuple[int, ...], length: int) -> tuple[KVCache, int]:
        """The chat's cache and how many tokens of this prompt it holds (at least one is left to read)."""
        cache, self._chat_cache = self._chat_cache, None
        if cache is None or not fits(cache, self.model, num_rows=1, length=length):
            # doubling: a growing chat is copied seldom, here read again
            return self._new_cache(1, min(self.max_length, 2 * length)), 0
        num_cached = 0
        for kept, wanted in zip(self._chat_ids, prompt[:-1], strict=False):
            if kept != wanted:
                break
            num_cached += 1
        return cache, num_cached


def _collect(outputs: list[StepOutput], num_sequences: int) -> list[Generation]:
    """Sort all steps' tokens by sequence, keeping their order in time, and cut."""
    if not outputs:
        return [Generation((), (), "cancelled") for _ in range(num_sequences)]
    sequence_N = torch.cat([output.sequence_B for output in outputs]).cpu()
    order_N = sequence_N.argsort(stable=True)
    counts = torch.bincount(sequence_N, minlength=num_sequences).tolist()

    def by_sequence(column: list[Tensor]) -> tuple[Tensor, ...]:
        return torch.split(torch.cat(column).cpu()[order_N], counts)

    generations = []
    for token, logprob, finish, stop in zip(
        by_sequence([output.token_B for output in outputs]),
        by_sequence([output.logprob_B for output in outputs]),
        by_sequence([output.finished_B for output in outputs]),
        by_sequence([output.stopped_B for output in outputs]),
        strict=True,
    ):
        reason: FinishReason = "cancelled"
        if len(token) and finish[-1]:
            reason = "stop" if stop[-1] else "length"
        generations.append(Generation(tuple(token.tolist()), tuple(logprob.tolist()), reason))
    return generations
