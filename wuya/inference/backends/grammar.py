"""Constrained decoding: a JSON schema as a mask over the next token's logits, by `llguidance`.

The mask lets through exactly those tokens after which the text can still become a document of the schema; when it is
one, only the end token is left. The library works on the bytes of our tokens, so borders of tokens do not matter.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wuya.inference.backends.protocol import InvalidSchema, Unsupported
from wuya.tokenizer.bpe import Tokenizer

MAX_SCHEMA_BYTES = 65_536


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

    def mask(self, logits_V: Tensor) -> None:
        """Forbid what cannot follow."""
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._mask)
        words = torch.from_numpy(self._mask[0])
        allowed_V = ((words[self._word_V] >> self._bit_V) & 1).bool()
        if allowed_V.any():  # else the library gave up: better free text than none
            logits_V.masked_fill_(~allowed_V.to(logits_V.device), -torch.inf)

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
        stops = sorted({tokenizer.eos_id, tokenizer.document_end_id})
        self._tokenizer = LLTokenizer(tokenizer.to_json(), n_vocab=vocab_size, eos_token=stops)

    def compile(self, schema: Mapping[str, Any]) -> Grammar:
        """A fresh grammar; {} means any object. No blanks between values: small models would write them without end."""
        from llguidance import LLMatcher

        source = json.dumps(dict(schema) or {"type": "object"})
        if len(source) > MAX_SCHEMA_BYTES:
            raise InvalidSchema(
                "the JSON schema is too large", found=f"{len(source)} bytes, {MAX_SCHEMA_BYTES} allowed"
            )
        grammar = LLMatcher.grammar_from_json_schema(source, defaults={"whitespace_flexible": False})
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise InvalidSchema("the JSON schema cannot be followed", found=str(matcher.get_error()).split("\n")[0])
        return Grammar(matcher, self.vocab_size)
