"""JSON that can be kept and shown again: checked when it comes in, repaired when an odd stored value goes out.

Python's parser takes what no client can read back: NaN, numbers that overflow to infinity, halves of surrogate pairs,
any depth. Once such a value is stored, every later answer with it fails.
"""

import json
import math
import re
from typing import Any

from pydantic_core import to_jsonable_python
from starlette.responses import JSONResponse

MAX_DEPTH = 32
_SUSPICIOUS = re.compile(rb"\\u[dD]|NaN|Infinity|[eE]\+?\d{3}|\d{300}")
_SURROGATE = re.compile("[\ud800-\udfff]")


def problem(body: bytes) -> str:
    """Why a JSON body must be refused, "" if it may pass; a body that is no JSON is for the framework to refuse."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH and not _SUSPICIOUS.search(body):
        return ""
    try:
        value = json.loads(body)
    except RecursionError:
        return f"the JSON nests deeper than {MAX_DEPTH} levels"
    except ValueError:
        return ""
    return _problem_of(value, MAX_DEPTH)


def _problem_of(value: object, levels: int) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "the JSON holds a number that is not finite"
    if isinstance(value, str) and _SURROGATE.search(value):
        return "the JSON holds half a surrogate pair, which is no character"
    if isinstance(value, dict | list):
        if levels == 0:
            return f"the JSON nests deeper than {MAX_DEPTH} levels"
        inside = [*value, *value.values()] if isinstance(value, dict) else value
        return next((found for item in inside if (found := _problem_of(item, levels - 1))), "")
    return ""


def repaired(value: object, levels: int = 4 * MAX_DEPTH) -> Any:
    """The value as every client can read it: null for what is not finite, U+FFFD for half a surrogate pair."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict | list | tuple) and levels == 0:
        return None
    if isinstance(value, dict):
        return {repaired(str(key)): repaired(item, levels - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [repaired(item, levels - 1) for item in value]
    return value


_FORM: dict[str, Any] = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}


class SaneJSONResponse(JSONResponse):
    """The application's answers: a value that no client could read is repaired, never an error 500."""

    def render(self, content: Any) -> bytes:
        """As JSONResponse, except for odd values, and for times, which are written as FastAPI writes them."""
        try:
            return self._encoded(content)
        except (ValueError, RecursionError):  # UnicodeEncodeError is a ValueError
            return self._encoded(repaired(content))

    def _encoded(self, content: Any) -> bytes:
        try:
            text = json.dumps(content, default=to_jsonable_python, **_FORM)
        except TypeError:  # keys that are no strings
            text = json.dumps(to_jsonable_python(content, inf_nan_mode="constants"), **_FORM)
        return text.encode("utf-8")
