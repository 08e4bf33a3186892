"""The Jinja environment of chat templates, and the loop of the process that renders foreign ones (render_process.py).

This module needs nothing of wuya's, so that such a process starts in a tenth of a second.
"""

import json
import pickle
import resource
import signal
import sys
from datetime import datetime
from functools import lru_cache
from typing import IO, Any, NoReturn

import jinja2
from jinja2 import meta
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

PYTHON_ERRORS = (
    TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError, MemoryError, SyntaxError,
    AssertionError,
)  # fmt: skip
"""What a template's own mistakes raise, beside Jinja's errors."""
CPU_SECONDS = 0.5
"""Processor time that one chat may take, and as much again for each MiB of messages; published templates take a
thousandth."""
MEMORY_BYTES = 1 << 30
"""Address space of the process that renders."""
LARGEST_TEXT = 64 << 20
"""Bytes of a rendered chat."""
SIZE_BYTES = 8
"""Width of the length before each message between the processes."""


class GenerationBlock(Extension):
    """`{% generation %}...{% endgeneration %}` marks what the assistant writes; here it only renders its body."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 reads this class attribute

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def chat_environment() -> ImmutableSandboxedEnvironment:
    """What chat templates may use: the tags, filters and functions `transformers` gives them."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


@lru_cache(maxsize=16)
def compiled(template: str) -> jinja2.Template:
    """A template ready to render. Raises Jinja's errors and PYTHON_ERRORS."""
    return chat_environment().from_string(template)


def undeclared(template: str) -> list[str]:
    """Variables that a template reads; none of one that is not valid Jinja."""
    try:
        return sorted(meta.find_undeclared_variables(chat_environment().parse(template)))
    except (jinja2.TemplateError, *PYTHON_ERRORS):
        return []


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: Jinja's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


# ---- the process


def serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    """Render one template until the requests end: first comes the template, then the variables of each chat.

    The kernel ends the process when one request has taken its time (CPU_SECONDS): SIGPROF's default action needs
    nothing of Python, so it works within `10 ** (10 ** 9)` too. Requests are pickles of our own; replies are JSON, as a
    template may have a say in them.
    """
    allowed = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = MEMORY_BYTES if allowed == resource.RLIM_INFINITY else min(MEMORY_BYTES, allowed)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    template: str = pickle.loads(_received(requests))
    while request := _received(requests):
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS * (1 + len(request) / 2**20))
        reply = _reply(template, pickle.loads(request))
        signal.setitimer(signal.ITIMER_PROF, 0)
        replies.write(len(reply).to_bytes(SIZE_BYTES) + reply)
        replies.flush()


def _received(requests: IO[bytes]) -> bytes:
    """The next request; empty when there are no more."""
    size = requests.read(SIZE_BYTES)
    return requests.read(int.from_bytes(size)) if len(size) == SIZE_BYTES else b""


def _reply(template: str, variables: dict[str, Any]) -> bytes:
    kind: str
    value: Any
    try:
        if "variables_of_template" in variables:
            kind, value = "variables", undeclared(template)
        else:
            kind, value = "text", _text(template, variables)
    except jinja2.TemplateSyntaxError as error:
        kind, value = "syntax", f"line {error.lineno}: {error.message}"[:300]
    except MemoryError:
        kind, value = "memory", ""
    except (jinja2.TemplateError, *PYTHON_ERRORS) as error:
        kind, value = "refused", str(error)[:300] or type(error).__name__
    return json.dumps([kind, value]).encode()


def _text(template: str, variables: dict[str, Any]) -> str:
    text = compiled(template).render(**variables)
    if len(text) > LARGEST_TEXT // 12:  # as JSON a character takes up to twelve bytes
        raise MemoryError
    return text


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
