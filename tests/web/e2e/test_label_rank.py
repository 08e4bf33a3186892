"""Ranking in a real browser: by keys only, by taps only, by drag; ties; NULL; undo; what a screen reader hears."""

from typing import Any

import pytest

from tests.web.conftest import LiveServer, shoot
from tests.web.e2e.label_desk import Desk, finished, open_task


@pytest.fixture
def page(page: Any) -> Any:
    page.set_default_timeout(60_000)  # a busy machine is slow, not wrong
    return page


@pytest.mark.parametrize("k", [4, 9])
def test_rank_by_keyboard_only(live_server: LiveServer, page: Any, k: int) -> None:
    desk = Desk(live_server.service, k=k)
    desk.begin_me()
    page.goto(live_server.url + "/label")
    page.wait_for_selector(".project-card")
    page.keyboard.press("Enter")  # the next task starts from the keyboard, too
    page.wait_for_selector(".answer.current")
    words = page.locator(".answer-text").all_inner_texts()
    words = [text.split()[1] for text in words]
    ranks = [(place * 3) % k + 1 for place in range(k)]
    ranks[1] = ranks[0]  # a tie
    for rank in ranks:
        page.keyboard.press(str(rank))
    shoot(page, f"rank-{k}")
    page.keyboard.press("Control+Enter")
    finished(page)
    used = sorted(set(ranks))
    assert desk.ranks() == {word: used.index(rank) + 1 for word, rank in zip(words, ranks, strict=True)}
    labels = desk.labels()
    assert len(labels) == 12 * k, "every question about every answer has a row"
    assert all(row["value_bool"] is row["value_num"] is row["value_text"] is None for row in labels)


def test_at_most_eight_key_presses_rank_five_answers(live_server: LiveServer, page: Any) -> None:
    """Counted in the page, Ctrl and Enter as two: five ranks and the submission are seven."""
    desk = Desk(live_server.service, k=5)
    desk.begin_me()
    open_task(page, live_server.url)
    page.evaluate("() => { sessionStorage.keys = 0; addEventListener('keydown', () => sessionStorage.keys++, true); }")
    for key in "31245":
        page.keyboard.press(key)
    page.keyboard.press("Control+Enter")
    finished(page)
    pressed = int(page.evaluate("() => sessionStorage.keys"))
    assert pressed == 7 and pressed <= 8
    assert sorted(desk.ranks().values()) == [1, 2, 3, 4, 5]
    (assignment,) = desk.assignments()
    assert assignment["signals"]["keys"] == 7 and assignment["active_ms"] is not None


@pytest.mark.parametrize("k", [4, 9])
def test_rank_by_tap_only(live_server: LiveServer, browser: Any, k: int) -> None:
    """On a telephone: the row of numbers under each answer, then Submit. No key, no drag."""
    desk = Desk(live_server.service, k=k)
    desk.begin_me()
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(live_server.url + "/label")
    page.locator(".project-card .button").tap()
    page.wait_for_selector(".answer.current")
    words = [text.split()[1] for text in page.locator(".answer-text").all_inner_texts()]
    for place in range(k):
        card = page.locator(".answer").nth(place)
        card.locator(".rank-key").nth(min(place, k - 2)).tap()  # the last two tie
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), "nothing scrolls sideways"
    shoot(page, f"rank-{k}-360")
    page.locator(".submit").tap()
    finished(page)
    assert desk.ranks() == {word: min(place, k - 2) + 1 for place, word in enumerate(words)}
    context.close()


def test_tap_an_answer_then_a_row(live_server: LiveServer, page: Any) -> None:
    desk = Desk(live_server.service, k=4)
    desk.begin_me()
    words = open_task(page, live_server.url)
    for letter, row in zip("ABCD", (2, 1, 2, 3), strict=True):
        page.get_by_role("button", name=f"Answer {letter}", exact=True).click()
        page.locator(f".board-row[data-row='{row}'] .row-slot").click()
    page.locator(".submit").click()
    finished(page)
    assert desk.ranks() == dict(zip(words, (2, 1, 2, 3), strict=True))


@pytest.mark.parametrize("k", [4, 9])
def test_rank_by_drag(live_server: LiveServer, page: Any, k: int) -> None:
    desk = Desk(live_server.service, k=k)
    desk.begin_me()
    page.set_viewport_size({"width": 1280, "height": 1000})
    words = open_task(page, live_server.url)
    ids = page.evaluate("() => [...document.querySelectorAll('.answer')].map(card => card.dataset.id)")

    def drag(id: str, target: str) -> None:
        handle = page.locator(f".chip-holder[data-id='{id}'] .handle")
        handle.scroll_into_view_if_needed()
        box = handle.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + 20, box["y"] + 20, steps=3)
        to = page.locator(target).bounding_box()
        page.mouse.move(to["x"] + to["width"] / 2, to["y"] + to["height"] / 2, steps=4)
        page.mouse.up()

    for place, id in enumerate(ids):
        drag(id, f".board-row[data-row='{place + 1}'] .row-slot")
    assert page.locator(".placed-count").inner_text() == f"{k} of {k} ranked"
    drag(ids[k - 1], ".board-row[data-row='1'] .row-gap")  # between: the others make room
    page.keyboard.press("Control+Enter")
    finished(page)
    expected = {words[k - 1]: 1} | {word: place + 2 for place, word in enumerate(words[:-1])}
    assert desk.ranks() == expected


