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

Files are .jsonl, .json (an array), .parquet or `hf:` data sets; the format is found by the keys of the first row. A row
that does not fit is counted and named with its line, never dropped in silence; a file without a good row is an error.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, TypeVar

from wuya.data.fields import (
    BadRowError,
    Row,
    answer_text,
    dense_ranks,
    pair,
    parse_candidate,
    parse_messages,
    plain_messages,
    prompt_messages,
    ranks_of_order,
    required,
    required_list,
    text_field,
)
from wuya.data.rows import RaiseOnBadRow, read_rows
from wuya.errors import DataError
from wuya.files import BadRows, sha256_json, to_json, write_atomic
from wuya.records import Candidate, Comparison, Demonstration, Message, Prompt, Ranking

Format = Literal[
    "ranking",
    "ordered",
    "comparison",
    "prompt-completion",
    "question-answer",
    "alpaca",
    "sharegpt",
    "messages",
    "prompt",
]
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


def read_demonstrations(path: Path | str, bad: BadRows | None = None) -> Iterator[Demonstration]:
    """Chats that end with the answer to learn."""
    return _read(path, bad, DEMONSTRATIONS, "demonstrations", _demonstration)


def read_prompts(path: Path | str, bad: BadRows | None = None) -> Iterator[Prompt]:
    """The prompts of a file of any format; answers are left out."""
    return _read(path, bad, tuple(KEYS), "prompts", _prompt)


def read_comparisons(path: Path | str, bad: BadRows | None = None) -> Iterator[Comparison]:
    """Pairs of a preferred and another answer; a ranking gives all its pairs that are not ties, in one group."""
    for pairs in _read(path, bad, ("comparison", *RANKINGS), "comparisons", _comparisons):
        yield from pairs


def read_rankings(path: Path | str, bad: BadRows | None = None) -> Iterator[Ranking]:
    """Orders of K >= 2 answers; a comparison is a ranking of two."""
    return _read(path, bad, (*RANKINGS, "comparison"), "rankings", _ranking)


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


def write_comparisons(path: Path | str, comparisons: Iterable[Comparison]) -> None:
    """Format `comparison`."""
    _write(
        path,
        (
            {
                "prompt": plain_messages(row.prompt.messages),
                "chosen": row.chosen,
                "rejected": row.rejected,
                **_origin(row.prompt),
                **_given(labeler=row.labeler, group=row.group, comparison_source=row.source),
                **({"weight": row.weight} if row.weight != 1.0 else {}),
            }
            for row in comparisons
        ),
    )


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
    wanted: str,
    parse: Callable[[Row, Format, str], T],
) -> Iterator[T]:
    """Parse the rows of a file whose format is the first of `formats` that a row shows."""
    problems = bad if bad is not None else RaiseOnBadRow()
    bad_before, good = problems.count, 0
    format: Format | None = None
    first_keys = ""
    source = str(path) if str(path).startswith("hf:") else Path(path).name
    for line, row in read_rows(path, problems):
        first_keys = first_keys or ", ".join(row) or "no keys"
        format = format or next((name for name in formats if all(key in row for key in KEYS[name])), None)
        if format is None:
            other = next((name for name, keys in KEYS.items() if all(key in row for key in keys)), None)
            if bad is None or other or problems.count - bad_before >= UNKNOWN_ROWS_LIMIT:
                raise _wrong_format(path, wanted, formats, first_keys, other)
            problems.add(path, line, f"of no known format (keys: {', '.join(row)})")
            continue
        try:
            parsed = parse(row, format, source)
        except BadRowError as reason:
            problems.add(path, line, str(reason))
            continue
        except KeyError as missing:  # a row of another format than the file's first
            problems.add(path, line, f"the key {missing} is missing (format: {format})")
            continue
        good += 1
        yield parsed
    if not good and format is None and first_keys:
        raise _wrong_format(path, wanted, formats, first_keys, None)
    if not good:
        count = problems.count - bad_before
        raise DataError(
            f"`{path}` holds no usable {wanted}",
            found=f"{count:,} bad rows" if count else "an empty file",
            hint=problems.summary(),
        )


def _wrong_format(
    path: Path | str, wanted: str, formats: Sequence[Format], keys: str, other: Format | None
) -> DataError:
    known = "; ".join(f"{name}: {', '.join(KEYS[name])}" for name in formats)
    looks = f"; that is the format `{other}`" if other else ""
    return DataError(
        f"`{path}` holds no {wanted}", found=f"rows with {keys}{looks}", hint=f"rows need these keys: {known}"
    )


# -- parsing a row


