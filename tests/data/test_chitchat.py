"""The demo's split leaks nothing: held to the claims its docstring makes, on the real data."""

import itertools

import pytest

from wuya.data.chitchat import (
    MAX_PROMPTS_PER_AUTHOR,
    MIN_CONTENT_WORDS,
    Chat,
    Split,
    Turn,
    Use,
    exchanges,
    load_chats,
    normalised,
    split_chats,
    transcript,
    transcript_prompt,
)
from wuya.data.text import content_words
from wuya.records import Demonstration, Message, Prompt

pytest.importorskip("chitchat_dataset")


@pytest.fixture(scope="module")
def chats() -> list[Chat]:
    return load_chats()


@pytest.fixture(scope="module")
def splits(chats: list[Chat]) -> dict[Split, list[Chat]]:
    return split_chats(chats)


@pytest.fixture(scope="module")
def uses(splits: dict[Split, list[Chat]]) -> dict[Use, list[Demonstration]]:
    return exchanges(splits)


def people(chats: list[Chat]) -> set[str]:
    return {turn.sender for chat in chats for turn in chat.turns}


def test_a_held_out_chats_less_frequent_partner_is_in_no_training_chat(
    chats: list[Chat], splits: dict[Split, list[Chat]]
) -> None:
    counts: dict[str, int] = {}
    for chat in chats:
        for sender in {turn.sender for turn in chat.turns}:
            counts[sender] = counts.get(sender, 0) + 1
    training = people(splits["train"])
    for chat in splits["validation"] + splits["test"]:
        rarer = min({turn.sender for turn in chat.turns}, key=lambda sender: (counts[sender], sender))
        assert rarer not in training


def test_every_chat_is_on_one_side(splits: dict[Split, list[Chat]]) -> None:
    ids = [chat.id for side in splits.values() for chat in side]
    assert len(ids) == len(set(ids))
    assert len(splits["train"]) > 2_500 and len(splits["test"]) > 300


def test_no_prompt_has_two_uses_and_no_author_more_than_200(uses: dict[Use, list[Demonstration]]) -> None:
    keys = {use: {normalised(row.prompt.messages[-1].content) for row in rows} for use, rows in uses.items()}
    for a, b in itertools.combinations(keys.values(), 2):
        assert not a & b
    authors: dict[str, int] = {}
    for row in itertools.chain(*uses.values()):
        authors[row.prompt.author] = authors.get(row.prompt.author, 0) + 1
        assert 1 <= len(row.prompt.messages) <= 3 and row.prompt.messages[-1].role == "user"
        assert len(set(content_words(row.prompt.messages[-1].content))) >= MIN_CONTENT_WORDS
    assert max(authors.values()) <= MAX_PROMPTS_PER_AUTHOR
    assert len(uses["final"]) >= 600 and len(uses["ppo"]) >= 3_000


def test_transcript_and_its_prompt_agree() -> None:
    turns = [Turn("x", "hi\nthere"), Turn("y", "hello"), Turn("x", "bye")]
    assert transcript(turns) == "A:\nhi there\nB:\nhello\nA:\nbye\n"
    prompt = Prompt("p", (Message("user", "hi there"), Message("assistant", "hello"), Message("user", "bye")))
    assert transcript_prompt(prompt) == transcript(turns) + "B:\n"
