"""Chats as token ids: the prompt the assistant answers, the answer that is learned, and the loss mask.

A template (Jinja source, stored with the tokenizer) turns messages into text; `render_chat` gives byte for byte what
`transformers.apply_chat_template` gives, without importing it. Three rules make the ids safe to train and sample with:

1. What people type is text. A `<|im_end|>` in a message is encoded as the characters it is made of, never as the token.
2. The prompt of an answer is what the template writes with `add_generation_prompt` for the messages before it, in
training, sampling and serving alike. What the template writes after it, up to the end of the turn, is learned.
3. Nothing is dropped in silence: a template that leaves out a message, a tool call or a tool refuses the chat.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from wuya.errors import DataError
from wuya.records import Candidate, Demonstration, Message, Prompt, Ranking, Rating
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_rows import Row, check_roles, template_row, template_tools, traced
from wuya.tokenizer.rendering import render
from wuya.tokenizer.shield import REASONING, Shield
from wuya.tokenizer.templates import CHATML, PLAIN

__all__ = [
    "CHATML",
    "PLAIN",
    "EncodedChat",
    "check_demonstration",
    "check_prompt",
    "check_ranking",
    "check_rating",
    "encode_answer",
    "encode_chat",
    "encode_demonstration",
    "encode_prompt",
    "fit_prompt",
    "render_chat",
    "show_example",
]

Chat = Prompt | Demonstration | Sequence[Message]

OPENED_THOUGHT = re.compile(r"<think>\s*(</think>\s*)?\Z")
"""A generation prompt that opens the answer's reasoning (DeepSeek-R1), or opens and closes it."""


@dataclass(frozen=True, slots=True)
class EncodedChat:
    """A chat as token ids, with which of them are learned."""

    ids: list[int]
    mask: list[float]
    """The weight of the assistant's tokens and of the end token after them, mostly 1; 0 elsewhere. It belongs to the
    token itself: a loss on targets shifted by one shifts the mask too."""

    def __len__(self) -> int:
        return len(self.ids)


def render_chat(
    messages: Sequence[Message],
    template: str,
    *,
    add_generation_prompt: bool = False,
    bos_token: str | None = None,
    eos_token: str | None = None,
    pad_token: str | None = None,
) -> str:
    """The chat as one string, as `transformers.apply_chat_template(tokenize=False)` renders it."""
    check_roles(messages)
    known = {"bos_token": bos_token, "eos_token": eos_token, "pad_token": pad_token}
    nothing = Shield(())
    text = render(
        template,
        [template_row(message, nothing) for message in messages],
        add_generation_prompt=add_generation_prompt,
        variables={name: token for name, token in known.items() if token is not None},
    )
    return nothing.show(text)


def encode_prompt(tokenizer: Tokenizer, chat: Chat) -> list[int]:
    """Ids of a chat that ends where the assistant begins to write."""
    rendered = _Rendered.of(tokenizer, chat)
    rendered.check(len(rendered.messages), ask=True)
    ids = rendered.ids(rendered.prompt(len(rendered.messages)))
    tokenizer.prompts.note(ids, rendered.messages, rendered.tools)
    return ids


def encode_answer(tokenizer: Tokenizer, chat: Chat, answer: str | Message, *, finished: bool = True) -> list[int]:
    """Ids of an answer to `encode_prompt`'s ids, as the template writes it.

    Args:
        finished: with the token that ends it; without, the answer was cut off.
    """
    message = Message("assistant", answer) if isinstance(answer, str) else answer
    messages, tools = _parts(chat)
    rendered = _Rendered(tokenizer, (*messages, message), tools)
    return rendered.answer_ids(len(messages), finished=finished)[1]


