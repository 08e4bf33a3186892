"""Search: words, beginnings of words, and Chinese of any length."""

import pytest
from starlette.testclient import TestClient

from tests.web.chat.conftest import new_chat, ok
from wuya.web.chat import search

GRADIENT, DESCENT = "\u68af\u5ea6", "\u4e0b\u964d"  # "gradient", "descent"


def test_terms_are_words_and_pairs_of_characters() -> None:
    assert search.terms("Hello, W\u00f6rld_2!") == ["hello", "w\u00f6rld", "2"]
    assert search.terms(f"use {GRADIENT}{DESCENT} now") == [
        "use",
        "\u68af\u5ea6",
        "\u5ea6\u4e0b",
        "\u4e0b\u964d",
        "\u964d",
        "now",
    ]
    assert search.terms("\uff21\uff22") == ["ab"], "full width is the same"
    assert search.terms("") == [] and search.terms("!?") == []


def test_quotes_and_operators_are_only_characters() -> None:
    assert search.fts5_query(search.phrases('a" OR NEAR(b*')) == '"a" AND "or" AND "near" AND "b"'
    assert search.fts5_query(search.phrases(GRADIENT + DESCENT[0])) == '"\u68af\u5ea6 \u5ea6\u4e0b"'
    assert search.fts5_query(search.phrases("grad")) == '"grad"*'
    assert search.ts_query(search.phrases("a' | !b\\ grad")) == "'a' & 'b' & 'grad':*"


def test_snippets_show_what_matched() -> None:
    text = "x " * 200 + f"about {GRADIENT}{DESCENT} and more"
    pieces = search.snippet(text, GRADIENT)
    assert (GRADIENT, True) in pieces and len("".join(piece for piece, _ in pieces)) < 300
    assert search.snippet("Plain text", "nothing") == [("Plain text", False)]
    assert search.snippet("a <b>x</b>", "b") == [
        ("a <", False),
        ("b", True),
        (">x</", False),
        ("b", True),
        (">", False),
    ]


def found(client: TestClient, query: str) -> set[str]:
    return {item["title"] for item in ok(client.get("/api/search", params={"q": query}))["items"]}


def test_words_of_two_characters_are_found(client: TestClient) -> None:
    chinese, english, titled = new_chat(client, title="c"), new_chat(client, title="e"), new_chat(client)
    chinese.say(f"\u8bf7\u89e3\u91ca{GRADIENT}{DESCENT}\u6cd5")
    english.say("Explain gradient descent, please")
    titled.patch(title="Gradients of mountains")
    assert found(client, GRADIENT) == found(client, DESCENT) == found(client, GRADIENT + DESCENT) == {"c"}
    assert found(client, "\u68af") == found(client, "\u6cd5") == {"c"}, "one character, also the last of a run"
    assert found(client, DESCENT + GRADIENT) == set(), "order matters"
    assert found(client, "GRAD") == {"e", "Gradients of mountains"}, "the beginning of the last word, in any case"
    assert found(client, "grad descent") == set(), "only the last word may be a beginning"
    assert found(client, "gradient descent") == {"e"}
    for nonsense in ("", "!!", '"', "*", "a OR", "NEAR(", "' OR 1=1 --", "\u0000"):
        assert ok(client.get("/api/search", params={"q": nonsense}))["items"] is not None


def test_answers_are_found_and_pages_follow(client: TestClient) -> None:
    chat = new_chat(client, title="t")
    answer = chat.ask("hello")
    word = answer["content"].split()[3]
    item = ok(client.get("/api/search", params={"q": word}))["items"][0]
    assert item["message_id"] == answer["id"] and item["role"] == "assistant" and [word, True] in item["snippet"]
    for index in range(5):
        chat.say(f"needle {index}")
    first = ok(client.get("/api/search", params={"q": "needle", "limit": 2}))
    second = ok(client.get("/api/search", params={"q": "needle", "limit": 2, "cursor": first["next"]}))
    third = ok(client.get("/api/search", params={"q": "needle", "limit": 2, "cursor": second["next"]}))
    ids = [item["message_id"] for page in (first, second, third) for item in page["items"]]
    assert len(ids) == len(set(ids)) == 5 and third["next"] is None


@pytest.mark.parametrize("how", ["trash", "delete", "rename"])
def test_what_is_gone_is_not_found(client: TestClient, how: str) -> None:
    chat = new_chat(client, title="hidden needle")
    chat.say("hidden needle")
    assert found(client, "needle") == {"hidden needle"}
    if how == "rename":
        chat.patch(title="other")
        items = ok(client.get("/api/search", params={"q": "needle"}))["items"]
        assert [item["message_id"] is None for item in items] == [False]
    else:
        ok(client.post("/api/conversations/bulk", json={"ids": [chat.id], "action": how}))
        assert found(client, "needle") == set()
