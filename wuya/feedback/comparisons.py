"""From everywhere to comparisons: rankings, A/B votes, thumbs, better answers, edits and regenerated siblings.

| source | what was seen | chosen | rejected | weight |
|---|---|---|---|---|
| ranking | a labeler ranked K answers | the better of each pair | the other | 1 |
| compare | a user saw two answers and voted | the voted one | the other | 1 |
| better_answer | a user wrote what they would have liked | their text | the model's | .5 |
| edit | a user corrected the model's answer in place | the corrected text | the model's | .5 |
| thumbs | one user liked one answer and disliked another to the same prompt | the liked one | the other | .5 |
| regenerate | a user asked again and went on with the new answer | the one they went on with | the one before | .25 |
| eval | a vote of an evaluation | | | 0: evaluations are never trained on |

A weight says how surely the act means "better". Regenerating may mean curiosity; a text by a person differs from a
model's in more than quality, and a reward model notices. Weights are settings, not truths: `wuya snapshot --weights`.

Nothing here looks at a chat whose owner did not consent: what users did stays in the chat's own tables until then.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from wuya.feedback.rankings import comparisons_of
from wuya.records import Comparison, Feedback, Message, Prompt, Ranking, Role

DEFAULT_WEIGHTS: Mapping[str, float] = {
    "ranking": 1.0,
    "compare": 1.0,
    "better_answer": 0.5,
    "edit": 0.5,
    "thumbs": 0.5,
    "regenerate": 0.25,
    "eval": 0.0,
}


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One node of a chat's tree, as `comparisons_of_chat` needs it."""

    id: str
    parent_id: str | None
    role: Role
    content: str
    created_at: datetime
    edited_from: str = ""
    """Text of the model's answer that a person corrected into this one; empty for all others."""


def weighted(comparisons: Iterable[Comparison], weights: Mapping[str, float]) -> Iterator[Comparison]:
    """Each comparison with its source's weight times its own; those that weigh nothing are left out."""
    for comparison in comparisons:
        weight = comparison.weight * weights.get(comparison.source, 1.0)
        if weight > 0:
            yield replace(comparison, weight=weight)


def comparisons_of_rankings(rankings: Iterable[Ranking]) -> Iterator[Comparison]:
    """All pairs of each ranking, ties dropped."""
    for ranking in rankings:
        for comparison in comparisons_of(ranking):
            yield replace(comparison, source="ranking", weight=ranking.weight)


def comparisons_of_feedback(feedback: Iterable[Feedback]) -> Iterator[Comparison]:
    """Better answers against what they replace; of each user's thumbs on one prompt, each liked against disliked."""
    by_user: dict[tuple[str, str], list[Feedback]] = defaultdict(list)
    for said in feedback:
        by_user[said.prompt.id, said.labeler].append(said)
        if said.better_answer.strip() and said.better_answer.strip() != said.completion.strip():
            yield Comparison(
                said.prompt, said.better_answer, said.completion, said.labeler, said.prompt.id, "better_answer"
            )
    for group in by_user.values():
        liked = [said for said in group if said.value > 0]
        disliked = [said for said in group if said.value < 0]
        for good in liked:
            for bad in disliked:
                if good.completion != bad.completion:
                    yield Comparison(
                        good.prompt, good.completion, bad.completion, good.labeler, good.prompt.id, "thumbs"
                    )


def comparisons_of_chat(
    messages: Sequence[ChatMessage], *, labeler: str = "", system_prompt: str = ""
) -> Iterator[Comparison]:
    """What a chat's tree shows without anybody having voted: corrected answers, and answers asked for again.

    An answer counts as regenerated only if it was asked for after another one to the same message, the user went on
    from the newest they had, and from none of those before: whoever goes on from both preferred neither.
    """
    by_id = {message.id: message for message in messages}
    children: dict[str | None, list[ChatMessage]] = defaultdict(list)
    for message in sorted(messages, key=lambda m: (m.created_at, m.id)):
        children[message.parent_id].append(message)
    for parent_id, group in list(children.items()):
        answers = [m for m in group if m.role == "assistant" and m.content.strip()]
        if parent_id is None or not answers:
            continue
        prompt = Prompt(parent_id, _path(by_id, parent_id, system_prompt), source="chat", author=labeler)
        for answer in answers:
            if answer.edited_from.strip() and answer.edited_from != answer.content:
                yield Comparison(prompt, answer.content, answer.edited_from, labeler, prompt.id, "edit")
        sampled = [m for m in answers if not m.edited_from]
        continued = [m for m in sampled if any(child.role == "user" for child in children[m.id])]
        if len(sampled) > 1 and len(continued) == 1 and continued[0] is not sampled[0]:
            chosen = continued[0]
            for before in sampled[: sampled.index(chosen)]:
                if before.content != chosen.content:
                    yield Comparison(prompt, chosen.content, before.content, labeler, prompt.id, "regenerate")


def _path(by_id: Mapping[str, ChatMessage], leaf: str, system_prompt: str) -> tuple[Message, ...]:
    """The messages from the chat's start to `leaf`."""
    path: list[Message] = []
    at: str | None = leaf
    while at is not None and at in by_id:
        path.append(Message(by_id[at].role, by_id[at].content))
        at = by_id[at].parent_id
    system = (Message("system", system_prompt),) if system_prompt else ()
    return (*system, *reversed(path))
