"""Each kind of corpus gives its documents; what is wrong with it is named."""

import gzip
import json
import sys
from pathlib import Path

import pytest

from wuya.data import corpus
from wuya.data.chitchat import Chat, Turn
from wuya.data.corpus import CorpusSource, Document, read_documents
from wuya.errors import ConfigError, DataError
from wuya.files import BadRows


def read(path: Path | str, bad: BadRows | None = None, **fields: str) -> list[Document]:
    return list(read_documents(CorpusSource(name="it", path=str(path), **fields), bad))  # type: ignore[arg-type]


def texts(path: Path | str, **fields: str) -> list[str]:
    return [document.text for document in read(path, **fields)]


def test_form_feeds_separate_documents(tmp_path: Path) -> None:
    file = tmp_path / "books.txt"
    file.write_bytes("\ufeffone\ncaf\u00e9\n\ftwo\f \n\fthree\r\n".encode())
    assert texts(file) == ["one\ncaf\u00e9\n", "two", "three\r\n"]
    assert [document.id for document in read(file)] == ["books.txt#1", "books.txt#2", "books.txt#4"]
    packed = tmp_path / "books.txt.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert texts(packed) == texts(file)


@pytest.mark.parametrize("separator", ["\n", ""])
def test_a_huge_document_is_cut_without_losing_a_character(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, separator: str
) -> None:
    monkeypatch.setattr(corpus, "MAX_DOCUMENT_CHARACTERS", 100)
    text = separator.join(["caf\u00e9 \u4e4c\u9e26 \U0001f426"] * 60)
    (tmp_path / "big.txt").write_text(text, encoding="utf-8")
    parts = texts(tmp_path / "big.txt")
    assert "".join(parts) == text
    assert len(parts) > 5
    assert all(len(part.encode()) <= 100 for part in parts[:-1])


def test_text_that_is_not_utf8_is_named_by_line(tmp_path: Path) -> None:
    file = tmp_path / "mixed.txt"
    file.write_bytes(b"fine\n\fline 2\nline 3\n\xff\xfe\n\fgood\n")
    with pytest.raises(DataError, match=r"mixed.txt:4: not UTF-8 text: byte 0xff"):
        read(file)
    bad = BadRows()
    assert [document.text for document in read(file, bad)] == ["fine\n", "good\n"]
    assert bad.count == 1
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="no row of"):
        read(file, BadRows())


def test_rows_give_their_text_field_and_bad_rows_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [
        {"text": "one"},
        {"body": "x"},
        {"text": 3},
        {"text": " "},
        {"messages": [{"role": "user", "content": "hi"}]},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n\n" + '["list"]\n')
    bad = BadRows(keep=10)
    documents = read(file, bad)
    assert [(document.text, document.id) for document in documents] == [
        ("one", "rows.jsonl:1"),
        ("user: hi", "rows.jsonl:5"),
    ]
    reasons = bad.summary()
    for line, reason in ((2, "no field `text` (found: body)"), (3, "is not text"), (4, "is empty"), (6, "not JSON")):
        assert f"rows.jsonl:{line}: " in reasons
        assert reason in reasons
    assert bad.count == 5
    with pytest.raises(DataError, match=r"rows.jsonl:2: no field"):
        read(file)


def test_other_fields_json_arrays_and_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"body": "one", "text": "x"}, {"body": "two", "text": "y"}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "b.parquet", row_group_size=1)
    assert texts(tmp_path / "a.json", text_field="body") == ["one", "two"]
    assert texts(tmp_path / "b.parquet", text_field="body") == ["one", "two"]
    with pytest.raises(DataError, match="no column `nope`"):
        read(tmp_path / "b.parquet", text_field="nope")
    (tmp_path / "c.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match="not a readable parquet file"):
        read(tmp_path / "c.parquet")


def test_a_folder_gives_all_its_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.txt").write_text("two")
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    assert [(d.text, d.id, d.source) for d in read(tmp_path)] == [
        ("one", "a.jsonl:1", "it"),
        ("two", "b/2.txt#1", "it"),
    ]


def test_paths_that_can_not_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "missing.txt")
    with pytest.raises(DataError, match="holds no text"):
        read(tmp_path)
    (tmp_path / "picture.png").write_bytes(b"")
    with pytest.raises(DataError, match="of a kind"):
        read(tmp_path / "picture.png")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"text " * 1000)[:-20])
    with pytest.raises(DataError, match="damaged"):
        read(tmp_path / "cut.txt.gz")


def test_hub_names_are_understood_and_failures_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    class FakeDatasets:
        @staticmethod
        def load_dataset(name: str, config: str | None, *, split: str, streaming: bool) -> list[dict[str, str]]:
            assert streaming
            if name == "org/gone":
                raise ConnectionError("offline")
            return [{"body": f"{name} {config} {split}"}, {"body": ""}]

    monkeypatch.setitem(sys.modules, "datasets", FakeDatasets)
    bad = BadRows()
    assert [d.text for d in read("hf:org/name/config:validation:body", bad)] == ["org/name config validation"]
    assert bad.count == 1
    assert [d.text for d in read("hf:plain::body", bad)] == ["plain None train"]
    with pytest.raises(DataError, match="can't be loaded"):
        read("hf:org/gone")
    with pytest.raises(ConfigError, match="names no data set"):
        read("hf:a/b/c/d")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="needs the package"):
        read("hf:org/name")


def test_installed_packages_are_corpora(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Chat("chitchat-0", (Turn("ann", "Hi"), Turn("bob", "Caw!")))
    monkeypatch.setattr("wuya.data.chitchat.load_chats", lambda: [chat])
    assert read("package:chitchat_dataset") == [Document("A:\nHi\nB:\nCaw!\n", "it", "chitchat-0")]
    with pytest.raises(ConfigError, match="no reader for the package"):
        read("package:unknown")
