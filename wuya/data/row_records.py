"""One row of a known format as a record; a row that can't be used whole is a BadRowError with its reason."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Literal

from wuya.data.fields import (
    answer_of,
    answer_turns,
    dense_ranks,
    pair,
    parse_candidate,
    prompt_messages,
    ranks_of_order,
    refuse_calls,
    refuse_contradiction,
)
from wuya.data.known_keys import NOT_TEXT
from wuya.data.messages import messages_key, parse_messages, parse_tools
from wuya.data.prompt_ids import Origin
from wuya.data.values import BadRowError, Row, either, id_of, required, required_list, text_field, whole_text
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
Messages = tuple[Message, ...]


def demonstration_of(row: Row, format: Format, origin: Origin) -> Demonstration:
    """A chat up to its last learned answer: what comes after that changes no loss."""
    messages, answers = _prompt_and_answers(row, format)
    if not answers:
        raise BadRowError(f"the chat must end with the assistant, ends with {messages[-1].role}")
    weight = _demonstration_weight(row)
    chat = [*messages, *answers]
    if weight != 1:
        chat = [replace(m, learn=m.learn * weight) if m.role == "assistant" else m for m in chat]
    while chat and not (chat[-1].role == "assistant" and chat[-1].learn):
        chat.pop()
    if not chat:
        raise BadRowError("no answer of the chat is learned: all have weight 0")
    for number, message in enumerate(chat, start=1):
        if message.role == "assistant" and message.learn and not (message.content.strip() or message.tool_calls):
            last = number == len(chat)
            raise BadRowError("the answer is empty" if last else f"message {number}, an answer to learn, is empty")
    if len(chat) == 1:
        raise BadRowError("the chat holds an answer and no prompt")
    return Demonstration(with_origin(row, tuple(chat[:-1]), origin), chat[-1], text_field(row, "labeler", default=""))


def prompt_of(row: Row, format: Format, origin: Origin) -> Prompt:
    """The prompt; answers are left out."""
    messages, answers = _prompt_and_answers(row, format)
    return with_origin(row, (*messages, *answers[:-1]), origin)


def ranking_of(row: Row, format: Format, origin: Origin) -> Ranking:
    """Two or more answers and their order; a comparison is a ranking of two."""
    if format == "comparison":
        messages, chosen, rejected = pair(row, _own_prompt(row))
        candidates: tuple[Candidate, ...] = (chosen, rejected)
        ranks: tuple[int, ...] = (1, 2)
    else:
        messages = in_context(row, prompt_messages(required(row, "prompt")))
        answers = required_list(row, "candidates" if format == "ranking" else "responses")
        candidates = tuple(parse_candidate(answer) for answer in answers)
        if len(candidates) < 2:
            raise BadRowError(f"a ranking needs at least 2 answers, found {len(candidates)}")
        order = required_list(row, "ranks" if format == "ranking" else "ranking")
        ranks = dense_ranks(order, len(candidates)) if format == "ranking" else ranks_of_order(order, len(candidates))
        refuse_contradiction(candidates, ranks)
    flags = row.get("flags")
    round = row.get("round")
    return Ranking(
        with_origin(row, messages, origin),
        candidates,
        ranks,
        labeler=text_field(row, "labeler", default=""),
        round=round if isinstance(round, int) and not isinstance(round, bool) else 0,
        source=text_field(row, "ranking_source", default="ranking"),
        created_at=text_field(row, "created_at", default=""),
        flags=flags if isinstance(flags, dict) else {},
        weight=_weight(row),
    )


def comparisons_of(row: Row, format: Format, origin: Origin) -> list[Comparison]:
    """The pairs of a ranking that are not ties, in one group."""
    ranking = ranking_of(row, format, origin)
    refuse_calls(ranking.candidates, "pairs of texts are compared here")
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


def with_origin(row: Row, messages: Messages, origin: Origin) -> Prompt:
    """The prompt with its tools, id (the row's, else a hash of what it is), source and author."""
    for key in NOT_TEXT:
        if row.get(key):
            raise BadRowError(f"`{key}` is given: text alone can be learned")
    if messages[-1].role == "assistant":
        raise BadRowError("the prompt ends with the assistant: nothing is left to answer")
    tools = parse_tools(either(row, "tools", "functions"))
    prompt = Prompt(
        id_of(row) or messages_key(messages, tools),
        messages,
        text_field(row, "source", default=origin.source),
        text_field(row, "author", default=""),
        tools,
    )
    return origin.ids.settled(prompt)


# -- the parts of a row


def _prompt_and_answers(row: Row, format: Format) -> tuple[Messages, Messages]:
    """The messages to answer, and the turns that answer them (none where the row has no answer)."""
    if format == "alpaca":
        return in_context(row, alpaca_prompt(row)), (Message("assistant", text_field(row, "output")),)
    if format == "question-answer":
        question = (Message("user", text_field(row, "question")),)
        return in_context(row, question), (Message("assistant", text_field(row, "answer")),)
    if format == "comparison":
        return pair(row, _own_prompt(row))[0], ()
    if format == "prompt-completion":
        prompt = prompt_messages(required(row, "prompt"))
        answers = answer_turns(required(row, "completion"), prompt)
        if not answers or answers[-1].role != "assistant":
            answer_of(row["completion"], prompt)  # says what is wrong
        return in_context(row, prompt), answers
    if format in ("messages", "sharegpt"):
        chat = in_context(row, _chat(row))
        if chat[-1].role != "assistant":
            return chat, ()
        if len(chat) == 1:
            raise BadRowError("the chat holds an answer and no prompt")
        return chat[:-1], chat[-1:]
    return in_context(row, prompt_messages(required(row, "prompt"))), ()


def _chat(row: Row) -> Messages:
    """The chat under `messages` or `conversations`; where both are given they must be the same chat."""
    chats = [parse_messages(row[key]) for key in ("messages", "conversations") if row.get(key) is not None]
    if any(chat != chats[0] for chat in chats[1:]):
        raise BadRowError("`messages` and `conversations` differ: keep the one that is meant")
    return chats[0]


def _own_prompt(row: Row) -> Messages | None:
    """The prompt of a comparison under a key of its own: `prompt`, LLaMA-Factory's `instruction` or `conversations`."""
    if row.get("prompt") is not None:
        return in_context(row, prompt_messages(row["prompt"]))
    if row.get("instruction") is not None:
        return in_context(row, alpaca_prompt(row))
    if row.get("question") is not None:
        return in_context(row, (Message("user", text_field(row, "question")),))
    for key in ("conversations", "messages"):
        if row.get(key) is not None and (chat := parse_messages(row[key]))[-1].role != "assistant":
            return in_context(row, chat)
    return None


def alpaca_prompt(row: Row) -> Messages:
    """The user's turn of `instruction` and `input`."""
    extra = text_field(row, "input", default="")
    instruction = text_field(row, "instruction")
    return (Message("user", f"{instruction}\n\n{extra}" if extra.strip() else instruction),)


def in_context(row: Row, messages: Messages) -> Messages:
    """The messages behind the row's `system` and `history` (LLaMA-Factory: [[question, answer], ...], learned too)."""
    either(row, "system", "system_prompt")
    system = text_field(row, "system", default="") or text_field(row, "system_prompt", default="")
    before = messages[:1] if messages[0].role == "system" else ()
    if system and before and before[0].content != system:
        raise BadRowError("`system` differs from the system message of the chat")
    if system and not before:
        before, messages = (Message("system", system),), (*messages,)
    elif before:
        messages = messages[1:]
    return (*before, *_history(row), *messages)


def _history(row: Row) -> list[Message]:
    history = row.get("history") or []
    if not isinstance(history, list):
        raise BadRowError(f"`history` is not a list of [question, answer], found {type(history).__name__}")
    if history and isinstance(history[0], Mapping):
        return list(parse_messages(history))
    turns: list[Message] = []
    for entry in history:
        if not isinstance(entry, Sequence) or len(entry) != 2 or not all(isinstance(text, str) for text in entry):
            raise BadRowError("`history` is not a list of [question, answer]")
        question, answer = (whole_text(text, "`history`") for text in entry)
        turns += [Message("user", question), Message("assistant", answer)]
    return turns


def _demonstration_weight(row: Row) -> float:
    """How much all answers of a row count; what was labelled as bad must not be learned at all."""
    for key in ("label", "kto_tag", "value"):  # `value` 1, -1: a thumb in wuya's own snapshots
        label = row.get(key)
        if label is not None and label not in (True, "true", "True"):
            raise BadRowError(f"its `{key}` is {label!r}: a bad answer is no demonstration (good: true or 1)")
    weight = row.get("weight")
    if weight is True or weight is None:
        return 1.0
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
        raise BadRowError(f"`weight` must be a number of at least 0, found {weight!r}")
    return float(weight)


def _weight(row: Row) -> float:
    weight = row.get("weight")
    weight = 1.0 if weight is None else weight
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise BadRowError(f"`weight` must be a number above 0, found {weight!r}")
    return float(weight)