def encode_demonstration(tokenizer: Tokenizer, chat: Chat, *, last_only: bool = False) -> list[EncodedChat]:
    """Everything there is to learn from a chat, each answer behind the prompt that sampling would see.

    One sequence, as long as the prompt of each answer begins with the prompt and answer before it. Templates that write
    earlier answers otherwise (Qwen3 leaves out their reasoning) give a sequence for each answer.

    Args:
        chat: ends with the assistant's message.
        last_only: learn only the last message, for chats whose earlier answers a model wrote.
    """
    rendered = _Rendered.of(tokenizer, chat)
    messages = rendered.messages
    learned = _learned(messages, last_only=last_only)
    rendered.check(len(messages), ask=False)
    sequences: list[EncodedChat] = []
    for place in learned:
        prompt, answer = rendered.answer_ids(place)
        if not sequences or prompt[: len(sequences[-1])] != sequences[-1].ids:
            sequences.append(EncodedChat([], []))
        last = sequences[-1]
        last.mask.extend([0] * (len(prompt) - len(last.ids)) + [messages[place].learn] * len(answer))
        last.ids[:] = prompt + answer
    last, whole = sequences[-1], rendered.ids(rendered.text(len(messages), ask=False))
    if whole[: len(last.ids)] == last.ids:  # what the template writes behind the end
        last.mask.extend([0] * (len(whole) - len(last.ids)))
        last.ids[:] = whole
    return sequences


def encode_chat(tokenizer: Tokenizer, chat: Chat, *, last_only: bool = False) -> EncodedChat:
    """`encode_demonstration` of a chat that is one sequence; of several the last, which holds the whole chat.

    A chat without an answer is encoded too; nothing of it is learned.
    """
    messages, _ = _parts(chat)
    if any(message.role == "assistant" for message in messages):
        return encode_demonstration(tokenizer, chat, last_only=last_only)[-1]
    rendered = _Rendered.of(tokenizer, chat)
    rendered.check(len(messages), ask=False)
    ids = rendered.ids(rendered.text(len(messages), ask=False))
    return EncodedChat(ids, [0] * len(ids))


def fit_prompt(tokenizer: Tokenizer, chat: Chat, *, max_tokens: int) -> list[int]:
    """`encode_prompt` of the newest turns that fit: the oldest are left out first, a system message at the start stays.

    Raises DataError when the last message alone is too long.
    """
    messages, tools = _parts(chat)

    def encoded(kept: Sequence[Message]) -> list[int]:
        return encode_prompt(tokenizer, Prompt("", tuple(kept), tools=tools))

    ids = encoded(messages)
    if len(ids) <= max_tokens:
        return ids
    system = list(messages[:1]) if messages[0].role == "system" else []
    starts = [n for n in range(len(system) + 1, len(messages)) if messages[n].role == "user"]  # a chat begins with one
    fitting: list[int] = []
    while starts:  # fewer messages are fewer tokens: halve
        middle = len(starts) // 2
        ids = encoded([*system, *messages[starts[middle] :]])
        if len(ids) <= max_tokens:
            fitting, starts = ids, starts[:middle]
        else:
            starts = starts[middle + 1 :]
    if fitting:
        return fitting
    ids = encoded([*system, *messages[-1:]])
    raise DataError(
        f"the last message is longer than the context: at most {max_tokens} tokens fit",
        found=f"{len(ids)} tokens with the chat format" + (" and the system message" if system else ""),
        hint="shorten the message, or use a model with a longer context",
    )


def show_example(tokenizer: Tokenizer, encoded: EncodedChat) -> str:
    """A chat decoded with its mask, readable without colour: learned stretches stand between [[ and ]]."""
    parts = []
    for start, stop, learned in _stretches(encoded.mask):
        text = tokenizer.decode(encoded.ids[start:stop])
        parts.append(f"[[{text}]]" if learned else text)
    count, end = sum(weight > 0 for weight in encoded.mask), tokenizer.decode([tokenizer.turn_end.id])
    heading = f"{len(encoded.ids)} tokens, {count} learned (between [[ and ]]); end token {end}:"
    return heading + "\n" + "".join(parts)


def check_prompt(tokenizer: Tokenizer, chat: Chat) -> None:
    """Raise DataError if the template refuses the chat or drops a part of it."""
    rendered = _Rendered.of(tokenizer, chat)
    rendered.check(len(rendered.messages), ask=True)


