"""Chat templates are Jinja; this module runs them, exactly as `transformers.apply_chat_template` does.

Our own templates are rendered here, any other one in a process with limits (render_process.py): it comes with a model
from somewhere, and is a program.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import jinja2

from wuya.errors import DataError
from wuya.tokenizer.render_process import render_process
from wuya.tokenizer.template_engine import PYTHON_ERRORS, compiled, undeclared
from wuya.tokenizer.templates import CHATML, CHATML_OF_TEXTS, PLAIN

TRUSTED = frozenset({CHATML, CHATML_OF_TEXTS, PLAIN})


def render(
    template: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool,
    variables: Mapping[str, str],
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The chat as one string. Raises DataError where the template refuses the messages, fails on them, or takes more
    than half a second of processor time or a gigabyte.

    Args:
        rows: messages as `transformers` passes them to templates.
        variables: `bos_token`, `eos_token` and the like, which templates write.
        tools: functions the assistant may call, as objects.
    """
    given: dict[str, Any] = {
        "messages": list(rows), "tools": list(tools) or None, "documents": None,
        "add_generation_prompt": add_generation_prompt, **variables,
    }  # fmt: skip
    if template in TRUSTED:
        try:
            return compiled(template).render(**given)
        except (jinja2.TemplateError, *PYTHON_ERRORS) as error:
            raise _refusal(str(error)[:300] or type(error).__name__) from error
    kind, value = render_process(template).ask(given)
    if kind == "syntax":
        raise DataError("the chat template is not valid Jinja", found=value)
    if kind == "refused":
        raise _refusal(value)
    text: str = value
    return text


@lru_cache(maxsize=16)
def variables_of(template: str) -> frozenset[str]:
    """Variables that a template reads; none of one that is not valid Jinja, or takes too long to be read."""
    if template in TRUSTED:
        return frozenset(undeclared(template))
    try:
        return frozenset(render_process(template).ask({"variables_of_template": True})[1])
    except DataError:
        return frozenset()


def _refusal(found: str) -> DataError:
    return DataError(
        "the chat template refuses these messages",
        found=found,
        hint="check the order of the roles: most templates want user and assistant in turn, a system message first",
    )
