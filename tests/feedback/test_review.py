"""Test tasks and review: who may label, and which rankings one can train on."""

from typing import Any

import pytest
from sqlalchemy import Connection

from tests.feedback.desk import BAD, GOOD, Desk
from wuya.database.labeling_tables import now
from wuya.errors import DataError
from wuya.feedback import funnel, gold, progress, projects, queue, review, submission
from wuya.feedback.label_schema import default_schema
from wuya.feedback.queue import Closed
from wuya.feedback.reading import Selection
from wuya.feedback.submission import Submission

# Test tasks


def gold_project(connection: Connection, **values: Any) -> Desk:
    desk = Desk(connection, **({"gold_rate": 1.0} | values))
    desk.queue(*(f"g{i}" for i in range(8)), gold={"ranks": [1, 2, 3]})
    return desk


def test_failing_test_tasks_pauses_a_labeler(connection: Connection) -> None:
    desk = gold_project(connection)
    for number in range(gold.MIN_GOLD):
        assert desk.standing("ann") in ("none", "passed"), number
        desk.rank("ann", BAD)
    assert desk.standing("ann") == "paused"
    with pytest.raises(gold.NotQualified) as caught:
        gold.next_task(connection, desk.project, desk.user("ann"), at=now())
    assert caught.value.state == "paused"
    gold.set_standing(connection, desk.project, desk.user("ann"), "passed")
    desk.rank("ann", BAD)
    assert desk.standing("ann") == "passed", "a fresh window"


def test_passing_test_tasks_goes_on_and_leaves_no_trace_in_training(connection: Connection) -> None:
    desk = gold_project(connection)
    for _ in range(8):
        desk.rank("ann", GOOD)
    assert desk.standing("ann") == "passed"
    figures = progress.my_figures(connection, desk.project, desk.user("ann"), at=now())
    assert (figures["gold_passed"], figures["gold_seen"]) == (8, 8)
    from wuya.feedback import reading

    assert list(reading.rankings(connection, Selection())) == []
    assert len(list(reading.raw_rankings(connection, Selection()))) == 8


def test_a_quiz_opens_or_closes_the_door(connection: Connection) -> None:
    desk = gold_project(connection, settings={"quiz_size": 4}, gold_rate=0.0)
    desk.queue("real")
    for _ in range(4):
        assert desk.claim("ann").prompt.id.startswith("g")
        desk.rank("ann", GOOD)
        desk.claim("bob")
        desk.rank("bob", BAD)
    assert (desk.standing("ann"), desk.standing("bob")) == ("passed", "failed")
    assert desk.claim("ann").prompt.id == "real"


def test_gold_scores_are_means_over_order_and_labels() -> None:
    expert = {"ranks": [1, 2, 3], "labels": [{"violent": True}, {"quality": 6}, {}], "prompt": {}}
    ids = ["a", "b", "c"]
    right = {"a": {"violent": True}, "b": {"quality": 5}}
    assert gold.gold_score(expert, ids, {"a": 1, "b": 2, "c": 3}, right) == 1.0
    assert gold.gold_score(expert, ids, {"a": 3, "b": 2, "c": 1}, right) == 0.5
    assert gold.gold_score(expert, ids, {"a": 1, "b": 2, "c": 3}, {"a": {"violent": None}, "b": {"quality": 3}}) == 0.5
    assert gold.gold_score(expert, ids, {}, right) == 0.5, "an expert ranked what the labeler called unrankable"


def test_draws_are_repeatable_and_more_frequent_at_first() -> None:
    early = sum(gold.draws_gold("ann", n % 20, 0.08) for n in range(20))
    assert early == sum(gold.draws_gold("ann", n % 20, 0.08) for n in range(20))
    first = [gold.draws_gold(f"person {i}", 3, 0.08) for i in range(2000)]
    later = [gold.draws_gold(f"person {i}", 30, 0.08) for i in range(2000)]
    assert 0.21 < sum(first) / 2000 < 0.29 and 0.06 < sum(later) / 2000 < 0.10


# Review


def test_work_sent_back_is_done_again_and_the_old_version_kept(connection: Connection) -> None:
    desk = Desk(connection)
    desk.queue("p1")
    task = desk.rank("ann", BAD, comment="first try")
    lead = desk.user("lead")
    with pytest.raises(DataError, match="with a note"):
        review.review(connection, task.assignment_id, lead, "revise", at=now())
    review.review(connection, task.assignment_id, lead, "revise", "look again", at=now())
    assert (desk.task()["n_submitted"], desk.task()["n_active"], desk.task()["state"]) == (0, 1, "open")
    assert desk.nothing_for("bob"), "the place is still ann's"
    shown = queue.view(connection, task.assignment_id)
    assert shown.state == "revise" and shown.draft is not None and shown.draft["comment"] == "first try"
    what = Submission(ranks=shown.ranks_by_id([1, 2, 3]), draft_rev=shown.draft_rev)
    submission.submit(connection, task.assignment_id, what, at=now())
    assert desk.task()["state"] == "complete"
    (kept,) = review.history(connection, task.task_id)
    assert kept["submission"]["comment"] == "first try" and kept["note"] == "look again"
    review.review(connection, task.assignment_id, lead, "accept", at=now())
    assert desk.task()["state"] == "accepted"


