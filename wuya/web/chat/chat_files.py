"""Files of chats read one chat at a time, so that a file of 64 MiB takes the memory of its longest chat.

    contents = look_through(file)                  # the whole file once: its form, its counts, or what is wrong with it
    for chat in read_chats(file, contents): ...    # and again, to keep them

Nothing of a file that is damaged anywhere is kept, because it is looked through first.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import ijson

from wuya.errors import DataError
from wuya.web.chat import transfer
from wuya.web.chat.transfer import Format, ImportedChat

CHATS = 20_000
MESSAGES = 200_000
"""Most of one file."""
MARKDOWN_BYTES = 16 << 20
"""Markdown holds one chat, which is read whole."""
DEEPEST = 200
"""Levels of JSON; the parser's names of places grow with them."""
OURS = "conversations.item"
"""Where our own form has its chats, in ijson's words."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds."""

    form: Format
    place: str
    """Where the chats are: `item` of a list, `conversations.item`, or the whole file as one."""
    chats: int
    messages: int
    skipped: int
    """Entries that are no chats."""


def look_through(file: IO[bytes], *, is_markdown: bool = False) -> Contents:
    """Read the whole file and keep nothing. Raises DataError where it is no export, damaged or too large."""
    place = "" if is_markdown else _scan(file)
    form: Format | None = "markdown" if is_markdown else "wuya" if place == OURS else None
    chats, messages, skipped, first = 0, 0, 0, ""
    for found, chat in _parsed(file, place, is_markdown=is_markdown):
        if not isinstance(chat, ImportedChat):
            first = first or (", ".join(sorted(map(str, chat)))[:200] if isinstance(chat, dict) else "")
            skipped += 1
            continue
        form, chats, messages = found, chats + 1, messages + len(chat.messages)
        if chats > CHATS or messages > MESSAGES:
            most = f"at most {CHATS:,} chats and {MESSAGES:,} messages"
            raise DataError("the file holds too many chats or messages", found=most, hint="split it")
    if form is None:
        raise DataError(
            "this is no export that wuya knows",
            found=first or "nothing",
            hint="wuya's own JSON or Markdown, ChatGPT's conversations.json, Open WebUI's export",
        )
    return Contents(form, place, chats, messages, skipped)


def read_chats(file: IO[bytes], contents: Contents) -> Iterator[ImportedChat]:
    """The chats of a file that was looked through."""
    for _, chat in _parsed(file, contents.place, is_markdown=contents.form == "markdown"):
        if isinstance(chat, ImportedChat):
            yield chat


def in_parts(chats: Iterator[ImportedChat], *, messages: int) -> Iterator[list[ImportedChat]]:
    """The chats in groups of about so many messages; a chat stays whole."""
    part: list[ImportedChat] = []
    count = 0
    for chat in chats:
        if part and count + len(chat.messages) > messages:
            yield part
            part, count = [], 0
        part.append(chat)
        count += len(chat.messages)
    if part:
        yield part


def _parsed(file: IO[bytes], place: str, *, is_markdown: bool) -> Iterator[tuple[Format, Any]]:
    """(form, chat) of each entry; one that is no chat comes as it is."""
    if is_markdown:
        yield "markdown", transfer.from_markdown(_text(file))
        return
    form: Format = "wuya"
    parse: Callable[[Any], ImportedChat | None] | None = None
    for entry in _entries(file, place):
        if parse is None and isinstance(entry, dict) and (known := transfer.parser_of(entry, ours=place == OURS)):
            form, parse = known  # the first entry may be a folder, or one of a later version
        chat = parse(entry) if parse is not None and isinstance(entry, dict) else None
        yield form, chat if chat is not None and chat.messages else entry


def _entries(file: IO[bytes], place: str) -> Iterator[Any]:
    with _json_errors():
        yield from ijson.items(_start(file), place, use_float=True)


def _scan(file: IO[bytes]) -> str:
    """Where a file has its chats; whether it is JSON at all, and not too deep."""
    top, key, depth, is_named, has_list = "", "", 0, False, False
    with _json_errors():
        for event, value in ijson.basic_parse(_start(file), use_float=True):
            if event in ("start_map", "start_array"):
                top = top or event
                has_list |= depth == 1 and key == "conversations" and event == "start_array"
                depth += 1
                if depth > DEEPEST:
                    raise DataError("the file nests too deep", found=f"over {DEEPEST} levels")
            elif event in ("end_map", "end_array"):
                depth -= 1
            elif depth == 1 and event == "map_key":
                key = value
            elif depth == 1 and key == "format" and top == "start_map":
                is_named |= value == transfer.FORMAT
    if is_named and not has_list:
        raise DataError("the file holds no list of chats", found="`conversations`")
    return OURS if is_named else "item" if top == "start_array" else ""


def _start(file: IO[bytes]) -> IO[bytes]:
    """The file at its first byte after a mark of UTF-8."""
    file.seek(0)
    if file.read(3) != b"\xef\xbb\xbf":
        file.seek(0)
    return file


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    content = file.read(MARKDOWN_BYTES + 1)
    if len(content) > MARKDOWN_BYTES:
        raise DataError("the Markdown file is too long", found=f"over {MARKDOWN_BYTES:,} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("the file is not UTF-8 text", found=f"byte {error.start}") from error


@contextmanager
def _json_errors() -> Iterator[None]:
    try:
        yield
    except (ijson.JSONError, ValueError) as error:
        raise DataError("the file is not JSON", found=str(error).partition("\n")[0][:200]) from error
