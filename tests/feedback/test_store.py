"""The store keeps what people said: once, whole, in order, and knows where a model comes from."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.feedback.examples import prompt, ranking
from wuya.errors import DataError
from wuya.feedback.store import FeedbackStore
from wuya.records import Candidate, Comparison, Demonstration, Feedback, Message, Prompt, Ranking, ToolCall


def test_rankings_come_out_as_they_went_in(store: FeedbackStore) -> None:
    given = [
        ranking(
            "p1", "ann", (2, 1, 2), created_at="2026-01-02T03:04:05+00:00", flags={"ambiguous": True, "harm": None}
        ),
        ranking("p1", "bob", (1, 1, 2), created_at="2026-01-02T03:04:06+00:00"),
        ranking("p2", "ann", (1, 2), round=3, source="simulated", created_at="2026-01-02T03:04:07+00:00"),
    ]
    assert store.add_rankings(given) == 3
    assert list(store.rankings()) == given


def test_adding_the_same_rankings_again_adds_nothing(store: FeedbackStore) -> None:
    given = [ranking("p1", "ann"), ranking("p1", "bob", (1, 2, 3))]
    assert store.add_rankings([*given, given[0]]) == 2
    before = store.counts()
    assert store.add_rankings(given) == 0
    assert store.counts() == before


def test_a_labeler_cannot_rank_a_task_in_two_ways(store: FeedbackStore) -> None:
    store.add_rankings([ranking(ranks=(2, 1, 2))])
    with pytest.raises(DataError, match="before, and differently"):
        store.add_rankings([ranking("p9"), ranking(ranks=(1, 2, 3))])
    assert [r.prompt.id for r in store.rankings()] == ["p1"], "a refused batch leaves nothing behind"
    assert store.add_rankings([ranking(ranks=(1, 2, 3), round=1)]) == 1, "a later round may differ"


def test_invalid_rankings_are_refused_and_named(store: FeedbackStore) -> None:
    with pytest.raises(DataError, match=r"prompt 'p1' by 'ann'.*not dense"):
        store.add_rankings([replace(ranking(), ranks=(3, 1, 3))])
    with pytest.raises(DataError, match="does not place every candidate"):
        store.add_rankings([replace(ranking(), ranks=(1, 2))])
    with pytest.raises(DataError, match="fewer than two"):
        store.add_rankings([Ranking(prompt(), (Candidate("only"),), (1,), "ann")])
    assert list(store.rankings()) == []


def test_a_prompt_id_stands_for_one_text(store: FeedbackStore) -> None:
    assert store.add_prompts([prompt("a"), prompt("b"), prompt("a")]) == 2
    assert store.add_prompts([prompt("b"), prompt("c")], split="val") == 1
    assert list(store.prompts()) == [prompt("a"), prompt("b"), prompt("c")]
    assert list(store.prompts(split="val")) == [prompt("c")]


def test_another_prompt_under_a_taken_id_gets_an_id_of_its_own(store: FeedbackStore) -> None:
    first, other = prompt("a"), prompt("a", "something else")
    assert store.add_prompts([first, other, prompt("z", "one"), prompt("z", "two")]) == 4
    assert store.add_prompts([other, prompt("z", "two")]) == 0  # and it keeps it
    by_text = {p.messages[-1].content: p.id for p in store.prompts()}
    assert by_text["something else"].startswith("a~") and by_text["one"] == "z" and by_text["two"].startswith("z~")
    candidates = (Candidate("x"), Candidate("y"))
    assert store.queue_tasks([(first, candidates), (other, candidates)]) == 2
    said = [Ranking(other, candidates, (1, 2), "ann"), Ranking(first, candidates, (2, 1), "ann")]
    assert store.add_rankings(said) == 2 and store.add_rankings(said) == 0
    assert {r.prompt.messages[-1].content: r.ranks for r in store.rankings()} == {
        "something else": (1, 2),
        "question a": (2, 1),
    }
    assert store.add_demonstrations([Demonstration(other, Message("assistant", "hm"))]) == 1
    assert [d.prompt.messages for d in store.demonstrations()] == [other.messages]


def test_prompts_keep_their_tools_and_messages_whole(store: FeedbackStore) -> None:
    call = Message("assistant", "", (ToolCall("f", "{}", "c"),))
    messages = (Message("user", "a"), call, Message("tool", "1", tool_call_id="c", name="f"))
    tools = ('{"type":"function","function":{"name":"f"}}',)
    whole = Prompt("p", messages, "here", "me", tools)
    store.add_prompts([whole, replace(whole, tools=())])
    found = list(store.prompts())
    assert whole in found and len(found) == 2


def test_a_demonstration_that_calls_tools_is_refused_by_the_store(store: FeedbackStore) -> None:
    call = Message("assistant", "", (ToolCall("f", "{}"),))
    with pytest.raises(DataError, match="has tool calls or reasoning"):
        store.add_demonstrations([Demonstration(prompt("a"), call)])


def test_unnamed_votes_are_people_and_reading_again_adds_nobody(store: FeedbackStore) -> None:
    votes = [replace(ranking(), labeler="", ranks=ranks) for ranks in ((1, 2, 2), (2, 1, 1), (1, 2, 2), (1, 1, 1))]
    assert store.add_rankings(votes) == 4
    assert store.add_rankings(votes) == 0
    assert store.add_rankings(votes[1:2]) == 0
    assert store.add_rankings([votes[1], votes[1]]) == 1  # in this file two people say so
    assert sorted(r.ranks for r in store.rankings()) == [(1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 1, 1), (2, 1, 1)]
    assert len({r.labeler for r in store.rankings()}) == 5


def test_a_second_opinion_spoils_itself_alone_where_the_caller_wants_it(store: FeedbackStore) -> None:
    refused: list[DataError] = []
    first = ranking()
    rows = [
        first,
        replace(first, ranks=(1, 2, 1)),
        replace(first, labeler="bo"),
        replace(first, ranks=(9, 1, 1)),
    ]
    assert store.add_rankings(rows, refuse=refused.append) == 2
    assert ["differently" in str(error) or "not dense" in str(error) for error in refused] == [True, True]


def test_demonstrations_and_comparisons_and_thumbs_round_trip(store: FeedbackStore) -> None:
    demonstrations = [
        Demonstration(prompt("a"), Message("assistant", text), "ann") for text in ("an answer", "another")
    ]
    assert store.add_demonstrations([*demonstrations, demonstrations[0]]) == 2
    assert store.add_demonstrations(demonstrations) == 0
    assert set(store.demonstrations()) == set(demonstrations)

    pairs = [
        Comparison(prompt("a"), "good", "bad", "bob", "g1", "compare"),
        Comparison(prompt("b"), "x", "y", "", "b", "compare"),
    ]
    assert store.add_comparisons(pairs) == 2
    assert store.add_comparisons(pairs) == 0
    assert list(store.comparisons()) == pairs

    thumb = Feedback(prompt("a"), "an answer", -1, ("wrong", "rude"), "no!", "a better one")
    first = store.add_feedback(thumb, user="eve", message_id="m1")
    assert store.add_feedback(replace(thumb, value=1), user="eve", message_id="m1") == first
    store.add_feedback(thumb, message_id="m1")
    assert list(store.feedback()) == [replace(thumb, value=1, labeler="eve"), thumb]


def test_unusual_text_survives(store: FeedbackStore, database: str | Path) -> None:
    nul = "\x00" if isinstance(database, Path) else ""  # PostgreSQL refuses it in words: test_postgres.py
    text = f"\u4f60\u597d \U0001f426\u200d\u2b1b {nul} \\ \" ' \n\t </s> <|im_end|>"
    odd = Ranking(
        Prompt("odd", (Message("user", text),)), (Candidate(text), Candidate("")), (1, 2), "l\u00e9a", created_at=""
    )
    store.add_rankings([odd])
    assert [replace(r, created_at="") for r in store.rankings()] == [odd]


def test_a_model_is_traced_to_the_votes_behind_it(store: FeedbackStore, tmp_path: Path) -> None:
    store.add_rankings([ranking()])
    frozen = store.export_snapshot("rm_rankings", tmp_path)
    store.register_model("runs/sft", kind="sft", path="runs/sft/model")
    store.register_model("runs/rm-1", kind="rm", parent="runs/sft", snapshot=frozen, run="rm-1", round=1)
    store.register_model("runs/ppo-1", kind="policy", parent="runs/sft", reward_model="runs/rm-1", round=1)
    policy, sft = store.lineage("runs/ppo-1")
    assert (policy["kind"], policy["reward_model"], policy["round"]) == ("policy", "runs/rm-1", 1)
    assert (sft["name"], sft["path"]) == ("runs/sft", "runs/sft/model")
    assert store.lineage("runs/rm-1")[0]["data_sha256"] == frozen.sha256
    assert store.lineage("unknown") == []
    [found] = store.rankings()
    assert found.candidates[0].model == "runs/sft", "candidates name the checkpoint that sampled them"


def test_many_rankings_stay_fast_enough_for_the_demo(store: FeedbackStore) -> None:
    many = [ranking(f"p{i:04d}", f"labeler {j}", (2, 1, 2)) for i in range(300) for j in range(3)]
    assert store.add_rankings(many) == 900
    assert len(list(store.rankings())) == 900
