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
from dataclasses import replace
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from wuya.data.fields import parse_candidate, refuse_calls, refuse_contradiction
from wuya.data.formats import read_rankings
from wuya.data.known_keys import HARMLESS, UnreadKeys
from wuya.data.messages import messages_key
from wuya.data.prompt_ids import Origin, PromptIds
from wuya.data.row_records import prompt_of
from wuya.data.rows import RaiseOnBadRow, read_rows
from wuya.data.values import BadRowError, required, required_list, text_field
from wuya.errors import DataError
from wuya.feedback.annotation_tools import argilla_rankings, label_studio_rankings
from wuya.feedback.rankings import dense_ranks
from wuya.files import BadRows
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

FIRST_ROWS = 100


def import_rankings(path: Path | str, bad: BadRows | None = None) -> Iterator[Ranking]:
    """Rankings of a file in any format of the table above, told by the keys of its first rows.

    Rows that can't be used are added to `bad`, or without it the first raises DataError with file:line.
    """
    problems = bad if bad is not None else RaiseOnBadRow()
    format = _format_of(path)
    if format is None:
        yield from read_rankings(path, bad, texts_only)
        return
    good, ids, unread = 0, PromptIds(), UnreadKeys(path, "rankings")
    for line, row in read_rows(path, problems):
        try:
            rankings = [_consistent(ranking) for ranking in _PARSERS[format](row)]
        except BadRowError as reason:
            problems.add(path, line, str(reason))
            continue
        except (
            AttributeError,
            IndexError,
            KeyError,
            TypeError,
            ValueError,
        ) as error:  # nested otherwise than the tool's
            problems.add(path, line, f"not of the form `{format}`: {type(error).__name__}: {str(error)[:100]}")
            continue
        if rankings:
            _note_unread(unread, line, row, rankings)
        good += len(rankings)
        yield from (replace(ranking, prompt=ids.settled(ranking.prompt)) for ranking in rankings)
    unread.tell()
    if not good:
        raise DataError(
            f"`{path}` holds no usable rankings", found=f"{problems.count} bad rows", hint=problems.summary()
        )


def texts_only(ranking: Ranking) -> None:
    """Raise BadRowError for answers that the labeling database and the agreement of labelers can't hold."""
    refuse_calls(ranking.candidates, "the labeling database keeps texts; `wuya reward` and `wuya dpo` read the file")


def _consistent(ranking: Ranking) -> Ranking:
    refuse_contradiction(ranking.candidates, ranking.ranks)
    return ranking


def _note_unread(unread: UnreadKeys, line: int, row: Row, rankings: Iterable[Ranking]) -> None:
    """Remember the texts that an annotation tool showed and that are in no prompt and no answer: a context, say."""
    read = [message.content for ranking in rankings for message in ranking.prompt.messages]
    read += [candidate.text for ranking in rankings for candidate in ranking.candidates]
    for place in ("fields", "data"):
        shown = row.get(place)
        for name, value in shown.items() if isinstance(shown, Mapping) else ():
            if isinstance(value, str) and value.strip() and name not in HARMLESS:
                if not any(value.strip() in text for text in read):
                    unread.first_lines.setdefault(f"{place}.{name}", line)


def read_answers(
    path: Path | str, bad: BadRows | None = None, usable: Callable[[Prompt], object] | None = None
) -> Iterator[tuple[Prompt, tuple[Candidate, ...]]]:
    """Prompts with K answers to be ranked: rows with `prompt` and `candidates`; ranks are not read.

    Args:
        usable: raises DataError for a prompt that can't be used, which makes its row a bad one.
    """
    problems = bad if bad is not None else RaiseOnBadRow()
    unread, origin = UnreadKeys(path, "rankings"), Origin("")
    good = 0
    for line, row in read_rows(path, problems):
        try:
            prompt = prompt_of(row, "prompt", origin)
            candidates = tuple(parse_candidate(value) for value in required_list(row, "candidates"))
            refuse_calls(candidates, "answers that people rank are texts")
            if len(candidates) < 2:
                raise BadRowError(f"needs at least 2 answers to rank, found {len(candidates)}")
            if usable is not None:
                usable(prompt)
        except BadRowError as reason:
            problems.add(path, line, str(reason))
            continue
        except DataError as reason:
            problems.add(path, line, reason.brief)
            continue
        unread.note(line, row)
        good += 1
        yield prompt, candidates
    unread.tell()
    if not good:
        raise DataError(
            f"`{path}` holds no answers to rank",
            found=problems.summary() or "an empty file",
            hint="rows need `prompt` and `candidates`; `wuya sample` writes them",
        )


def _format_of(path: Path | str) -> ForeignFormat | None:
    """The format of the first rows that show one; a single odd row does not decide."""
    for _, row in islice(read_rows(path, BadRows()), FIRST_ROWS):
        found = next((name for name, keys in KEYS.items() if all(row.get(key) is not None for key in keys)), None)
        if found is not None:
            return found
    return None


def _webgpt(row: Row) -> Iterable[Ranking]:
    question = required(row, "question")
    text = question.get("full_text") if isinstance(question, Mapping) else question
    if not isinstance(text, str) or not text.strip():
        raise BadRowError("`question` holds no text")
    answers = tuple(Candidate(text_field(row, key)) for key in ("answer_0", "answer_1"))
    scores = [required(row, key) for key in ("score_0", "score_1")]
    if not all(isinstance(score, int | float) and type(score) is not bool and isfinite(score) for score in scores):
        raise BadRowError(f"scores are not numbers, found {scores}")
    yield Ranking(_prompt((Message("user", text),), row, "webgpt"), answers, dense_ranks(scores), "", source="import")


def _summaries(row: Row) -> Iterable[Ranking]:
    info, choice = required(row, "info"), required(row, "choice")
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
    yield from _walk(required(row, "prompt"), (), row)


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
    key = id if isinstance(id, str) and id else messages_key(messages)
    return Prompt(key, messages, source, text_field(row, "author", default=""))
