"""Fields of a data row turned into records: prompts, answers, candidates, ranks; what does not fit is a BadRowError."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from wuya.data.messages import parse_messages, plain_messages
from wuya.data.values import BadRowError, Row, kind_of, required, text_field, whole_text
from wuya.records import Candidate, Message

HH_TURN = re.compile(r"\n\n(Human|Assistant): ?")
"""How turns are marked in the text form of Anthropic's HH-RLHF."""


def prompt_messages(value: object) -> tuple[Message, ...]:
    """A prompt is a text (the user's), a text in HH-RLHF's form, or messages."""
    if not isinstance(value, str):
        return parse_messages(value)
    turns = HH_TURN.split(whole_text(value, "prompt"))
    if len(turns) > 1 and not turns[0].strip():
        pairs = zip(turns[1::2], turns[2::2], strict=True)
        chat = [Message("user" if name == "Human" else "assistant", text.strip()) for name, text in pairs]
        return tuple(chat[:-1] if len(chat) > 1 and chat[-1] == Message("assistant", "") else chat)
    return (Message("user", value),)


def answer_turns(value: object, prompt: Sequence[Message]) -> tuple[Message, ...]:
    """The turns after the prompt: a text, a message, messages, or a whole chat that starts with the prompt."""
    if isinstance(value, str):
        if not HH_TURN.match(value):
            return (Message("assistant", whole_text(value, "answer")),)
        value = plain_messages(prompt_messages(value))
    one = isinstance(value, Mapping) and isinstance(value.get("role", value.get("from")), str)
    messages = parse_messages([value] if one else value)
    return messages[len(prompt) :] if messages[: len(prompt)] == tuple(prompt) else messages


def answer_of(value: object, prompt: Sequence[Message]) -> Candidate:
    """One answer that is compared with others, with its tool calls and reasoning."""
    rest = answer_turns(value, prompt)
    if len(rest) != 1 or rest[0].role != "assistant":
        roles = ", ".join(message.role for message in rest)
        raise BadRowError(
            f"an answer must be one message of the assistant after the prompt (found: {roles or 'nothing'})"
        )
    if rest[0].learn != 1:
        raise BadRowError(f"an answer that is judged has the weight {rest[0].learn:g}: give the row a `weight` instead")
    return Candidate(rest[0].content, tool_calls=rest[0].tool_calls, reasoning=rest[0].reasoning)


def refuse_calls(candidates: Sequence[Candidate], why: str) -> None:
    """Answers that are more than their text are no answers where only texts are kept."""
    if odd := next((candidate for candidate in candidates if not candidate.is_text), None):
        raise BadRowError(f"an answer has {'tool calls' if odd.tool_calls else 'reasoning'}: {why}")


def pair(row: Row, prompt: tuple[Message, ...] | None) -> tuple[tuple[Message, ...], Candidate, Candidate]:
    """(prompt, chosen, rejected): the answers are texts, or chats that may repeat the prompt.

    Args:
        prompt: of the row's own key for it; None where `chosen` and `rejected` are chats with a common start.
    """
    chosen, rejected = required(row, "chosen"), required(row, "rejected")
    if prompt is not None:
        answers = [answer_of(value, prompt) for value in (chosen, rejected)]
    else:
        chats = [prompt_messages(value) for value in (chosen, rejected)]
        shared = 0
        while shared < min(map(len, chats)) - 1 and chats[0][shared] == chats[1][shared]:
            shared += 1
        prompt = chats[0][:shared]
        if not prompt:
            raise BadRowError("no `prompt`, and `chosen` and `rejected` are not chats that start alike")
        answers = [answer_of(plain_messages(chat), prompt) for chat in chats]
    if answers[0] == answers[1]:
        raise BadRowError("`chosen` and `rejected` are the same")
    return prompt, answers[0], answers[1]


def parse_candidate(value: object) -> Candidate:
    if isinstance(value, str):
        return Candidate(whole_text(value, "candidate"))
    if not isinstance(value, Mapping):
        raise BadRowError(f"a candidate is a text or an object with `text`, found {kind_of(value)}")
    ids = value.get("token_ids") or ()
    if not isinstance(ids, list | tuple) or any(type(id) is not int for id in ids):
        raise BadRowError("`token_ids` of a candidate is not a list of whole numbers")
    finished = True if value.get("finished") is None else value["finished"]
    temperature = 1.0 if value.get("temperature") is None else value["temperature"]
    if not isinstance(finished, bool):
        raise BadRowError(f"`finished` of a candidate must be true or false, found {finished!r}")
    if isinstance(temperature, bool) or not isinstance(temperature, int | float):
        raise BadRowError(f"`temperature` of a candidate is not a number, found {temperature!r}")
    more = {key: value[key] for key in ("tool_calls", "reasoning_content") if value.get(key)}
    [message] = parse_messages([{"role": "assistant", "content": "", **more}]) if more else [Message("assistant", "")]
    return Candidate(
        text_field(value, "text", default="" if message.tool_calls else None),
        tuple(ids),
        model=text_field(value, "model", default=""),
        finished=finished,
        temperature=float(temperature),
        tool_calls=message.tool_calls,
        reasoning=message.reasoning,
    )


def dense_ranks(ranks: Sequence[Any], num_candidates: int) -> tuple[int, ...]:
    """Dense ranks: 1, 2, ... without gaps, equal for ties, one for each answer."""
    if len(ranks) != num_candidates or None in ranks:
        given = sum(rank is not None for rank in ranks)
        raise BadRowError(f"the ranking omits an answer: {num_candidates} candidates, {given} ranks")
    if any(type(rank) is not int for rank in ranks) or set(ranks) != set(range(1, len(set(ranks)) + 1)):
        raise BadRowError(f"ranks must be whole numbers 1, 2, ... without gaps (equal = tie), found {list(ranks)}")
    return tuple(ranks)


def refuse_contradiction(candidates: Sequence[Candidate], ranks: Sequence[int]) -> None:
    """One answer can't be better than itself; an answer that was cut off may be worse than the same text, finished."""
    seen: dict[tuple[Message, bool], int] = {}
    for candidate, rank in zip(candidates, ranks, strict=True):
        if seen.setdefault((candidate.message, candidate.finished), rank) != rank:
            raise BadRowError("two answers are the same text, but one is ranked above the other")


def ranks_of_order(order: Sequence[Any], num_candidates: int) -> tuple[int, ...]:
    """Ranks of answers from their indices, best first; a list of indices is a tie."""
    groups = [group if isinstance(group, list) else [group] for group in order]
    places = [index for group in groups for index in group]
    if any(type(index) is not int or not 0 <= index < num_candidates for index in places):
        raise BadRowError(f"`ranking` must hold indices 0 to {num_candidates - 1}, found {list(order)}")
    if len(set(places)) < len(places):
        raise BadRowError(f"`ranking` names an answer twice: {list(order)}")
    if missing := sorted(set(range(num_candidates)) - set(places)):
        raise BadRowError(f"the ranking omits an answer: index {missing[0]} of {num_candidates} responses")
    ranks = {index: rank for rank, group in enumerate((g for g in groups if g), start=1) for index in group}
    return tuple(ranks[index] for index in range(num_candidates))
