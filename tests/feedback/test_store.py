"""The store keeps what people said: once, whole, in order, and freezes what training reads."""

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from wuya.data.formats import read_comparisons, read_demonstrations, read_prompts, read_rankings
from wuya.errors import DataError
from wuya.feedback.queue import LabelingTask
from wuya.feedback.reading import Selection
from wuya.feedback.snapshot import open_snapshot
from wuya.feedback.store import FeedbackStore
from wuya.feedback.tables import now
from wuya.records import Candidate, Comparison, Demonstration, Feedback, Message, Prompt, Ranking


def prompt(name: str = "p1", text: str = "") -> Prompt:
    return Prompt(
        name, (Message("system", "Be kind."), Message("user", text or f"question {name}")), "test", "author-1"
    )


def candidates(k: int = 3) -> tuple[Candidate, ...]:
    return (
        Candidate("first", (5, 6, 7), model="runs/sft", temperature=0.7),
        Candidate("second", model="human"),
        *(Candidate(f"answer {i}", model="runs/sft", finished=False) for i in range(3, k + 1)),
    )


def ranking(name: str = "p1", labeler: str = "ann", ranks: tuple[int, ...] = (2, 1, 2), **fields: object) -> Ranking:
    return replace(Ranking(prompt(name), candidates(len(ranks)), ranks, labeler), **fields)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty, migrated database to copy: migrating one for each test would take longer than the tests."""
    path = tmp_path_factory.mktemp("blank") / "wuya.db"
    FeedbackStore(path).close()
    return path


@pytest.fixture
def store(tmp_path: Path, blank: Path) -> Iterator[FeedbackStore]:
    shutil.copy(blank, tmp_path / "wuya.db")
    with FeedbackStore(tmp_path / "wuya.db") as store:
        yield store


def claimed(store: FeedbackStore, labeler: str = "ann", **options: object) -> LabelingTask:
    task = store.claim(labeler, **options)  # type: ignore[arg-type]
    assert task is not None
    return task


# Records in, the same records out


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
    with pytest.raises(DataError, match="two different texts"):
        store.add_prompts([prompt("a", "something else")])
    with pytest.raises(DataError, match="two different texts"):
        store.add_prompts([prompt("z", "one"), prompt("z", "two")])
    assert list(store.prompts()) == [prompt("a"), prompt("b"), prompt("c")]
    assert list(store.prompts(split="val")) == [prompt("c")]


def test_demonstrations_and_comparisons_and_thumbs_round_trip(store: FeedbackStore) -> None:
    demonstrations = [Demonstration(prompt("a"), "an answer", "ann"), Demonstration(prompt("a"), "another", "ann")]
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


def test_unusual_text_survives(store: FeedbackStore) -> None:
    text = "\u4f60\u597d \U0001f426\u200d\u2b1b \x00 \\ \" ' \n\t </s> <|im_end|>"
    odd = Ranking(
        Prompt("odd", (Message("user", text),)), (Candidate(text), Candidate("")), (1, 2), "l\u00e9a", created_at=""
    )
    store.add_rankings([odd])
    assert [replace(r, created_at="") for r in store.rankings()] == [odd]


# The queue


def test_queue_claim_submit(store: FeedbackStore) -> None:
    assert store.queue_tasks([(prompt(), candidates(4))]) == 1
    assert store.queue_tasks([(prompt(), candidates(4))]) == 0, "queueing again adds nothing"
    task = claimed(store)
    assert {c.text for c in task.candidates} == {c.text for c in candidates(4)}
    assert all(c.model == "" and c.token_ids == () for c in task.candidates), "labelers are blind to the models"
    by_text = {"first": 2, "second": 1, "answer 3": 2, "answer 4": 3}
    shown = [by_text[c.text] for c in task.candidates]
    id = store.submit_ranking(task.assignment_id, task.ranks_by_id(shown))
    assert store.submit_ranking(task.assignment_id, task.ranks_by_id(shown)) == id, "submitting twice is harmless"
    [found] = store.rankings()
    assert found.candidates == candidates(4)
    assert (found.ranks, found.labeler, found.source) == ((2, 1, 2, 3), "ann", "ranking")
    assert store.claim("ann") is None and store.claim("bob") is None, "the task has its one ranking"
    with pytest.raises(DataError, match="submitted before, with another ranking"):
        store.submit_ranking(task.assignment_id, task.ranks_by_id([1, 2, 3, 4]))


def test_a_ranking_must_place_every_answer(store: FeedbackStore) -> None:
    store.queue_tasks([(prompt(), candidates())])
    task = claimed(store)
    good = task.ranks_by_id([1, 2, 3])
    omitted = dict(list(good.items())[:2])
    with pytest.raises(DataError, match="omits an answer"):
        store.submit_ranking(task.assignment_id, omitted)
    with pytest.raises(DataError, match="not in the task"):
        store.submit_ranking(task.assignment_id, good | {"stranger": 1})
    with pytest.raises(DataError, match="not dense"):
        store.submit_ranking(task.assignment_id, dict.fromkeys(good, 2))
    with pytest.raises(DataError, match="no ranks"):
        store.submit_ranking(task.assignment_id, good, cannot_rank=True)
    with pytest.raises(DataError, match="no such assignment"):
        store.submit_ranking("nothing", good)
    assert list(store.rankings()) == []
    store.submit_ranking(task.assignment_id, good)


def test_fewer_than_two_answers_cannot_be_queued(store: FeedbackStore) -> None:
    with pytest.raises(DataError, match="fewer than two answers"):
        store.queue_tasks([(prompt(), (Candidate("only"),))])
    assert store.counts()["prompts"] == 0


def test_unanswered_questions_stay_null(store: FeedbackStore) -> None:
    store.queue_tasks([(prompt(), candidates(2))])
    task = claimed(store)
    one, two = task.candidate_ids
    labels = {
        one: {"quality": 5, "hallucination": False, "harmful": None},
        two: {"quality": None},
        "": {"ambiguous": True},
    }
    ranks = task.ranks_by_id([1, 2])
    store.submit_ranking(task.assignment_id, ranks, labels=labels, comment="fine", active_ms=412)  # type: ignore[arg-type]
    [raw] = store.raw_rankings()
    by_text = {c.text: labels for c, labels in zip(raw.ranking.candidates, raw.labels, strict=True)}
    assert by_text[task.candidates[0].text] == {"quality": 5, "hallucination": False, "harmful": None}
    assert by_text[task.candidates[1].text] == {"quality": None}
    assert raw.ranking.flags == {"ambiguous": True}
    assert (raw.comment, raw.active_ms, raw.cannot_rank) == ("fine", 412, False)


def test_what_cannot_be_ranked_is_kept_but_not_trained_on(store: FeedbackStore) -> None:
    store.queue_tasks([(prompt(), candidates())])
    task = claimed(store)
    store.submit_ranking(task.assignment_id, {}, cannot_rank=True, comment="all nonsense")
    assert list(store.rankings()) == []
    assert [raw.cannot_rank for raw in store.raw_rankings()] == [True]
    assert store.claim("ann") is None


def test_overlap_gives_a_task_to_so_many_different_people(store: FeedbackStore) -> None:
    store.queue_tasks([(prompt(), candidates())], overlap=2)
    ann, bob = claimed(store, "ann"), claimed(store, "bob")
    assert ann.task_id == bob.task_id and ann.assignment_id != bob.assignment_id
    assert store.claim("eve") is None
    for task in (ann, bob):
        store.submit_ranking(task.assignment_id, task.ranks_by_id([1, 2, 3]))
    assert store.claim("ann") is None, "nobody ranks a task twice"
    assert {r.labeler for r in store.rankings()} == {"ann", "bob"}


def test_people_see_the_answers_in_different_orders(store: FeedbackStore) -> None:
    store.queue_tasks([(prompt(), candidates(7))], overlap=8)
    orders = {tuple(c.text for c in claimed(store, f"labeler {i}").candidates) for i in range(8)}
    assert len(orders) > 4


def test_whoever_comes_back_finds_the_same_task(store: FeedbackStore) -> None:
    store.queue_tasks([(prompt(f"p{i}"), candidates()) for i in range(5)])
    assert claimed(store).candidate_ids == claimed(store).candidate_ids
    assert store.counts()["assignments"] == 1


def test_a_lease_that_is_over_frees_the_task(store: FeedbackStore) -> None:
    store.queue_tasks([(prompt(), candidates())])
    late = claimed(store, "ann")
    assert store.claim("bob") is None
    later = now() + timedelta(minutes=46)
    taken = claimed(store, "bob", at=later)
    assert taken.task_id == late.task_id
    with pytest.raises(DataError, match="lease of this task is over"):
        store.submit_ranking(late.assignment_id, late.ranks_by_id([1, 2, 3]))
    store.submit_ranking(taken.assignment_id, taken.ranks_by_id([1, 2, 3]))
    assert [r.labeler for r in store.rankings()] == ["bob"]


def test_late_work_counts_if_nobody_took_the_place(store: FeedbackStore) -> None:
    store.queue_tasks([(prompt(), candidates())])
    task = claimed(store, "ann")
    other = store.claim("bob", project="elsewhere", at=now() + timedelta(hours=2))
    assert other is None
    store.queue_tasks([(prompt("p2"), candidates())])
    claimed(store, "bob", at=now() + timedelta(hours=2))  # expires ann's lease on p1 and may take p1 or p2
    again = claimed(store, "ann", at=now() + timedelta(hours=2))
    ranking_id = store.submit_ranking(again.assignment_id, again.ranks_by_id([1, 2, 3]))
    assert ranking_id and task.candidates


def test_skipped_tasks_go_to_others_and_after_three_skips_to_review(store: FeedbackStore) -> None:
    store.queue_tasks([(prompt(), candidates())])
    for labeler in ("ann", "bob", "eve"):
        task = claimed(store, labeler)
        store.skip(task.assignment_id, "not my language")
        assert store.claim(labeler) is None
        with pytest.raises(DataError, match="can't be submitted"):
            store.submit_ranking(task.assignment_id, task.ranks_by_id([1, 2, 3]))
    assert store.claim("zoe") is None


def test_priority_goes_first_and_projects_are_apart(store: FeedbackStore) -> None:
    store.queue_tasks([(prompt(f"p{i}"), candidates()) for i in range(6)])
    store.queue_tasks([(prompt("urgent"), candidates())], priority=5)
    store.queue_tasks([(prompt("p0"), candidates())], project="other")
    assert claimed(store).prompt.id == "urgent"
    assert claimed(store, project="other").prompt.id == "p0"


def test_a_round_can_be_claimed_alone(store: FeedbackStore) -> None:
    store.queue_tasks([(prompt("old"), candidates())], priority=9)
    store.queue_tasks([(prompt("new"), candidates())], round=1)
    assert claimed(store, round=1).prompt.id == "new"
    assert store.claim("bob", round=2) is None
    assert claimed(store, "bob").prompt.id == "old"


def test_project_settings_are_kept(store: FeedbackStore) -> None:
    store.add_project("pairs", guide_md="Be fair.", overlap=3, lease_minutes=5)
    store.queue_tasks([(prompt(), candidates())], project="pairs")
    start = now()
    leases = [claimed(store, name, project="pairs", at=start).lease_until for name in "abc"]
    assert leases == [start + timedelta(minutes=5)] * 3
    assert store.claim("d", project="pairs") is None


def test_many_threads_share_a_queue_without_doing_work_twice(store: FeedbackStore) -> None:
    store.queue_tasks([(prompt(f"p{i}"), candidates()) for i in range(24)])
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            while task := store.claim(name):
                store.submit_ranking(task.assignment_id, task.ranks_by_id([1, 2, 3]))
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test must see it
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"labeler {i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    found = list(store.rankings())
    assert len(found) == len({r.prompt.id for r in found}) == 24


# Snapshots


def test_training_reads_a_frozen_hashed_file(store: FeedbackStore, tmp_path: Path) -> None:
    given = [ranking("p1", "ann"), ranking("p1", "bob", (1, 2, 3)), ranking("p2", "ann", (1, 2), round=1)]
    store.add_rankings(given)
    frozen = store.export_snapshot("rm_rankings", tmp_path / "out")
    assert frozen.path.name == f"rm_rankings-{frozen.sha256[:12]}.jsonl"
    assert [replace(r, created_at="") for r in read_rankings(frozen.path)] == given
    assert open_snapshot(frozen.path) == frozen
    assert store.export_snapshot("rm_rankings", tmp_path / "again").sha256 == frozen.sha256
    assert store.counts()["exports"] == 1, "the same content is one export"
    store.add_rankings([ranking("p3")])
    newer = store.export_snapshot("rm_rankings", tmp_path / "out")
    assert newer.path != frozen.path and frozen.path.exists() and newer.num_rows == 4
    assert store.counts()["exports"] == 2


def test_the_snapshot_depends_on_the_votes_not_on_when_they_came(store: FeedbackStore, tmp_path: Path) -> None:
    given = [ranking(f"p{i}", labeler) for i in range(5) for labeler in ("ann", "bob")]
    store.add_rankings(given)
    with FeedbackStore(tmp_path / "other.db") as other:
        for one in reversed(given):
            other.add_rankings([one])
        assert (
            other.export_snapshot("rm_rankings", tmp_path / "b").sha256
            == store.export_snapshot("rm_rankings", tmp_path / "a").sha256
        )


def test_a_changed_snapshot_is_refused(store: FeedbackStore, tmp_path: Path) -> None:
    store.add_rankings([ranking()])
    frozen = store.export_snapshot("rm_rankings", tmp_path)
    frozen.path.write_text(frozen.path.read_text().replace("second", "SECOND"))
    with pytest.raises(DataError, match="changed after it was frozen"):
        open_snapshot(frozen.path)
    with pytest.raises(DataError, match="not a snapshot"):
        open_snapshot(tmp_path / "missing.jsonl")


def test_selections_choose_round_labeler_project_and_source(store: FeedbackStore, tmp_path: Path) -> None:
    store.add_rankings([ranking("p1", "ann"), ranking("p1", "bob"), ranking("p2", "ann", round=1, source="simulated")])
    store.add_rankings([ranking("p3", "ann")], project="other")

    def chosen(**fields: object) -> list[tuple[str, str]]:
        return [(r.prompt.id, r.labeler) for r in store.rankings(Selection(**fields))]  # type: ignore[arg-type]

    assert chosen(project="default") == [("p1", "ann"), ("p1", "bob"), ("p2", "ann")]
    assert chosen(rounds=(1,)) == chosen(sources=("simulated",)) == [("p2", "ann")]
    assert chosen(labelers=("bob",)) == [("p1", "bob")]
    frozen = store.export_snapshot("rm_rankings", tmp_path, selection=Selection(rounds=(1,)))
    assert frozen.num_rows == 1 and frozen.filter == {"rounds": (1,)}
    with pytest.raises(DataError, match="nothing to export"):
        store.export_snapshot("rm_rankings", tmp_path, selection=Selection(rounds=(7,)))


def test_every_kind_of_snapshot_reads_back(store: FeedbackStore, tmp_path: Path) -> None:
    store.add_rankings([ranking("p1", "ann", (2, 1, 2))])
    store.add_demonstrations([Demonstration(prompt("p1"), "an answer", "ann")])
    store.add_feedback(Feedback(prompt("p1"), "x", 1))
    pairs = list(read_comparisons(store.export_snapshot("rm_pairs", tmp_path).path))
    assert [(c.chosen, c.rejected) for c in pairs] == [("second", "first"), ("second", "answer 3")], (
        "the tie is dropped"
    )
    assert {c.group for c in pairs} == {"p1"}
    assert list(read_demonstrations(store.export_snapshot("sft", tmp_path).path)) == list(store.demonstrations())
    assert list(read_prompts(store.export_snapshot("prompts", tmp_path).path)) == [prompt("p1")]
    assert json.loads(store.export_snapshot("feedback", tmp_path).path.read_text())["value"] == 1
    raw = json.loads(store.export_snapshot("raw", tmp_path).path.read_text())
    assert raw["ranks"] == [2, 1, 2] and raw["created_at"] and raw["active_ms"] is None


# Provenance


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
