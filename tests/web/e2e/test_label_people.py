"""Several people, several tabs: conflicts, leases, blinding, test tasks, review, and the file that training reads."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from tests.web.conftest import LiveServer, shoot
from tests.web.e2e.label_desk import Desk, finished, open_task, shown_words
from wuya.data.formats import read_rankings
from wuya.database.connection import reading, writing
from wuya.database.labeling_tables import Assignment, LabelTask, now
from wuya.feedback import projects
from wuya.feedback.screening import prompts_in_state
from wuya.records import Message, Prompt

people = pytest.mark.parametrize("accounts", [True], ids=["people"])
"""Tests in which persons sign in; the others have the laptop's single user."""


@pytest.fixture
def page(page: Any) -> Any:
    page.set_default_timeout(60_000)  # a busy machine is slow, not wrong
    return page


def enter(page: Any, server: LiveServer, cookie: dict[str, Any]) -> None:
    """Sign the browser in as somebody else."""
    page.context.clear_cookies()
    page.context.add_cookies([{**cookie, "url": server.url}])


def rank(page: Any, order: dict[str, int]) -> None:
    """Rank by the words of the answers, and hand in."""
    for word in shown_words(page):
        page.keyboard.press(str(order[word]))
    page.keyboard.press("Control+Enter")


GOOD = {"one": 1, "two": 2, "three": 3, "four": 4}
BAD = {"one": 4, "two": 3, "three": 2, "four": 1}


def test_two_tabs_of_one_task_never_overwrite_each_other(live_server: LiveServer, page: Any) -> None:
    desk = Desk(live_server.service)
    desk.begin_me()
    open_task(page, live_server.url)
    other = page.context.new_page()
    other.set_default_timeout(60_000)
    other.goto(page.url)
    other.wait_for_selector(".answer.current")
    page.keyboard.press("1")
    page.keyboard.press("Control+s")
    page.wait_for_selector(".bar-saved.saved")
    other.keyboard.press("2")
    other.keyboard.press("Control+s")
    dialog = other.locator("dialog[open]")
    dialog.wait_for()
    shoot(other, "conflict")
    assert "Changed in another tab" in dialog.inner_text()
    dialog.get_by_role("button", name="Take the other one").click()
    assert other.locator(".order").inner_text() == "A"
    assert other.locator(".rank-key[aria-pressed=true]").inner_text() == "1"
    other.keyboard.press("Shift+B")
    other.keyboard.press("3")
    other.keyboard.press("Control+s")
    other.wait_for_selector(".bar-saved.saved")
    page.bring_to_front()
    page.keyboard.press("Shift+C")
    page.keyboard.press("2")
    page.keyboard.press("Control+s")
    page.locator("dialog[open]").get_by_role("button", name="Keep this one").click()
    page.wait_for_selector(".bar-saved.saved")
    (assignment,) = desk.assignments()
    assert sorted(assignment["draft"]["ranks"].values()) == [1, 2] and assignment["draft_rev"] == 3


def test_a_draft_survives_leaving_the_page(live_server: LiveServer, page: Any) -> None:
    desk = Desk(live_server.service)
    desk.begin_me()
    open_task(page, live_server.url)
    for key in ("2", "1", "q", "5"):
        page.keyboard.press(key)
    page.wait_for_selector(".bar-saved.saved")  # by itself, after two seconds
    page.goto(live_server.url + "/label")
    page.get_by_role("button", name="Resume").click()
    page.wait_for_selector(".answer.current")
    assert page.locator(".order").inner_text() == "B > A"
    assert page.locator(".answer.current .letter").first.inner_text() == "C", "work goes on at the first open answer"
    assert page.locator(".answer").nth(2).locator(".q-scale [aria-checked=true]").inner_text() == "5"


@people
def test_a_lease_that_ran_out_goes_to_somebody_else(live_server: LiveServer, page: Any) -> None:
    desk = Desk(live_server.service)
    ann, bob = desk.labeler("ann"), desk.labeler("bob")
    enter(page, live_server, ann)
    open_task(page, live_server.url)
    page.keyboard.press("1")
    page.keyboard.press("Control+s")
    page.wait_for_selector(".bar-saved.saved")
    with writing(live_server.service.database) as connection:
        connection.execute(update(Assignment).values(lease_until=now() - timedelta(minutes=1)))
    others = page.context.browser.new_context(locale="en-US")
    other = others.new_page()
    other.set_default_timeout(60_000)
    enter(other, live_server, bob)
    open_task(other, live_server.url)
    assert other.locator(".order").inner_text() == "Nothing ranked yet", "nobody sees another's draft"
    for word in shown_words(page)[1:]:
        page.keyboard.press(str(GOOD[word]))
    page.keyboard.press("Control+Enter")
    page.locator("dialog[open]").wait_for()
    assert "This task went to somebody else" in page.locator("dialog[open]").inner_text()
    rank(other, GOOD)
    finished(other)
    others.close()
    states = {row["state"] for row in desk.assignments()}
    assert states == {"expired", "submitted"} and desk.tasks()[0]["n_submitted"] == 1