def check_demonstration(tokenizer: Tokenizer, chat: Chat, *, last_only: bool = False) -> None:
    """Raise DataError if `encode_demonstration` would."""
    rendered = _Rendered.of(tokenizer, chat)
    rendered.check(len(rendered.messages), ask=False)
    for place in _learned(rendered.messages, last_only=last_only):
        rendered.answer(place)


def check_ranking(tokenizer: Tokenizer, ranking: Ranking) -> None:
    """Raise DataError if the template refuses the prompt, or one of the answers as its answer."""
    _check_candidates(tokenizer, ranking.prompt, ranking.candidates)


def check_rating(tokenizer: Tokenizer, rating: Rating) -> None:
    """`check_ranking` of a single answer."""
    _check_candidates(tokenizer, rating.prompt, (rating.candidate,))


def _check_candidates(tokenizer: Tokenizer, prompt: Prompt, candidates: Sequence[Candidate]) -> None:
    check_prompt(tokenizer, prompt)
    for candidate in candidates:
        whole = (*prompt.messages, candidate.message)
        _Rendered(tokenizer, whole, prompt.tools).answer(len(prompt.messages))


def _learned(messages: Sequence[Message], *, last_only: bool) -> list[int]:
    """Places of the messages to learn; raises DataError if there is none."""
    learned = [n for n, message in enumerate(messages) if message.role == "assistant" and message.learn]
    learned = [n for n in learned if not last_only or n == len(messages) - 1]
    if not learned:
        raise DataError("no message of the assistant is to be learned", hint="check the roles and weights")
    return learned


def _parts(chat: Chat) -> tuple[Sequence[Message], tuple[str, ...]]:
    if isinstance(chat, Demonstration):
        return chat.messages, chat.prompt.tools
    return (chat.messages, chat.tools) if isinstance(chat, Prompt) else (chat, ())


def _stretches(mask: Sequence[float]) -> Iterator[tuple[int, int, bool]]:
    """(start, stop, learned) of the runs of equal mask values."""
    start = 0
    for stop in range(1, len(mask) + 1):
        if stop == len(mask) or mask[stop] != mask[start]:
            yield start, stop, bool(mask[start])
            start = stop


