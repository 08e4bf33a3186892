"""Catalogues, colours and small scripts: complete in every language, readable, and right."""

import json
import re
from itertools import product
from typing import Any

import pytest
from starlette.testclient import TestClient

from wuya.web import i18n
from wuya.web.accounts.auth import PERMISSIONS
from wuya.web.pages import NAVIGATION, safe_next

STATIC = i18n.LOCALES.parent
AREAS = sorted(path.stem for path in (i18n.LOCALES / "en").glob("*.json"))
TEMPLATES = STATIC.parent / "templates"


@pytest.mark.parametrize("area", AREAS)
def test_every_language_has_every_text_with_the_same_values(area: str) -> None:
    texts = {language: i18n.catalogue(language, area) for language in i18n.LANGUAGES}
    english = texts["en"]
    for language, found in texts.items():
        assert set(found) == set(english), f"{language}/{area}"
        for key, text in found.items():
            assert text.strip(), f"{language}/{area}.{key}"
            assert set(re.findall(r"\{(\w+)", text)) >= set(re.findall(r"\{(\w+)\}", english[key])) - {"#"}, key
    chinese = [key for key, text in texts["zh-CN"].items() if re.search("[\u4e00-\u9fff]", text)]
    assert len(chinese) >= 0.75 * len(english), "a catalogue that is not translated"


def test_every_text_that_is_asked_for_exists() -> None:
    asked = {}
    for path in [*TEMPLATES.glob("*.html"), *(STATIC / "js").rglob("*.js")]:
        content = re.sub(r"/\*.*?\*/|\{#.*?#\}", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for key in re.findall(r"""\bt\(\s*["'`]([a-z_]+\.[A-Za-z0-9_]+)["'`]""", content):
            asked[key] = path.name
    missing = {key: where for key, where in asked.items() if i18n.translate("en", key) == key and not key.endswith("_")}
    assert not missing


def test_templates_hold_no_text_of_their_own() -> None:
    for path in TEMPLATES.glob("*.html"):
        content = re.sub(r"\{% block body_class %\}.*?\{% endblock %\}", "", path.read_text(encoding="utf-8"))
        content = re.sub(r"\{[%{#].*?[%}#]\}", "", content, flags=re.DOTALL)
        words = re.sub(r"&\w+;|<(style|script|title)\b.*?</\1>|<[^>]*>", "", content, flags=re.DOTALL)
        assert not re.findall(r"[A-Za-z]{3,}", words.replace("wuya", "")), path.name


def test_plurals_and_names_are_filled_in() -> None:
    text = "{count, plural, one {# token} other {# tokens}} of {name}"
    assert i18n.fill(text, "en", {"count": 1, "name": "Ann"}) == "1 token of Ann"
    assert i18n.fill(text, "en", {"count": 2, "name": "{count}"}) == "2 tokens of {count}"
    assert i18n.fill(text, "zh-CN", {"count": 1, "name": "Ann"}) == "1 tokens of Ann"


@pytest.mark.parametrize(
    ("header", "language"),
    [("zh-TW,zh;q=0.9", "zh-CN"), ("de,en;q=0.5", "en"), ("", "en"), ("fr;q=x,zh;q=0.2", "zh-CN"), ("*", "en")],
)
def test_the_browsers_language_is_taken(header: str, language: str) -> None:
    assert i18n.negotiate(header) == language


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_texts_can_be_read_in_both_themes() -> None:
    """WCAG 2.2 AA: 4.5 for text, 3 for the borders of fields and the marks of focus."""
    css = (STATIC / "css" / "base.css").read_text(encoding="utf-8")
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", css)
    for theme in (0, 1):
        token = {name: colours[theme] for name, *colours in found}
        for text, ground in product(
            ("text", "muted", "accent", "good", "warn", "bad"), ("bg", "surface", "raised", "sunken")
        ):
            assert contrast(token[text], token[ground]) >= 4.5, (theme, text, ground)
        for kind in ("good", "warn", "bad"):
            assert contrast(token[kind], token[f"{kind}-soft"]) >= 4.5, (theme, kind)
        assert (
            contrast(token["accent"], token["accent-soft"]) >= 4.5 and contrast(token["muted"], token["hover"]) >= 4.5
        )
        assert contrast("#ffffff", token["accent-fill"]) >= 4.5 and contrast("#ffffff", token["bad-fill"]) >= 4.5
        for mark, ground in product(("border-strong", "focus"), ("bg", "surface")):
            assert contrast(token[mark], token[ground]) >= 3, (theme, mark, ground)


def test_scripts_are_ours_and_ask_no_other_host() -> None:
    for path in (STATIC / "js").rglob("*.js"):
        content = path.read_text(encoding="utf-8")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", content
        ), path
        for source in re.findall(
            r"""(?:^import .*? from|^import|^export .*? from|\bimport\()\s*["']([^"']+)["']""", content, re.M
        ):
            assert source.startswith(("./", "../")) and (path.parent / source).is_file(), (path.name, source)
    for path in (STATIC / "css").rglob("*.css"):
        assert not re.search(r"@import|url\((?!data:)", path.read_text(encoding="utf-8")), path


