"""`/v1/completions`, `/v1/embeddings`, `/v1/models` and `/v1/tokenize` through the official client."""

import base64
import math
import struct
from typing import Any

import openai
import pytest

from tests.web.api.conftest import Api
from wuya.web.api import bodies


def test_a_continuation(api: Api) -> None:
    api.engine.script = " upon a time"
    answer = api.client().completions.create(model="fake", prompt="Once")
    bodies.Completion.model_validate(answer.model_dump(exclude_unset=True))
    assert (answer.choices[0].text, answer.choices[0].finish_reason, answer.choices[0].logprobs) == (
        " upon a time", "stop", None,
    )  # fmt: skip
    assert answer.usage is not None and answer.usage.prompt_tokens == 1
    assert api.engine.requests[-1].params.max_tokens == 16


def test_several_prompts_are_answered_in_their_order(api: Api) -> None:
    api.engine.script = lambda request, index: f" {len(request.prompt_ids)}.{index}"
    client = api.client()
    answer = client.completions.create(model="fake", prompt=["a", "a b", "a b c"], n=2)
    assert [c.text for c in answer.choices] == [" 1.0", " 1.1", " 2.0", " 2.1", " 3.0", " 3.1"]
    assert [c.index for c in answer.choices] == list(range(6))
    assert answer.usage is not None and (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, 6)
    texts = [""] * 6
    for chunk in client.completions.create(model="fake", prompt=["a", "a b", "a b c"], n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [c.text for c in answer.choices]


def test_token_prompts(api: Api) -> None:
    client = api.client()
    ids = api.send("/v1/tokenize", {"model": "fake", "prompt": "one two"}).json()["tokens"]
    assert len(ids) == 2
    echoed = client.completions.create(model="fake", prompt=ids, echo=True, max_tokens=0)
    assert (echoed.choices[0].text, echoed.choices[0].finish_reason) == ("one two", "length")
    both = client.completions.create(model="fake", prompt=[ids, ids[:1]], echo=True, max_tokens=0)
    assert [choice.text for choice in both.choices] == ["one two", "one"]


def test_echo_with_logprobs_scores_the_prompt(api: Api) -> None:
    api.engine.script = " 梯度 z"
    answer = api.client().completions.create(model="fake", prompt="x y", echo=True, logprobs=2, max_tokens=1)
    bodies.Completion.model_validate(answer.model_dump(exclude_unset=True))
    [choice] = answer.choices
    found = choice.logprobs
    assert found is not None and choice.text == "x y 梯"
    assert found.tokens == ["x", " y", " 梯"]
    assert found.token_logprobs == [None, -0.5, -0.5]
    assert found.text_offset == [0, 1, 3]
    assert found.top_logprobs is not None and found.top_logprobs[0] is None  # type: ignore[comparison-overlap]
    assert all(token in top for token, top in zip(found.tokens[1:], found.top_logprobs[1:], strict=True))
    assert api.engine.requests[-1].params.ignore_eos


def test_streamed_logprobs_are_the_same_tables(api: Api) -> None:
    client = api.client()
    asked: dict[str, Any] = {"model": "fake", "prompt": "x y", "echo": True, "logprobs": 2, "seed": 3}
    whole = client.completions.create(**asked).choices[0]
    text, tokens, offsets = "", [], []
    for chunk in client.completions.create(**asked, stream=True):
        text += chunk.choices[0].text
        table = chunk.choices[0].logprobs
        tokens += (table.tokens or []) if table else []
        offsets += (table.text_offset or []) if table else []
    assert whole.logprobs is not None
    assert (text, tokens, offsets) == (whole.text, whole.logprobs.tokens, whole.logprobs.text_offset)


def test_best_of_keeps_the_likeliest(api: Api) -> None:
    answer = api.client().completions.create(model="fake", prompt="x", best_of=4, n=2, seed=1)
    assert len(answer.choices) == 2
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage is not None and answer.usage.completion_tokens == 48
    assert all(choice.logprobs is None for choice in answer.choices)


def test_embeddings_as_base64_and_as_floats_are_equal(api: Api) -> None:
    client = api.client()
    default = client.embeddings.create(model="fake", input=["one", "two words"])
    floats = client.embeddings.create(model="fake", input=["one", "two words"], encoding_format="float")
    bodies.EmbeddingList.model_validate(floats.model_dump(exclude_unset=True))
    for one, other in zip(default.data, floats.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert math.sqrt(sum(x * x for x in other.embedding)) == pytest.approx(1)
    assert default.usage.prompt_tokens == 3
    raw = api.send("/v1/embeddings", {"model": "fake", "input": "one", "encoding_format": "base64"}).json()
    packed = base64.b64decode(raw["data"][0]["embedding"])
    assert struct.unpack(f"<{len(packed) // 4}f", packed) == pytest.approx(floats.data[0].embedding, abs=1e-6)


def test_fewer_dimensions_are_the_first_ones_at_length_one(api: Api) -> None:
    client = api.client()
    whole = client.embeddings.create(model="fake", input="one").data[0].embedding
    short = client.embeddings.create(model="fake", input="one", dimensions=4).data[0].embedding
    norm = math.sqrt(sum(x * x for x in whole[:4]))
    assert short == pytest.approx([x / norm for x in whole[:4]], abs=1e-6)
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="fake", input="one", dimensions=17)
    assert (caught.value.code, caught.value.param) == ("invalid_value", "dimensions")


def test_models(api: Api) -> None:
    client = api.client()
    [model] = client.models.list().data
    bodies.Model.model_validate(model.model_dump(exclude_unset=True))
    assert (model.id, model.owned_by, client.models.retrieve("fake")) == ("fake", "wuya", model)
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4o")
    assert caught.value.code == "model_not_found" and "fake" in caught.value.message


def test_tokenize_a_chat_and_back(api: Api) -> None:
    chat = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}
    found = api.send("/v1/tokenize", chat)
    bodies.Tokens.model_validate(found.json())
    assert found.json()["count"] == len(found.json()["tokens"]) == 7
    ids = api.send("/v1/tokenize", {"model": "fake", "prompt": "你好 you"}).json()["tokens"]
    text = api.send("/v1/detokenize", {"model": "fake", "tokens": ids}).json()
    bodies.DetokenizedText.model_validate(text)
    assert text == {"prompt": "你好 you"}
    assert api.send("/v1/tokenize", {"model": "fake"}).json()["error"]["param"] == "prompt"
