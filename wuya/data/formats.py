"""What people wrote and preferred, from the formats it comes in, to `records`; and back in wuya's own.

| format | keys of a row | gives |
|---|---|---|
| messages | `messages`: [{role, content}, ...] | demonstration |
| sharegpt | `conversations`: [{from, value}, ...] | demonstration |
| alpaca | `instruction`, `input` (may be empty), `output` | demonstration |
| prompt-completion | `prompt`, `completion` (text or messages) | demonstration |
| question-answer | `question`, `answer` | demonstration |
| comparison | `prompt`, `chosen`, `rejected` (without `prompt`: chats with a common start) | comparison |
| ranking | `prompt`, `candidates`, `ranks` (dense, 1 is best, equal = tie) | ranking |
| ordered | `prompt`, `responses`, `ranking` (indices best first; a list inside is a tie) | ranking |
| prompt | `prompt` | prompt |

Files are .jsonl, .json (an array), .parquet or `hf:` data sets; the format is found by the keys of a row. A row
that does not fit is counted and named with its line, never dropped in silence; a file without a good row is an error.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from wuya.data.known_keys import UnreadKeys, Wanted
from wuya.data.messages import plain_messages, plain_tools
from wuya.data.prompt_ids import Origin
from wuya.data.row_records import Format, comparisons_of, demonstration_of, prompt_of, ranking_of
from wuya.data.rows import RaiseOnBadRow, read_rows
from wuya.data.values import BadRowError, Row
from wuya.errors import DataError
from wuya.files import BadRows, to_json, write_atomic
from wuya.records import Candidate, Comparison, Demonstration, Prompt, Ranking

T = TypeVar("T")

KEYS: dict[Format, tuple[str, ...]] = {
    "ranking": ("prompt", "candidates", "ranks"),
    "ordered": ("prompt", "responses", "ranking"),
    "comparison": ("chosen", "rejected"),
    "prompt-completion": ("prompt", "completion"),
    "question-answer": ("question", "answer"),
    "alpaca": ("instruction", "output"),
    "sharegpt": ("conversations",),
    "messages": ("messages",),
    "prompt": ("prompt",),
}
"""Keys by which a format is recognised, the most telling first."""


DEMONSTRATIONS: tuple[Format, ...] = ("prompt-completion", "question-answer", "alpaca", "sharegpt", "messages")
RANKINGS: tuple[Format, ...] = ("ranking", "ordered")
UNKNOWN_ROWS_LIMIT = 100
"""So many rows of no known format at the start of a file, and it is refused without reading the rest."""


def read_demonstrations(
    path: Path | str, bad: BadRows | None = None, usable: Callable[[Demonstration], object] | None = None
) -> Iterator[Demonstration]:
    """Chats that end with the answer to learn.

    Args:
        usable: raises DataError for a row that a recipe can't use, such as one that a chat template refuses; it is then
            a bad row like any other. All readers have it.
    """
    return _read(path, bad, DEMONSTRATIONS, "demonstrations", demonstration_of, usable)


def read_prompts(
    path: Path | str, bad: BadRows | None = None, usable: Callable[[Prompt], object] | None = None
) -> Iterator[Prompt]:
    """The prompts of a file of any format; answers are left out."""
    return _read(path, bad, tuple(KEYS), "prompts", prompt_of, usable)


def read_comparisons(path: Path | str, bad: BadRows | None = None) -> Iterator[Comparison]:
    """Pairs of a preferred and another answer; a ranking gives all its pairs that are not ties, in one group."""
    for pairs in _read(path, bad, ("comparison", *RANKINGS), "comparisons", comparisons_of):
        yield from pairs


def read_rankings(
    path: Path | str, bad: BadRows | None = None, usable: Callable[[Ranking], object] | None = None
) -> Iterator[Ranking]:
    """Orders of K >= 2 answers; a comparison is a ranking of two."""
    return _read(path, bad, (*RANKINGS, "comparison"), "rankings", ranking_of, usable)


def write_demonstrations(path: Path | str, demonstrations: Iterable[Demonstration]) -> None:
    """Format `messages`, with the prompt's id, source and author, and the labeler."""
    _write(
        path,
        (
            {"messages": plain_messages(row.messages), **_origin(row.prompt), **_given(labeler=row.labeler)}
            for row in demonstrations
        ),
    )


