"""Records as JSON rows, in the formats that `wuya.data.formats` reads back (docs/reference/schema.md).

Times are left out of the rows that are trained on, so that the same votes always give the same file.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from wuya.data.messages import parse_messages, parse_tools, plain_messages, plain_tools
from wuya.records import Candidate, Comparison, Demonstration, Feedback, Message, Prompt, Ranking

SCHEMA_VERSION = 1
Row = dict[str, Any]


def messages_to_json(messages: Sequence[Message]) -> list[Row]:
    """Messages as the OpenAI API writes them."""
    return plain_messages(messages)


def messages_from_json(value: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """Inverse of `messages_to_json`, for what we wrote ourselves."""
    return parse_messages(list(value)) if value else ()


def prompt_to_row(prompt: Prompt) -> Row:
    """{id, prompt, source, author, tools}; what is empty is left out."""
    row: Row = {"id": prompt.id, "prompt": plain_messages(prompt.messages)}
    row |= {k: v for k, v in (("source", prompt.source), ("author", prompt.author)) if v}
    return row | ({"tools": plain_tools(prompt.tools)} if prompt.tools else {})


def prompt_from_row(row: Mapping[str, Any]) -> Prompt:
    """Inverse of `prompt_to_row`."""
    tools = parse_tools(row.get("tools"))
    messages = messages_from_json(row["prompt"])
    return Prompt(row["id"], messages, row.get("source", ""), row.get("author", ""), tools)


def candidate_to_row(candidate: Candidate) -> Row:
    """{text, model, finished, temperature, token_ids}; defaults are left out."""
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


def ranking_to_row(ranking: Ranking) -> Row:
    """{id, prompt, candidates, ranks, labeler, round, ranking_source, flags}: the native K-way form."""
    row = prompt_to_row(ranking.prompt)
    row["candidates"] = [candidate_to_row(c) for c in ranking.candidates]
    row |= {"ranks": list(ranking.ranks), "labeler": ranking.labeler, "round": ranking.round}
    row["ranking_source"] = ranking.source
    row |= {"flags": dict(ranking.flags)} if ranking.flags else {}
    return row | _weight(ranking.weight)


def demonstration_to_row(demonstration: Demonstration) -> Row:
    """{messages, id, labeler, source, author}: the chat with its answer last."""
    row = prompt_to_row(demonstration.prompt)
    del row["prompt"]
    row["messages"] = messages_to_json(demonstration.messages)
    return row | ({"labeler": demonstration.labeler} if demonstration.labeler else {})


def comparison_to_row(comparison: Comparison) -> Row:
    """{id, prompt, chosen, rejected, group, labeler, comparison_source, weight}."""
    row = prompt_to_row(comparison.prompt) | {"chosen": comparison.chosen, "rejected": comparison.rejected}
    row |= {"group": comparison.group or comparison.prompt.id, "labeler": comparison.labeler}
    return row | ({"comparison_source": comparison.source} if comparison.source else {}) | _weight(comparison.weight)


def feedback_to_row(feedback: Feedback) -> Row:
    """{id, prompt, completion, value, reasons, comment, better_answer}."""
    row = prompt_to_row(feedback.prompt) | {"completion": feedback.completion, "value": feedback.value}
    row["reasons"] = list(feedback.reasons)
    return row | {"comment": feedback.comment, "better_answer": feedback.better_answer}


def _weight(weight: float) -> Row:
    return {} if weight == 1.0 else {"weight": weight}


def sha256_text(text: str) -> str:
    """Hex digest of a text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
