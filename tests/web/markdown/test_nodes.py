"""Markdown becomes nodes from a closed list, whatever the text; a growing text ends as the whole one."""

import itertools
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wuya.web.markdown.mathml import ATTRIBUTES, TAGS, math_node
from wuya.web.markdown.nodes import render, safe_link
from wuya.web.markdown.stream import MarkdownStream

BLOCKS = {
    "paragraph": {"children"},
    "heading": {"level", "children"},
    "quote": {"children"},
    "list": {"ordered", "start", "tight", "items"},
    "rule": set(),
    "code": {"lang", "tokens"},
    "table": {"align", "head", "rows"},
    "math": {"display", "source", "mathml"},
}
INLINE = {
    "em": {"children"},
    "strong": {"children"},
    "del": {"children"},
    "codespan": {"text"},
    "break": set(),
    "link": {"href", "host", "title", "children"},
    "image": {"href", "host", "alt"},
    "math": {"display", "source", "mathml"},
    "mark": {"code"},
}
HIDDEN = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200b\ufeff\U000e0041"


def check_blocks(nodes: list[Any]) -> None:
    for node in nodes:
        assert set(node) == {"type"} | BLOCKS[node["type"]], node
        kind = node["type"]
        if kind in ("paragraph", "heading"):
            check_inline(node["children"])
        elif kind == "quote":
            check_blocks(node["children"])
        elif kind == "list":
            for item in node["items"]:
                check_blocks(item)
        elif kind == "code":
            for name, text in node["tokens"]:
                assert name == "" or (name.isalnum() and name.islower() and len(name) <= 4 and name[0].isalpha())
                check_text(text)
        elif kind == "table":
            assert set(node["align"]) <= {"left", "right", "center", None}
            for row in [node["head"], *node["rows"]]:
                for cell in row:
                    check_inline(cell)
        elif kind == "math":
            check_math(node)


def check_inline(children: list[Any]) -> None:
    for child in children:
        if isinstance(child, str):
            check_text(child)
            continue
        assert set(child) == {"type"} | INLINE[child["type"]], child
        kind = child["type"]
        if "children" in child:
            check_inline(child["children"])
        if kind in ("link", "image"):
            assert safe_link(child["href"]) == (child["href"], child["host"])
            assert child["href"].split(":")[0] in ("http", "https", "mailto")
            check_text(child.get("alt") or child.get("title") or "")
        elif kind == "codespan":
            check_text(child["text"])
        elif kind == "mark":
            assert child["code"].startswith("U+")
        elif kind == "math":
            check_math(child)


def check_math(node: dict[str, Any]) -> None:
    check_text(node["source"])
    if node["mathml"] is not None:
        check_mathml(node["mathml"])


def check_mathml(node: Any) -> None:
    if isinstance(node, str):
        return
    assert set(node) == {"tag", "attrs", "children"}
    assert node["tag"] in TAGS
    assert set(node["attrs"]) <= ATTRIBUTES
    for value in node["attrs"].values():
        assert not set(value) & set("<>\"'&;:/()\\")
    for child in node["children"]:
        check_mathml(child)


