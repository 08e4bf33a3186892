"""The official client on a real engine: a tiny model with random weights, torch in a thread."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.databases import Databases
from tests.inference.naive import sharp_model
from tests.web.api.conftest import Api, serve
from wuya.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from wuya.evals.likelihood import token_logprobs
from wuya.inference.backends.local import LocalEngine
from wuya.tokenizer.bpe import train_tokenizer
from wuya.tokenizer.templates import CHATML_OF_TEXTS

HELLO: list[Any] = [{"role": "user", "content": "the river"}]
TEXT = 'the river runs to the sea {"name": "x", "size": 12} \u68af\u5ea6\u4e0b\u964d ' * 8


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, databases: Databases) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("real")
    tokenizer = train_tokenizer([TEXT], vocab_size=330)
    tokenizer = tokenizer.with_template(CHATML_OF_TEXTS)  # one without a place for tools
    save_checkpoint(folder / "tiny", sharp_model(vocab_size=tokenizer.vocab_size), tokenizer)
    engine = LocalEngine({"tiny": folder / "tiny"}, slots=4, device="cpu", dtype="float32")
    with serve(folder, databases, accounts=False, engine=engine) as api:
        yield api
        for client in api.clients:
            client.close()


def test_scores_of_a_text_are_wuyas_own_log_likelihoods(real: Api) -> None:
    """What lm-evaluation-harness sends and how it reads the answer (`local-completions`, tokenized requests)."""
    model, tokenizer = load_checkpoint(real.service.settings.workspace / "tiny")
    items = [("the river runs", " to the sea"), ("\u68af\u5ea6", "\u4e0b\u964d"), ('{"name":', ' "x"}')]
    contexts = [tokenizer.encode(context) for context, _ in items]
    whole = [tokenizer.encode(context + continuation) for context, continuation in items]
    answer = real.client().completions.create(
        model="tiny", prompt=whole, max_tokens=1, logprobs=1, echo=True, temperature=0, seed=1234
    )
    for choice, ids, context in zip(answer.choices, whole, contexts, strict=True):
        found = choice.logprobs
        assert found is not None and found.token_logprobs is not None and found.top_logprobs is not None
        assert len(found.token_logprobs) == len(ids) + 1, "one more than the text, always"
        expected_T = token_logprobs(model, [ids])[0][len(context) - 1 :]
        assert sum(found.token_logprobs[len(context) : -1]) == pytest.approx(float(expected_T.sum()), abs=1e-4)
        best = [max(top, key=top.__getitem__) for top in found.top_logprobs[len(context) : -1]]
        logits_TV = model.logits(model(_tensor([ids[:-1]])))[0, len(context) - 1 :]
        greedy = logits_TV.argmax(-1).tolist() == ids[len(context) :]
        assert (best == (found.tokens or [])[len(context) : -1]) is greedy


def _tensor(ids: list[list[int]]) -> Any:
    import torch

    return torch.tensor(ids)


def test_seed_stop_logprobs_and_streams(real: Api) -> None:
    client = real.client()
    asked: dict[str, Any] = {"model": "tiny", "messages": HELLO, "seed": 7, "max_tokens": 12}
    one = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    two = client.chat.completions.create(**asked)
    streamed = "".join(c.choices[0].delta.content or "" for c in client.chat.completions.create(**asked, stream=True))
    assert one.choices[0].message.content == two.choices[0].message.content == streamed
    found = one.choices[0].logprobs
    assert found is not None and found.content
    assert b"".join(bytes(t.bytes or []) for t in found.content).decode(errors="replace") == streamed
    several = client.chat.completions.create(**asked | {"seed": 3}, n=3)
    assert len({choice.message.content for choice in several.choices}) > 1
    assert several.usage is not None and one.usage is not None
    assert several.usage.prompt_tokens == one.usage.prompt_tokens


def test_a_schema_binds_the_model(real: Api) -> None:
    schema = {"type": "object", "properties": {"size": {"type": "integer", "minimum": 0, "maximum": 9}},
              "required": ["size"], "additionalProperties": False}  # fmt: skip
    answer = real.client().chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=30, seed=1,
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
    )  # fmt: skip
    assert 0 <= json.loads(answer.choices[0].message.content or "")["size"] <= 9


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_what_no_answer_can_keep_is_the_callers_error_and_never_a_500(real: Api, stream: bool) -> None:
    client = real.client()

    def refused(schema: dict[str, Any], **fields: Any) -> openai.APIError:
        wanted: Any = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
        with pytest.raises(openai.APIError) as error:
            made = client.chat.completions.create(
                model="tiny", messages=HELLO, max_tokens=30, stream=stream, response_format=wanted, **fields
            )
            list(made)
        return error.value

    schema = {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]}
    biased = refused(schema, logit_bias={str(id): -100 for id in range(330)})
    assert (biased.code, biased.type, biased.param) == ("invalid_value", "invalid_request_error", "logit_bias")
    endless = {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"], "additionalProperties": False}
    for impossible in (endless, {"type": "array", "items": {"type": "null"}, "minItems": 100_000}):
        error = refused(impossible)
        assert isinstance(error, openai.BadRequestError), "known before the first byte, also of a stream"
        assert (error.code, error.param) == ("invalid_value", "response_format")


def test_embeddings_and_refusals(real: Api) -> None:
    client = real.client()
    vectors = [item.embedding for item in client.embeddings.create(model="tiny", input=["the river", "the sea"]).data]
    assert all(sum(x * x for x in vector) == pytest.approx(1, abs=1e-4) for vector in vectors)
    with pytest.raises(openai.BadRequestError) as tools:
        client.chat.completions.create(
            model="tiny", messages=HELLO, tools=[{"type": "function", "function": {"name": "f"}}]
        )
    assert (tools.value.code, tools.value.param) == ("unsupported_parameter", "tools")
    with pytest.raises(openai.BadRequestError) as full:
        client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=10_000)
    assert full.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny", messages=[{"role": "assistant", "content": "x"}])
    with pytest.raises(openai.BadRequestError) as unknown:
        client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=2, logit_bias={"999999": 5})
    assert (unknown.value.code, unknown.value.param) == ("invalid_value", "logit_bias")
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="tiny", prompt=[5_000_000], max_tokens=1)