def write_prompts(path: Path | str, prompts: Iterable[Prompt]) -> None:
    """Format `prompt`."""
    _write(path, ({"prompt": plain_messages(row.messages), **_origin(row)} for row in prompts))


def write_rankings(path: Path | str, rankings: Iterable[Ranking]) -> None:
    """Format `ranking`, everything that is known about candidates and labeler included."""
    _write(
        path,
        (
            {
                "prompt": plain_messages(row.prompt.messages),
                "candidates": [_candidate_row(candidate) for candidate in row.candidates],
                "ranks": row.ranks,
                "labeler": row.labeler,
                **_origin(row.prompt),
                **_given(round=row.round, created_at=row.created_at, flags=row.flags),
                "ranking_source": row.source,
                **({"weight": row.weight} if row.weight != 1.0 else {}),
            }
            for row in rankings
        ),
    )


# -- reading a file


def _read(
    path: Path | str,
    bad: BadRows | None,
    formats: Sequence[Format],
    wanted: Wanted,
    parse: Callable[[Row, Format, Origin], T],
    usable: Callable[[T], object] | None = None,
) -> Iterator[T]:
    """Parse every row in its own format: that of the file's first row where it fits, else another of `formats`."""
    problems = bad if bad is not None else RaiseOnBadRow()
    bad_before, good = problems.count, 0
    usual: Format | None = None
    other: Format | None = None
    first_keys = ""
    origin = Origin(str(path) if str(path).startswith("hf:") else Path(path).name)
    unread = UnreadKeys(path, wanted)
    try:
        for line, whole in read_rows(path, problems):
            row = {key: value for key, value in whole.items() if value is not None}  # null is how parquet says "none"
            first_keys = first_keys or ", ".join(row) or "no keys"
            format = _format_of(row, formats if usual is None else (usual, *formats))
            if format is None:
                keys = f"(keys: {', '.join(row)})"
                other = other or _format_of(row, tuple(KEYS))
                if usual is None and (bad is None or problems.count - bad_before >= UNKNOWN_ROWS_LIMIT):
                    raise _wrong_format(path, wanted, formats, first_keys, other)
                problems.add(path, line, f"no `{KEYS[usual][0]}` {keys}" if usual else f"of no known format {keys}")
                continue
            usual = usual or format
            try:
                parsed = parse(row, format, origin)
                if usable is not None:
                    usable(parsed)
            except BadRowError as reason:
                problems.add(path, line, str(reason))
                continue
            except DataError as reason:
                problems.add(path, line, reason.brief)
                continue
            unread.note(line, row)
            good += 1
            yield parsed
    finally:
        unread.tell()
    if not good and usual is None and first_keys:
        raise _wrong_format(path, wanted, formats, first_keys, other)
    if not good:
        count = problems.count - bad_before
        raise DataError(
            f"`{path}` holds no usable {wanted}",
            found=f"{count:,} bad rows" if count else "an empty file",
            hint=problems.summary(),
        )


def _format_of(row: Row, formats: Sequence[Format]) -> Format | None:
    return next((name for name in formats if all(key in row for key in KEYS[name])), None)


def _wrong_format(
    path: Path | str, wanted: str, formats: Sequence[Format], keys: str, other: Format | None
) -> DataError:
    known = "; ".join(f"{name}: {', '.join(KEYS[name])}" for name in formats)
    looks = f"; that is the format `{other}`" if other else ""
    return DataError(
        f"`{path}` holds no {wanted}", found=f"rows with {keys}{looks}", hint=f"rows need these keys: {known}"
    )


# -- writing


def _origin(prompt: Prompt) -> dict[str, Any]:
    return {"id": prompt.id, **_given(source=prompt.source, author=prompt.author, tools=plain_tools(prompt.tools))}


def _given(**values: Any) -> dict[str, Any]:
    """What is not empty."""
    return {name: value for name, value in values.items() if value}


def _candidate_row(candidate: Candidate) -> dict[str, Any]:
    row = _given(text=candidate.text, token_ids=candidate.token_ids, model=candidate.model)
    extras: dict[str, Any] = {"text": candidate.text} | row
    if not candidate.finished:
        extras["finished"] = False
    if candidate.temperature != 1.0:
        extras["temperature"] = candidate.temperature
    message = plain_messages([candidate.message])[0]
    return extras | {key: message[key] for key in ("tool_calls", "reasoning_content") if key in message}


def _write(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> None:
    write_atomic(path, "".join(to_json(row) + "\n" for row in rows))
