"""Single values of a data row, checked: what does not fit is a BadRowError."""

import re
from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]


class BadRowError(Exception):
    """Why one row can't be used; becomes an entry of BadRows."""


def required(row: Row, key: str) -> Any:
    """The value of a key that must be there."""
    if row.get(key) is None:
        raise BadRowError(f"no `{key}` (keys: {', '.join(row)})")
    return row[key]


def required_list(row: Row, key: str) -> list[Any]:
    """The list under a key that must be there."""
    value = required(row, key)
    if not isinstance(value, list):
        raise BadRowError(f"`{key}` is not a list, found {kind_of(value)}")
    return value


def text_field(row: Row, key: str, *, default: str | None = None) -> str:
    """The text under a key; without a default it must be there."""
    value = row.get(key)
    if value is None and default is not None:
        return default
    value = required(row, key)
    if not isinstance(value, str):
        raise BadRowError(f"`{key}` is not text, found {kind_of(value)}")
    return whole_text(value, f"`{key}`")


def either(row: Row, *keys: str) -> Any:
    """The value of a thing that has several names; None where it has none. Names that disagree make the row bad."""
    given = {key: row[key] for key in keys if row.get(key) not in (None, "", [], {})}
    values = list(given.values())
    if any(value != values[0] for value in values[1:]):
        raise BadRowError(f"{' and '.join(f'`{key}`' for key in given)} differ: keep the one that is meant")
    return values[0] if values else None


def whole_text(text: str, name: str) -> str:
    """JSON escapes can name half surrogates, which are no characters and can't be written as UTF-8."""
    if not text.isascii() and re.search("[\ud800-\udfff]", text):
        raise BadRowError(f"{name} holds half a surrogate pair, which is no character")
    return text


def kind_of(value: object) -> str:
    """The type of a value as a message names it."""
    return "nothing" if value is None else type(value).__name__


def id_of(row: Row) -> str:
    """The row's own `prompt_id` or `id` as text; empty where it has none. True and false are no ids."""
    for key in ("prompt_id", "id"):
        value = row.get(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # pandas turns whole numbers into these where one is missing
        if value != value or isinstance(value, bool):
            continue
        if isinstance(value, str | int | float) and str(value):
            return whole_text(str(value), f"`{key}`")
    return ""