def check_text(text: str) -> None:
    assert not set(text) & set(HIDDEN), repr(text)


ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><script href=data:,alert(1)></script></svg>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<a href='javascript:alert(1)'>x</a>",
    "<math><mtext><style><img src=x onerror=alert(1)></style></mtext></math>",
    "<details open ontoggle=alert(1)>",
    "<!--<img src=--><img src=x onerror=alert(1)//>",
    "<body onload=alert(1)>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](javascript&colon;alert(1))",
    "[x](vbscript:msgbox(1))",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[x](file:///etc/passwd)",
    "[x](//evil.example/)",
    "[x](/api/export)",
    "[x](https://good.example@evil.example/)",
    "[x](https://good.example\\@evil.example/)",
    "[x](<javascript:alert(1)>)",
    "[x](https://a.example 'title\" onmouseover=alert(1)')",
    "![x](https://evil.example/?q=secret)",
    "![x](javascript:alert(1))",
    "![x](data:image/svg+xml,<svg onload=alert(1)>)",
    "[![x](https://evil.example/a.png)](javascript:alert(1))",
    "<javascript:alert(1)>",
    "<https://evil.example/<script>>",
    "[x]: javascript:alert(1)\n\n[x]",
    "```html\n<script>alert(1)</script>\n```",
    '```"><script>alert(1)</script>\nx\n```',
    "```python' onload='alert(1)\nx\n```",
    "`<script>alert(1)</script>`",
    "$\\href{javascript:alert(1)}{x}$",
    "$\\style{background:url(javascript:alert(1))}{x}$",
    "$\\text{<script>alert(1)</script>}$",
    "$\\class{x onload=alert(1)}{y}$",
    "$$\\unicode{<script>}\\color{red;background:url(x)}{y}$$",
    "\\(\\html{<b>}\\)",
    "| a |\n|---|\n| <script>alert(1)</script> |",
    '| a |\n|:--" onload=alert(1)|\n| b |',
    "# <img src=x onerror=alert(1)>",
    "> <script>alert(1)</script>",
    "- <script>alert(1)</script>",
    "1. [x](javascript:alert(1))",
    "\u202ejavascript:alert(1)\u202c",
    "[https://good.example\u202e](https://evil.example)",
    "a\u200bb\u2066c\u2069\ufeff\U000e0041",
    "```py\nif access:\u202e # \u2066check\u2069\n```",
    "javascript:alert(1)",
    "<x onclick=alert(1)>y",
    "{{constructor.constructor('alert(1)')()}}",
    "${alert(1)}",
    "<!DOCTYPE html><html>",
    "<?xml version='1.0'?>",
    "\x00<script>alert(1)</script>",
    "![](https://a.example/\u202egnp.exe)",
]
WRAPS = ["{}", "**{}**", "> {}", "- {}\n- b", "text {} text", "## {}"]
CORPUS = [wrap.format(attack) for attack, wrap in itertools.product(ATTACKS, WRAPS)]


def test_the_corpus_is_large_enough() -> None:
    assert len(set(CORPUS)) >= 300


@pytest.mark.parametrize("wrap", WRAPS)
def test_attacks_become_only_nodes_of_the_list(wrap: str) -> None:
    for attack in ATTACKS:
        check_blocks(render(wrap.format(attack)))


def test_random_mixtures_of_attacks_become_only_nodes_of_the_list() -> None:
    rng = random.Random(7)
    for _ in range(150):
        text = "".join(rng.choice(CORPUS)[: rng.randint(1, 60)] + rng.choice(["", "\n", "\n\n", " "]) for _ in range(6))
        check_blocks(render(text))


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=200))
def test_any_text_becomes_only_nodes_of_the_list(text: str) -> None:
    check_blocks(render(text))


def test_what_people_write_is_drawn() -> None:
    [heading, paragraph, code, table] = render(
        "# T\n\nA **b** *c* ~~d~~ `e` [f](https://g.example/h) \n\n```py\nx = 1\n```\n\n|a|b|\n|:-|-:|\n|1|2|\n"
    )
    assert heading == {"type": "heading", "level": 1, "children": ["T"]}
    kinds = [child if isinstance(child, str) else child["type"] for child in paragraph["children"]]
    assert kinds == ["A ", "strong", " ", "em", " ", "del", " ", "codespan", " ", "link"]
    assert code["lang"] == "python" and "".join(text for _, text in code["tokens"]) == "x = 1"
    assert ["mi", "1"] in code["tokens"]
    assert table["align"] == ["left", "right"] and table["head"] == [["a"], ["b"]] and table["rows"] == [[["1"], ["2"]]]


def test_lists_keep_start_and_tightness() -> None:
    [tight] = render("3. a\n4. b")
    assert (tight["ordered"], tight["start"], tight["tight"], len(tight["items"])) == (True, 3, True, 2)
    [loose] = render("- a\n\n- b")
    assert not loose["tight"]


