"""Comparisons of other people's data sets as rankings: WebGPT, summaries from feedback, OpenAssistant, and our own.

| format | a row has | becomes |
|---|---|---|
| native | what `data.formats.read_rankings` knows: K-way rankings, prompt/chosen/rejected, HH-RLHF | as it says |
| webgpt | `question`, `answer_0`, `answer_1`, `score_0`, `score_1` (openai/webgpt_comparisons) | K = 2, may tie |
| summaries | `info`, `summaries`, `choice` (openai/summarize_from_feedback, comparisons) | K = 2 |
| openassistant | `message_tree_id`, `prompt` with `replies` (OASST trees) | the ranked replies of each user turn |
| argilla, label studio | see `feedback/annotation_tools.py` | one ranking for each annotator |
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from wuya.data.fields import BadRowError, parse_candidate, prompt_messages, required, required_list, text_field
from wuya.data.formats import read_rankings
from wuya.data.rows import read_rows
from wuya.errors import DataError
from wuya.feedback.annotation_tools import argilla_rankings, label_studio_rankings
from wuya.feedback.rankings import dense_ranks
from wuya.feedback.rows import messages_to_json
from wuya.files import BadRows, sha256_json
from wuya.records import Candidate, Message, Prompt, Ranking

ForeignFormat = Literal["webgpt", "summaries", "openassistant", "argilla", "label_studio"]
Row = Mapping[str, Any]
KEYS: dict[ForeignFormat, tuple[str, ...]] = {
    "webgpt": ("question", "answer_0", "answer_1", "score_0", "score_1"),
    "summaries": ("info", "summaries", "choice"),
    "openassistant": ("message_tree_id", "prompt"),
    "argilla": ("fields", "responses"),
    "label_studio": ("data", "annotations"),
}


def import_rankings(path: Path | str, bad: BadRows | None = None) -> Iterator[Ranking]:
    """Rankings of a file in any format of the table above, told by the keys of the first row.

    Rows that can't be used are added to `bad`, or without it the first raises DataError with file:line.
    """
    problems = bad if bad is not None else BadRows()
    format = _format_of(path)
    if format is None:
        yield from read_rankings(path, bad)
        return
    good = 0
    for line, row in read_rows(path, problems):
        try:
            for ranking in _PARSERS[format](row):
                good += 1
                yield ranking
        except BadRowError as reason:
            if bad is None:
                raise DataError(f"{path}:{line}: {reason}") from None
            problems.add(path, line, str(reason))
    if not good:
        raise DataError(
            f"`{path}` holds no usable rankings", found=f"{problems.count} bad rows", hint=problems.summary()
        )


def read_answers(path: Path | str, bad: BadRows | None = None) -> Iterator[tuple[Prompt, tuple[Candidate, ...]]]:
    """Prompts with K answers to be ranked: rows with `prompt` and `candidates`; ranks are not read."""
    problems = bad if bad is not None else BadRows()
    good = 0
    for line, row in read_rows(path, problems):
        try:
            messages = prompt_messages(required(row, "prompt"))
            candidates = tuple(parse_candidate(value) for value in required_list(row, "candidates"))
            if len(candidates) < 2:
                raise BadRowError(f"needs at least 2 answers to rank, found {len(candidates)}")
            prompt = _prompt(
                messages, row, text_field(row, "source", default=""), id=row.get("prompt_id", row.get("id"))
            )
        except BadRowError as reason:
            if bad is None:
                raise DataError(f"{path}:{line}: {reason}") from None
            problems.add(path, line, str(reason))
            continue
        good += 1
        yield prompt, candidates
    if not good:
        raise DataError(
            f"`{path}` holds no answers to rank",
            found=problems.summary() or "an empty file",
            hint="rows need `prompt` and `candidates`; `wuya sample` writes them",
        )


def _format_of(path: Path | str) -> ForeignFormat | None:
    for _, row in read_rows(path, BadRows()):
        return next((name for name, keys in KEYS.items() if all(key in row for key in keys)), None)
    return None


def _webgpt(row: Row) -> Iterable[Ranking]:
    question = row["question"]
    text = question.get("full_text") if isinstance(question, Mapping) else question
    if not isinstance(text, str) or not text.strip():
        raise BadRowError("`question` holds no text")
    answers = tuple(Candidate(text_field(row, key)) for key in ("answer_0", "answer_1"))
    scores = [row["score_0"], row["score_1"]]
    if not all(isinstance(score, int | float) for score in scores):
        raise BadRowError(f"scores are not numbers, found {scores}")
    yield Ranking(_prompt((Message("user", text),), row, "webgpt"), answers, dense_ranks(scores), "", source="import")


def _summaries(row: Row) -> Iterable[Ranking]:
    info, choice = row["info"], row["choice"]
    post = info.get("post") or info.get("article") if isinstance(info, Mapping) else None
    if not isinstance(post, str) or not post.strip():
        raise BadRowError("`info` holds no post or article")
    if choice not in (0, 1) or len(required_list(row, "summaries")) != 2:
        raise BadRowError(f"expected two summaries and a choice of 0 or 1, found choice {choice!r}")
    title = info.get("title")
    text = "\n\n".join(part for part in ("Summarize this post.", title, post) if isinstance(part, str) and part)
    answers = tuple(
        Candidate(text_field(summary, "text").strip(), model=text_field(summary, "policy", default=""))
        for summary in row["summaries"]
    )
    ranks = (1, 2) if choice == 0 else (2, 1)
    labeler = text_field(row, "worker", default="")
    yield Ranking(_prompt((Message("user", text),), row, "summaries"), answers, ranks, labeler, source="import")


def _openassistant(row: Row) -> Iterable[Ranking]:
    """Every user turn of the tree whose answers people ranked; answers without a rank are left out."""
    yield from _walk(row["prompt"], (), row)


def _walk(node: object, before: tuple[Message, ...], row: Row) -> Iterator[Ranking]:
    if not isinstance(node, Mapping) or not isinstance(node.get("text"), str):
        raise BadRowError("a message of the tree has no text")
    role = "user" if node.get("role") == "prompter" else "assistant"
    chat = (*before, Message("user" if role == "user" else "assistant", node["text"]))
    replies = [reply for reply in node.get("replies") or () if isinstance(reply, Mapping)]
    ranked = [reply for reply in replies if isinstance(reply.get("rank"), int)]
    if role == "user" and len(ranked) >= 2:
        answers = tuple(Candidate(text_field(reply, "text"), model="human") for reply in ranked)
        ranks = dense_ranks([-reply["rank"] for reply in ranked])
        id = node.get("message_id")
        yield Ranking(_prompt(chat, row, "openassistant", id=id), answers, ranks, "", source="import")
    for reply in replies:
        yield from _walk(reply, chat, row)


_PARSERS: dict[ForeignFormat, Callable[[Row], Iterable[Ranking]]] = {
    "webgpt": _webgpt,
    "summaries": _summaries,
    "openassistant": _openassistant,
    "argilla": argilla_rankings,
    "label_studio": label_studio_rankings,
}


def _prompt(messages: tuple[Message, ...], row: Row, source: str, *, id: object = None) -> Prompt:
    if messages[-1].role == "assistant":
        raise BadRowError("the prompt ends with the assistant: nothing is left to answer")
    key = str(id) if isinstance(id, str | int) else sha256_json(messages_to_json(messages))[:16]
    return Prompt(key, messages, source, text_field(row, "author", default=""))
