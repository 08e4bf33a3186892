"""Answers judged one by one, from the files they come in to `records.Rating`.

| file | keys of a row |
|---|---|
| `wuya snapshot --kind kto`, TRL's KTO | `prompt`, `completion` (text or messages), `label`: true, false |
| `wuya snapshot --kind feedback` | `prompt`, `completion`, `value`: 1, -1 |

`weight` (a number above 0), `labeler` and `finished` (false: the answer was cut off) are read where they are given. A
row that does not fit is counted and named with its line.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from wuya.data.fields import answer_of
from wuya.data.known_keys import UnreadKeys
from wuya.data.prompt_ids import Origin
from wuya.data.row_records import prompt_of
from wuya.data.rows import read_rows
from wuya.data.values import BadRowError, Row, required, text_field
from wuya.errors import DataError
from wuya.files import BadRows
from wuya.records import Rating


def holds_ratings(path: Path | str) -> bool:
    """Whether the file's first row is a rating; rankings and pairs are not."""
    _, row = next(read_rows(path, BadRows()), (0, {}))
    return "completion" in row and ("label" in row or "value" in row)


def read_ratings(path: Path | str, bad: BadRows, usable: Callable[[Rating], object] | None = None) -> Iterator[Rating]:
    """The usable ratings of a file; `usable` is that of `read_demonstrations`."""
    origin = Origin(str(path) if str(path).startswith("hf:") else Path(path).name)
    unread = UnreadKeys(path, "ratings")
    for line, row in read_rows(path, bad):
        try:
            rating = _rating(row, origin)
            if usable is not None:
                usable(rating)
        except BadRowError as reason:
            bad.add(path, line, str(reason))
            continue
        except DataError as reason:
            bad.add(path, line, reason.brief)
            continue
        unread.note(line, row)
        yield rating
    unread.tell()


def _rating(row: Row, origin: Origin) -> Rating:
    # never an id from outside: the same id may come with other messages
    prompt = prompt_of({key: value for key, value in row.items() if key not in ("id", "prompt_id")}, "prompt", origin)
    answer = answer_of(required(row, "completion"), prompt.messages)
    if not (answer.text.strip() or answer.tool_calls):
        raise BadRowError("the answer is empty")
    finished = row.get("finished", True)
    if not isinstance(finished, bool):
        raise BadRowError(f"`finished` must be true or false, found {finished!r}")
    return Rating(
        prompt,
        replace(answer, finished=finished),
        _label(row),
        text_field(row, "labeler", default=""),
        _weight(row),
    )


def _label(row: Row) -> bool:
    """True: liked. Both keys may be there, and then must agree."""
    said = [row[key] for key in ("label", "value") if row.get(key) is not None]
    labels = {value > 0 if isinstance(value, int) and value in (-1, 0, 1) else None for value in said}
    if len(labels) != 1 or None in labels:
        raise BadRowError(f"`label` must be true or false (or `value` 1 or -1), found {said or 'neither'}")
    return bool(labels.pop())


def _weight(row: Row) -> float:
    weight = row.get("weight")
    if weight is None:
        return 1.0
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise BadRowError(f"`weight` must be a number above 0, found {weight!r}")
    return float(weight)
