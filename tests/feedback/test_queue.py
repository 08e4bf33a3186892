"""The queue: every task to as many different people as it needs, and nobody works twice."""

import threading
from datetime import timedelta

import pytest

from tests.feedback.examples import candidates, claimed, prompt
from wuya.database.labeling_tables import now
from wuya.errors import DataError
from wuya.feedback.store import FeedbackStore
from wuya.records import Candidate


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
