"""One completion in the making: its tokens and text, and what it wants done to its logits.

Dimension key: V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from wuya.inference.backends.grammar import Grammar
from wuya.inference.backends.protocol import (
    Delta,
    Done,
    Event,
    FinishReason,
    GenerationParams,
    TokenLogprob,
    TopToken,
)
from wuya.inference.backends.text import TextStream
from wuya.tokenizer.bpe import Tokenizer


class Vocabulary:
    """Bytes of every token id the model can give; none for special tokens and unused ids."""

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        specials = set(tokenizer.special_ids.values())
        self.skips_first_space = tokenizer.skips_first_space
        self.spelling = [tokenizer.decode_bytes([id]) for id in range(size)]
        self.text = [b"" if id in specials else data for id, data in enumerate(self.spelling)]
        self.stops = tokenizer.turn_end.ids

    def logprob(self, id: int, logprob: float, top: Sequence[tuple[int, float]]) -> TokenLogprob:
        """The record of one token."""
        data = self.spelling[id]
        tops = (TopToken(i, self.spelling[i].decode("utf-8", "replace"), self.spelling[i], p) for i, p in top)
        return TokenLogprob(data.decode("utf-8", "replace"), data, id, logprob, tuple(tops))


class Completion:
    """Implements `RowHook` for its row of the batch."""

    def __init__(
        self, job: str, index: int, prompt: tuple[int, ...], params: GenerationParams, vocabulary: Vocabulary,
        *, sequence: int, seed: int, grammar: Grammar | None = None,
    ) -> None:  # fmt: skip
        self.job, self.index, self.params, self.vocabulary = job, index, params, vocabulary
        self.prompt = prompt
        self.sequence, self.seed, self.grammar = sequence, seed, grammar
        self.ids: list[int] = []
        self.finished = False
        self._stream = TextStream(params.stop)
        self._drops_space = vocabulary.skips_first_space and not params.continues
        self._logprob: TokenLogprob | None = None
        self._raw_V: Tensor | None = None
        self._counts_V: Tensor | None = None
        self._seen_V: Tensor | None = None
        self._bias: tuple[Tensor, Tensor] | None = None
        self.failure: tuple[str, str] | None = None
        """Code and message where no token may follow: the request cannot be followed any further."""

    @property
    def needs_hook(self) -> bool:
        """False: its sampling is that of the whole batch."""
        params = self.params
        return self.grammar is not None or params.logprobs is not None or self._changes_logits

    @property
    def _changes_logits(self) -> bool:
        params = self.params
        penalised = params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1
        return bool(penalised or params.logit_bias)

    @property
    def all_ids(self) -> tuple[int, ...]:
        """Prompt and completion."""
        return (*self.prompt, *self.ids)

    # -- RowHook

    def before(self, logits_V: Tensor) -> None:
        """Note the model's own opinion, then bias, penalties and grammar, in this order."""
        if self.params.logprobs is not None:
            self._raw_V = logits_V.log_softmax(0)
        if self._changes_logits:
            self._penalise(logits_V)
        if self.grammar is not None:
            self.grammar.mask(logits_V)
        if (self._bias is not None or self.grammar is not None) and not torch.isfinite(logits_V).any():
            self._give_up(logits_V)

    def _give_up(self, logits_V: Tensor) -> None:
        """Nothing may follow. One row cannot raise, or all others would end with it: it samples an end, then fails."""
        error = "" if self.grammar is None else self.grammar.error
        if error:
            self.failure = ("invalid_schema", f"the JSON schema cannot be followed (found: {error})")
        elif self.grammar is not None:
            self.failure = ("invalid_value", "`logit_bias` forbids every token that the JSON schema allows next")
        else:
            self.failure = ("invalid_value", "`logit_bias` forbids every token of this model")
        logits_V[self.vocabulary.stops[0]] = 0.0

    def after(self, token: int) -> None:
        """Remember the token for the next step's penalties and grammar."""
        if self._raw_V is not None:
            values, ids = self._raw_V.topk(min(self.params.logprobs or 0, len(self._raw_V)))
            top = list(zip(ids.tolist(), values.tolist(), strict=True))
            self._logprob = self.vocabulary.logprob(token, float(self._raw_V[token]), top)
            self._raw_V = None
        if self._counts_V is not None and self._seen_V is not None:
            self._counts_V[token] += 1
            self._seen_V[token] = True
        if self.grammar is not None and self.failure is None:
            self.grammar.accept(token)

    def _penalise(self, logits_V: Tensor) -> None:
        params = self.params
        if self._counts_V is None or self._seen_V is None:
            self._counts_V = torch.zeros_like(logits_V)
            self._seen_V = torch.zeros_like(logits_V, dtype=torch.bool)
            self._seen_V[list(self.prompt)] = True
            for token in self.ids:  # put back into the queue earlier
                self._counts_V[token] += 1
                self._seen_V[token] = True
            biased = {id: value for id, value in params.logit_bias.items() if 0 <= id < len(logits_V)}
            values = [-torch.inf if value <= -100 else value for value in biased.values()]
            device = logits_V.device
            self._bias = (
                torch.tensor(list(biased), device=device, dtype=torch.int64),
                torch.tensor(values, device=device, dtype=logits_V.dtype),
            )
        assert self._bias is not None
        logits_V[self._bias[0]] += self._bias[1]
        if (penalty := params.repetition_penalty) != 1:
            punished_V = torch.where(logits_V > 0, logits_V / penalty, logits_V * penalty)
            logits_V.copy_(torch.where(self._seen_V, punished_V, logits_V))
        if params.frequency_penalty:
            logits_V.sub_(self._counts_V, alpha=params.frequency_penalty)
        if params.presence_penalty:
            logits_V.sub_((self._counts_V > 0).to(logits_V.dtype), alpha=params.presence_penalty)

    def note(self, token: int, logprob: float) -> None:
        """The log-prob of the next token, where somebody else samples; there are no alternatives then."""
        self._logprob = self.vocabulary.logprob(token, logprob, ())

    # -- events

    def advance(self, token: int, *, finished: bool, stopped: bool) -> list[Event]:
        """What a sampled token makes known."""
        self.ids.append(token)
        events: list[Event] = []
        if not (finished and stopped):  # the end token is no text
            data = self.vocabulary.text[token]
            if self._drops_space and data:  # the space that SentencePiece spells before the first word
                data, self._drops_space = data.removeprefix(b" "), False
            text = self._stream.push(data)
            logprobs = () if self._logprob is None else (self._logprob,)
            events.append(Delta(self.job, self.index, text, (token,), logprobs))
        if self._stream.stopped or stopped:
            return [*events, *self.end("stop")]
        return [*events, *self.end("length")] if finished else events

    def end(self, reason: FinishReason) -> list[Event]:
        """Let go what was held back; nothing comes after this."""
        self.finished = True
        text = self._stream.finish()
        if self._stream.stopped and reason == "length":  # the last token, half a character, completed a stop string
            reason = "stop"
        rest: list[Event] = [Delta(self.job, self.index, text)] if text else []
        return [*rest, Done(self.job, self.index, reason, len(self.ids))]
