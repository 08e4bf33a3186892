"""Rows exported by annotation tools as rankings: Argilla and Label Studio.

| tool | a row has | a vote is |
|---|---|---|
| Argilla 2 | `fields`, `responses`: {question: [{value, user_id}]} | [names best first], or [{value, rank}] |
| Argilla 1 | `fields`, `responses`: [{values: {question: {value}}, user_id, status}] | the same |
| Label Studio, Ranker | `data` with a list of {id, title, body}, `annotations` | ids best first |
| Label Studio, Pairwise | `data` with two texts, `annotations` | left or right |

The fields (texts of `data`) that nobody ranks hold the prompt: `prompt`, `instruction`, `question` or `input`, else the
first. Votes that were cancelled, discarded or drafts are left out.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from wuya.data.fields import BadRowError, prompt_messages, text_field
from wuya.feedback.rankings import dense_ranks
from wuya.feedback.rows import messages_to_json
from wuya.files import sha256_json
from wuya.records import Candidate, Prompt, Ranking

Row = Mapping[str, Any]
PROMPT_NAMES = ("prompt", "instruction", "question", "input", "query", "messages")


def argilla_rankings(row: Row) -> Iterator[Ranking]:
    """One ranking for each submitted answer to a ranking question; rows nobody ranked give none."""
    fields = row["fields"]
    if not isinstance(fields, Mapping):
        raise BadRowError("`fields` is not an object")
    for value, labeler, status in _argilla_votes(row["responses"]):
        ranks = _named_ranks(value)
        if ranks is None or status in ("draft", "discarded", "pending"):
            continue
        unknown = sorted(set(ranks) - set(fields))
        if unknown:
            raise BadRowError(f"ranks for fields that are not there: {', '.join(unknown)}")
        answers = {name: str(fields[name]) for name in ranks}
        prompt = _prompt({name: text for name, text in fields.items() if name not in ranks}, row)
        yield _ranking(prompt, answers, ranks, labeler)


def _argilla_votes(responses: object) -> Iterator[tuple[object, str, str]]:
    """(value, labeler, status) of every answer to every question."""
    if isinstance(responses, Mapping):
        for answers in responses.values():
            for answer in answers if isinstance(answers, list) else ():
                yield answer.get("value"), str(answer.get("user_id") or ""), str(answer.get("status") or "submitted")
    elif isinstance(responses, list):
        for response in responses:
            for answer in (response.get("values") or {}).values():
                status = str(response.get("status") or "submitted")
                yield answer.get("value"), str(response.get("user_id") or ""), status
    else:
        raise BadRowError("`responses` is neither a list nor an object")


def _named_ranks(value: object) -> dict[str, int] | None:
    """{field: rank}; None where the question was no ranking."""
    if not isinstance(value, list) or len(value) < 2:
        return None
    if all(isinstance(item, str) for item in value):
        return {name: rank for rank, name in enumerate(value, start=1)}
    if all(isinstance(item, Mapping) and isinstance(item.get("rank"), int) for item in value):
        return {str(item["value"]): item["rank"] for item in value}
    return None


def label_studio_rankings(row: Row) -> Iterator[Ranking]:
    """One ranking for each annotation that ranked a list or chose one of two texts."""
    data = row["data"]
    if not isinstance(data, Mapping):
        raise BadRowError("`data` is not an object")
    for annotation in row["annotations"]:
        if annotation.get("was_cancelled"):
            continue
        labeler = _annotator(annotation.get("completed_by"))
        for result in annotation.get("result") or ():
            value = result.get("value") or {}
            if "ranker" in value:
                yield _ranked_list(data, row, value["ranker"], labeler)
            elif result.get("type") == "pairwise":
                yield _chosen_side(data, row, value, labeler)


def _ranked_list(data: Row, row: Row, ranker: object, labeler: str) -> Ranking:
    lists = {
        name: v for name, v in data.items() if isinstance(v, list) and v and isinstance(v[0], Mapping) and "id" in v[0]
    }
    order = next((ids for ids in ranker.values() if len(ids) > 1), None) if isinstance(ranker, Mapping) else ranker
    if not lists or not isinstance(order, list):
        raise BadRowError("a Ranker without a list of items with ids, or without an order")
    texts = {str(item["id"]): _item_text(item) for item in next(iter(lists.values()))}
    missing = sorted(set(texts) - {str(id) for id in order})
    if missing or len(order) != len(texts):
        raise BadRowError(f"the ranking omits items: {', '.join(missing)}")
    ranks = {str(id): rank for rank, id in enumerate(order, start=1)}
    prompt = _prompt({name: value for name, value in data.items() if name not in lists}, row)
    return _ranking(prompt, texts, ranks, labeler)


def _chosen_side(data: Row, row: Row, value: Row, labeler: str) -> Ranking:
    texts = [name for name, v in data.items() if isinstance(v, str) and name not in PROMPT_NAMES]
    selected = value.get("selected")
    if len(texts) != 2 or selected not in ("left", "right"):
        raise BadRowError(f"expected two texts beside the prompt and left or right, found {texts} and {selected!r}")
    ranks = dict(zip(texts, (1, 2) if selected == "left" else (2, 1), strict=True))
    prompt = _prompt({name: v for name, v in data.items() if name not in texts}, row)
    return _ranking(prompt, {name: data[name] for name in texts}, ranks, labeler)


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
    messages = prompt_messages(fields[name])
    if messages[-1].role == "assistant":
        raise BadRowError("the prompt ends with the assistant: nothing is left to answer")
    id = row.get("id")
    key = str(id) if isinstance(id, str | int) else sha256_json(messages_to_json(messages))[:16]
    return Prompt(key, messages, text_field(row, "source", default="import"))


def _ranking(prompt: Prompt, answers: Mapping[str, str], ranks: Mapping[str, int], labeler: str) -> Ranking:
    names = list(answers)
    dense = dense_ranks([-ranks[name] for name in names])
    return Ranking(prompt, tuple(Candidate(answers[name]) for name in names), dense, labeler, source="import")
