"""The running batch: one `step` is schedule, forward, sample, retire.

    admit waiting prompts -> prefill them (or else: one more token for every running row) -> sample -> retire

Rows 0 .. n-1 are running, always without holes: a finished row's place is taken by the last one, with its keys and
values. Everything a row knows is a column of a tensor, so that no step loops over rows in Python.

Dimension key: B rows of this step, T prompt tokens, V vocabulary, D model width, R all rows, S stop tokens.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wuya.inference.kv_cache import KVCache
from wuya.inference.lookup import followers
from wuya.inference.native_decode import native_decode
from wuya.inference.rows import Rows
from wuya.inference.scheduler import Request, RowHook, Scheduler
from wuya.models.decoder import Decoder
from wuya.models.gpt import GPT


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one step sampled: one entry a row."""

    sequence_B: Tensor
    """int64, whose token it is (`Request.sequences`)."""
    token_B: Tensor
    """int64, the sampled token."""
    logprob_B: Tensor
    """float32, nats; see `sample_rows`."""
    finished_B: Tensor
    """bool, this was the sequence's last token."""
    stopped_B: Tensor
    """bool, and it was a stop token (else its length ran out)."""


@dataclass(slots=True)
class _Prefill:
    """A group of prompts being read, perhaps in several steps."""

    requests: list[Request]
    ids_BT: Tensor
    length_B: Tensor
    first_row: int
    start: int
    logits_BV: Tensor | None = None

    @property
    def copies(self) -> int:
        return len(self.requests[0].sequences)

    @property
    def num_rows(self) -> int:
        return len(self.requests) * self.copies