@people
def test_double_annotation_is_blind(live_server: LiveServer, page: Any) -> None:
    desk = Desk(live_server.service, overlap=2)
    seen: list[str] = []
    page.on("response", lambda answer: seen.append(answer.url))
    bodies: list[str] = []
    shown = []
    for name, order in (("ann", GOOD), ("bob", {**GOOD, "one": 2, "two": 1})):
        enter(page, live_server, desk.labeler(name))
        shown.append(open_task(page, live_server.url))
        bodies.append(
            page.evaluate("() => fetch('/api/assignments/' + location.pathname.split('/').pop()).then(r => r.text())")
        )
        rank(page, order)
        finished(page)
    assert sorted(shown[0]) == sorted(shown[1]) and shown[0] != shown[1], "each sees an order of the own"
    for body in bodies:
        assert "model-" not in body and "gold" not in body
    assert "ann" not in bodies[1].replace("answer", "") and '"ranks"' not in bodies[1]
    assert [row["permutation"] for row in desk.assignments()] != [[0, 1, 2, 3]] * 2
    (task,) = desk.tasks()
    assert (task["state"], task["n_submitted"]) == ("complete", 2)


@people
def test_failing_check_tasks_pauses_a_labeler(live_server: LiveServer, page: Any) -> None:
    desk = Desk(live_server.service, tasks=0, gold_rate=1.0)
    desk.add([f"g{n}" for n in range(6)], gold={"ranks": [1, 2, 3, 4]})
    desk.add(["real"])
    enter(page, live_server, desk.labeler("ann"))
    open_task(page, live_server.url)
    for number in range(5):
        assert "gold" not in page.content() and page.locator(".badge.accent").count() == 0, "like any other task"
        before = page.url
        rank(page, BAD)
        page.wait_for_url(lambda url, before=before: url != before)
        if number < 4:
            page.wait_for_selector(".answer.current")
    page.wait_for_selector(".project-card")
    shoot(page, "paused")
    assert "Paused" in page.locator(".project-card").inner_text()
    assert page.locator(".project-card .button").count() == 0
    enter(page, live_server, desk.labeler("lea", role="lead"))
    page.goto(live_server.url + "/label/review")
    page.get_by_role("tab", name="Agreement").click()
    row = page.get_by_role("row", name="ann")
    assert "0/5" in row.inner_text() and "paused" in row.inner_text()
    row.get_by_role("button", name="Let go on").click()
    page.wait_for_selector("tr:has-text('ann') .badge.good")


@people
def test_the_quiz_is_the_way_in(live_server: LiveServer, page: Any) -> None:
    desk = Desk(live_server.service, tasks=1, settings={"quiz_size": 2})
    desk.add(["g1", "g2"], gold={"ranks": [1, 2, 3, 4]})
    enter(page, live_server, desk.labeler("ann", begin=False))
    page.goto(live_server.url + "/label")
    page.get_by_role("button", name="Read the guide and begin").click()
    go = page.get_by_role("button", name="Start the quiz")
    assert go.is_disabled(), "consent comes first"
    shoot(page, "welcome")
    page.get_by_label("I have read the guide").check()
    page.get_by_label("Violence").check()
    go.click()
    for number in (1, 2):
        page.wait_for_selector(f".badge:has-text('Quiz {number} of 2')")
        page.wait_for_selector(".answer.current")
        rank(page, GOOD)
    finished(page)
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_selector(".answer.current")
    assert "real" not in page.url and page.locator(".badge.accent").count() == 0


@people
def test_a_dispute_is_decided_and_training_reads_the_verdict(
    live_server: LiveServer, page: Any, tmp_path: Path
) -> None:
    desk = Desk(live_server.service, overlap=2, settings={"raise_target": 2})
    for name, order in (("ann", GOOD), ("bob", BAD)):
        enter(page, live_server, desk.labeler(name))
        open_task(page, live_server.url)
        rank(page, order)
        finished(page)
    enter(page, live_server, desk.labeler("lea", role="lead"))
    page.goto(live_server.url + "/label/review")
    page.get_by_role("button", name="To decide").click()
    page.locator(".task-open").click()
    dialog = page.locator("dialog[open]")
    dialog.wait_for()
    assert "ann" in dialog.inner_text() and "model-" not in dialog.inner_text()
    for letter, row in zip("ABCD", (1, 1, 2, 3), strict=True):
        dialog.get_by_role("button", name=f"Answer {letter}", exact=True).click()
        dialog.get_by_role("button", name=f"Give answer {letter} rank {row}", exact=True).click()
    shoot(page, "verdict")
    dialog.get_by_role("button", name="Make it final").click()
    page.wait_for_selector(".count-line:has-text('accepted')")
    page.goto(live_server.url + "/data")
    page.get_by_role("button", name="Freeze an export").click()
    page.locator("dialog[open]").get_by_role("button", name="Freeze an export").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download rm_rankings v1").click()
    file = tmp_path / "rankings.jsonl"
    download.value.save_as(file)
    (ranking,) = read_rankings(file)
    assert (ranking.labeler, ranking.source, ranking.ranks) == ("lea", "adjudication", (1, 1, 2, 3))
    assert [c.model for c in ranking.candidates] == ["model-one", "model-two", "model-three", "model-four"]


