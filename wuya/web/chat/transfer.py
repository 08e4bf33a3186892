"""Chats out of files and into them: our own JSON and Markdown, ChatGPT's conversations.json, Open WebUI's export.

Pure: parsed JSON or text in, `ImportedChat`s out, and back; chat_files.py reads the files.
Trees survive in JSON; Markdown holds one path. Consent never travels: an imported chat may not be used for training
until its owner says so here.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from wuya.errors import DataError
from wuya.web.chat.citation_marks import without_marks

FORMAT = "wuya.conversations"
VERSION = 1
MESSAGE_CHARS = 256 << 10
TITLE_CHARS = 200
_MARKER = re.compile(r"^<!-- wuya: (\{.*\}) -->$", re.MULTILINE)
_HIDDEN_KINDS = {"thoughts", "reasoning_recap", "user_editable_context", "model_editable_context"}
Format = Literal["wuya", "chatgpt", "open_webui", "markdown"]
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ImportedMessage:
    """A message of a file; `parent` is the id of another one, or None."""

    id: str
    parent: str | None
    role: str
    content: str
    model: str = ""
    at: datetime | None = None
    feedback: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ImportedChat:
    """A conversation of a file; parents stand before their children."""

    id: str
    title: str
    messages: tuple[ImportedMessage, ...]
    leaf: str | None = None
    model: str = ""
    system_prompt: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime | None = None
    updated_at: datetime | None = None
    archived: bool = False


def parser_of(entry: Json, *, ours: bool) -> tuple[Format, Callable[[Any], ImportedChat | None]] | None:
    """(form, parser) of an entry of a file; None for one that is no chat of a known form."""
    if ours:
        return "wuya", _from_ours
    if isinstance(entry.get("mapping"), dict):
        return "chatgpt", _from_chatgpt
    if isinstance(entry.get("chat"), dict) or isinstance(entry.get("history"), dict):
        return "open_webui", _from_open_webui
    return None


# ---- ours


def to_json(chats: Iterable[Json], *, at: datetime) -> dict[str, Any]:
    """The head of our format around conversations as `transfer_store` reads them."""
    return {"format": FORMAT, "version": VERSION, "exported_at": at.isoformat(), "conversations": list(chats)}


def _from_ours(entry: Json) -> ImportedChat:
    listed = entry.get("messages")
    messages = [
        ImportedMessage(
            _text(m.get("id")),
            _text(m.get("parent_id")) or None,
            _text(m.get("role")),
            _content(m.get("content")),
            _text(m.get("model")),
            _moment(m.get("created_at")),
            m.get("feedback") if isinstance(m.get("feedback"), dict) else None,
        )
        for m in (listed if isinstance(listed, list) else ())
        if isinstance(m, dict)
    ]
    params = entry.get("params")
    return ImportedChat(
        _text(entry.get("id")),
        _title(entry.get("title")),
        _ordered(messages),
        _text(entry.get("active_leaf_id")) or None,
        _text(entry.get("model")),
        _content(entry.get("system_prompt"))[:32_000],
        params if isinstance(params, dict) else {},
        _moment(entry.get("created_at")),
        _moment(entry.get("updated_at")),
        bool(entry.get("archived")),
    )


def to_markdown(chat: Json) -> str:
    """One path as a page to read; comments between the messages make it importable again.

    Args:
        chat: {title, model, messages: [{role, content, model}]}
    """
    title = " ".join(str(chat["title"]).split()) or "Chat"
    parts = [f"# {title}"]
    for message in chat["messages"]:
        head = {"role": message["role"], "characters": len(message["content"])}
        if message.get("model"):
            head["model"] = message["model"]
        marker = json.dumps(head, ensure_ascii=True).replace("--", "-\\u002d")  # never the end of the comment
        name = {"user": "You", "system": "System"}.get(message["role"], message.get("model") or "Assistant")
        parts.append(f"<!-- wuya: {marker} -->\n\n## {' '.join(name.split())}\n\n{message['content']}")
    return "\n\n".join(parts) + "\n"


def from_markdown(text: str) -> ImportedChat:
    """Inverse of `to_markdown`; also of a file that was edited by hand, as long as the comments stand."""
    first = _MARKER.search(text)
    if first is None:
        raise DataError("this Markdown was not exported by wuya", hint="export a chat to see the form")
    title = re.match(r"#\s+(.*)", text[: first.start()].strip())
    messages: list[ImportedMessage] = []
    match: re.Match[str] | None = first
    while match is not None:
        head = _head(match.group(1))
        body = re.compile(r"\n\n## [^\n]*\n\n").match(text, match.end())
        start = body.end() if body else match.end()
        length = head.get("characters")
        end = start + length if isinstance(length, int) and 0 <= length <= len(text) else -1
        rest = text[end : end + 14] if end >= 0 else ""
        if end < 0 or not (
            rest.startswith("\n\n<!-- wuya: ") or (rest == "\n" and end + 1 == len(text))
        ):  # edited by hand
            following = _MARKER.search(text, start)
            end = following.start() if following else len(text)
            content = text[start:end].strip("\n")
        else:
            content = text[start:end]
        match = _MARKER.search(text, end)
        parent = messages[-1].id if messages else None
        role = _text(head.get("role"))
        if role in ("user", "assistant"):
            messages.append(ImportedMessage(str(len(messages)), parent, role, content, _text(head.get("model"))))
    return ImportedChat(
        "", _title(title.group(1) if title else ""), tuple(messages), messages[-1].id if messages else None
    )


def _head(text: str) -> Json:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


# ---- ChatGPT


def _from_chatgpt(entry: Json) -> ImportedChat | None:
    nodes = entry.get("mapping")
    if not isinstance(nodes, dict):
        return None
    messages = []
    for id, node in nodes.items():
        message = node.get("message") if isinstance(node, dict) else None
        message = message if isinstance(message, dict) else {}
        author, metadata = message.get("author"), message.get("metadata")
        role = _text(author.get("role")) if isinstance(author, dict) else ""
        hidden = isinstance(metadata, dict) and metadata.get("is_visually_hidden_from_conversation")
        is_call = message.get("recipient") not in (None, "all")
        content = "" if hidden or is_call else _chatgpt_text(message.get("content"))
        content = without_marks(content, metadata if isinstance(metadata, dict) else {})
        model = _text(metadata.get("model_slug")) if isinstance(metadata, dict) and role == "assistant" else ""
        parent = _text(node.get("parent")) or None if isinstance(node, dict) else None
        messages.append(ImportedMessage(str(id), parent, role, content, model, _moment(message.get("create_time"))))
    return ImportedChat(
        _text(entry.get("conversation_id")) or _text(entry.get("id")),
        _title(entry.get("title")),
        _ordered(messages),
        _text(entry.get("current_node")) or None,
        created_at=_moment(entry.get("create_time")),
        updated_at=_moment(entry.get("update_time")),
        archived=bool(entry.get("is_archived")),
    )


def _chatgpt_text(content: Any) -> str:
    """The text of a message; pictures and files become a word in brackets."""
    if not isinstance(content, dict):
        return ""
    kind = _text(content.get("content_type"))
    if kind in _HIDDEN_KINDS:
        return ""
    if kind == "code" or (isinstance(content.get("text"), str) and "parts" not in content):
        language = _text(content.get("language"))
        language = language if language.isalnum() and language != "unknown" else ""
        return _content(f"```{language}\n{content.get('text') or ''}\n```" if kind == "code" else content.get("text"))
    parts = content.get("parts")
    texts = []
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict):
            is_text = isinstance(part.get("text"), str)
            texts.append(part["text"] if is_text else f"[{_text(part.get('content_type')) or 'attachment'}]")
    return _content("\n\n".join(text for text in texts if text))


# ---- Open WebUI


def _from_open_webui(entry: Json) -> ImportedChat | None:
    chat = entry.get("chat") if isinstance(entry.get("chat"), dict) else entry
    assert isinstance(chat, dict)
    history = chat.get("history")
    nodes = history.get("messages") if isinstance(history, dict) else None
    listed = chat.get("messages")
    messages = []
    if isinstance(nodes, dict) and nodes:
        for id, m in nodes.items():
            if isinstance(m, dict):
                messages.append(_open_webui_message(str(id), _text(m.get("parentId")) or None, m))
    elif isinstance(listed, list):
        for index, m in enumerate(m for m in listed if isinstance(m, dict)):
            messages.append(_open_webui_message(str(index), str(index - 1) if index else None, m))
    models, params = chat.get("models"), chat.get("params")
    return ImportedChat(
        _text(entry.get("id")) or _text(chat.get("id")),
        _title(entry.get("title") or chat.get("title")),
        _ordered(messages),
        _text(history.get("currentId")) or None if isinstance(history, dict) else None,
        model=_text(models[0]) if isinstance(models, list) and models else "",
        system_prompt=_content(params.get("system")) if isinstance(params, dict) else "",
        created_at=_moment(entry.get("created_at") or chat.get("timestamp")),
        updated_at=_moment(entry.get("updated_at")),
        archived=bool(entry.get("archived")),
    )


def _open_webui_message(id: str, parent: str | None, m: Json) -> ImportedMessage:
    content = m.get("content")
    if isinstance(content, list):  # parts, as in OpenAI's API
        content = "\n\n".join(
            _text(part.get("text")) for part in content if isinstance(part, dict) and part.get("text")
        )
    role = _text(m.get("role"))
    model = _text(m.get("model")) if role == "assistant" else ""
    return ImportedMessage(id, parent, role, _content(content), model, _moment(m.get("timestamp")))


# ---- what all share


def _ordered(messages: Sequence[ImportedMessage]) -> tuple[ImportedMessage, ...]:
    """Messages of people and assistants, parents first; children of what is left out move up to its parent."""
    by_id = {m.id: m for m in messages}
    keep = {m.id for m in messages if m.role in ("user", "assistant") and m.content.strip()}
    ordered: list[ImportedMessage] = []
    place: dict[str, str | None] = {}  # of every message seen: the kept one at or above it
    for message in messages:
        chain: list[ImportedMessage] = []
        seen: set[str] = set()
        current: ImportedMessage | None = message
        while current is not None and current.id not in place and current.id not in seen:
            seen.add(current.id)
            chain.append(current)
            current = by_id.get(current.parent or "")
        above = place.get(current.id) if current is not None else None
        for link in reversed(chain):
            if link.id in keep:
                ordered.append(replace(link, parent=above))
                above = link.id
            place[link.id] = above
    return tuple(ordered)


def shown_leaf(chat: ImportedChat) -> str | None:
    """The leaf the file says, if it was kept, else the last message."""
    known = {m.id for m in chat.messages}
    return chat.leaf if chat.leaf in known else chat.messages[-1].id if chat.messages else None


def _text(value: Any) -> str:
    return value[:500] if isinstance(value, str) else ""


def _title(value: Any) -> str:
    return " ".join(_clean(value).split())[:TITLE_CHARS] if isinstance(value, str) else ""


def _content(value: Any) -> str:
    return _clean(value)[:MESSAGE_CHARS] if isinstance(value, str) else ""


def _clean(value: str) -> str:
    """Without NUL and lone surrogates, which no database keeps."""
    return value.replace("\x00", "").encode("utf-8", "replace").decode()


def _moment(value: Any) -> datetime | None:
    """Unix seconds (or milli- or nanoseconds) or ISO 8601; None for anything else, or for a year beyond our time."""
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            scale = 1e9 if value > 1e17 else 1e3 if value > 1e11 else 1
            moment = datetime.fromtimestamp(value / scale, UTC)
        else:
            return None
    except (ValueError, OverflowError, OSError):
        return None
    return moment if 1970 <= moment.year <= 2200 else None
