"""Other people's comparisons become rankings, row by row, and what does not fit is named."""

import gzip
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from wuya.data.formats import write_rankings
from wuya.errors import DataError
from wuya.feedback.importers import import_rankings, read_answers
from wuya.feedback.rankings import check_ranking
from wuya.feedback.store import FeedbackStore
from wuya.files import BadRows
from wuya.records import Candidate, Message, Prompt, Ranking

WEBGPT = {
    "question": {"dataset": "eli5", "id": "q1", "full_text": "Why is the sky blue?"},
    "answer_0": "Scattering [1].",
    "answer_1": "Because.",
    "score_0": 0.5,
    "score_1": -0.5,
}
SUMMARIES = {
    "info": {"id": "t3", "title": "My cat", "post": "It sleeps all day.", "subreddit": "cats"},
    "summaries": [{"text": " Cat is lazy.", "policy": "ref"}, {"text": " Cat sleeps.", "policy": "sup4"}],
    "choice": 1,
    "worker": "w7",
}


def reply(text: str, role: str, rank: int | None = None, *replies: dict[str, Any]) -> dict[str, Any]:
    return {"message_id": f"id of {text}", "text": text, "role": role, "rank": rank, "replies": list(replies)}


TREE = {
    "message_tree_id": "tree",
    "prompt": reply(
        "Hello?",
        "prompter",
        None,
        reply("Bad.", "assistant", 2),
        reply(
            "Good.",
            "assistant",
            0,
            reply("And now?", "prompter", None, reply("One.", "assistant", 1), reply("Two.", "assistant", 0)),
        ),
        reply("Fair.", "assistant", 1),
        reply("Not ranked.", "assistant"),
    ),
}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_webgpt_scores_become_ranks_and_equal_scores_a_tie(tmp_path: Path) -> None:
    tie = {**WEBGPT, "score_0": 0.0, "score_1": 0.0}
    better, tied = import_rankings(write(tmp_path / "w.jsonl", WEBGPT, tie))
    assert better.prompt.messages == (Message("user", "Why is the sky blue?"),)
    assert [c.text for c in better.candidates] == ["Scattering [1].", "Because."]
    assert (better.ranks, tied.ranks) == ((1, 2), (1, 1))
    assert (better.source, better.prompt.source) == ("import", "webgpt")


def test_summaries_keep_worker_and_policies(tmp_path: Path) -> None:
    [found] = import_rankings(write(tmp_path / "s.jsonl", SUMMARIES))
    assert found.prompt.messages[0].content == "Summarize this post.\n\nMy cat\n\nIt sleeps all day."
    assert [(c.text, c.model) for c in found.candidates] == [("Cat is lazy.", "ref"), ("Cat sleeps.", "sup4")]
    assert (found.ranks, found.labeler) == ((2, 1), "w7")


def test_every_ranked_turn_of_an_openassistant_tree_is_a_ranking(tmp_path: Path) -> None:
    first, second = import_rankings(write(tmp_path / "o.jsonl", TREE))
    assert [c.text for c in first.candidates] == ["Bad.", "Good.", "Fair."], "answers without a rank are left out"
    assert first.ranks == (3, 1, 2)
    assert [m.content for m in second.prompt.messages] == ["Hello?", "Good.", "And now?"]
    assert [m.role for m in second.prompt.messages] == ["user", "assistant", "user"]
    assert second.ranks == (2, 1)
    assert (first.prompt.id, second.prompt.id) == ("id of Hello?", "id of And now?")