def test_skipping_asks_for_a_reason(live_server: LiveServer, page: Any) -> None:
    desk = Desk(live_server.service)
    desk.begin_me()
    open_task(page, live_server.url)
    page.keyboard.press("s")
    page.locator("dialog[open]").wait_for()
    page.keyboard.press("4")
    finished(page)
    (assignment,) = desk.assignments()
    assert (assignment["state"], assignment["skip_reason"]) == ("skipped", "expertise")


def test_a_demonstration_is_written_checked_and_kept(live_server: LiveServer, page: Any) -> None:
    desk = Desk(live_server.service, tasks=0, type="demonstration")
    desk.add(["p0"], k=0)
    desk.begin_me()
    page.goto(live_server.url + "/label")
    page.locator(".project-card .button").click()
    page.wait_for_selector(".write-editor")
    page.locator(".write-editor").fill("Call me at 555 123 4567, and **read** this.")
    assert "telephone" in page.locator(".checks").inner_text()
    page.get_by_role("tab", name="Preview").click()
    assert page.locator(".write-preview strong").inner_text() == "read"
    page.get_by_role("radio", name="Chat", exact=True).click()
    page.keyboard.press("Control+Enter")
    finished(page)
    said = {row["key"]: row["value_text"] for row in desk.labels()}
    assert said["category"] == "chat" and said["ambiguous"] is None


def test_a_prompt_is_described_by_keyboard(live_server: LiveServer, page: Any) -> None:
    desk = Desk(live_server.service, tasks=0, type="metadata")
    desk.add(["p0"], k=0)
    desk.begin_me()
    page.goto(live_server.url + "/label")
    page.locator(".project-card .button").click()
    page.wait_for_selector(".question.pointed")
    for key in ("4", "y", "n"):  # category: chat; ambiguous: yes; sensitive: no; the rest stays open
        page.keyboard.press(key)
    page.keyboard.press("Control+Enter")
    finished(page)
    said = {row["key"]: (row["value_text"], row["value_bool"]) for row in desk.labels()}
    assert (
        said["category"] == ("chat", None) and said["ambiguous"] == (None, True) and said["sensitive"] == (None, False)
    )
    assert said["continuation"] == (None, None)


def test_prompts_are_screened_by_keyboard(live_server: LiveServer, page: Any) -> None:
    with writing(live_server.service.database) as connection:
        prompts = [Prompt(f"p{n}", (Message("user", f"Is number {n} a question?"),)) for n in range(3)]
        projects.import_prompts(connection, prompts, screen=True)
    page.goto(live_server.url + "/data")
    page.get_by_role("button", name="Screen prompts (3)").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Is number 0 a question?").wait_for()
    page.keyboard.press("a")
    dialog.get_by_text("Is number 1 a question?").wait_for()
    page.keyboard.press("r")
    dialog.get_by_text("Is number 2 a question?").wait_for()
    page.keyboard.press("u")  # the last one comes back
    dialog.get_by_text("Is number 1 a question?").wait_for()
    dialog.get_by_role("button", name="Approve").click()
    dialog.get_by_text("Is number 2 a question?").wait_for()
    page.keyboard.press("r")
    dialog.get_by_text("Nothing waits.").wait_for()
    with reading(live_server.service.database) as connection:
        states = {s: [row["id"] for row in prompts_in_state(connection, s)] for s in ("approved", "rejected", "new")}
    assert states == {"approved": ["p0", "p1"], "rejected": ["p2"], "new": []}


def test_a_lead_samples_answers_to_rank(live_server: LiveServer, page: Any) -> None:
    Desk(live_server.service, k=4, tasks=0)
    with writing(live_server.service.database) as connection:
        prompts = [Prompt(f"p{n}", (Message("user", f"Is number {n} a question?"),), author="ann") for n in range(3)]
        split = next(iter(projects.import_prompts(connection, prompts).splits))
    page.goto(live_server.url + "/label/review")
    page.get_by_role("button", name="Sample answers").click()
    dialog = page.locator("dialog[open]")
    dialog.get_by_label("Split").select_option(split)
    dialog.get_by_label("Longest answer").fill("8")
    dialog.get_by_role("button", name="Sample", exact=True).click()
    dialog.get_by_text("Done: ").wait_for()
    shoot(page, "sampled")
    dialog.get_by_role("button", name="Close").last.click()
    with reading(live_server.service.database) as connection:
        assert connection.execute(select(func.count()).select_from(LabelTask)).scalar_one() > 0
