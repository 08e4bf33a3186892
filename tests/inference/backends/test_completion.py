"""completion.py, grammar.py: penalties as an obvious loop has them, and JSON that is JSON."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.inference.backends.helpers import collect, ids, reasons, request, run, running, text
from wuya.inference.backends.completion import Completion, Vocabulary
from wuya.inference.backends.protocol import GenerationParams, InvalidSchema
from wuya.tokenizer.bpe import Tokenizer

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "size": {"enum": ["s", "m", "l"]},
        "ok": {"type": "boolean"},
    },
    "required": ["name", "size", "ok"],
    "additionalProperties": False,
}  # fmt: skip


def naive(logits: list[float], prompt: list[int], sampled: list[int], params: GenerationParams) -> list[float]:
    result = []
    for token, value in enumerate(logits):
        value += params.logit_bias.get(token, 0.0) if params.logit_bias.get(token, 0.0) > -100 else -float("inf")
        if token in prompt or token in sampled:
            value = value / params.repetition_penalty if value > 0 else value * params.repetition_penalty
        value -= params.frequency_penalty * sampled.count(token)
        value -= params.presence_penalty * (token in sampled)
        result.append(value)
    return result


@pytest.mark.parametrize("seed", range(5))
def test_penalties_and_bias_equal_the_obvious_loop(tokenizer: Tokenizer, seed: int) -> None:
    rng = random.Random(seed)
    size = tokenizer.vocab_size
    params = GenerationParams(
        max_tokens=9, presence_penalty=rng.uniform(-2, 2), frequency_penalty=rng.uniform(-2, 2),
        repetition_penalty=rng.uniform(0.8, 1.5), logit_bias={3: 5.0, 7: -100.0, 8: -2.5, size + 5: 1.0},
    )  # fmt: skip
    prompt = [rng.randrange(size) for _ in range(6)]
    vocabulary = Vocabulary(tokenizer, size)
    completion = Completion("j", 0, tuple(prompt), params, vocabulary, sequence=1, seed=1)
    assert completion.needs_hook
    sampled: list[int] = []
    for _ in range(8):
        logits = torch.randn(size, generator=torch.Generator().manual_seed(len(sampled)))
        wanted = torch.tensor(naive(logits.tolist(), prompt, sampled, params))
        completion.before(logits)
        assert torch.allclose(logits, wanted, atol=1e-5)
        token = rng.choice([*prompt, *range(12)])
        completion.after(token)
        completion.advance(token, finished=False, stopped=False)
        sampled.append(token)


def test_answers_follow_a_schema_at_any_temperature_and_any_object_is_an_object(checkpoint: Path) -> None:
    async def main() -> None:
        async with running(checkpoint) as engine:
            params: dict[str, Any] = {"max_tokens": 60, "temperature": 1.0, "json_schema": SCHEMA}
            many = await asyncio.gather(
                collect(engine, request("a", [5, 6], seed=1, n=3, **params)), collect(engine, request("b", [5], seed=4))
            )
            for index, reason in reasons(many[0]).items():
                if reason == "stop":
                    document = json.loads(text(many[0], index))
                    assert set(document) == {"name", "size", "ok"} and document["size"] in ("s", "m", "l")
            assert "stop" in reasons(many[0]).values()
            free = await collect(engine, request("c", [5, 6], max_tokens=50, temperature=0.5, seed=2, json_schema={}))
            assert text(free).startswith("{") and ids(free)
            with pytest.raises(InvalidSchema):
                await anext(engine.submit(request("d", [5], json_schema={"type": "no such type"})))

    run(main)