def test_rejected_work_frees_the_place_and_is_not_trained_on(connection: Connection) -> None:
    from wuya.feedback import reading

    desk = Desk(connection)
    desk.queue("p1")
    task = desk.rank("ann", BAD)
    review.review(connection, task.assignment_id, desk.user("lead"), "reject", "spam", at=now())
    assert list(reading.rankings(connection, Selection())) == []
    desk.rank("bob", GOOD)
    assert [r.labeler for r in reading.rankings(connection, Selection())] == ["bob"]


def test_a_verdict_is_what_training_reads_and_agreement_does_not(connection: Connection) -> None:
    from wuya.feedback import reading

    desk = Desk(connection, overlap=2)
    desk.queue("p1")
    desk.rank("ann", GOOD)
    task = desk.rank("bob", BAD)
    with pytest.raises(Closed, match="yourself"):
        review.adjudicate(connection, task.task_id, desk.user("bob"), task.ranks_by_id([1, 2, 3]), at=now())
    for ranks in ([2, 1, 3], [1, 1, 2]):
        review.adjudicate(connection, task.task_id, desk.user("lead"), task.ranks_by_id(ranks), at=now())
    (final,) = reading.rankings(connection, Selection())
    assert (final.labeler, final.source, sorted(final.ranks)) == ("lead", "adjudication", [1, 1, 2])
    own = list(reading.rankings(connection, Selection(own=True)))
    assert sorted(r.labeler for r in own) == ["ann", "bob"]
    assert desk.task()["state"] == "accepted"


def test_the_lead_finds_what_needs_a_look(connection: Connection) -> None:
    desk = Desk(connection, overlap=2)
    desk.queue("p1", "p2")
    for name, order in (("ann", GOOD), ("bob", BAD)):
        for _ in range(2):
            desk.rank(name, order, active_ms=60_000)
    listed = progress.tasks(connection, desk.project, show="disagree")
    assert len(listed) == 2 and listed[0].agreement == 0.0
    assert [w.labeler for w in listed[0].work] == ["ann", "bob"]
    assert progress.tasks(connection, desk.project, show="flagged") == []
    assert len(progress.tasks(connection, desk.project, limit=1)) == 1
    task = desk.rank("eve", GOOD, active_ms=500)
    assert [t.id for t in progress.tasks(connection, desk.project, show="fast")] == [task.task_id]
    review.set_task_state(connection, task.task_id, "cancel")
    found = funnel.funnel(connection, at=now())
    assert found["steps"]["submitted"] == 2 and found["sizes"] == {"3": 2} and found["ties"] == 0.0


def test_blind_to_models_and_to_each_other(connection: Connection) -> None:
    desk = Desk(connection, overlap=2)
    desk.queue("p1")
    task = desk.claim("ann")
    assert {c.model for c in task.candidates} == {""} and {c.token_ids for c in task.candidates} == {()}
    desk.rank("bob", GOOD)
    assert progress.my_figures(connection, desk.project, desk.user("ann"), at=now())["agreement"] is None
    desk.rank("ann", GOOD)
    assert progress.my_figures(connection, desk.project, desk.user("ann"), at=now())["agreement"] == 1.0


def test_settings_have_versions_and_limits(connection: Connection) -> None:
    desk = Desk(connection)
    projects.change(connection, desk.id, guide_md="read this", settings={"quiz_size": 3})
    row = projects.project_row(connection, "rm")
    assert (row["guide_version"], row["schema_version"]) == (2, 1)
    assert row["settings"]["quiz_size"] == 3 and row["settings"]["raise_target"] == 3
    for wrong in ({"gold_rate": 2}, {"unheard": 1}, {"label_schema": {"answers": [{"key": "x", "kind": "song"}]}}):
        with pytest.raises(DataError):
            projects.change(connection, desk.id, **wrong)
    with pytest.raises(DataError, match="of that name"):
        projects.create(connection, "rm", "ranking")
    assert len(default_schema("ranking")["answers"]) == 12, "InstructGPT, Table 3"
    with pytest.raises(DataError, match="does not fit"):
        desk.queue("p9", k=1)
