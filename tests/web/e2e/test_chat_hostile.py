"""Whatever people and models write stays text: payloads in every place, hostile trees, no CSP violation (E22)."""

import itertools
from typing import Any

import pytest

from tests.web.e2e.conftest import Chat
from wuya.inference.backends.fake import FakeEngine

VECTORS = [
    "<script>window.__hit=1</script>",
    "<img src=x onerror=window.__hit=1>",
    "<svg onload=window.__hit=1>",
    "<svg><script>window.__hit=1</script></svg>",
    "<iframe srcdoc='<script>parent.__hit=1</script>'></iframe>",
    "<iframe src=javascript:parent.__hit=1></iframe>",
    "<math><mtext><script>window.__hit=1</script></mtext></math>",
    "<math href=javascript:window.__hit=1>x</math>",
    "<details open ontoggle=window.__hit=1>",
    "<input autofocus onfocus=window.__hit=1>",
    "<body onload=window.__hit=1>",
    "<a href=javascript:window.__hit=1>click</a>",
    "<form action=javascript:window.__hit=1><button>go</button></form>",
    "<object data=javascript:window.__hit=1></object>",
    "<embed src=javascript:window.__hit=1>",
    "<style>@import 'http://example.org/x.css';</style>",
    "<link rel=stylesheet href=http://example.org/x.css>",
    "<meta http-equiv=refresh content='0;url=http://example.org'>",
    "<base href=http://example.org/>",
    "<video><source onerror=window.__hit=1></video>",
    "<template><script>window.__hit=1</script></template>",
    '"><script>window.__hit=1</script>',
    "'-window.__hit=1-'",
    "${window.__hit=1}{{window.__hit=1}}",
    "[x](javascript:window.__hit=1)",
    "[x](JaVaScRiPt&colon;window.__hit=1)",
    "[x](data:text/html,<script>window.__hit=1</script>)",
    "[x](vbscript:window.__hit=1)",
    "![x](http://example.org/leak?cookie)",
    "<http://example.org/?<script>window.__hit=1</script>>",
    "\u202e<script>window.__hit=1</script>\u2066\u200b",
    "<scr\u0000ipt>window.__hit=1</scr\u0000ipt>",
]
PLACES = [
    "{}",
    "# {}",
    "- {}",
    "> {}",
    "`{}`",
    "```{}\n{}\n```",
    "| {} | b |\n|---|---|\n| {} | 2 |",
    "[{}](https://example.org/{})",
    "![{}](https://example.org/a.png)",
    "$\\text {} $",
]
PAYLOADS = [place.replace("{}", vector) for place, vector in itertools.product(PLACES, VECTORS)]
ALLOWED = set(
    "p h3 h4 h5 h6 blockquote ul ol li hr figure figcaption pre code button span table thead tbody tr th td div em "
    "strong del br a math mrow mi mn mo ms mtext mspace mfrac msqrt mroot msub msup msubsup munder mover munderover "
    "mmultiscripts mprescripts none mtable mtr mtd menclose mpadded mphantom mstyle".split()
)
INSPECT = """selector => {
  const tags = new Set(), bad = [];
  for (const node of document.querySelectorAll(selector)) {
    tags.add(node.localName);
    for (const { name, value } of node.attributes) {
      if (/^(on.*|style|src|srcdoc)$/.test(name)) bad.push(`${node.localName} ${name}`);
      if (name === "href" && !/^(https?:|mailto:)/i.test(value)) bad.push(`href ${value}`);
    }
  }
  return { tags: [...tags], bad, hit: window.__hit ?? null };
}"""


def test_three_hundred_payloads_stay_text(chat: Chat, engine: FakeEngine) -> None:
    assert len(PAYLOADS) >= 300
    engine.tokens_per_second = 100_000
    engine.context_length = 1 << 20
    engine.script = "\n\n".join(PAYLOADS)
    asked: list[str] = []
    chat.page.on("request", lambda request: asked.append(request.url))
    chat.page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
    chat.open()
    made = chat.api("POST", "/api/conversations", {"title": VECTORS[1], "params": {"max_tokens": 30_000}})
    chat.open(f"/chat/{made['id']}")
    chat.ask("\n\n".join(PAYLOADS[:31]))  # without U+0000, which the server refuses
    found = chat.page.evaluate(INSPECT, ".thread .md *")
    assert set(found["tags"]) <= ALLOWED
    assert (found["bad"], found["hit"]) == ([], None)
    assert chat.page.locator("#title").inner_text() == VECTORS[1]
    chat.page.fill("#chat-search", "window.__hit")
    chat.page.wait_for_selector(".hit, .history-note")
    assert chat.page.evaluate(INSPECT, ".history *")["hit"] is None
    assert not [url for url in asked if not url.startswith(chat.url)]


def test_the_page_draws_nothing_that_is_not_on_its_list(chat: Chat) -> None:
    """The second lock: even a server that sends evil trees can't make this page run anything."""
    chat.open()
    evil: list[Any] = [
        {"type": "script", "children": ["window.__hit=1"]},
        {"type": "paragraph", "children": [{"type": "link", "href": "javascript:window.__hit=1", "children": ["x"]}]},
        {
            "type": "paragraph",
            "children": [{"type": "link", "href": " java\nscript:window.__hit=1", "children": ["x"]}],
        },
        {"type": "paragraph", "children": [{"type": "image", "href": "data:text/html,x", "alt": "x"}]},
        {"type": "heading", "level": "1><script>", "children": ["x"]},
        {"type": "code", "lang": "<b>", "tokens": [["k onload=1", "x"], ["__proto__", "y"], ["k", "<script>"]]},
        {"type": "math", "display": True, "source": "x", "mathml": {"tag": "script", "children": ["window.__hit=1"]}},
        {
            "type": "math",
            "source": "x",
            "mathml": {
                "tag": "math",
                "attrs": {"onclick": "x", "href": "javascript:1", "style": "x"},
                "children": [{"tag": "maction", "children": []}, {"tag": "mi", "children": ["<img src=x>"]}],
            },
        },
        {"type": "table", "align": ["center;background:url(x)"], "head": [["x"]], "rows": [[[{"type": "iframe"}]]]},
        {"type": "list", "items": [[{"type": "object", "data": "x"}]], "start": "1"},
        None,
        7,
        {"type": "toString"},
    ]
    chat.page.evaluate(
        """async nodes => {
          const { drawBlocks } = await import("/static/js/markdown.js");
          let deep = { type: "paragraph", children: ["bottom"] };
          for (let depth = 0; depth < 5000; depth += 1) deep = { type: "quote", children: [deep] };
          const host = document.body.appendChild(document.createElement("div"));
          host.id = "evil";
          drawBlocks(host, [...nodes, deep]);
        }""",
        evil,
    )
    found = chat.page.evaluate(INSPECT, "#evil *")
    assert set(found["tags"]) <= ALLOWED
    assert (found["bad"], found["hit"]) == ([], None)
    assert "bottom" not in chat.page.locator("#evil").inner_text()  # too deep to draw
