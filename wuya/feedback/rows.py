"""Records <-> JSON rows: the files that snapshots, imports and exports are made of (docs/reference/schema.md)."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from wuya.errors import DataError
from wuya.feedback.rankings import check_ranks
from wuya.files import sha256_json
from wuya.records import ROLES, Candidate, Comparison, Demonstration, Feedback, Message, Prompt, Ranking

SCHEMA_VERSION = 1
Row = dict[str, Any]


def messages_to_json(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages as the OpenAI API writes them."""
    return [{"role": m.role, "content": m.content} for m in messages]


def messages_from_json(value: object, *, where: str) -> tuple[Message, ...]:
    """Messages, or one user message if the value is a string."""
    if isinstance(value, str):
        return (Message("user", value),)
    if not isinstance(value, Sequence) or not value:
        raise DataError(f"{where}: the prompt has no messages", found=repr(value)[:80])
    messages = []
    for item in value:
        if not isinstance(item, Mapping) or not isinstance(item.get("content"), str):
            raise DataError(f"{where}: a message needs `role` and `content`", found=repr(item)[:80])
        if item.get("role") not in ROLES:
            raise DataError(f"{where}: unknown role", found=repr(item.get("role")), hint=f"one of {', '.join(ROLES)}")
        messages.append(Message(item["role"], item["content"]))
    return tuple(messages)


def prompt_id_of(messages: Sequence[Message]) -> str:
    """An id for a prompt that came without one: the same messages always get the same."""
    return sha256_json(messages_to_json(messages))[:16]


def prompt_to_row(prompt: Prompt) -> Row:
    """{id, prompt, source, author}; empty fields left out."""
    row: Row = {"id": prompt.id, "prompt": messages_to_json(prompt.messages)}
    return row | {k: v for k, v in (("source", prompt.source), ("author", prompt.author)) if v}


def prompt_from_row(row: Mapping[str, Any], *, where: str) -> Prompt:
    """Inverse of `prompt_to_row`."""
    messages = messages_from_json(row.get("prompt"), where=where)
    if messages[-1].role == "assistant":
        raise DataError(f"{where}: a prompt must end where the assistant should answer", found="an assistant message")
    return Prompt(
        str(row.get("id") or prompt_id_of(messages)), messages, str(row.get("source", "")), str(row.get("author", ""))
    )


def candidate_to_row(candidate: Candidate) -> Row:
    """{text, model, finished, temperature, token_ids}; defaults left out."""
    row: Row = {"text": candidate.text}
    if candidate.model:
        row["model"] = candidate.model
    if not candidate.finished:
        row["finished"] = False
    if candidate.temperature != 1.0:
        row["temperature"] = candidate.temperature
    if candidate.token_ids:
        row["token_ids"] = list(candidate.token_ids)
    return row


def candidate_from_row(value: object, *, where: str) -> Candidate:
    """A candidate from an object, or from a plain string."""
    if isinstance(value, str):
        return Candidate(value)
    if not isinstance(value, Mapping) or not isinstance(value.get("text"), str):
        raise DataError(f"{where}: a candidate needs `text`", found=repr(value)[:80])
    return Candidate(
        value["text"],
        token_ids=tuple(value.get("token_ids", ())),
        model=str(value.get("model", "")),
        finished=bool(value.get("finished", True)),
        temperature=float(value.get("temperature", 1.0)),
    )


def candidates_from_row(row: Mapping[str, Any], *, where: str) -> tuple[Candidate, ...]:
    """The K answers of a row, K >= 2."""
    values = row.get("candidates")
    if not isinstance(values, list) or len(values) < 2:
        raise DataError(f"{where}: needs at least two candidates", found=repr(values)[:80])
    return tuple(candidate_from_row(value, where=where) for value in values)


