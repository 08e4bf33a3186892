"""Chats to files and back: ours, Markdown, ChatGPT's export, Open WebUI's export; files that are broken or hostile."""

import json
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tests.web.chat.conftest import Chat, new_chat, ok
from wuya.errors import DataError
from wuya.web.chat import transfer
from wuya.web.chat.chat_files import look_through, read_chats
from wuya.web.chat.transfer import ImportedChat

JSON = {"content-type": "application/json"}
Json = dict[str, Any]


def node(id: str, parent: str | None, role: str, content: Json, **message: Any) -> tuple[str, Json]:
    """A node of ChatGPT's mapping."""
    return id, {"id": id, "parent": parent, "message": {"author": {"role": role}, "content": content, **message}}


def said(*parts: Any, kind: str = "text") -> Json:
    return {"content_type": kind, "parts": list(parts)}


PICTURE = {"content_type": "image_asset_pointer", "asset_pointer": "file-service://x"}
CALL = {"content_type": "code", "language": "python", "text": "bake()"}
CHATGPT = [
    {
        "title": "Baking bread",
        "create_time": 1700000000.5,
        "update_time": 1700000100.0,
        "current_node": "n5",
        "conversation_id": "c-1",
        "is_archived": True,
        "mapping": dict(
            [
                ("root", {"id": "root", "message": None, "parent": None}),
                node("sys", "root", "system", said(""), metadata={"is_visually_hidden_from_conversation": True}),
                node("n1", "sys", "user", said(PICTURE, "How?", kind="multimodal_text"), create_time=1700000001),
                node("n2", "n1", "assistant", CALL, recipient="python"),
                node("tool", "n2", "tool", {"content_type": "execution_output", "text": "ok"}),
                node("n3", "tool", "assistant", said("Flour and ", "water."), metadata={"model_slug": "gpt-4"}),
                node("think", "n1", "assistant", {"content_type": "thoughts", "thoughts": []}),
                node("n4", "n1", "assistant", said("Slowly."), recipient="all"),
                node("n5", "n4", "user", said("Thanks")),
            ]
        ),
    },
    {"title": "empty", "mapping": {}},
    "no chat",
]


def turn(parent: str | None, role: str, content: Any, **values: Any) -> Json:
    """A message of Open WebUI's history."""
    return {"parentId": parent, "childrenIds": [], "role": role, "content": content, "timestamp": 1700000000} | values


OPEN_WEBUI = [
    {
        "id": "w-1",
        "title": "Rivers",
        "archived": False,
        "created_at": 1700000000,
        "updated_at": 1700000100,
        "chat": {
            "models": ["llama3:8b"],
            "params": {"system": "Be kind."},
            "history": {
                "currentId": "b2",
                "messages": {
                    "a": turn(None, "user", "Why?"),
                    "b1": turn("a", "assistant", "Rain.", model="llama3:8b"),
                    "b2": turn("a", "assistant", [{"type": "text", "text": "Snow."}], model="qwen"),
                },
            },
            "messages": [],
        },
    },
    {"id": "w-2", "title": "Old", "chat": {"messages": [turn(None, "user", "hi"), turn(None, "assistant", "hello")]}},
]


def load(client: TestClient, content: Any) -> dict[str, Any]:
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    return dict(ok(client.post("/api/import", content=content, headers=JSON), 201))


def chats_of(content: bytes) -> list[ImportedChat]:
    file = BytesIO(content)
    return list(read_chats(file, look_through(file)))


def shape(file: bytes) -> list[Any]:
    """Our export without ids, places of parents instead: what a round trip must keep."""
    chats = []
    for chat in json.loads(file)["conversations"]:
        place = {m["id"]: i for i, m in enumerate(chat["messages"])}
        messages = [
            (m["role"], m["content"], m["model"], m["feedback"], m["created_at"], place.get(m["parent_id"]))
            for m in chat["messages"]
        ]
        keep = {k: chat[k] for k in ("title", "system_prompt", "params", "archived", "created_at", "updated_at")}
        chats.append((keep, messages, place[chat["active_leaf_id"]]))
    return sorted(chats, key=str)


