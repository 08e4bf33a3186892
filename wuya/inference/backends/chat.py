"""A chat of the API as token ids, in the model's own template, with tools and tool calls where it knows them.

Messages become the same records as the rows of training files and are rendered by the same function, so no text of a
request becomes a control token and a part that the template would drop is refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from wuya.data.messages import parse_messages, parse_tools
from wuya.data.values import BadRowError
from wuya.errors import DataError
from wuya.inference.backends.protocol import Unsupported
from wuya.records import Message, Prompt
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import encode_prompt
from wuya.tokenizer.rendering import variables_of


def knows_tools(template: str) -> bool:
    """Whether a chat template has a place for tools."""
    return "tools" in variables_of(template)


def encode_messages(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None = None
) -> list[int]:
    """Ids of the chat up to where the assistant goes on."""
    if not messages:
        raise DataError("a chat needs at least one message")
    if tools and not knows_tools(tokenizer.chat_template):
        raise Unsupported("this model's chat template has no place for tools", param="tools")
    try:
        chat = list(parse_messages([{"content": "", **_given(message)} for message in messages]))
        offered = parse_tools(list(tools or ()))
    except BadRowError as error:
        raise DataError(str(error)) from error
    begun = _begun(chat)
    ids = encode_prompt(tokenizer, Prompt("", tuple(chat), tools=offered))
    return ids + (tokenizer.encode(begun) if begun else [])


def _given(message: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if value is not None}


def _begun(chat: list[Message]) -> str:
    """The beginning of an answer that is to be continued, taken off the chat."""
    if chat[-1].role != "assistant" or chat[-1].tool_calls:
        return ""
    begun = chat.pop().content
    if not chat:
        raise DataError("a chat cannot begin with the assistant")
    return begun
