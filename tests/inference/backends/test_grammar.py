"""grammar.py: a schema binds the text or is refused; neither it nor a bias can cost another chat its answer."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.inference.backends.helpers import collect, reasons, request, run, running, text
from wuya.inference.backends.grammar import Grammar, GrammarCompiler, require_small_multiples
from wuya.inference.backends.protocol import Event, Failed, InvalidParameter, InvalidSchema
from wuya.tokenizer.bpe import Tokenizer

pytest.importorskip("llguidance")

FLAG: dict[str, Any] = {
    "type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"], "additionalProperties": False
}  # fmt: skip


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, tokenizer.vocab_size)


def some_text(grammar: Grammar, tokenizer: Tokenizer, *, seed: int, limit: int = 400) -> str:
    """What a model without any preference writes."""
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = []
    while not grammar.ended and len(ids) < limit:
        [places] = grammar.allowed().nonzero(as_tuple=True)
        token = int(places[torch.randint(len(places), (1,), generator=generator)])
        if token in tokenizer.turn_end.ids:
            break
        ids.append(token)
        grammar.accept(token)
    return tokenizer.decode(ids)


@pytest.mark.parametrize(
    "schema",
    [
        FLAG,
        {"enum": ["yes", 1, None, {"a": [True]}]},
        {"type": "array", "items": {"type": "integer", "multipleOf": 7}, "minItems": 2, "maxItems": 3},
        {"$defs": {"n": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}},
                         "required": ["next"], "additionalProperties": False}}, "$ref": "#/$defs/n"},
    ],
    ids=["object", "enum", "multiples", "list"],
)  # fmt: skip
def test_any_choice_of_allowed_tokens_is_a_document(
    compiler: GrammarCompiler, tokenizer: Tokenizer, schema: dict[str, Any]
) -> None:
    grammar = compiler.compile(schema)
    for seed in range(4):
        json.loads(some_text(grammar.copy(), tokenizer, seed=seed))


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"], "additionalProperties": False},
        {"type": "array", "items": {"type": "null"}, "minItems": 100_000},
        {"type": "array", "items": {"type": "array", "items": {"type": "null"}, "minItems": 100_000}, "minItems": 1},
        {"type": "object", "properties": {"x": False}, "required": ["x"]},
        {"type": "string", "pattern": "(?=a)b"},
        {"type": "integer", "multipleOf": 999_983},
        {"allOf": [{"type": "integer", "multipleOf": prime} for prime in (97, 89, 83)]},
        {"enum": ["x" * 70_000]},
    ],
    ids=["itself", "no-end", "too-many", "too-many-inside", "false", "look-ahead", "multiple", "multiples", "large"],
)  # fmt: skip
def test_what_no_document_keeps_or_costs_too_much_is_refused_at_once(
    compiler: GrammarCompiler, schema: dict[str, Any]
) -> None:
    began = time.perf_counter()
    with pytest.raises(InvalidSchema):
        compiler.compile(schema)
    assert time.perf_counter() - began < 2.0


def test_multiples_are_counted_in_their_smallest_decimal() -> None:
    for schema in ({"multipleOf": 0.0001}, {"multipleOf": 10_000}, {"properties": {"multipleOf": {"type": "integer"}}},
                   {"properties": {f"p{n}": {"multipleOf": n} for n in (97, 89, 83)}}):  # fmt: skip
        require_small_multiples(schema)
    for schema in ({"multipleOf": 2.12345}, {"items": [{"multipleOf": 10_001}]}):
        with pytest.raises(InvalidSchema, match="multipleOf"):
            require_small_multiples(schema)


def test_a_bias_against_the_schema_fails_its_own_request_and_no_other(checkpoint: Path, tokenizer: Tokenizer) -> None:
    """All rows are sampled in one call, so a row without any token left must not raise in it."""
    everything = {id: -100.0 for id in range(tokenizer.vocab_size)}

    async def main() -> None:
        async with running(checkpoint) as engine:
            prompt = tokenizer.encode("Hello")
            alone = await collect(engine, request("alone", prompt, max_tokens=40, ignore_eos=True))
            calm = [asyncio.create_task(collect(engine, request(f"calm{n}", prompt, max_tokens=40, ignore_eos=True)))
                    for n in range(3)]  # fmt: skip
            bound, free, several = await asyncio.gather(
                collect(engine, request("bound", prompt, json_schema=FLAG, logit_bias=everything)),
                collect(engine, request("free", prompt, logit_bias=everything)),
                collect(engine, request("several", prompt, n=3, temperature=1.0, logit_bias=everything)),
            )
            for events in await asyncio.gather(*calm):
                assert text(events) == text(alone) and reasons(events) == {0: "length"}
            assert failure(bound).code == "invalid_value" and "JSON schema" in failure(bound).message
            assert failure(free).code == failure(several).code == "invalid_value"
            await asyncio.sleep(0.05)
            info = engine.info()
            assert (info.slots_used, info.queue_length) == (0, 0)

    run(main)


def failure(events: list[Event]) -> Failed:
    [failed] = [event for event in events if isinstance(event, Failed)]
    assert events[-1] is failed
    return failed


def test_a_bias_for_a_token_the_model_does_not_have_is_refused(checkpoint: Path, tokenizer: Tokenizer) -> None:
    async def main() -> None:
        async with running(checkpoint) as engine:
            last = tokenizer.vocab_size - 1
            with pytest.raises(InvalidParameter, match="logit_bias") as refused:
                await collect(engine, request("a", [5], logit_bias={last + 1: 5.0}))
            assert refused.value.param == "logit_bias"
            assert reasons(await collect(engine, request("b", [5], logit_bias={last: 5.0})))

    run(main)


def test_a_schema_that_takes_for_ever_is_refused_and_others_go_on(
    checkpoint: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wuya.inference.backends.local.COMPILE_SECONDS", 0.2)
    slow = GrammarCompiler.compile

    def compile_slowly(self: GrammarCompiler, schema: Any) -> Grammar:
        time.sleep(1.0)
        return slow(self, schema)

    monkeypatch.setattr(GrammarCompiler, "compile", compile_slowly)

    async def main() -> None:
        async with running(checkpoint) as engine:
            with pytest.raises(InvalidSchema, match="too long"):
                await collect(engine, request("a", [5], json_schema=FLAG))
            began = time.perf_counter()
            await collect(engine, request("b", [5], max_tokens=4))
            assert time.perf_counter() - began < 0.7

    run(main)