def test_the_navigation_asks_for_permissions_that_exist() -> None:
    assert {needed for _, _, needed in NAVIGATION} <= set(PERMISSIONS)


@pytest.mark.parametrize(
    "target", ["//e.org", "/\\e.org", "https://e.org", "javascript:x", "", "/a\nb", "\\e", "/a\x00"]
)
def test_next_is_a_place_here(target: str) -> None:
    assert safe_next(target) == "/"
    assert safe_next("/chat?x=1") == "/chat?x=1"


def test_static_files_are_not_listed_and_have_types(client: TestClient) -> None:
    assert client.get("/static/").status_code == 404
    assert client.get("/static/../app.py").status_code == 404
    assert client.get("/static/js/dom.js").headers["content-type"].startswith("text/javascript")
    svg = client.get("/static/icons.svg")
    assert svg.headers["content-type"].startswith("image/svg+xml")


SCRIPT = """async ([text, cuts]) => {
  const { EventDecoder } = await import('/static/js/api.js');
  const decoder = new EventDecoder();
  const bytes = new TextEncoder().encode(text);
  const words = new TextDecoder();
  const events = [];
  let at = 0;
  for (const cut of [...cuts, bytes.length]) {
    events.push(...decoder.push(words.decode(bytes.slice(at, cut), { stream: true })));
    at = cut;
  }
  return events;
}"""
STREAM = (
    ': ping\r\nid: g:1\r\nevent: delta\r\ndata: {"t":"\u4f60\U0001f426"}\r\n\r\n'
    "id: g:2\ndata: a\ndata: b\n\nretry: 5\r\rdata:x\r\r:\n"
)


def test_events_are_read_however_the_stream_is_cut(live_server: Any, page: Any) -> None:
    page.goto(live_server.url + "/nowhere")
    whole = page.evaluate(SCRIPT, [STREAM, []])
    assert [(e["type"], e["data"], e["id"]) for e in whole] == [
        ("delta", '{"t":"\u4f60\U0001f426"}', "g:1"), ("message", "a\nb", "g:2"), ("message", "x", "g:2"),
    ]  # fmt: skip
    size = len(STREAM.encode())
    for cut in range(1, size):
        assert page.evaluate(SCRIPT, [STREAM, [cut]]) == whole, cut
    assert page.evaluate(SCRIPT, [STREAM, list(range(1, size))]) == whole


UNSAFE = """async () => {
  const { h, safeLink } = await import('/static/js/dom.js');
  const refused = (tag, props) => { try { h(tag, props); return false; } catch { return true; } };
  const props = [{ innerHTML: '<b>' }, { outerHTML: 'x' }, { onclick: 'f()' }, { style: 'color:red' }, { srcdoc: 'x' }];
  const bad = ['javascript:alert(1)', 'JaVaScRiPt:alert(1)', ' java\\tscript:alert(1)', 'data:text/html,x',
    'vbscript:x', '//evil.org', 'data:image/svg+xml,x', 'file:///etc/passwd', '/\\\\evil.org'];
  const good = ['https://a.org', 'mailto:a@b.c', '/chat', '#x', '../a.js', 'name/x'];
  return {
    refused: props.map((item) => refused('iframe', item)),
    bad: bad.map(safeLink),
    good: good.map(safeLink),
    children: h('p', {}, '<img src=x onerror=alert(1)>').childElementCount,
  };
}"""


def test_nothing_unsafe_can_be_built(live_server: Any, page: Any) -> None:
    page.goto(live_server.url + "/nowhere")
    result = page.evaluate(UNSAFE)
    assert result["refused"] == [True] * 5 and result["children"] == 0
    assert result["bad"] == [None] * 9 and None not in result["good"]


def test_catalogues_are_json_with_flat_keys() -> None:
    for path in i18n.LOCALES.rglob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        assert all(isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9_]+", key) for key, text in found.items()), path