def rich(client: TestClient) -> Chat:
    """Branches, thumbs, parameters, odd characters."""
    chat = new_chat(client, title="T\u00eftle \u68af <b> =1+1", params={"temperature": 0.5}, system_prompt="Be brief.")
    first = chat.ask("One\n\n## You\n\n<!-- wuya: {} -->\n--> tricky\t\u68af\u5ea6")
    ok(client.put(f"/api/messages/{first['id']}/feedback", json={"value": -1, "reasons": ["style"], "comment": "no"}))
    second = chat.generate(first["id"])["messages"][0]
    chat.ask("two", second["id"])
    chat.patch(archived=True)
    return chat


def test_our_own_file_brings_back_the_whole_tree(client: TestClient, become: Callable[[str], None]) -> None:
    chat = rich(client)
    single = client.get(f"/api/conversations/{chat.id}/export")
    everything = client.get("/api/export")
    for file in (single, everything):
        assert file.headers["content-disposition"].startswith("attachment; filename=")
        assert shape(file.content) == shape(single.content)
    assert load(client, single.content)["skipped"] == 1, "it is here already"
    become("another")
    done = load(client, everything.content)
    assert (done["imported"], done["skipped"], done["format"]) == (1, 0, "wuya")
    assert shape(client.get("/api/export").content) == shape(single.content)
    again = load(client, everything.content)
    assert (again["imported"], again["skipped"]) == (0, 1)
    found = ok(client.get("/api/search", params={"q": "tricky"}))["items"]
    assert len(found) == 1


def test_a_deleted_chat_comes_back_from_its_file(client: TestClient) -> None:
    chat = rich(client)
    file = client.get(f"/api/conversations/{chat.id}/export").content
    assert client.delete(f"/api/conversations/{chat.id}?permanent=true").status_code == 204
    assert load(client, file)["imported"] == 1
    assert shape(client.get("/api/export").content) == shape(file)


def test_markdown_holds_the_shown_path_and_comes_back(client: TestClient) -> None:
    chat = rich(client)
    response = client.get(f"/api/conversations/{chat.id}/export?format=md")
    assert response.headers["content-type"].startswith("text/markdown") and b"# T\xc3\xaftle" in response.content
    shown = [(m["role"], m["content"]) for m in chat.get()["messages"]]
    done = ok(client.post("/api/import", content=response.content, headers={"content-type": "text/markdown"}), 201)
    copy = ok(client.get(f"/api/conversations/{done['conversations'][0]['id']}"))
    assert [(m["role"], m["content"]) for m in copy["messages"]] == shown
    assert copy["title"] == chat.get()["title"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text(max_size=80)), min_size=1, max_size=5))
def test_any_text_survives_markdown(turns: list[tuple[str, str]]) -> None:
    messages = [
        {"role": role, "content": content, "model": "m--> x" if role == "assistant" else ""} for role, content in turns
    ]
    text = transfer.to_markdown({"title": "t", "messages": messages})
    back = transfer.from_markdown(text)
    assert [(m.role, m.content) for m in back.messages] == turns


