"""A chat template is a program of whoever made the model: it ends in words, soon, and takes nobody along."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from wuya.errors import DataError
from wuya.tokenizer.render_process import REPEATS, render_process
from wuya.tokenizer.rendering import render, variables_of
from wuya.tokenizer.template_engine import compiled

ROWS = [{"role": "user", "content": "the crow \ud800 sat"}, {"role": "assistant", "content": "caf\u00e9\n"}]
PUBLISHED_LIKE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
)
HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "power": "{{ 10 ** (10 ** 9) }}",
    "folded power": "{% if 10 ** (10 ** 9) > 1 %}x{% endif %}",
    "digits": "{% set ns = namespace(x=3) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}{{ ns.x }}",
    "times": "{{ 'a' * 10 ** 11 }}",
    "list times": "{{ [0] * 10 ** 10 }}",
    "width": "{{ '%1000000000000d' % 3 }}",
    "format": "{{ '{:>30000000000}'.format('a') }}",
    "format filter": "{{ '%30000000000s' | format('a') }}",
    "indent": "{{ ('a\n' * 10 ** 6) | indent(10 ** 6) }}",
    "wordwrap": "{{ ('a ' * 10 ** 8) | wordwrap(1) }}",
    "center": "{{ 'a' | center(10 ** 11) }}",
    "join": "{{ range(99999) | join('a' * 10 ** 6) }}",
    "replace": "{{ ('a' * 10 ** 6) | replace('a', 'b' * 10 ** 6) }}",
    "doubling": "{% set ns = namespace(s='a') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "recursion": "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "binary recursion": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(90) }}",
    "json": "{{ {'a': 1} | tojson(indent=10 ** 11) }}",
    "deep": "(" * 3000,
    "deeper": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "output": "{% for i in range(9999) %}{{ 'a' * 10 ** 5 }}{% endfor %}",
}


def rendered(template: str) -> str:
    return render(template, ROWS, add_generation_prompt=True, variables={"bos_token": "<s>"})


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_ends_in_words(name: str) -> None:
    used, begun = os.times(), time.monotonic()
    if name != "deep":  # that one is plain text
        with pytest.raises(DataError, match=r"chat template (takes too long|refuses these|is not valid)"):
            rendered(HOSTILE[name])
    variables_of(HOSTILE[name])
    render_process(HOSTILE[name]).close()
    now = os.times()
    assert now.children_user + now.children_system - used.children_user - used.children_system < 2
    assert now.user - used.user < 1 and time.monotonic() - begun < 20  # of a busy machine


def test_other_templates_go_on_meanwhile_and_a_repeated_offender_is_not_tried_again() -> None:
    offender = HOSTILE["nested loops"] + "again"
    begun = threading.Event()

    def offend() -> None:
        begun.set()
        for _ in range(REPEATS):
            with pytest.raises(DataError, match="ended after"):
                rendered(offender)

    thread = threading.Thread(target=offend)
    rendered(PUBLISHED_LIKE)
    thread.start()
    begun.wait()
    waits = []
    while thread.is_alive():
        start = time.monotonic()
        rendered(PUBLISHED_LIKE)
        waits.append(time.monotonic() - start)
    thread.join()
    assert len(waits) > 50 and sorted(waits)[len(waits) // 2] < 0.05
    start = time.monotonic()
    with pytest.raises(DataError, match="not tried again"):
        rendered(offender)
    assert time.monotonic() - start < 0.1


def test_an_ordinary_template_renders_as_in_this_process() -> None:
    given = {"messages": ROWS, "add_generation_prompt": True, "bos_token": "<s>", "tools": None}
    assert rendered(PUBLISHED_LIKE) == compiled(PUBLISHED_LIKE).render(**given)
    assert variables_of(PUBLISHED_LIKE) == {"bos_token", "messages", "add_generation_prompt"}
    long = [{"role": "user", "content": "caf\u00e9 " * 500_000}]  # larger than a pipe, both ways
    text = render(PUBLISHED_LIKE, long, add_generation_prompt=False, variables={"bos_token": "<s>"})
    assert text.count("caf\u00e9") == 500_000


def test_a_template_that_refuses_and_one_that_fails_say_why_and_go_on_being_used() -> None:
    template = "{% if messages | length < 2 %}{{ raise_exception('two, please') }}{% endif %}ok"
    for _ in range(REPEATS + 1):
        with pytest.raises(DataError, match="two, please"):
            render(template, ROWS[:1], add_generation_prompt=False, variables={})
    assert render(template, ROWS, add_generation_prompt=False, variables={}) == "ok"
    for broken, why in {
        "{% for %}": "line 1",
        "{{ 1 / 0 }}": "division by zero",
        "{{ nothing.at.all }}": "undefined",
    }.items():
        with pytest.raises(DataError, match=why):
            rendered(broken)


def test_a_process_that_was_killed_is_started_again() -> None:
    template = PUBLISHED_LIKE + "killed"
    first = rendered(template)
    process = render_process(template)._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    assert rendered(template) == first
    with pytest.raises(DataError, match="ended after"):
        rendered("{{ 10 ** (10 ** 9) }}")


def test_forks_and_sigterm_leave_no_process_behind() -> None:
    code = f"""
import os, sys, json
from wuya.tokenizer.rendering import render
from wuya.tokenizer.render_process import render_process
say = lambda: render({PUBLISHED_LIKE!r}, [], add_generation_prompt=True, variables={{}})
text, parent = say(), render_process({PUBLISHED_LIKE!r})._process.pid
if (child := os.fork()) == 0:
    assert say() == text and render_process({PUBLISHED_LIKE!r})._process.pid != parent
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0 and say() == text
print(parent, flush=True)
os.kill(os.getpid(), 15)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGTERM, done.stderr
    pid = int(json.loads(done.stdout))
    deadline = time.monotonic() + 10
    stat = Path(f"/proc/{pid}/stat")
    while stat.exists() and stat.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)
