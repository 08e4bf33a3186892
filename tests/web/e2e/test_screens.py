"""The screens around the chat: axe in both themes, narrow phones, Chinese, hostile names."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from wuya.feedback.database import writing
from wuya.feedback.tables import User
from wuya.web.settings import Settings

SCREENS = ("/runs", "/runs/demo~ppo", "/models", "/account", "/admin#system", "/admin#moderation", "/admin#audit")
HOSTILE = "<img src=x onerror=alert(1)>\"'`${7*7}{{7*7}}"


@pytest.fixture(autouse=True)
def a_run(settings: Settings) -> None:
    """A finished run whose texts are hostile."""
    folder = settings.workspace / "runs" / "demo" / "ppo"
    (folder / "model").mkdir(parents=True)
    rows = [{"step": n, "time": float(n), "objective/kl": n / 10, HOSTILE: 1.0 * n} for n in range(1, 9)]
    folder.joinpath("metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sample = {"step": 8, "prompt": HOSTILE, "completion": HOSTILE, "score": 1.0}
    folder.joinpath("samples.jsonl").write_text(json.dumps(sample) + "\n")
    folder.joinpath("config.yaml").write_text(json.dumps({"ppo_epochs": 1, "note": HOSTILE}))
    folder.joinpath("model", "config.json").write_text("{}")
    folder.joinpath("model", "wuya.json").write_text(json.dumps({"recipe": "ppo", "git_sha": HOSTILE}))


def serious(page: Any) -> list[str]:
    """What axe-core finds that is serious or worse."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    bad = [rule for rule in found if rule["impact"] in ("serious", "critical")]
    return [f"{rule['id']}: {node['target']} {node['failureSummary']}" for rule in bad for node in rule["nodes"]]


def settle(page: Any, url: str) -> None:
    page.goto("about:blank")
    page.goto(url)
    page.wait_for_selector("main [aria-busy]", state="detached")
    page.wait_for_load_state("networkidle") if "/runs/" not in url else page.wait_for_selector("figure")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(live_server: Any, page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    found = {}
    for screen in SCREENS:
        settle(page, live_server.url + screen)
        found[screen] = serious(page)
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    found["keys"] = serious(page)
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
