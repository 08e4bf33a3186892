"""Fields of a data row, checked and turned into records: texts, messages, answers, ranks; else BadRowError."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wuya.records import ROLES, Candidate, Message, Role

Row = Mapping[str, Any]

SHAREGPT_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}
HH_TURN = re.compile(r"\n\n(Human|Assistant): ?")
"""How turns are marked in the text form of Anthropic's HH-RLHF."""


class BadRowError(Exception):
    """Why one row can't be used; becomes an entry of BadRows."""


def required(row: Row, key: str) -> Any:
    """The value of a key that must be there."""
    if row.get(key) is None:
        raise BadRowError(f"no `{key}` (keys: {', '.join(row)})")
    return row[key]


def required_list(row: Row, key: str) -> list[Any]:
    """The list under a key that must be there."""
    value = required(row, key)
    if not isinstance(value, list):
        raise BadRowError(f"`{key}` is not a list, found {kind_of(value)}")
    return value


def text_field(row: Row, key: str, *, default: str | None = None) -> str:
    """The text under a key; without a default it must be there."""
    value = row.get(key)
    if value is None and default is not None:
        return default
    value = required(row, key)
    if not isinstance(value, str):
        raise BadRowError(f"`{key}` is not text, found {kind_of(value)}")
    return whole_text(value, f"`{key}`")


def whole_text(text: str, name: str) -> str:
    """JSON escapes can name half surrogates, which are no characters and can't be written as UTF-8."""
    if not text.isascii() and re.search("[\ud800-\udfff]", text):
        raise BadRowError(f"{name} holds half a surrogate pair, which is no character")
    return text


def kind_of(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


def parse_messages(value: object) -> tuple[Message, ...]:
    """[{role, content}, ...] or sharegpt's [{from, value}, ...]."""
    if not isinstance(value, list) or not value:
        raise BadRowError(f"expected a list of messages, found {'an empty one' if value == [] else kind_of(value)}")
    messages = []
    for number, item in enumerate(value, start=1):
        if not isinstance(item, Mapping):
            raise BadRowError(f"message {number} is not an object {{role, content}}, found {kind_of(item)}")
        role = item.get("role", item.get("from"))
        content = item.get("content", item.get("value"))
        role = SHAREGPT_ROLES.get(role, role) if isinstance(role, str) else role
        if role not in ROLES:
            raise BadRowError(f"message {number} has an unknown role {role!r} (known: {', '.join(ROLES)})")
        if not isinstance(content, str):
            raise BadRowError(f"the content of message {number} is not text, found {kind_of(content)}")
        messages.append(Message(role, whole_text(content, f"message {number}")))
    return tuple(messages)


def prompt_messages(value: object) -> tuple[Message, ...]:
    """A prompt is a text (the user's), a text in HH-RLHF's form, or messages."""
    if not isinstance(value, str):
        return parse_messages(value)
    turns = HH_TURN.split(value)
    if len(turns) > 1 and not turns[0].strip():
        pairs = zip(turns[1::2], turns[2::2], strict=True)
        chat = [Message("user" if name == "Human" else "assistant", text.strip()) for name, text in pairs]
        return tuple(chat[:-1] if len(chat) > 1 and chat[-1] == Message("assistant", "") else chat)
    return (Message("user", whole_text(value, "prompt")),)


def answer_text(value: object, prompt: Sequence[Message]) -> str:
    """The text of one answer: a text, a message of the assistant, or a whole chat that starts with the prompt."""
    if isinstance(value, str):
        if not HH_TURN.match(value):
            return whole_text(value, "answer")
        value = plain_messages(prompt_messages(value))
    messages = parse_messages(value)
    rest = messages[len(prompt) :] if messages[: len(prompt)] == tuple(prompt) else messages
    if len(rest) != 1 or rest[0].role != "assistant":
        roles = ", ".join(message.role for message in rest)
        raise BadRowError(
            f"an answer must be one message of the assistant after the prompt (found: {roles or 'nothing'})"
        )
    return rest[0].content


def pair(row: Row) -> tuple[tuple[Message, ...], str, str]:
    """(prompt, chosen, rejected): the answers are texts, or chats that may repeat the prompt."""
    chosen, rejected = required(row, "chosen"), required(row, "rejected")
    if "prompt" in row:
        prompt = prompt_messages(row["prompt"])
        answers = [answer_text(value, prompt) for value in (chosen, rejected)]
    else:
        chats = [prompt_messages(value) for value in (chosen, rejected)]
        shared = 0
        while shared < min(map(len, chats)) - 1 and chats[0][shared] == chats[1][shared]:
            shared += 1
        prompt = chats[0][:shared]
        if not prompt:
            raise BadRowError("no `prompt`, and `chosen` and `rejected` are not chats that start alike")
        answers = [answer_text(list(plain_messages(chat)), prompt) for chat in chats]
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
    temperature = value.get("temperature", 1.0)
    return Candidate(
        text_field(value, "text"),
        tuple(ids),
        model=text_field(value, "model", default=""),
        finished=value.get("finished") is not False,
        temperature=float(temperature) if isinstance(temperature, int | float) else 1.0,
    )


def dense_ranks(ranks: Sequence[Any], num_candidates: int) -> tuple[int, ...]:
    """Dense ranks: 1, 2, ... without gaps, equal for ties, one for each answer."""
    if len(ranks) != num_candidates or None in ranks:
        given = sum(rank is not None for rank in ranks)
        raise BadRowError(f"the ranking omits an answer: {num_candidates} candidates, {given} ranks")
    if any(type(rank) is not int for rank in ranks) or set(ranks) != set(range(1, len(set(ranks)) + 1)):
        raise BadRowError(f"ranks must be whole numbers 1, 2, ... without gaps (equal = tie), found {list(ranks)}")
    return tuple(ranks)


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


def plain_messages(messages: Iterable[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]
