"""Where text comes from: files, folders, Hugging Face data sets and installed packages, read as a stream of documents.

| path | documents |
|---|---|
| `books.txt`, `.md`, `.text` | what form feeds separate; without any the whole file (cut every 4 million characters) |
| `rows.jsonl`, `.json` | field `text` (or `text_field`) of each row; chats in `messages` as their transcript |
| `rows.parquet` | column `text` (or `text_field`) |
| a folder | all such files below it, in the order of their names |
| `hf:org/name/config:split:field` | a data set of the Hugging Face hub; config, split, field may be left out |
| `package:chitchat_dataset` | a corpus inside an installed Python package |

Text and JSON-lines files may be packed (`.gz`). Text must be UTF-8. Rows that can't be read are counted and named,
never dropped in silence; a file of which nothing can be read is an error.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wuya.data.rows import ROW_SUFFIXES, HubName, RaiseOnBadRow, read_rows
from wuya.errors import ConfigError, DataError
from wuya.files import BadRows, open_data

TEXT_SUFFIXES = (".txt", ".text", ".md")
JSON_SUFFIXES = tuple(suffix for suffix in ROW_SUFFIXES if suffix != ".parquet")
MAX_DOCUMENT_CHARACTERS = 1 << 22
"""A longer text is cut at a line's end, so that one huge file without form feeds does not fill the memory."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text of a corpus."""

    text: str
    source: str
    """Name of the corpus it comes from."""
    id: str
    """Where it stands: `file:line` or `file#number`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSource:
    """One corpus of a mixture."""

    name: str
    """What reports and manifests call it."""
    path: str
    """A file, a folder, `hf:org/name[:split[:field]]` or `package:name`."""
    weight: float = 1.0
    """Relative share of the training tokens."""
    max_epochs: float | None = None
    """The mixture repeats this corpus at most so often; null: as often as its weight needs."""
    text_field: str = "text"
    """Field of JSON-lines rows or column of parquet files that holds the text."""


def read_documents(source: CorpusSource, bad: BadRows | None = None) -> Iterator[Document]:
    """The documents of a corpus, one at a time, always in the same order.

    Args:
        bad: collects rows that can't be used; without it the first one raises DataError.
    """
    if source.path.startswith("hf:"):
        hub = HubName.parse(source.path)
        yield from _read_file(source.path, hub.name, replace(source, text_field=hub.field or source.text_field), bad)
    elif source.path.startswith("package:"):
        yield from _read_package(source)
    else:
        root = Path(source.path)
        for file in _files_of(root):
            name = str(file.relative_to(root.parent if root.is_file() else root))
            yield from _read_file(file, name, source, bad)


def _files_of(path: Path) -> list[Path]:
    """The file, or all readable files of the folder."""
    if not path.exists():
        raise DataError(
            f"`{path}` does not exist", hint=f"look for it: `ls {path.parent}`; relative paths start at {Path.cwd()}"
        )
    if path.is_file():
        if not _is_readable(path):
            known = ", ".join((*TEXT_SUFFIXES, *ROW_SUFFIXES))
            raise DataError(f"`{path}` is of a kind that can't be read", hint=f"kinds: {known}, text and rows also .gz")
        return [path]
    files = sorted(file for file in path.rglob("*") if file.is_file() and _is_readable(file))
    if not files:
        found = ", ".join(sorted(item.name for item in path.iterdir())[:8]) or "an empty folder"
        raise DataError(f"`{path}` holds no text, JSON-lines or parquet files", found=found)
    return files


def _is_text(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith(TEXT_SUFFIXES)


def _is_readable(path: Path) -> bool:
    return path.name.endswith(ROW_SUFFIXES) or path.name.removesuffix(".gz").endswith((*TEXT_SUFFIXES, *JSON_SUFFIXES))


def _read_file(path: Path | str, name: str, source: CorpusSource, bad: BadRows | None) -> Iterator[Document]:
    problems = bad if bad is not None else RaiseOnBadRow()
    before = problems.count
    empty = True
    places = (
        _read_text(path, problems) if isinstance(path, Path) and _is_text(path) else _read_rows(path, source, problems)
    )
    for place, text in places:
        empty = False
        yield Document(text, source.name, f"{name}{place}")
    if empty and problems.count > before:
        raise DataError(
            f"no row of `{path}` can be used", found=f"{problems.count - before:,} bad rows", hint=problems.summary()
        )


def _read_text(path: Path, bad: BadRows) -> Iterator[tuple[str, str]]:
    """Documents between form feeds; one that is not UTF-8 is a bad row, named by the line of its first bad byte."""
    line = 1
    for number, data in enumerate(_split_at_form_feeds(path), start=1):
        try:
            text = data.decode("utf-8").removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            at = line + data.count(b"\n", 0, error.start)
            bad.add(path, at, f"not UTF-8 text: byte 0x{data[error.start]:02x} ({error.reason})")
        else:
            if text.strip():
                yield f"#{number}", text
        line += data.count(b"\n")


def _split_at_form_feeds(path: Path, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
    """Pieces of a file: documents, and of very long ones parts that end with a line."""
    rest = b""
    with open_data(path) as file:
        while True:
            try:
                chunk = file.read(chunk_bytes)
            except (EOFError, OSError, zlib.error) as error:
                raise DataError(f"cannot read `{path}`: {error}", hint="the file is damaged; get it again") from error
            *whole, rest = (rest + chunk).split(b"\f")
            yield from whole
            if not chunk:
                yield rest
                return
            while len(rest) > MAX_DOCUMENT_CHARACTERS:
                cut = rest.rfind(b"\n", 0, MAX_DOCUMENT_CHARACTERS) + 1 or _character_start(rest)
                yield rest[:cut]
                rest = rest[cut:]


def _character_start(data: bytes) -> int:
    """Where to cut text without line ends: at most the maximum, before a whole UTF-8 character."""
    cut = MAX_DOCUMENT_CHARACTERS
    while cut > MAX_DOCUMENT_CHARACTERS - 4 and data[cut] & 0xC0 == 0x80:
        cut -= 1
    return cut


def _read_rows(path: Path | str, source: CorpusSource, bad: BadRows) -> Iterator[tuple[str, str]]:
    columns = [source.text_field] if str(path).endswith(".parquet") else None
    for line, row in read_rows(path, bad, columns=columns):
        text, reason = _text_of(row, source.text_field)
        if reason:
            bad.add(path, line, reason)
        else:
            yield f":{line}", text


def _text_of(row: dict[str, Any], text_field: str) -> tuple[str, str]:
    """(text, "") or ("", why there is none)."""
    if text_field not in row and "messages" in row:
        try:
            turns = [(message["role"], message["content"]) for message in row["messages"]]
        except (TypeError, KeyError):
            return "", "`messages` is not a list of {role, content}"
        if not all(isinstance(content, str) for _, content in turns):
            return "", "a message has no text: calls of tools have no form in plain text"
        text = "\n".join(f"{role}: {content}" for role, content in turns)
    else:
        value = row.get(text_field)
        if value is None:
            return "", f"no field `{text_field}` (found: {', '.join(row) or 'no fields'})"
        if not isinstance(value, str):
            return "", f"`{text_field}` is not text (found: {type(value).__name__})"
        text = value
    return ("", f"`{text_field}` is empty") if not text.strip() else (text, "")


def _read_package(source: CorpusSource) -> Iterator[Document]:
    """A corpus that came with `pip install`. Known: `chitchat_dataset` (whole chats as transcripts)."""
    package = source.path.removeprefix("package:")
    if package.replace("-", "_") != "chitchat_dataset":
        raise ConfigError(
            f"no reader for the package `{package}`",
            hint="use `package:chitchat_dataset`, or give the path of the package's data files",
        )
    from wuya.data.chitchat import load_chats, transcript

    for chat in load_chats():
        yield Document(transcript(chat.turns), source.name, chat.id)