def test_markdown_edited_by_hand_is_read_as_far_as_it_makes_sense() -> None:
    text = transfer.to_markdown(
        {"title": "t", "messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]}
    )
    back = transfer.from_markdown(text.replace("one", "one and more").replace("two", "2"))
    assert [m.content for m in back.messages] == ["one and more", "2"]
    with pytest.raises(DataError):
        transfer.from_markdown("# A page\n\nof somebody else")


def test_chatgpt(client: TestClient) -> None:
    done = load(client, CHATGPT)
    assert (done["imported"], done["skipped"], done["format"]) == (1, 2, "chatgpt")
    assert load(client, CHATGPT)["imported"] == 0, "the same file again adds nothing"
    chat = ok(client.get(f"/api/conversations/{done['conversations'][0]['id']}"))
    assert (
        chat["title"] == "Baking bread" and chat["archived"] and chat["created_at"].startswith("2023-11-14T22:13:20.5")
    )
    assert [m["content"] for m in chat["messages"]] == ["[image_asset_pointer]\n\nHow?", "Slowly.", "Thanks"]
    other = ok(client.get(f"/api/messages/{chat['messages'][1]['siblings'][0]}"))
    assert (other["content"], other["model"]) == ("Flour and \n\nwater.", "gpt-4"), (
        "tool calls are left out, what follows stays"
    )
    assert other["parent_id"] == chat["messages"][0]["id"]


def test_open_webui(client: TestClient) -> None:
    done = load(client, OPEN_WEBUI)
    assert (done["imported"], done["format"]) == (2, "open_webui")
    chats = {c["title"]: ok(client.get(f"/api/conversations/{c['id']}")) for c in done["conversations"]}
    rivers = chats["Rivers"]
    assert rivers["system_prompt"] == "Be kind." and [m["content"] for m in rivers["messages"]] == ["Why?", "Snow."]
    assert len(rivers["messages"][1]["siblings"]) == 2 and rivers["messages"][1]["model"] == "qwen"
    assert [m["content"] for m in chats["Old"]["messages"]] == ["hi", "hello"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b"{}", b"null", b"3", b'"x"', b"[1, 2]", b'[{"a": 1}]', b"[" * 100_000,
     b'{"format": "wuya.conversations"}', b'{"format": "wuya.conversations", "conversations": 5}',
     b'{"a": ' * 5000 + b"1" + b"}" * 5000],
    ids=lambda content: repr(content[:40]),
)  # fmt: skip
def test_files_that_are_no_export_are_refused_in_words(client: TestClient, content: bytes) -> None:
    response = client.post("/api/import", content=content, headers=JSON)
    assert response.status_code in (400, 415), response.text
    if response.status_code == 400:
        assert response.json()["code"] == "invalid_data"


def test_broken_entries_are_skipped_and_nothing_hostile_gets_in(client: TestClient) -> None:
    odd = [
        {
            "title": 5,
            "mapping": dict([node("a", "b", "user", said("x")), node("b", "a", "assistant", said("y"))]),
            "create_time": "never",
            "current_node": "nowhere",
        },
        {"title": "nul\x00 and \ud800", "mapping": dict([node("a", None, "user", said("z\x00\ud800"))])},
        {"title": "x" * 5000, "mapping": dict([node("a", None, "user", said("y" * 300_000))])},
        {"mapping": {"a": None, "b": 3, "c": {"message": 7}, "d": {"message": {"author": 3, "content": 4}}}},
        {"mapping": dict([node("a", None, "system", said("evil system"))])},
    ]
    done = load(client, odd)
    assert (done["imported"], done["skipped"]) == (3, 2)
    for item in done["conversations"]:
        chat = ok(client.get(f"/api/conversations/{item['id']}"))
        assert len(chat["title"]) <= 200 and "\x00" not in chat["title"] and chat["messages"]
        assert all(len(m["content"]) <= 256 << 10 and m["role"] in ("user", "assistant") for m in chat["messages"])
    question = {"id": "1", "parent_id": None, "role": "user", "content": "q"}
    answer = {"id": "2", "parent_id": "1", "role": "assistant", "content": "a", "feedback": {"value": 7}}
    evil = {"id": "x", "title": "t", "params": {"temperature": 99, "evil": 1}, "data_use": True}
    ours = {"format": "wuya.conversations", "conversations": [evil | {"messages": [question, answer]}]}
    [new] = load(client, ours)["conversations"]
    chat = ok(client.get(f"/api/conversations/{new['id']}"))
    assert chat["params"] == {} and chat["messages"][1]["feedback"] is None and not chat["data_use"]