def _demonstration(row: Row, format: Format, source: str) -> Demonstration:
    messages, completion = _prompt_and_completion(row, format)
    if completion is None:
        raise BadRowError(f"the chat must end with the assistant, ends with {messages[-1].role}")
    if not completion.strip():
        raise BadRowError("the answer is empty")
    return Demonstration(_with_origin(row, messages, source), completion, text_field(row, "labeler", default=""))


def _prompt(row: Row, format: Format, source: str) -> Prompt:
    return _with_origin(row, _prompt_and_completion(row, format)[0], source)


def _comparisons(row: Row, format: Format, source: str) -> list[Comparison]:
    ranking = _ranking(row, format, source)
    group = text_field(row, "group", default="")
    if format != "comparison":
        group = group or f"{ranking.prompt.id}/{ranking.labeler}"
    ordered = sorted(range(len(ranking.ranks)), key=ranking.ranks.__getitem__)
    return [
        Comparison(
            ranking.prompt,
            ranking.candidates[a].text,
            ranking.candidates[b].text,
            ranking.labeler,
            group,
            text_field(row, "comparison_source", default=""),
            ranking.weight,
        )
        for a, b in combinations(ordered, 2)
        if ranking.ranks[a] < ranking.ranks[b]
    ]


def _ranking(row: Row, format: Format, source: str) -> Ranking:
    if format == "comparison":
        messages, chosen, rejected = pair(row)
        candidates: tuple[Candidate, ...] = (Candidate(chosen), Candidate(rejected))
        ranks: tuple[int, ...] = (1, 2)
    else:
        messages = prompt_messages(required(row, "prompt"))
        answers = required_list(row, "candidates" if format == "ranking" else "responses")
        candidates = tuple(parse_candidate(answer) for answer in answers)
        if len(candidates) < 2:
            raise BadRowError(f"a ranking needs at least 2 answers, found {len(candidates)}")
        order = required_list(row, "ranks" if format == "ranking" else "ranking")
        ranks = dense_ranks(order, len(candidates)) if format == "ranking" else ranks_of_order(order, len(candidates))
    flags = row.get("flags")
    return Ranking(
        _with_origin(row, messages, source),
        candidates,
        ranks,
        labeler=text_field(row, "labeler", default=""),
        round=row["round"] if isinstance(row.get("round"), int) else 0,
        source=text_field(row, "ranking_source", default="ranking"),
        created_at=text_field(row, "created_at", default=""),
        flags=flags if isinstance(flags, dict) else {},
        weight=_weight(row),
    )


def _weight(row: Row) -> float:
    weight = row.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise BadRowError(f"`weight` must be a number above 0, found {weight!r}")
    return float(weight)


def _prompt_and_completion(row: Row, format: Format) -> tuple[tuple[Message, ...], str | None]:
    """The messages to answer, and the answer where the format has one."""
    if format == "alpaca":
        extra = text_field(row, "input", default="")
        system = text_field(row, "system", default="")
        instruction = text_field(row, "instruction")
        messages = [Message("system", system)] if system else []
        messages.append(Message("user", f"{instruction}\n\n{extra}" if extra.strip() else instruction))
        return tuple(messages), text_field(row, "output")
    if format == "question-answer":
        return (Message("user", text_field(row, "question")),), text_field(row, "answer")
    if format == "comparison":
        return pair(row)[0], None
    if format == "prompt-completion":
        prompt = prompt_messages(row["prompt"])
        return prompt, answer_text(required(row, "completion"), prompt)
    chat = parse_messages(required(row, KEYS[format][0])) if format in ("messages", "sharegpt") else None
    if chat is None:
        return prompt_messages(required(row, "prompt")), None
    if format == "sharegpt" and row.get("system"):
        chat = (Message("system", text_field(row, "system")), *chat)
    if chat[-1].role != "assistant":
        return chat, None
    if len(chat) == 1:
        raise BadRowError("the chat holds an answer and no prompt")
    return chat[:-1], chat[-1].content


def _with_origin(row: Row, messages: tuple[Message, ...], source: str) -> Prompt:
    """The prompt with id (the row's, else a hash of its messages), source and author."""
    if messages[-1].role == "assistant":
        raise BadRowError("the prompt ends with the assistant: nothing is left to answer")
    id = row.get("prompt_id", row.get("id"))
    if not isinstance(id, str | int):
        id = sha256_json(plain_messages(messages))[:16]
    return Prompt(str(id), messages, text_field(row, "source", default=source), text_field(row, "author", default=""))


# -- writing


def _origin(prompt: Prompt) -> dict[str, str]:
    return {"id": prompt.id, **_given(source=prompt.source, author=prompt.author)}


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
    return extras


def _write(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> None:
    write_atomic(path, "".join(to_json(row) + "\n" for row in rows))