class Batch:
    """Continuous batching over one KV cache. `submit` requests, then `step` while `busy`."""

    def __init__(
        self,
        model: Decoder,
        cache: KVCache,
        *,
        max_length: int,
        num_stops: int = 1,
        prefill_tokens: int = 2048,
        max_rows: int | None = None,
        alternate: bool = False,
        lookup: int = 0,
        num_tokens: int | None = None,
    ) -> None:
        """
        Args:
            max_rows: most rows the cache may be resized to; what it has now if absent.
            alternate: while a long prompt is read in chunks, let the running rows take a step after each.
            lookup: while one row runs alone, guess so many tokens ahead (see `lookup.followers`): a step may then give
                several tokens of that row, the same as without.
            num_tokens: tokens the tokenizer has; rows of the output matrix beyond it are never sampled.
        """
        self.model, self.cache, self.max_length = model, cache, max_length
        self._native = native_decode(model) if isinstance(model, GPT) else None
        self._lookup = lookup if self._native is not None else 0
        self._ids: dict[int, list[int]] = {}  # of every sequence that runs, its prompt first; kept for `lookup` only
        self.num_running = 0
        self.num_prefilled = 0
        """Prompt tokens read so far, padding included."""
        self.scheduler = Scheduler(prefill_tokens=prefill_tokens, patience_rows=max(1, cache.num_rows // 8))
        self._rows = Rows(max_rows or cache.num_rows, num_stops, model.device, num_tokens=num_tokens)
        self._alternate = alternate
        self._chunk_was_last = False
        self._hooks: dict[int, RowHook] = {}
        self.on_leave: Callable[[int, Tensor], None] | None = None
        """Called for each row that ends, with its sequence and a view of its keys and values (`KVCache.read_row`)."""
        self._prefill: _Prefill | None = None
        self._cancelled: set[int] = set()

    @property
    def reading(self) -> bool:
        """True while a long prompt is half read."""
        return self._prefill is not None

    @property
    def num_live(self) -> int:
        """Rows of the cache that hold something: running ones, and those a prefill is filling."""
        return self.num_running if self._prefill is None else self._prefill.first_row + self._prefill.num_rows

    @property
    def longest(self) -> int:
        """Most tokens a row will hold after the next step, chunks of a prompt that are still to come included."""
        running = int(self.cache.lengths_R[: self.num_running].max()) + 1 if self.num_running else 0
        return running if self._prefill is None else max(running, self._prefill.ids_BT.shape[1])

    def row_of(self, sequence: int) -> int | None:
        """The cache row of a running sequence."""
        place = (self._rows.sequence_R[: self.num_running] == sequence).nonzero()
        return int(place[0]) if len(place) else None

    @property
    def busy(self) -> bool:
        """True while a step would do something."""
        return bool(self.num_running or self._prefill or self.scheduler.waiting)

    def submit(self, request: Request) -> None:
        """Queue one prompt with its K completions."""
        assert 0 < len(request.prompt) < self.max_length and 0 < len(request.sequences) <= self.cache.num_rows
        assert len(request.stop_token_ids) <= self._rows.stops_RS.shape[1]
        self._rows.expect(request.sampling)
        self.scheduler.waiting.append(request)

    def cancel(self, sequences: Collection[int]) -> None:
        """These sequences produce nothing from the next step on; their rows are free after it."""
        self._cancelled.update(sequences)

    @torch.inference_mode()
    def cancel_now(self, sequences: Collection[int]) -> None:
        """`cancel`, and their rows are free on return (but see `_drop_cancelled`)."""
        self.cancel(sequences)
        self._drop_cancelled()

    @torch.inference_mode()
    def step(self) -> StepOutput | None:
        """One prefill (or a chunk of a long one), or one token for every running row. None when nothing was sampled."""
        self._drop_cancelled()
        rows_wait = self._alternate and self._chunk_was_last and self.num_running > 0
        if self._prefill is None and not rows_wait:
            self._admit()
        was_training = self.model.training
        if was_training:
            self.model.eval()
        try:
            self._chunk_was_last = self._prefill is not None and not rows_wait
            if self._prefill is not None and not rows_wait:
                return self._step_prefill(self._prefill)
            if self.num_running == 1 and self._lookup and not self._hooks and (guess := self._guess()):
                return self._step_ahead(guess)
            return self._step_decode() if self.num_running else None
        finally:
            if was_training:
                self.model.train()

    # -- schedule --------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        num_free = self.cache.num_rows - self.num_running
        requests = self.scheduler.admit(num_free=num_free, num_active=self.num_running)
        if not requests:
            return
        device = self.model.device
        lengths = [len(request.prompt) for request in requests]
        longest = max(lengths)
        padded = [request.prompt + (0,) * (longest - len(request.prompt)) for request in requests]
        if (prefix := requests[0].prefix) is not None:
            self.cache.write_row(self.num_running, prefix)
        self._prefill = _Prefill(
            requests=requests,
            ids_BT=torch.tensor(padded, dtype=torch.int64, device=device),
            length_B=torch.tensor(lengths, dtype=torch.int64, device=device),
            first_row=self.num_running,
            start=requests[0].num_cached,
        )

    def _drop_cancelled(self) -> None:
        """Rows of cancelled sequences are freed; some but not all of a prompt in mid-prefill wait for its end."""
        if not self._cancelled:
            return
        self.scheduler.cancel(self._cancelled)
        reading: set[int] = set()
        if self._prefill is not None:
            reading = {sequence for request in self._prefill.requests for sequence in request.sequences}
            if self._cancelled.issuperset(reading):
                self._prefill = None
        running_B = self._rows.sequence_R[: self.num_running]
        cancelled = torch.tensor(sorted(self._cancelled), dtype=torch.int64, device=running_B.device)
        self._retire(torch.isin(running_B, cancelled))
        for sequence in self._cancelled:
            self._hooks.pop(sequence, None)
        self._cancelled &= reading if self._prefill is not None else set()

    # -- forward ---------------------------------------------------------------------------------------------------

    def _step_prefill(self, prefill: _Prefill) -> StepOutput | None:
        """Read the prompts, or the next chunk of one long prompt; after the last chunk sample all first tokens."""
        num_prompts, longest = prefill.ids_BT.shape
        rows = slice(prefill.first_row, prefill.first_row + prefill.num_rows, prefill.copies)
        # Scheduler: prompts that share a prefill fit one chunk; a chunk's size may change from step to step
        end = min(longest, prefill.start + (longest if num_prompts > 1 else max(1, self.scheduler.prefill_tokens)))
        positions_T = torch.arange(prefill.start, end, device=prefill.ids_BT.device)
        self.cache.begin_prefill(rows, start=prefill.start)
        hidden_BTD = self.model(
            prefill.ids_BT[:, prefill.start : end], positions_BT=positions_T.expand(num_prompts, -1), cache=self.cache
        )
        self.num_prefilled += prefill.ids_BT[:, prefill.start : end].numel()
        prefill.start = end
        if end < longest:
            self.cache.finish_prefill(rows, torch.full_like(prefill.length_B, end))  # so far
            return None
        last_B = prefill.length_B - 1 - int(positions_T[0])
        hidden_BD = hidden_BTD[torch.arange(num_prompts, device=last_B.device), last_B]
        logits_BV = self.model.logits(hidden_BD)
        self.cache.finish_prefill(rows, prefill.length_B)
        if prefill.first_row > self.num_running:  # others left in the meantime; then this is one prompt
            self.cache.move(*(torch.tensor([row], device=last_B.device) for row in (rows.start, self.num_running)))
            prefill.first_row = self.num_running
        self.cache.copy_to_followers(prefill.first_row, num_prompts, prefill.copies)
        self._start_rows(prefill)
        self._prefill = None
        self.num_running += prefill.num_rows
        return self._sample(prefill.first_row, logits_BV.repeat_interleave(prefill.copies, dim=0))

    def _start_rows(self, prefill: _Prefill) -> None:
        rows = slice(prefill.first_row, prefill.first_row + prefill.num_rows)
        state, device = self._rows, self.model.device

        def fill(column_R: Tensor, values: Sequence[float]) -> None:
            """One value a request, the same for its K rows."""
            column_R[rows] = torch.tensor(values, device=device).to(column_R.dtype).repeat_interleave(prefill.copies)

        requests = prefill.requests
        state.sequence_R[rows] = torch.tensor([number for r in requests for number in r.sequences], device=device)
        state.seed_R[rows] = torch.tensor([seed for r in requests for seed in r.seeds], device=device)
        fill(state.count_R, [r.num_sampled for r in requests])
        room = [self.max_length - len(r.prompt) + r.num_sampled for r in requests]
        fill(state.limit_R, [min(r.sampling.max_tokens, tokens) for r, tokens in zip(requests, room, strict=True)])
        fill(state.temperature_R, [r.sampling.temperature for r in requests])
        fill(state.top_k_R, [r.sampling.top_k for r in requests])
        fill(state.top_p_R, [r.sampling.top_p for r in requests])
        fill(state.min_p_R, [r.sampling.min_p for r in requests])
        num_stops = state.stops_RS.shape[1]
        stops = [[*r.stop_token_ids, *[-1] * (num_stops - len(r.stop_token_ids))] for r in requests]
        stops_BS = torch.tensor(stops, dtype=torch.int64, device=device).view(len(requests), num_stops)
        state.stops_RS[rows] = stops_BS.repeat_interleave(prefill.copies, dim=0)
        for request in requests:
            self._ids |= {sequence: list(request.prompt) for sequence in request.sequences if self._lookup}
            wanted = zip(request.sequences, request.hooks, strict=True) if request.hooks else ()
            self._hooks |= {sequence: hook for sequence, hook in wanted if hook is not None}

    def _step_decode(self) -> StepOutput:
        ids_B = self._rows.token_R[: self.num_running]
        if self._native is not None:
            lengths_R = self.cache.lengths_R[: self.num_running]
            logits_BV = self._native(ids_B, lengths_R, self.cache)
            lengths_R += 1
            return self._sample(0, logits_BV)
        positions_B1 = self.cache.begin_decode(self.num_running)
        ids_B1 = ids_B.unsqueeze(1)
        hidden_B1D = self.model(ids_B1, positions_BT=positions_B1, cache=self.cache)
        return self._sample(0, self.model.logits(hidden_B1D.squeeze(1)))

    def _guess(self) -> list[int]:
        """What may follow in the one running row; nothing beyond its limit, where its cache may end."""
        state = self._rows
        room = int(state.limit_R[0] - state.count_R[0]) - 1
        return followers(self._ids[int(state.sequence_R[0])], min(self._lookup, room))

    def _step_ahead(self, guess: list[int]) -> StepOutput:
        """Row 0's last token and those guessed to follow, in one forward: of the tokens sampled after each, those up to
        the first that was not guessed are what steps of one token would have given, for each token of a row has its
        own random number and its logits don't depend on what is computed beside it.
        """
        assert self._native is not None
        state, cache, ahead_M = self._rows, self.cache, torch.arange(len(guess) + 1)
        ids_M = torch.cat([state.token_R[:1], torch.tensor(guess)])
        logits_MV = self._native(ids_M, cache.lengths_R[:1] + ahead_M, cache, one_row=True)
        first, count_M = torch.zeros_like(ahead_M), state.count_R[:1] + ahead_M
        token_M, logprob_M = state.draw(first, logits_MV, count_M)
        stopped_M = (token_M.unsqueeze(1) == state.stops_RS[:1]).any(dim=1)
        finished_M = stopped_M | (count_M + 1 >= state.limit_R[:1])
        last_M = finished_M.clone()
        last_M[:-1] |= token_M[:-1] != ids_M[1:]
        last_M[-1] = True
        num = int(last_M.int().argmax()) + 1
        cache.lengths_R[0] += num
        state.count_R[0] += num
        state.token_R[0] = token_M[num - 1]
        output = StepOutput(state.sequence_R[first[:num]], token_M[:num], logprob_M[:num], finished_M[:num],
                            stopped_M[:num])  # fmt: skip
        self._remember(output)
        if finished_M[num - 1]:
            self._retire(finished_M[num - 1 : num])
        return output

    # -- sample, retire --------------------------------------------------------------------------------------------

    def _sample(self, first_row: int, logits_BV: Tensor) -> StepOutput:
        rows, state = slice(first_row, first_row + logits_BV.shape[0]), self._rows
        count_B = state.count_R[rows]
        hooks: list[tuple[int, RowHook]] = []
        if self._hooks:  # a loop over the rows that want something special, and no others
            hooks = [(row, self._hooks[s]) for row, s in enumerate(state.sequence_R[rows].tolist()) if s in self._hooks]
            for row, hook in hooks:
                hook.before(logits_BV[row])
        token_B, logprob_B = state.draw(rows, logits_BV, count_B)
        count_B += 1  # a view: counts in place
        state.token_R[rows] = token_B
        stopped_B = (token_B.unsqueeze(1) == state.stops_RS[rows]).any(dim=1)
        finished_B = stopped_B | (count_B >= state.limit_R[rows])
        for row, hook in hooks:
            hook.after(int(token_B[row]))
        output = StepOutput(state.sequence_R[rows].clone(), token_B, logprob_B, finished_B, stopped_B)
        self._remember(output)
        if finished_B.any():
            everyone_B = torch.zeros(self.num_running, dtype=torch.bool, device=finished_B.device)
            everyone_B[rows] = finished_B
            for sequence in output.sequence_B[finished_B].tolist() if self._hooks else ():
                self._hooks.pop(sequence, None)
            self._retire(everyone_B)
        return output

    def _remember(self, output: StepOutput) -> None:
        if self._lookup:
            for sequence, token in zip(output.sequence_B.tolist(), output.token_B.tolist(), strict=True):
                self._ids[sequence].append(token)
            for sequence in output.sequence_B[output.finished_B].tolist():
                del self._ids[sequence]

    def _retire(self, leaves_B: Tensor) -> None:
        """Free these of the running rows; the last ones move into the holes."""
        num_left = self.num_running - int(leaves_B.sum())
        if self.on_leave is not None:
            for row in leaves_B.nonzero().squeeze(1).tolist():
                self.on_leave(int(self._rows.sequence_R[row]), self.cache.read_row(row, int(self.cache.lengths_R[row])))
        if 0 < num_left < self.num_running:
            hole_M = leaves_B[:num_left].nonzero().squeeze(1)
            if hole_M.shape[0]:
                mover_M = (~leaves_B[num_left:]).nonzero().squeeze(1) + num_left
                self.cache.move(mover_M, hole_M)
                for column_R in self._rows.fields():
                    column_R[hole_M] = column_R[mover_M]
        self.num_running = num_left
