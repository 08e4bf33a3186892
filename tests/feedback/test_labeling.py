"""Drafts, leases, submissions, double annotation: from a claim to a ranking."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, select

from tests.feedback.desk import BAD, GOOD, Desk, answers, prompt
from wuya.database.connection import writing
from wuya.database.labeling_tables import Assignment, LabelTask, MetadataLabel, Qualification, RankingRow, now
from wuya.errors import DataError
from wuya.feedback import gold, projects, queue, review, submission
from wuya.feedback.projects import NewTask
from wuya.feedback.queue import Closed, DraftConflict, LeaseLost
from wuya.feedback.store import FeedbackStore
from wuya.feedback.submission import Submission

# Drafts and leases


def test_the_second_of_two_tabs_gets_the_draft_of_the_first(connection: Connection) -> None:
    desk = Desk(connection)
    desk.queue("p1")
    id = desk.claim("ann").assignment_id
    assert queue.save_draft(connection, id, {"a": 1}, draft_rev=0, at=now(), minutes=45) == 1
    with pytest.raises(DraftConflict) as caught:
        queue.save_draft(connection, id, {"b": 2}, draft_rev=0, at=now(), minutes=45)
    assert (caught.value.draft, caught.value.draft_rev) == ({"a": 1}, 1)
    with pytest.raises(DraftConflict):
        what = Submission(ranks=desk.claim("ann").ranks_by_id([1, 2, 3]), draft_rev=0)
        submission.submit(connection, id, what, at=now())
    assert desk.claim("ann").draft == {"a": 1}


def test_a_draft_outlives_its_lease_for_a_day(connection: Connection) -> None:
    desk = Desk(connection)
    desk.queue("p1", "p2", "p3")
    task = desk.claim("ann")
    queue.save_draft(connection, task.assignment_id, {"a": 1}, draft_rev=0, at=now(), minutes=45)
    later = now() + timedelta(hours=1)
    assert queue.expire(connection, desk.project, at=later) == 1
    again = desk.claim("ann", at=later)
    assert (again.task_id, again.draft, again.state) == (task.task_id, {"a": 1}, "assigned"), "the own draft goes first"


def test_a_clock_set_back_a_day_holds_no_task_for_a_day(connection: Connection) -> None:
    desk = Desk(connection)
    desk.queue("p1")
    id, yesterday = desk.claim("ann").assignment_id, now() - timedelta(days=1)
    assert queue.late(connection, at=yesterday)
    assert desk.claim("bob", at=yesterday).prompt.id == "p1"
    with pytest.raises(LeaseLost):
        queue.renew(connection, id, at=yesterday, minutes=45)
    assert not queue.late(connection, at=yesterday + timedelta(minutes=44))


def test_heartbeats_keep_a_task_and_a_lost_one_is_said(connection: Connection) -> None:
    desk = Desk(connection)
    desk.queue("p1")
    id, start = desk.claim("ann").assignment_id, now()
    assert queue.renew(connection, id, at=start + timedelta(minutes=40), minutes=45) == start + timedelta(minutes=85)
    assert queue.expire(connection, desk.project, at=start + timedelta(minutes=60)) == 0
    assert queue.expire(connection, desk.project, at=start + timedelta(minutes=90)) == 1
    queue.renew(connection, id, at=start + timedelta(minutes=91), minutes=45)  # nobody took it: fine
    queue.expire(connection, desk.project, at=start + timedelta(minutes=200))
    desk.claim("bob", at=start + timedelta(minutes=201))
    with pytest.raises(LeaseLost):
        queue.renew(connection, id, at=start + timedelta(minutes=202), minutes=45)
    task = desk.task()
    assert (task["n_active"], task["n_submitted"]) == (1, 0)


def test_a_task_given_back_is_free_and_keeps_the_draft(connection: Connection) -> None:
    desk = Desk(connection)
    desk.queue("p1")
    id = desk.claim("ann").assignment_id
    queue.save_draft(connection, id, {"a": 1}, draft_rev=0, at=now(), minutes=45)
    queue.give_back(connection, id)
    assert desk.task()["n_active"] == 0
    assert desk.claim("ann").draft == {"a": 1}


# What is submitted


def test_unanswered_questions_become_null_rows(connection: Connection) -> None:
    desk = Desk(connection)
    desk.queue("p1")
    task = desk.claim("ann")
    first = task.candidate_ids[0]
    labels = {first: {"quality": 5, "hallucination": False, "satisfies_constraint": "na"}}
    what = Submission(ranks=task.ranks_by_id([1, 1, 2]), labels=labels)
    submission.submit(connection, task.assignment_id, what, at=now())
    rows = connection.execute(select(MetadataLabel.__table__)).mappings().all()
    assert len(rows) == 3 * 12, "every question about every answer has a row"
    said = {r["key"]: (r["value_bool"], r["value_num"], r["value_text"]) for r in rows if r["candidate_id"] == first}
    assert said["hallucination"] == (False, None, None) and said["quality"] == (None, 5.0, None)
    assert said["satisfies_constraint"] == (None, None, "na") and said["violent"] == (None, None, None)


@pytest.mark.parametrize(
    "labels", [{"quality": 9}, {"quality": True}, {"violent": 1}, {"violent": "na"}, {"unheard_of": True}]
)
def test_answers_must_fit_their_questions(connection: Connection, labels: dict[str, Any]) -> None:
    desk = Desk(connection)
    desk.queue("p1")
    task = desk.claim("ann")
    what = Submission(ranks=task.ranks_by_id([1, 2, 3]), labels={task.candidate_ids[0]: labels})
    with pytest.raises(DataError):
        submission.submit(connection, task.assignment_id, what, at=now())


def test_a_required_question_must_be_answered(connection: Connection) -> None:
    desk = Desk(connection, require_fields=["quality"])
    desk.queue("p1")
    task = desk.claim("ann")
    ranks = task.ranks_by_id([1, 2, 3])
    with pytest.raises(DataError, match="required"):
        submission.submit(connection, task.assignment_id, Submission(ranks=ranks), at=now())
    labels = {id: {"quality": 4} for id in task.candidate_ids}
    submission.submit(connection, task.assignment_id, Submission(ranks=ranks, labels=labels), at=now())


def test_a_key_makes_a_submission_happen_once(connection: Connection) -> None:
    desk = Desk(connection)
    desk.queue("p1")
    task = desk.claim("ann")
    what = Submission(ranks=task.ranks_by_id([1, 2, 3]), key="k1")
    id = submission.submit(connection, task.assignment_id, what, at=now())
    assert submission.submit(connection, task.assignment_id, what, at=now()) == id
    with pytest.raises(Closed, match="before, with another"):
        other = Submission(ranks=task.ranks_by_id([3, 2, 1]), key="k2")
        submission.submit(connection, task.assignment_id, other, at=now())
    assert desk.task()["n_submitted"] == 1


@pytest.mark.parametrize("type", ["demonstration", "metadata"])
def test_tasks_without_an_order(connection: Connection, type: str) -> None:
    desk = Desk(connection, type)
    desk.queue("p1", k=0)
    task = desk.claim("ann")
    assert task.type == type
    labels = {"": {"category": "chat", "ambiguous": False}}
    if type == "demonstration":
        with pytest.raises(DataError, match="empty"):
            submission.submit(connection, task.assignment_id, Submission(labels=labels), at=now())
    what = Submission(labels=labels, completion="an answer")
    submission.submit(connection, task.assignment_id, what, at=now())
    submission.submit(connection, task.assignment_id, what, at=now())
    assert desk.task()["state"] == "complete"
    said = review.submission_of(connection, queue.assignment_row(connection, task.assignment_id))
    assert said["labels"][""]["category"] == "chat" and said["labels"][""]["sensitive"] is None
    assert said.get("completion") == ("an answer" if type == "demonstration" else None)


# Double annotation


def test_a_share_of_tasks_goes_to_two_people(connection: Connection) -> None:
    desk = Desk(connection, double_rate=0.5)
    desk.queue(*(f"p{i}" for i in range(60)))
    twice = [t for t in connection.execute(select(LabelTask.target)).scalars() if t == 2]
    assert 15 < len(twice) < 45


def test_two_who_disagree_get_a_third_and_three_who_disagree_a_judge(connection: Connection) -> None:
    desk = Desk(connection, overlap=2)
    desk.queue("p1")
    desk.rank("ann", GOOD)
    assert desk.task()["target"] == 2
    desk.rank("bob", BAD)
    assert (desk.task()["state"], desk.task()["target"]) == ("open", 3)
    desk.rank("eve", {"0": 2, "1": 1, "2": 3})
    assert desk.task()["state"] == "adjudication"


def test_two_who_agree_are_enough(connection: Connection) -> None:
    desk = Desk(connection, overlap=2)
    desk.queue("p1")
    desk.rank("ann", GOOD)
    desk.rank("bob", {"0": 1, "1": 2, "2": 2})
    assert (desk.task()["state"], desk.task()["target"]) == ("complete", 2)


def test_a_task_that_lacks_one_of_two_goes_first(connection: Connection) -> None:
    desk = Desk(connection, overlap=2)
    desk.queue("p1", "p2", "p3", "p4", "p5")
    first = desk.rank("ann", GOOD)
    assert desk.claim("bob").task_id == first.task_id


def test_nobody_labels_the_own_prompt_nor_a_language_they_do_not_read(connection: Connection) -> None:
    desk = Desk(connection)
    projects.add_tasks(connection, desk.row, [NewTask((prompt("mine", author="h(ann)"), answers()))])
    ann = desk.user("ann")
    gold.begin(connection, desk.project, ann, profile={}, at=now())
    assert gold.next_task(connection, desk.project, ann, at=now(), author="h(ann)") is None
    assert gold.next_task(connection, desk.project, ann, at=now(), languages=("zh",)) is not None, (
        "no language fits all"
    )


def test_counters_equal_the_rows_whatever_happens(engine: Engine) -> None:
    """A random walk over every action; after each, counters are what the rows say and no target is exceeded."""
    import random

    rng = random.Random(4)
    with writing(engine) as connection:
        desk = Desk(connection, overlap=2, double_rate=0.3)
        desk.queue(*(f"p{i}" for i in range(6)))
        desk.queue("g0", "g1", gold={"ranks": [1, 2, 3]})
        at, nothing, refused = now(), 0, 0
        for _ in range(70):
            at += timedelta(minutes=rng.choice([1, 30]))
            name = rng.choice(["ann", "bob", "eve"])
            try:
                task = desk.find(name, at=at)
                action = rng.choice(["submit", "submit", "skip", "back", "wait", "draft"])
                if task is None:
                    nothing += 1
                elif action == "submit":
                    order = rng.sample([1, 2, 3], 3)
                    submission.submit(connection, task.assignment_id, Submission(ranks=task.ranks_by_id(order)), at=at)
                    if rng.random() < 0.3:
                        decision = rng.choice(["accept", "revise", "reject"])
                        review.review(connection, task.assignment_id, desk.user("lead"), decision, "n", at=at)
                elif action == "skip":
                    queue.skip(connection, task.assignment_id, "hard")
                elif action == "back":
                    queue.give_back(connection, task.assignment_id)
                elif action == "draft":
                    queue.save_draft(connection, task.assignment_id, {}, draft_rev=task.draft_rev, at=at, minutes=45)
            except gold.NotQualified:
                refused += 1
            rows = connection.execute(select(Assignment.task_id, Assignment.state)).all()
            for row in connection.execute(select(LabelTask.__table__)).mappings():
                mine = [state for id, state in rows if id == row["id"]]
                active = sum(s in ("assigned", "drafting", "revise") for s in mine)
                submitted = sum(s in ("submitted", "accepted") for s in mine)
                assert (row["n_active"], row["n_submitted"]) == (active, submitted)
                assert active + submitted <= row["target"]
        assert nothing + refused < 70 and connection.execute(select(RankingRow.id)).first() is not None
        assert connection.execute(select(Qualification.state)).first() is not None


def test_a_store_on_a_borrowed_engine_leaves_it_open(engine: Engine) -> None:
    pool = engine.pool
    with FeedbackStore.on(engine) as store:
        assert store.counts()["users"] == 0
    assert engine.pool is pool, "disposing of an engine gives it a new pool"
