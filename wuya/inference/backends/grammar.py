"""Constrained decoding: a JSON schema as a mask over the next token's logits, by `llguidance`.

The mask lets through exactly those tokens after which the text can still become a document of the schema; when it is
one, only the end token is left. The library works on the bytes of our tokens, so borders of tokens do not matter.

A schema is a stranger's program. Its size, the numbers in it and the library's work per token are bounded, and a schema
that no document can satisfy is refused: never answered with text that does not keep it.
"""

import json
import math
import time
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wuya.inference.backends.protocol import InvalidSchema, Unsupported
from wuya.tokenizer.bpe import Tokenizer

MAX_SCHEMA_BYTES = 65_536
MAX_MULTIPLE = 10_000
"""Largest `multipleOf`, as a count of its smallest decimal: the library makes an automaton of so many states, a tenth
of a second's work, without asking its own limits."""
MAX_ITEMS_PER_TOKEN = 20_000
"""Parser items of one token: some 30 ms, which all other answers wait for."""
TRIAL_TOKENS = 16
TRIAL_SECONDS = 0.2


class Grammar:
    """The state of one completion inside its schema."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher, self.vocab_size = matcher, vocab_size
        self._mask = np.zeros((1, (vocab_size + 31) // 32), dtype=np.int32)
        self._bit_V = torch.arange(vocab_size) % 32
        self._word_V = torch.arange(vocab_size) // 32

    def copy(self) -> "Grammar":
        """Another completion at the same place."""
        return Grammar(self._matcher.deep_copy(), self.vocab_size)

    @property
    def error(self) -> str:
        """Why the schema cannot be followed from here; empty while it can."""
        return _first_line(self._matcher.get_error()) if self._matcher.is_error() else ""

    @property
    def ended(self) -> bool:
        """The document is whole: nothing but the end may follow."""
        return bool(self._matcher.is_stopped())

    def allowed(self) -> Tensor:
        """Tokens that may follow, bool [V]; none where the schema cannot be followed."""
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._mask)
        words = torch.from_numpy(self._mask[0])
        allowed_V = ((words[self._word_V] >> self._bit_V) & 1).bool()
        return allowed_V & (not self._matcher.is_error())

    def mask(self, logits_V: Tensor) -> None:
        """Forbid what cannot follow; where nothing can, everything is forbidden and `error` says why."""
        logits_V.masked_fill_(~self.allowed().to(logits_V.device), -torch.inf)

    def accept(self, token: int) -> None:
        """The text grows by this token."""
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)


class GrammarCompiler:
    """Schemas to grammars for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        try:
            from llguidance import LLTokenizer
        except ImportError as error:
            hint = "`pip install llguidance`"
            raise Unsupported("JSON schemas need llguidance", param="response_format", hint=hint) from error
        self.vocab_size = vocab_size
        self._tokenizer = LLTokenizer(tokenizer.to_json(), n_vocab=vocab_size, eos_token=list(tokenizer.turn_end.ids))

    def compile(self, schema: Mapping[str, Any]) -> Grammar:
        """A fresh grammar; {} means any object. No blanks between values: small models would write them without end.

        Raises: InvalidSchema where the schema is too large, asks for too much work, or cannot be satisfied.
        """
        from llguidance import LLMatcher, LLParserLimits

        source = json.dumps(dict(schema) or {"type": "object"})
        if len(source) > MAX_SCHEMA_BYTES:
            raise InvalidSchema(
                "the JSON schema is too large", found=f"{len(source)} bytes, {MAX_SCHEMA_BYTES} allowed"
            )
        require_small_multiples(schema)
        matcher = LLMatcher(
            self._tokenizer,
            LLMatcher.grammar_from_json_schema(source, defaults={"whitespace_flexible": False}),
            log_level=0,
            limits=LLParserLimits(step_max_items=MAX_ITEMS_PER_TOKEN, verbose_errors=False),
        )
        grammar = Grammar(matcher, self.vocab_size)
        if error := grammar.error or _trial(grammar.copy()):
            raise InvalidSchema("the JSON schema cannot be followed", found=error)
        return grammar


def require_small_multiples(schema: Any) -> None:
    """Refuse `multipleOf` whose automaton would take seconds and gigabytes; together, where they may meet in one value.

    Raises: InvalidSchema.
    """
    counts, may_meet, todo = [1], False, [schema]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            may_meet |= "allOf" in item or "$ref" in item
            multiple = item.get("multipleOf")
            if isinstance(multiple, int | float) and not isinstance(multiple, bool) and math.isfinite(multiple):
                counts.append(abs(Fraction(str(multiple)).numerator) or 1)
        todo += item.values() if isinstance(item, dict) else item if isinstance(item, list) else []
    largest = math.lcm(*counts) if may_meet else max(counts)
    if largest > MAX_MULTIPLE:
        raise InvalidSchema("`multipleOf` asks for too much work", found=f"{largest}, {MAX_MULTIPLE} allowed")


def _trial(grammar: Grammar) -> str:
    """Why the first tokens of some document already lead nowhere; empty if they do not."""
    began = time.perf_counter()
    for _ in range(TRIAL_TOKENS):
        [places] = grammar.allowed().nonzero(as_tuple=True)
        if not len(places):
            return grammar.error or "no document satisfies it"
        if grammar.ended or time.perf_counter() - began > TRIAL_SECONDS:
            return ""
        grammar.accept(int(places[len(places) // 2]))
        if grammar.error:
            return grammar.error
    return ""


def _first_line(error: Any) -> str:
    """The library's reason in one line, without its advice to writers of parsers."""
    lines = [line.strip() for line in str(error).strip().split("\n")]
    if lines[0].startswith("NoExtension"):
        return "no document satisfies it"
    if "Too many items" in lines[0]:
        return "it asks for too much work per token; do `minItems` or recursion without an end make it so large?"
    details = [line for line in lines[1:] if line.startswith("error:")]
    return " ".join(lines[:1] + details[:1])[:300]