def test_only_the_handle_drags(live_server: LiveServer, page: Any) -> None:
    """Scrolling over the board never reorders (OA #1202): touch-action is none on the handle alone."""
    desk = Desk(live_server.service, k=4)
    desk.begin_me()
    open_task(page, live_server.url)
    action = "s => getComputedStyle(document.querySelector(s)).touchAction"
    actions = [page.evaluate(action, where) for where in (".handle", ".rank-chip", ".board-row")]
    assert actions == ["none", "auto", "auto"]


def test_grades_and_flags_by_keyboard_and_what_was_left_open_is_null(live_server: LiveServer, page: Any) -> None:
    desk = Desk(live_server.service, k=4)
    desk.begin_me()
    words = open_task(page, live_server.url)
    page.keyboard.press("Shift+B")
    page.keyboard.press("q")
    page.keyboard.press("6")
    page.keyboard.press("f")
    for key in ("y", "n", "x", "a"):  # fails: yes; inappropriate: no; hallucination: not answered; constraint: n/a
        page.keyboard.press(key)
    page.keyboard.press("Escape")
    for key in ("2", "3", "4", "1"):
        page.keyboard.press(key)
    shoot(page, "flags")
    page.keyboard.press("Control+Enter")
    finished(page)
    (raw,) = desk.rankings()
    said = {c.text.split()[1]: labels for c, labels in zip(raw.ranking.candidates, raw.labels, strict=True)}[words[1]]
    assert said["quality"] == 6 and said["fails_instruction"] is True and said["inappropriate_for_assistant"] is False
    assert said["hallucination"] is None and said["satisfies_constraint"] == "na" and said["violent"] is None
    nulls = [r for r in desk.labels() if r["value_bool"] is None and r["value_num"] is None and r["value_text"] is None]
    assert len(nulls) == 4 * 12 - 4


def test_moves_are_announced_and_can_be_undone(live_server: LiveServer, page: Any) -> None:
    desk = Desk(live_server.service, k=4)
    desk.begin_me()
    open_task(page, live_server.url)
    heard = page.locator("#announcer")
    page.keyboard.press("1")
    assert heard.inner_text() == "A, rank 1. 3 left."
    page.keyboard.press("1")
    assert heard.inner_text() == "B, rank 1, tied with A. 2 left."
    page.keyboard.press("9")
    assert heard.inner_text() == "There are only 4 ranks"
    page.keyboard.press("Shift+A")
    page.keyboard.press("0")
    assert heard.inner_text() == "A is not ranked. 3 left."
    assert page.locator(".order").inner_text() == "B"
    page.keyboard.press("Control+z")
    assert page.locator(".order").inner_text() == "A=B"
    for _ in range(3):
        page.keyboard.press("Control+z")
    assert page.locator(".order").inner_text() == "Nothing ranked yet"
    card = page.locator(".answer").first
    assert card.get_attribute("aria-label") == "Answer A, not ranked"
    page.keyboard.press("Control+Enter")
    assert "Not ranked yet: A, B, C, D" in heard.inner_text(), "an untouched order can't be handed in"
    assert desk.rankings() == []


def test_pair_view_guide_and_contradictions(live_server: LiveServer, page: Any) -> None:
    desk = Desk(live_server.service, k=4)
    desk.begin_me()
    open_task(page, live_server.url)
    page.keyboard.press("p")
    marks = page.locator("dialog mark.own-words").all_inner_texts()
    assert len(marks) == 2 and marks[0] != marks[1], "only the words that differ are marked"
    page.keyboard.press("ArrowRight")
    shoot(page, "pair")
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    assert page.locator(".guide-panel").is_visible()
    page.keyboard.press("g")
    for key in ("q", "2", "1", "q", "7", "2", "3", "4"):  # A: quality 2, rank 1; B: quality 7, rank 2
        page.keyboard.press(key)
    page.keyboard.press("Control+Enter")
    assert "A is ranked above B" in page.locator("dialog").inner_text()
    page.keyboard.press("Enter")
    finished(page)
    (raw,) = desk.rankings()
    assert sorted(raw.ranking.ranks) == [1, 2, 3, 4] and desk.assignments()[0]["signals"]["warnings"] == 1


def test_what_cannot_be_ranked_is_said(live_server: LiveServer, page: Any) -> None:
    desk = Desk(live_server.service, k=4)
    desk.begin_me()
    open_task(page, live_server.url)
    page.get_by_label("All so bad that no order makes sense").check()
    page.locator("textarea").fill("All four are empty.")
    page.keyboard.press("Control+Enter")
    finished(page)
    (raw,) = desk.rankings()
    assert raw.cannot_rank and raw.comment == "All four are empty."