@dataclass
class _Rendered:
    """One chat with its texts shielded: what the template makes of any beginning of it."""

    tokenizer: Tokenizer
    messages: Sequence[Message]
    tools: tuple[str, ...] = ()
    _shield: Shield = field(init=False)
    _rows: list[Row] = field(init=False)
    _tools: list[Row] = field(init=False)

    def __post_init__(self) -> None:
        check_roles(self.messages)
        if not self.tokenizer.chat_template:
            raise DataError(
                "the tokenizer has no chat template",
                hint="start from a model that has one, or add `chat_template` to its tokenizer_config.json",
            )
        self._shield = Shield(self.tokenizer.control_ids)
        self._rows = [template_row(message, self._shield) for message in self.messages]
        self._tools = template_tools(self.tools, self._shield)

    @classmethod
    def of(cls, tokenizer: Tokenizer, chat: Chat) -> "_Rendered":
        return cls(tokenizer, *_parts(chat))

    # -- text

    def text(self, count: int, *, ask: bool) -> str:
        """The first `count` messages as text in which control tokens are only the template's own."""
        return self._render(self._rows[:count], self._tools, ask=ask)

    def _render(self, rows: Sequence[Row], tools: Sequence[Row], *, ask: bool) -> str:
        tokenizer = self.tokenizer
        return render(
            tokenizer.chat_template, rows, add_generation_prompt=ask, variables=tokenizer.template_variables,
            tools=tools,
        )  # fmt: skip

    def prompt(self, count: int) -> str:
        """What stands before the answer to the first `count` messages."""
        return self.text(count, ask=True) + self.tokenizer.template_facts.header

    def ids(self, text: str) -> list[int]:
        """Token ids of a rendered text."""
        return self.tokenizer.encode_rendered(text, self._shield.show)

    def check(self, count: int, *, ask: bool) -> None:
        """Refuse a chat of which the template drops a part, or in which a text completes a control token."""
        rows, tools, marks = traced(self._rows[:count], self._tools)
        text = self.text(count, ask=ask)
        try:
            marked = self._render(rows, tools, ask=ask)
        except DataError:
            return  # it compares names, and has refused the marks in them
        lost = [what for mark, what in marks.items() if mark not in marked]
        if lost:
            raise DataError(
                f"{self.tokenizer.template_name} drops {lost[0]}",
                hint="use a model whose chat template writes it, or leave it out",
            )
        controls, without = (Counter(id for *_, id in self.tokenizer.control_places(one)) for one in (text, marked))
        if controls - without:
            raise DataError("a text of this chat turns into a control token within the chat template")

    # -- answers

    def answer_ids(self, place: int, *, finished: bool = True) -> tuple[list[int], list[int]]:
        """Ids of the prompt before the message at `place`, which is the assistant's, and of that message as learned."""
        prompt, answer = self.answer(place)
        end = self._end_of(answer)
        text = answer[: end[1] if finished else end[0]]
        prompt_ids, both = self.ids(prompt), self.ids(prompt + text)
        if both[: len(prompt_ids)] == prompt_ids:
            ids = both[len(prompt_ids) :]
        else:  # a token would span the border: the model can't write that one
            ids = self.ids(text)
        turn_end = self.tokenizer.turn_end
        if finished and (not ids or ids[-1] not in turn_end.ids):
            ids = [*ids, turn_end.id]
        return prompt_ids, ids

    def _end_of(self, answer: str) -> tuple[int, int]:
        """Where an answer's own text stops, and where its end token does; both the same if it has none."""
        ends = set(self.tokenizer.turn_end.ids)
        for start, stop, id in self.tokenizer.control_places(answer):
            if id in ends:
                return start, stop
        stop = len(answer.removesuffix(self.tokenizer.template_facts.tail))
        return stop, stop

    def answer(self, place: int) -> tuple[str, str]:
        """Text of the prompt, and everything the template writes after it for the message at `place`."""
        prompt, message, row = self.prompt(place), self.messages[place], self._rows[place]
        answer = self._after(prompt, self.text(place + 1, ask=False), row)
        reasoning = row.get("reasoning_content", "").strip()
        if reasoning and reasoning not in answer and "</think>" in self.tokenizer.chat_template:
            inline = Message("assistant", f"<think>\n{message.reasoning}\n</think>\n\n{message.content}")
            inline = replace(inline, tool_calls=message.tool_calls)
            rows = [*self._rows[:place], template_row(inline, self._shield)]
            answer = self._after(prompt, self._render(rows, self._tools, ask=False), rows[-1])
            reasoning = self._shield.hide(message.reasoning).strip() if message.reasoning.strip() not in answer else ""
        if reasoning and reasoning not in answer:
            raise DataError(
                f"{self.tokenizer.template_name} drops the reasoning of an answer",
                hint="use a model whose chat template writes `reasoning_content`, or leave it out",
            )
        return prompt, answer

    def _after(self, prompt: str, whole: str, row: Row) -> str:
        """What a whole chat adds to the prompt of its last answer."""
        if whole.startswith(prompt):
            return whole[len(prompt) :]
        thought = OPENED_THOUGHT.search(prompt)
        if thought is None or not whole.startswith(prompt[: thought.start()]):
            raise DataError(
                f"{self.tokenizer.template_name} asks for an answer in other words than it writes before one, so what "
                "would be learned is not what the model is asked for",
                found=repr(prompt[-40:]),
                hint="use a chat template whose chats begin with their generation prompt",
            )
        rest = whole[thought.start() :]
        if thought.group(1):
            return rest
        if rest.lstrip().startswith("<think>"):
            return rest.partition("<think>")[2].lstrip("\n")
        found = REASONING.match(row["content"])
        reasoning = row.get("reasoning_content") or (found.group(1) if found else "")
        return f"{reasoning.strip()}\n</think>\n\n" + rest.lstrip("\n")
