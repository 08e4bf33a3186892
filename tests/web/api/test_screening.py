"""Moderation under /v1: refused inputs, filtered outputs, and the endpoint that asks the rules."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.web.api.conftest import Api
from wuya.database.connection import reading, writing
from wuya.web.moderation import store
from wuya.web.moderation.moderator import moderator_of

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
BOMB = {"id": "1", "name": "bombs", "stages": ["input", "output"], "action": "block", "words": ["bomb"]}
RUDE = {"id": "2", "name": "rude", "stages": ["input", "output"], "action": "flag", "words": ["rude"]}


def set_rules(api: Api, *rules: dict[str, Any]) -> None:
    with writing(api.service.database) as connection:
        store.set_rules(connection, rules)
    moderator_of(api.service).reload()


def events(api: Api) -> list[tuple[str, str, str]]:
    with reading(api.service.database) as connection:
        return [(e["rule"], e["stage"], e["action"]) for e in store.queue(connection, state="open")]


@pytest.fixture
def ruled(api: Api) -> Iterator[Api]:
    set_rules(api, RUDE, BOMB)
    yield api
    set_rules(api)


def test_a_blocked_input_is_refused_before_anything_is_generated(ruled: Api) -> None:
    client = ruled.client()
    bad: list[Any] = [{"role": "user", "content": "a bomb"}, {"role": "assistant", "content": "no"}, *HELLO]
    for messages in (bad[:1], bad):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="fake", messages=messages, stream=True)
        assert (caught.value.code, caught.value.type) == ("content_policy_violation", "invalid_request_error")
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="fake", prompt=["fine", "a bomb"])
    assert ruled.engine.requests == []
    assert events(ruled)[0] == ("bombs", "input", "block")


def test_a_blocked_output_ends_with_content_filter(ruled: Api) -> None:
    ruled.engine.script = lambda request, index: ["word " * 60 + "bomb " + "word " * 3000, "a fine answer"][index]
    ruled.engine.tokens_per_second = 2000
    client = ruled.client()
    stream = client.chat.completions.create(model="fake", messages=HELLO, n=2, stream=True)
    texts, reasons = ["", ""], {}
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert reasons == {0: "content_filter", 1: "stop"}
    assert "bomb" not in texts[0].split()[:60] and len(texts[0]) < 600 and texts[1] == "a fine answer"
    ruled.wait(lambda: ruled.engine.slots_used == 0)
    assert len(ruled.engine.cancelled) == 1, "nothing more is generated once every choice has ended"
    assert ("bombs", "output", "block") in events(ruled)


def test_a_short_blocked_answer_is_not_shown(ruled: Api) -> None:
    ruled.engine.script = "a bomb"
    [choice] = ruled.client().completions.create(model="fake", prompt="hello").choices
    assert choice.finish_reason == "content_filter"


def test_flags_change_nothing_for_the_client(ruled: Api) -> None:
    ruled.engine.script = "a rude answer"
    before = events(ruled)
    [choice] = ruled.client().chat.completions.create(model="fake", messages=HELLO).choices
    assert (choice.message.content, choice.finish_reason) == ("a rude answer", "stop")
    assert events(ruled)[: len(events(ruled)) - len(before)] == [("rude", "output", "flag")]


def test_the_endpoint_names_the_rules_as_categories(ruled: Api) -> None:
    answer = ruled.client().moderations.create(input=["a bomb", "bread"])
    first, second = (result.model_dump() for result in answer.results)
    assert (first["flagged"], second["flagged"]) == (True, False)
    raw = ruled.send("/v1/moderations", {"input": [{"type": "text", "text": "rude"}]}).json()["results"][0]
    assert raw["categories"] == {"bombs": False, "rude": True} and raw["category_scores"]["rude"] == 1.0


def test_without_rules_there_is_no_such_model(api: Api) -> None:
    with pytest.raises(openai.NotFoundError):
        api.client().moderations.create(input="x")


def test_a_reward_model_judges_turns(api: Api) -> None:
    from tests.inference.naive import sharp_model
    from wuya.checkpoints.checkpoint import save_checkpoint
    from wuya.models.reward_model import ScalarModel
    from wuya.tokenizer.bpe import train_tokenizer

    tokenizer = train_tokenizer(["the river runs to the sea " * 8], vocab_size=300)
    folder = api.service.settings.workspace / "reward"
    save_checkpoint(folder, ScalarModel(sharp_model(vocab_size=tokenizer.vocab_size)), tokenizer)
    scored = {"id": "3", "name": "scored", "stages": ["output"], "action": "block", "words": [], "scorer": "reward"}
    for threshold, reason in ((-1e9, "content_filter"), (1e9, "stop")):
        set_rules(api, scored | {"threshold": threshold})
        [choice] = api.client().chat.completions.create(model="fake", messages=HELLO).choices
        assert choice.finish_reason == reason
    set_rules(api)