def ranking_to_row(ranking: Ranking) -> Row:
    """{id, prompt, candidates, ranks, labeler, round, ...}: the native K-way form. Times are left out, so that the same
    votes give the same file."""
    row = prompt_to_row(ranking.prompt)
    row["candidates"] = [candidate_to_row(c) for c in ranking.candidates]
    row |= {"ranks": list(ranking.ranks), "labeler": ranking.labeler, "round": ranking.round}
    if ranking.source != "ranking":
        row["ranking_source"] = ranking.source
    if ranking.flags:
        row["flags"] = dict(ranking.flags)
    return row


def ranking_from_row(row: Mapping[str, Any], *, where: str) -> Ranking:
    """Inverse of `ranking_to_row`; the ranks are checked."""
    candidates = candidates_from_row(row, where=where)
    ranks = row.get("ranks")
    if not isinstance(ranks, list):
        raise DataError(f"{where}: needs `ranks`", found=repr(ranks), hint="one per candidate, 1 is best, equal = tie")
    check_ranks(ranks, len(candidates), where=where)
    return Ranking(
        prompt_from_row(row, where=where),
        candidates,
        tuple(ranks),
        labeler=str(row.get("labeler", "")),
        round=int(row.get("round", 0)),
        source=str(row.get("ranking_source", "ranking")),
        created_at=str(row.get("created_at", "")),
        flags=dict(row.get("flags", {})),
    )


def demonstration_to_row(demonstration: Demonstration) -> Row:
    """{messages, id, labeler, source}: the chat with its answer last."""
    row = prompt_to_row(demonstration.prompt)
    del row["prompt"]
    row["messages"] = messages_to_json(demonstration.messages)
    return row | ({"labeler": demonstration.labeler} if demonstration.labeler else {})


def demonstration_from_row(row: Mapping[str, Any], *, where: str) -> Demonstration:
    """Inverse of `demonstration_to_row`."""
    messages = messages_from_json(row.get("messages"), where=where)
    if len(messages) < 2 or messages[-1].role != "assistant":
        raise DataError(f"{where}: a demonstration must end with the assistant's answer", found=messages[-1].role)
    prompt = prompt_from_row({**row, "prompt": messages_to_json(messages[:-1])}, where=where)
    return Demonstration(prompt, messages[-1].content, str(row.get("labeler", "")))


def comparison_to_row(comparison: Comparison) -> Row:
    """{id, prompt, chosen, rejected, group_id, labeler}."""
    row = prompt_to_row(comparison.prompt) | {"chosen": comparison.chosen, "rejected": comparison.rejected}
    return row | {"group_id": comparison.group or comparison.prompt.id, "labeler": comparison.labeler}


def comparison_from_row(row: Mapping[str, Any], *, where: str) -> Comparison:
    """Inverse of `comparison_to_row`."""
    for key in ("chosen", "rejected"):
        if not isinstance(row.get(key), str):
            raise DataError(f"{where}: a comparison needs `{key}`", found=repr(row.get(key))[:80])
    prompt = prompt_from_row(row, where=where)
    labeler, group = str(row.get("labeler", "")), str(row.get("group_id") or prompt.id)
    return Comparison(prompt, row["chosen"], row["rejected"], labeler, group)


def feedback_to_row(feedback: Feedback) -> Row:
    """{id, prompt, completion, value, reasons, comment, better_answer}."""
    row = prompt_to_row(feedback.prompt) | {"completion": feedback.completion, "value": feedback.value}
    return row | {
        "reasons": list(feedback.reasons),
        "comment": feedback.comment,
        "better_answer": feedback.better_answer,
    }


def feedback_from_row(row: Mapping[str, Any], *, where: str) -> Feedback:
    """Inverse of `feedback_to_row`."""
    if row.get("value") not in (-1, 1) or not isinstance(row.get("completion"), str):
        raise DataError(f"{where}: feedback needs `completion` and a `value` of -1 or 1", found=repr(row.get("value")))
    texts = str(row.get("comment", "")), str(row.get("better_answer", ""))
    return Feedback(
        prompt_from_row(row, where=where), row["completion"], row["value"], tuple(row.get("reasons", ())), *texts
    )


def sha256_text(text: str) -> str:
    """Hex digest of a text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
