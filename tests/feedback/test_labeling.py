"""Drafts, leases, test tasks, double annotation, review: from a claim to a ranking that one can train on."""

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, select

from wuya.errors import DataError
from wuya.feedback import funnel, gold, progress, projects, queue, review, submission
from wuya.feedback.bulk import Project, ensure_users
from wuya.feedback.database import open_engine, writing
from wuya.feedback.label_schema import default_schema
from wuya.feedback.projects import NewTask
from wuya.feedback.queue import Closed, DraftConflict, LabelingTask, LeaseLost
from wuya.feedback.reading import Selection
from wuya.feedback.store import FeedbackStore
from wuya.feedback.submission import Submission
from wuya.feedback.tables import Assignment, LabelTask, MetadataLabel, Qualification, RankingRow, now
from wuya.records import Candidate, Message, Prompt


def prompt(name: str = "p1", author: str = "") -> Prompt:
    return Prompt(name, (Message("user", f"question {name}"),), "test", author)


def answers(k: int = 3) -> tuple[Candidate, ...]:
    return tuple(Candidate(f"answer {i}", model=f"model {i}") for i in range(k))


@pytest.fixture(scope="session")
def blank_labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "wuya.db"
    open_engine(path).dispose()
    return path


@pytest.fixture
def engine(tmp_path: Path, blank_labels: Path) -> Iterator[Engine]:
    shutil.copy(blank_labels, tmp_path / "wuya.db")
    engine = open_engine(tmp_path / "wuya.db")
    yield engine
    engine.dispose()


class Desk:
    """A project in an open transaction, with labelers by name."""

    def __init__(self, connection: Connection, type: str = "ranking", **values: Any) -> None:
        self.connection = connection
        values = {"double_rate": 0.0, "gold_rate": 0.0, **values}
        self.id = projects.create(connection, "rm", type, **values)
        self.row = projects.project_row(connection, self.id)
        self.project: Project = projects.as_project(self.row)

    def queue(self, *names: str, k: int = 3, gold: dict[str, Any] | None = None) -> None:
        tasks = [NewTask((prompt(name), answers(k) if k else ()), gold) for name in names]
        projects.add_tasks(self.connection, self.row, tasks)

    def user(self, name: str) -> str:
        return ensure_users(self.connection, [name])[name]

    def claim(self, name: str, **options: Any) -> LabelingTask:
        user = self.user(name)
        gold.begin(self.connection, self.project, user, profile={}, at=now())
        found = gold.next_task(self.connection, self.project, user, **({"at": now()} | options))
        assert found is not None
        return found

    def nothing_for(self, name: str) -> bool:
        user = self.user(name)
        gold.begin(self.connection, self.project, user, profile={}, at=now())
        return gold.next_task(self.connection, self.project, user, at=now()) is None

    def rank(self, name: str, ranks: dict[str, int], **fields: Any) -> LabelingTask:
        """Claim and rank by the text of the answers."""
        task = self.claim(name)
        by_id = {id: ranks[c.text[-1]] for id, c in zip(task.candidate_ids, task.candidates, strict=True)}
        submission.submit(self.connection, task.assignment_id, Submission(ranks=by_id, **fields), at=now())
        return task

    def task(self) -> Any:
        return self.connection.execute(select(LabelTask.__table__)).mappings().first()

    def standing(self, name: str) -> str:
        row = gold.standing(self.connection, self.project, self.user(name))
        return "none" if row is None else str(row["state"])


GOOD = {"0": 1, "1": 2, "2": 3}
BAD = {"0": 3, "1": 2, "2": 1}


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with writing(engine) as connection:
        yield connection


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
    assert desk.task()["state"] == "accepted" and review.num_finals(connection, desk.id) == 1


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


def test_counters_equal_the_rows_whatever_happens(engine: Engine) -> None:
    """A random walk over every action; after each, counters are what the rows say and no target is exceeded."""
    import random

    rng = random.Random(4)
    with writing(engine) as connection:
        desk = Desk(connection, overlap=2, double_rate=0.3)
        desk.queue(*(f"p{i}" for i in range(6)))
        desk.queue("g0", "g1", gold={"ranks": [1, 2, 3]})
        at = now()
        for _ in range(70):
            at += timedelta(minutes=rng.choice([1, 30]))
            name = rng.choice(["ann", "bob", "eve"])
            try:
                task = desk.claim(name, at=at)
                action = rng.choice(["submit", "submit", "skip", "back", "wait", "draft"])
                if action == "submit":
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
            except (AssertionError, gold.NotQualified):
                pass
            rows = connection.execute(select(Assignment.task_id, Assignment.state)).all()
            for row in connection.execute(select(LabelTask.__table__)).mappings():
                mine = [state for id, state in rows if id == row["id"]]
                active = sum(s in ("assigned", "drafting", "revise") for s in mine)
                submitted = sum(s in ("submitted", "accepted") for s in mine)
                assert (row["n_active"], row["n_submitted"]) == (active, submitted)
                assert active + submitted <= row["target"]
        assert connection.execute(select(RankingRow.id)).first() is not None
        assert connection.execute(select(Qualification.state)).first() is not None


def test_a_store_on_a_borrowed_engine_leaves_it_open(engine: Engine) -> None:
    assert FeedbackStore.on(engine).counts()["users"] == 0
