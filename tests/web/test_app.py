"""The skeleton: it starts, answers, and every page obeys the content security policy."""

from typing import Any

from starlette.testclient import TestClient


def test_the_front_door_leads_somewhere(client: TestClient) -> None:
    assert client.get("/").status_code in (200, 303)


def test_errors_have_the_shape_of_their_clients(client: TestClient) -> None:
    problem = client.get("/api/nowhere")
    assert problem.status_code == 404
    assert problem.headers["content-type"] == "application/problem+json"
    assert problem.json()["code"] == "not_found"
    assert set(client.get("/v1/nowhere").json()["error"]) == {"message", "type", "param", "code"}
    page = client.get("/nowhere", headers={"accept": "text/html"})
    assert page.status_code == 404 and "There is nothing here" in page.text


def test_a_page_loads_in_a_real_browser(live_server: Any, page: Any) -> None:
    page.goto(live_server.url + "/nowhere")
    page.get_by_role("heading", name="There is nothing here").wait_for()
    page.keyboard.press("?")
    page.get_by_role("dialog").wait_for()


def test_a_shortcut_gets_another_key(live_server: Any, page: Any) -> None:
    page.goto(live_server.url + "/nowhere")
    page.get_by_role("heading", name="There is nothing here").wait_for()
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Go to or do anything").click()
    page.keyboard.press("?")
    dialog.get_by_text("? is taken").wait_for()
    dialog.get_by_role("button", name="Go to or do anything").click()
    page.keyboard.press("g")
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    page.keyboard.press("Control+k")
    assert dialog.count() == 0
    page.keyboard.press("g")
    page.get_by_role("combobox").wait_for()
