"""The labeling screens: axe in both themes, nothing wider than a phone, all translated, hostile text stays text."""

import re
from typing import Any

import pytest

from tests.web.conftest import LiveServer, shoot
from tests.web.e2e.label_desk import Desk
from tests.web.e2e.test_screens import HOSTILE, serious_in_both_themes
from wuya.database.connection import writing
from wuya.feedback import projects
from wuya.feedback.projects import NewTask
from wuya.records import Candidate, Message, Prompt
from wuya.web.labeling.store import LabelerStore


@pytest.fixture
def page(page: Any) -> Any:
    page.set_default_timeout(60_000)  # a busy machine is slow, not wrong
    return page


@pytest.fixture
def screens(live_server: LiveServer) -> list[str]:
    """The pages of a project whose every text is hostile."""
    desk = Desk(live_server.service, tasks=0)
    with writing(live_server.service.database) as connection:
        projects.change(connection, desk.id, name=f"rm {HOSTILE}", guide_md=HOSTILE)
        row = projects.project_row(connection, desk.id)
        answers = tuple(Candidate(f"{HOSTILE} {n}", model=HOSTILE) for n in range(4))
        prompt = Prompt("p", (Message("system", HOSTILE), Message("user", HOSTILE)), HOSTILE)
        projects.add_tasks(connection, row, [NewTask((prompt, answers))])
    me = desk.begin_me()
    task = LabelerStore(live_server.service.database).next(me, desk.id)
    assert task is not None
    return ["/label", f"/label/tasks/{task['id']}", "/label/review", "/data"]


def settle(page: Any, url: str) -> None:
    page.goto(url)
    page.wait_for_selector("main [aria-busy]", state="detached")


def test_axe_finds_nothing_serious(live_server: LiveServer, page: Any, screens: list[str]) -> None:
    found = {}
    for screen in screens:
        settle(page, live_server.url + screen)
        if "/tasks/" in screen:
            for key in ("1", "1", "q", "5", "f", "y"):
                page.keyboard.press(key)
        if screen == "/label/review":  # they wrap together, if at all
            tops = [button.bounding_box()["y"] for button in page.locator(".head-actions button").all()]
            assert len(tops) == 4 and len(set(tops)) == 1, tops
        found[screen] = serious_in_both_themes(page)
        shoot(page, f"screen-{screen.strip('/').replace('/', '-')[:12]}-dark")
    assert not {screen: problems for screen, problems in found.items() if problems}


def test_a_phone_never_scrolls_sideways_and_nothing_is_untranslated(
    live_server: LiveServer, browser: Any, screens: list[str]
) -> None:
    context = browser.new_context(viewport={"width": 320, "height": 640}, locale="zh-CN")
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.on("dialog", lambda dialog: pytest.fail("a script ran"))
    problems = []
    for screen in screens:
        settle(page, live_server.url + screen)
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            problems.append((screen, "wide"))
        problems += [(screen, key) for key in re.findall(r"\b(?:common|label|chat)\.[a-z_]+", page.inner_text("body"))]
    context.close()
    assert not problems
