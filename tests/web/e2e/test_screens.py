"""The screens around the chat: axe in both themes, narrow phones, Chinese, hostile names."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.web.test_runs import with_alarm_and_rollouts
from wuya.database.connection import writing
from wuya.database.labeling_tables import User
from wuya.web.accounts import flows
from wuya.web.settings import Settings

SCREENS = ("/runs", "/runs/demo~ppo", "/runs/r", "/models", "/account", "/keys", "/admin#system", "/admin#moderation",
           "/admin#audit")  # fmt: skip
HOSTILE = "<img src=x onerror=alert(1)>\"'`${7*7}{{7*7}}"


@pytest.fixture(autouse=True)
def a_run(settings: Settings) -> None:
    """A finished run whose texts are hostile."""
    folder = settings.workspace / "runs" / "demo" / "ppo"
    (folder / "model").mkdir(parents=True)
    rows = [{"step": n, "time": float(n), "objective/kl": n / 10, HOSTILE: 1.0 * n} for n in range(1, 9)]
    folder.joinpath("metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = [{"step": 8, "prompt": HOSTILE, "completion": HOSTILE, "score": score} for score in (1.0, 1.5, 3.0)]
    folder.joinpath("samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    folder.joinpath("config.yaml").write_text(json.dumps({"ppo_epochs": 1, "note": HOSTILE}))
    folder.joinpath("model", "config.json").write_text("{}")
    folder.joinpath("model", "wuya.json").write_text(json.dumps({"recipe": "ppo", "git_sha": HOSTILE}))
    with_alarm_and_rollouts(settings.workspace / "runs")


@pytest.fixture
def canary(live_server: Any) -> None:
    """Half of the chats go to a version on trial."""
    with httpx.Client(base_url=live_server.url) as http:
        version = http.post("/api/model-versions", json={"run": "r"}).json()["id"]
        assert http.post("/api/models/fake/canary", json={"version_id": version, "percent": 50}).status_code == 200


def serious(page: Any) -> list[str]:
    """What axe-core finds that is serious or worse."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    bad = [rule for rule in found if rule["impact"] in ("serious", "critical")]
    return [f"{rule['id']}: {node['target']} {node['failureSummary']}" for rule in bad for node in rule["nodes"]]


def serious_in_both_themes(page: Any) -> list[str]:
    """The same of the page in light and in dark, without loading it again."""
    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        found += [f"{scheme}: {problem}" for problem in serious(page)]
    return found


def settle(page: Any, url: str) -> None:
    page.goto("about:blank")
    page.goto(url)
    page.wait_for_selector("main [aria-busy]", state="detached")
    page.wait_for_load_state("networkidle") if "/runs/" not in url else page.wait_for_selector("figure")


def test_axe_finds_nothing_serious(live_server: Any, page: Any, canary: None) -> None:
    found = {}
    for screen in SCREENS:
        settle(page, live_server.url + screen)
        if screen == "/runs/r":  # alarms and targets on the curves, answers token by token
            page.locator(".heat-token").first.wait_for()
            assert page.locator(".chart-notes").count() and page.locator(".chart-level").count()
        if screen == "/runs/demo~ppo":
            page.locator(".histogram .bar").first.click()
            page.wait_for_selector(".bar[aria-pressed=true]")
            assert page.locator(".sample").count() == 2, "1.0 and 1.5, of three"
        if screen == "/models":
            page.locator(".canary").wait_for()
        if screen == "/admin#moderation":
            page.get_by_text("No rules yet").wait_for()
        found[screen] = serious_in_both_themes(page)
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    found["keys"] = serious_in_both_themes(page)
    assert not {screen: problems for screen, problems in found.items() if problems}


class TestAccounts:
    """The screens that only a server with accounts has."""

    @pytest.fixture
    def accounts(self) -> bool:
        return True

    def test_axe_finds_nothing_serious(self, live_server: Any, page: Any) -> None:
        found = {}
        page.goto(live_server.url + "/login")
        found["login"] = serious_in_both_themes(page)
        page.goto(flows.setup_link(live_server.service, live_server.url))
        found["setup"] = serious_in_both_themes(page)
        for name, value in (("email", "ann@example.org"), ("name", "Ann"), ("password", "ravens solve puzzles")):
            page.locator(f"input[name={name}]").fill(value)
        page.locator("form button.primary").click()
        page.wait_for_url(lambda url: "/setup" not in url)
        settle(page, live_server.url + "/account")
        page.click("[data-act=totp]")
        page.wait_for_selector("dialog[open] [data-secret]")
        found["second factor"] = serious_in_both_themes(page)
        settle(page, live_server.url + "/admin#users")
        page.get_by_role("button", name="Invite").click()
        page.wait_for_selector("dialog[open]")
        found["users"] = serious_in_both_themes(page)
        assert not {screen: problems for screen, problems in found.items() if problems}


def test_a_phone_never_scrolls_sideways_and_nothing_is_untranslated(live_server: Any, browser: Any) -> None:
    context = browser.new_context(viewport={"width": 320, "height": 640}, locale="zh-CN")
    context.set_default_timeout(30_000)
    page = context.new_page()
    problems = []
    for screen in SCREENS:
        settle(page, live_server.url + screen)
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            problems.append((screen, "wide"))
        problems += [
            (screen, key) for key in re.findall(r"\b(?:common|runs|admin|accounts)\.[a-z_]+", page.inner_text("body"))
        ]
    context.close()
    assert not problems


def test_hostile_names_stay_text(live_server: Any, page: Any, tmp_path: Path) -> None:
    with writing(live_server.service.database) as connection:
        connection.execute(User.__table__.update().values(display_name=HOSTILE))
    page.on("dialog", lambda dialog: pytest.fail("a script ran"))
    for screen in SCREENS:
        settle(page, live_server.url + screen)
        assert page.locator("img").count() == 0, screen
        assert "49" not in page.title()
    page.keyboard.press("Control+k")
    page.wait_for_selector("dialog[open]")