def test_pairs_become_rankings_of_two(tmp_path: Path) -> None:
    hh = {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello!", "rejected": "\n\nHuman: Hi\n\nAssistant: What."}
    plain = {"prompt": "Hi", "chosen": "Hello!", "rejected": "What."}
    for name, row in (("hh", hh), ("plain", plain)):
        [found] = import_rankings(write(tmp_path / f"{name}.jsonl", row))
        assert [c.text for c in found.candidates] == ["Hello!", "What."]
        assert found.ranks == (1, 2)
        assert found.prompt.messages == (Message("user", "Hi"),)


def test_our_own_rankings_go_through_a_file_and_the_store_unchanged(tmp_path: Path) -> None:
    prompt = Prompt("p", (Message("user", "Hi"),), "here", "author")
    group = (Candidate("a", (1, 2), "runs/sft", False, 0.7), Candidate("b", model="human"), Candidate("c"))
    given = [Ranking(prompt, group, (2, 1, 1), "ann", 3, "simulated", "2026-01-02T03:04:05+00:00", {"odd": True})]
    write_rankings(tmp_path / "r.jsonl", given)
    with FeedbackStore("sqlite://") as store:
        store.add_rankings(import_rankings(tmp_path / "r.jsonl"))
        assert list(store.rankings()) == given


@pytest.mark.parametrize(
    ("good", "broken", "reason"),
    [
        (WEBGPT, {**WEBGPT, "score_0": None}, "no `score_0`"),
        (WEBGPT, {key: value for key, value in WEBGPT.items() if key != "score_1"}, "no `score_1`"),
        (WEBGPT, {**WEBGPT, "score_0": True}, "scores are not numbers"),
        (SUMMARIES, {**SUMMARIES, "choice": None}, "no `choice`"),
        (WEBGPT, {**WEBGPT, "score_0": float("nan")}, "scores are not numbers"),
        (WEBGPT, {**WEBGPT, "answer_0": WEBGPT["answer_1"]}, "the same text"),
        (WEBGPT, {**WEBGPT, "question": {}}, "no text"),
        (SUMMARIES, {**SUMMARIES, "choice": 2}, "choice of 0 or 1"),
        (SUMMARIES, {**SUMMARIES, "info": {}}, "no post"),
        (SUMMARIES, {**SUMMARIES, "summaries": ["only one"]}, "two summaries"),
        (TREE, {"message_tree_id": "x", "prompt": {"role": "prompter"}}, "no text"),
    ],
)
def test_bad_rows_are_counted_and_named(tmp_path: Path, good: object, broken: object, reason: str) -> None:
    path = write(tmp_path / "f.jsonl", good, broken, good)
    bad = BadRows()
    assert len(list(import_rankings(path, bad))) in (2, 4)
    assert bad.count == 1 and "f.jsonl:2" in bad.summary() and reason in bad.summary()
    with pytest.raises(DataError, match=rf"f\.jsonl:2: .*{reason}"):
        list(import_rankings(path))


def test_a_file_without_rankings_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError):
        list(import_rankings(tmp_path / "empty.jsonl"))
    with pytest.raises(DataError, match="no usable rankings"):
        list(import_rankings(write(tmp_path / "w.jsonl", {**WEBGPT, "score_0": "x"}), BadRows()))
    with pytest.raises(DataError, match="does not exist"):
        list(import_rankings(tmp_path / "missing.jsonl"))


def test_answers_to_rank(tmp_path: Path) -> None:
    row = {"prompt": "Hi", "candidates": ["a", {"text": "b", "model": "runs/sft"}]}
    path = write(tmp_path / "a.jsonl", row, {"prompt": "Hi", "candidates": ["only"]}, {"prompt": "no answers"})
    bad = BadRows()
    [(prompt, candidates)] = read_answers(path, bad)
    assert prompt.messages == (Message("user", "Hi"),)
    assert candidates == (Candidate("a"), Candidate("b", model="runs/sft"))
    assert bad.count == 2 and "at least 2 answers" in bad.summary()
    with pytest.raises(DataError, match="holds no answers to rank"):
        list(read_answers(write(tmp_path / "b.jsonl", {"prompt": "no answers"}), BadRows()))
    with pytest.raises(DataError, match=r"a\.jsonl:2"):
        list(read_answers(path))


@pytest.mark.parametrize("name", ["hh-rlhf/dev.jsonl.gz", "zh/oasst_rankings.jsonl.gz"])
def test_real_comparisons_go_through_the_store(name: str, tmp_path: Path, test_data: Path) -> None:
    with gzip.open(test_data / name, "rt", encoding="utf-8") as lines:
        (tmp_path / "rows.jsonl").write_text("".join(islice(lines, 100)), encoding="utf-8")
    rankings = list(import_rankings(tmp_path / "rows.jsonl", BadRows()))
    assert len(rankings) >= 90
    for ranking in rankings:
        check_ranking(ranking)
    with FeedbackStore("sqlite://") as store:
        assert store.add_rankings(rankings) > 0
        assert store.export_snapshot("rm_rankings", tmp_path).num_rows == store.counts()["rankings"]