def test_a_long_chain_takes_time_in_proportion() -> None:
    chain = [node(str(i), str(i - 1) if i else None, "user", said("x")) for i in range(20_000)]
    content = json.dumps([{"mapping": dict(reversed(chain))}]).encode()
    [chat] = chats_of(content)
    assert len(chat.messages) == 20_000 and chat.messages[5].parent == "4"


def test_a_file_belongs_to_whoever_loads_it(client: TestClient, become: Callable[[str], None]) -> None:
    first = load(client, OPEN_WEBUI)["conversations"]
    become("another")
    second = load(client, OPEN_WEBUI)["conversations"]
    assert not {c["id"] for c in first} & {c["id"] for c in second}
    assert client.get(f"/api/conversations/{first[0]['id']}").status_code == 404


@pytest.mark.parametrize("title", ['a"b\\c/d\r\nSet-Cookie: x=1', "\u68af\u5ea6", "=HYPERLINK(1)", "..", ""])
def test_file_names_cannot_leave_the_header(client: TestClient, title: str) -> None:
    chat = new_chat(client, title=title)
    chat.say("hello")
    header = client.get(f"/api/conversations/{chat.id}/export").headers["content-disposition"]
    assert "\n" not in header and "\r" not in header and header.count('"') == 2
    assert "set-cookie" not in client.get(f"/api/conversations/{chat.id}/export").headers


def answer_of(text: str, **metadata: Any) -> str:
    """What an answer of a ChatGPT export says once it is read."""
    nodes = [node("u", None, "user", said("who?")), node("a", "u", "assistant", said(text), metadata=metadata)]
    [chat] = chats_of(json.dumps([{"id": "c", "title": "t", "mapping": dict(nodes)}]).encode())
    return chat.messages[-1].content


CITED = "\ue200cite\ue202turn0search1\ue202turn2search5\ue201"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"It was cast {CITED} here.", "It was cast here."),
        (f"It was cast{CITED}.", "It was cast."),
        ('By \ue200entity\ue202["people","Ada Lovelace",0]\ue201.', "By Ada Lovelace."),
        ("By \ue200entity\ue202[broken\ue201.", "By."),
        ("\ue200filecite\ue202turn0file0\ue201Two \ue200i\ue202x\ue201words", "Two words"),
        ("cut off \ue200cite\ue202turn0", "cut off"),
        ("no mark \ue300", "no mark \ue300"),
    ],
)
def test_chatgpts_private_marks_do_not_stay_in_the_text(text: str, shown: str) -> None:
    assert answer_of(text) == shown


def test_a_citation_becomes_the_link_people_saw() -> None:
    references = [{"matched_text": CITED, "alt": "([a page](https://example.org))"}, {"matched_text": " "}, "odd", {}]
    text = f"It was cast {CITED}. Then {CITED}."
    link = "([a page](https://example.org))"
    assert answer_of(text, content_references=references) == f"It was cast {link}. Then {link}."
    assert answer_of(text, content_references="odd") == "It was cast. Then."


@pytest.mark.parametrize("first", [{"id": "p", "title": "All", "type": "folder"}, {}, {"mapping": None}, 7], ids=str)
def test_an_entry_that_is_no_chat_does_not_hide_the_chats_behind_it(first: Any) -> None:
    chat = {"id": "c", "title": "t", "mapping": dict([node("u", None, "user", said("hi"))])}
    found = look_through(BytesIO(json.dumps([first, chat]).encode()))
    assert (found.form, found.chats, found.skipped) == ("chatgpt", 1, 1)
    webui = {"id": "w", "title": "t", "chat": {"messages": [{"role": "user", "content": "hi"}]}}
    assert look_through(BytesIO(json.dumps([first, webui]).encode())).form == "open_webui"
