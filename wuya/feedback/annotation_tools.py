"""Rows exported by annotation tools as rankings: Argilla and Label Studio.

| tool | a row has | a vote is |
|---|---|---|
| Argilla 2 | `fields`, `responses`: {question: [{value, user_id}]} | [names best first], or [{value, rank}] |
| Argilla 1 | `fields`, `responses`: [{values: {question: {value}}, user_id, status}] | the same |
| Label Studio, Ranker | `data` with a list of {id, title, body}, `annotations` | ids best first |
| Label Studio, Pairwise | `data` with two texts, `annotations` | left or right of the two texts in `to_name` |

The fields (texts of `data`) that nobody ranks hold the prompt: `prompt`, `instruction` (with `input`), `question` or
`input`, else the first; `system` and `history` are read as in other rows, and what is left is named by the reader.
Votes that were cancelled, discarded or drafts are left out.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wuya.data.fields import prompt_messages
from wuya.data.messages import messages_key
from wuya.data.row_records import alpaca_prompt, in_context
from wuya.data.values import BadRowError, id_of, required, required_list, text_field
from wuya.feedback.rankings import dense_ranks
from wuya.records import Candidate, Prompt, Ranking

Row = Mapping[str, Any]
PROMPT_NAMES = ("prompt", "instruction", "question", "input", "query", "messages")


def argilla_rankings(row: Row) -> Iterator[Ranking]:
    """One ranking for each submitted answer to the ranking question; rows nobody ranked give none."""
    fields = required(row, "fields")
    if not isinstance(fields, Mapping):
        raise BadRowError("`fields` is not an object")
    votes = [
        vote
        for vote in _argilla_votes(required(row, "responses"))
        if vote.status not in ("draft", "discarded", "pending")
    ]
    question = _ranking_question(votes, fields)
    for vote in votes:
        ranks = _named_ranks(vote.value) if vote.question == question else None
        if ranks is None:
            continue
        if unknown := sorted(name for name in ranks if not isinstance(fields.get(name), str)):
            raise BadRowError(f"ranks for fields whose text is not there: {', '.join(unknown)}")
        prompt = _prompt({name: text for name, text in fields.items() if name not in ranks}, row)
        yield _ranking(prompt, {name: fields[name] for name in ranks}, ranks, vote.labeler)


@dataclass(frozen=True, slots=True)
class _Vote:
    """One person's answer to one of Argilla's questions."""

    question: str
    value: object
    labeler: str
    status: str


def _argilla_votes(responses: object) -> Iterator[_Vote]:
    """Every answer to every question."""
    if isinstance(responses, Mapping):
        for question, answers in responses.items():
            for answer in answers if isinstance(answers, list) else ():
                who, status = str(answer.get("user_id") or ""), str(answer.get("status") or "submitted")
                yield _Vote(str(question), answer.get("value"), who, status)
    elif isinstance(responses, list):
        for response in responses:
            for question, answer in (response.get("values") or {}).items():
                who, status = str(response.get("user_id") or ""), str(response.get("status") or "submitted")
                yield _Vote(str(question), answer.get("value"), who, status)
    elif responses is not None:
        raise BadRowError("`responses` is neither a list nor an object")


def _ranking_question(votes: Sequence[_Vote], fields: Row) -> str | None:
    """The question that ranks. A choice of several labels is a list of texts too, so a bare list ranks only if its
    texts are fields, and the list that names most of them is the ranking."""
    by_rank = [vote.question for vote in votes if _has_ranks(vote.value)]
    if by_rank:
        return by_rank[0]
    sizes: dict[str, int] = {}
    for vote in votes:
        names = _named_ranks(vote.value)
        if names and any(name in fields for name in names):
            sizes[vote.question] = max(sizes.get(vote.question, 0), len(names))
    largest = [question for question, size in sizes.items() if size == max(sizes.values())]
    if len(largest) > 1:
        raise BadRowError(f"which question ranks the answers? {', '.join(largest)} all list as many")
    return largest[0] if largest else None


def _has_ranks(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 1
        and all(isinstance(item, Mapping) and isinstance(item.get("rank"), int) for item in value)
    )


def _named_ranks(value: object) -> dict[str, int] | None:
    """{field: rank}; None where the question was no ranking."""
    if _has_ranks(value):
        assert isinstance(value, list)
        return {str(item["value"]): item["rank"] for item in value}
    if isinstance(value, list) and len(value) > 1 and all(isinstance(item, str) for item in value):
        return {name: rank for rank, name in enumerate(value, start=1)}
    return None


def label_studio_rankings(row: Row) -> Iterator[Ranking]:
    """One ranking for each annotation that ranked a list or chose one of two texts; other controls say other things."""
    data = required(row, "data")
    if not isinstance(data, Mapping):
        raise BadRowError("`data` is not an object")
    for annotation in required_list(row, "annotations"):
        if annotation.get("was_cancelled"):
            continue
        labeler = _annotator(annotation.get("completed_by"))
        for result in annotation.get("result") or ():
            value = result.get("value") or {}
            if "ranker" in value:
                yield _ranked_list(data, row, value["ranker"], labeler)
            elif result.get("type") == "pairwise":
                yield _chosen_side(data, row, result, labeler)


def _ranked_list(data: Row, row: Row, ranker: object, labeler: str) -> Ranking:
    order = ranker
    if isinstance(ranker, Mapping):  # buckets; `_` holds what nobody ranked
        filled = [ids for name, ids in ranker.items() if ids and name != "_"]
        if len(filled) != 1:
            raise BadRowError(f"a Ranker with {len(filled)} filled buckets: which of two buckets is better is not said")
        order = filled[0]
    lists = {
        name: {str(item["id"]): _item_text(item) for item in v}
        for name, v in data.items()
        if isinstance(v, list) and v and isinstance(v[0], Mapping) and "id" in v[0]
    }
    if not lists or not isinstance(order, list):
        raise BadRowError("a Ranker without a list of items with ids, or without an order")
    ids = [str(id) for id in order]
    ranked = [name for name, texts in lists.items() if set(ids) <= set(texts)]
    if len(ranked) != 1:
        raise BadRowError(f"the Ranker's ids fit {len(ranked)} lists of `data`")
    texts = lists[ranked[0]]
    missing = sorted(set(texts) - set(ids))
    if missing or len(ids) != len(texts):
        raise BadRowError(f"the ranking omits items: {', '.join(missing)}")
    ranks = {id: rank for rank, id in enumerate(ids, start=1)}
    prompt = _prompt({name: value for name, value in data.items() if name not in lists}, row)
    return _ranking(prompt, texts, ranks, labeler)


def _chosen_side(data: Row, row: Row, result: Row, labeler: str) -> Ranking:
    """`to_name` names the left text and the right one. The order of keys in `data` means nothing: databases sort it."""
    selected = (result.get("value") or {}).get("selected")
    if selected not in ("left", "right"):
        raise BadRowError(f"expected left or right to be selected, found {selected!r}")
    sides = [side.strip() for side in str(result.get("to_name") or "").split(",")]
    if len(sides) != 2:
        raise BadRowError(f"`to_name` must name the left and the right text, found {result.get('to_name')!r}")
    left, right = (_text_key(side, data) for side in sides)
    if left == right:
        raise BadRowError(f"`to_name` names one text twice: {result.get('to_name')!r}")
    ranks = {left: 1, right: 2} if selected == "left" else {left: 2, right: 1}
    prompt = _prompt({name: v for name, v in data.items() if name not in ranks}, row)
    return _ranking(prompt, {name: data[name] for name in ranks}, ranks, labeler)


def _text_key(tag: str, data: Row) -> str:
    """The key of `data` that a text tag shows: of its own name, else the only one that ends with the same number."""
    number = re.search(r"\d+$", tag)
    texts = [name for name, value in data.items() if isinstance(value, str)]
    found = [tag] if tag in texts else [name for name in texts if number and re.search(rf"(?<!\d){number[0]}$", name)]
    if len(found) != 1:
        raise BadRowError(
            f"`to_name` says `{tag}`, but `data` has no such text (texts: {', '.join(texts)}): "
            "name the text tags of the labeling interface as the keys of `data`"
        )
    return found[0]


def _item_text(item: Row) -> str:
    text = item.get("body") or item.get("text") or item.get("title")
    if not isinstance(text, str):
        raise BadRowError("an item of the list has no text")
    return text


def _annotator(completed_by: object) -> str:
    if isinstance(completed_by, Mapping):
        return str(completed_by.get("email") or completed_by.get("id") or "")
    return "" if completed_by is None else f"label_studio_{completed_by}"


def _prompt(fields: Row, row: Row) -> Prompt:
    name = next((name for name in PROMPT_NAMES if name in fields), next(iter(fields), None))
    if name is None:
        raise BadRowError("nothing is left as a prompt")
    messages = alpaca_prompt(fields) if name == "instruction" else prompt_messages(fields[name])
    messages = in_context(fields, messages)
    if messages[-1].role == "assistant":
        raise BadRowError("the prompt ends with the assistant: nothing is left to answer")
    return Prompt(id_of(row) or messages_key(messages), messages, text_field(row, "source", default="import"))


def _ranking(prompt: Prompt, answers: Mapping[str, str], ranks: Mapping[str, int], labeler: str) -> Ranking:
    names = list(answers)
    dense = dense_ranks([-ranks[name] for name in names])
    return Ranking(prompt, tuple(Candidate(answers[name]) for name in names), dense, labeler, source="import")
