"""What a command says about the chat format of the model it uses: the system prompt, and what ends an answer."""

from wuya.console import say, warn
from wuya.errors import DataError
from wuya.records import Message
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import encode_answer, encode_prompt

PROBES = (
    (Message("user", "a"),),
    (Message("system", "a"), Message("user", "b")),
    (Message("user", "a"), Message("assistant", "b"), Message("user", "c")),
)
"""Chats that two models must see alike to be compared, or for one to judge the other."""


def tell_chat_format(tokenizer: Tokenizer) -> None:
    """Show the system prompt of chats that have none, and warn where answers end otherwise than the template says."""
    if prompt := tokenizer.system_prompt:
        say(f"system prompt of chats without one: {prompt}")
    if note := end_note(tokenizer):
        warn(note)
    if tokenizer.unknown_ends:
        named, count = ", ".join(map(repr, tokenizer.unknown_ends)), tokenizer.vocab_size
        warn(
            f"the model's files name ends of an answer that are not among its {count:,} tokens: {named}; "
            "answers never end there (`eos_token_id` in generation_config.json holds numbers of tokens)"
        )


def reads_alike(tokenizer: Tokenizer, other: Tokenizer) -> bool:
    """Whether two tokenizers with one vocabulary turn plain chats into the same ids: the prompt, the answer, its end.

    Templates may differ as texts; what counts is what the models see.
    """
    return all(_seen(tokenizer, chat) == _seen(other, chat) for chat in PROBES)


def _seen(tokenizer: Tokenizer, chat: tuple[Message, ...]) -> tuple[list[int], list[int]] | None:
    try:
        return encode_prompt(tokenizer, chat), encode_answer(tokenizer, chat, "d")
    except DataError:  # no template, or one that refuses these turns
        return None


def end_note(tokenizer: Tokenizer) -> str:
    """Why the end of an answer is not the chat template's own; empty where it is."""
    facts, end, name = tokenizer.template_facts, tokenizer.turn_end, tokenizer.template_name
    token = tokenizer.decode([end.id])
    if not tokenizer.chat_template or end.kind == "template":
        return ""
    if facts.refused:
        return f"{name} can't be tried on a plain chat ({facts.refused}); answers are learned to end with `{token}`"
    what = "the next role's mark" if end.kind == "next role" else "the tokenizer's eos_token"
    return f"{name} writes no end token after an answer; answers are learned to end with `{token}`, {what}"