@pytest.mark.parametrize("text", ["$x^2$", "\\(x^2\\)", "$$x^2$$", "\\[x^2\\]", "$$\nx^2\n$$", "\\[\nx^2\n\\]"])
def test_maths_in_every_common_notation(text: str) -> None:
    [block] = render(text)
    [node] = [block] if block["type"] == "math" else block["children"]
    assert node["type"] == "math" and node["source"] == "x^2"
    assert node["mathml"]["tag"] == "math"
    assert node["display"] == (not text.startswith(("$x", "\\(")))


@pytest.mark.parametrize("text", ["$5 and $6", "costs $5, not $6.", "a$ b$", "\\$x\\$", "`$x$`", "$ x $"])
def test_money_is_not_maths(text: str) -> None:
    [block] = render(text)
    assert all(isinstance(child, str) or child["type"] == "codespan" for child in block["children"])


def test_a_formula_that_cannot_be_converted_keeps_its_source() -> None:
    [block] = render("$$\\frac{$$")
    assert block["source"] == "\\frac{" and block["mathml"] is None
    assert math_node("a" * 1001, display=False) is None


@pytest.mark.parametrize(
    "href",
    ["javascript:x", "HTTP://user@h.example/", "https:/x", "https://", "ftp://a.example", "http://[::1", "//a.example",
     "https://a.example/\u202e", "https://a%2eexample/", "mailto:", "mailto://x@y", " https://a.example", "x" * 3000],
)  # fmt: skip
def test_links_that_may_not_be_clicked(href: str) -> None:
    assert safe_link(href) is None


def test_links_show_where_they_lead() -> None:
    assert safe_link("https://B\u00fccher.example/x") == ("https://B\u00fccher.example/x", "b\u00fccher.example")
    [paragraph] = render("[a](https://b\u00fccher.example) [m](mailto:a@b.example)")
    assert [child["host"] for child in paragraph["children"] if not isinstance(child, str)] == [
        "xn--bcher-kva.example",
        "",
    ]


@pytest.mark.parametrize(
    "text",
    ["[" * 20_000, "![" * 20_000, "[a](b" * 10_000, "\\(" * 20_000, "$a " * 20_000, "*a " * 8_000, "`" * 30_000,
     ">" * 5_000, "- " * 5_000, "_a__" * 4_000, "|" * 5_000 + "\n" + "|-" * 5_000, "x" * 500_000],
    ids=lambda text: text[:6],
)  # fmt: skip
def test_hostile_lengths_take_little_time(text: str) -> None:
    start = time.process_time()
    check_blocks(render(text))
    assert time.process_time() - start < 4  # of CPU, on a slow core; without the limits they took minutes


PARTS = [
    *["\n", "\n\n", "- ", "1. ", "> ", "text ", "**b** ", "```\n", "```py\n", "~~~\n", "$$", "$$\n", "\\[\n", "\\]\n"],
    *["| a | b |\n", "|--|--|\n", "# ", "---\n", "***", "===\n", "    ", "  ", "`", "\t", "a\n", "2) ", "\r\n", "\x0c"],
    *["\u2028", "$x$", "[x](http://a.b) ", "|", "-", "\\", "\x1c", "\x85"],
]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=20).map("".join), st.randoms(use_true_random=False))
def test_a_growing_text_ends_as_the_whole_one(text: str, rng: random.Random) -> None:
    stream, drawn, end = MarkdownStream(), [], 0
    while end < len(text):
        end += rng.randint(1, 6)
        change = stream.update(text[:end])
        drawn = drawn[: change.keep] + change.nodes
        assert drawn == stream.all
    assert drawn == render(text)


def test_only_the_last_block_is_drawn_again() -> None:
    text = "\n\n".join(f"paragraph {i} with some words" for i in range(50))
    stream = MarkdownStream()
    sent = 0
    for end in range(0, len(text), 7):
        sent += len(stream.update(text[:end]).nodes)
    assert sent < 2.5 * len(text) / 7, "each update sends about one block, not all"
