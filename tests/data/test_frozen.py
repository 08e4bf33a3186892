"""A frozen file is read as it was frozen, or not at all, by whatever reads rows."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wuya.data.formats import read_comparisons, read_demonstrations, read_prompts, read_rankings
from wuya.errors import DataError
from wuya.feedback.importers import import_rankings, read_answers
from wuya.feedback.snapshot import Snapshot, open_snapshot, write_snapshot
from wuya.files import BadRows

READERS = (read_prompts, read_comparisons, read_rankings, import_rankings, read_answers)
CANDIDATES = [{"text": "good"}, {"text": "bad"}]
ROW = {"prompt": [{"role": "user", "content": "Hi"}], "candidates": CANDIDATES, "ranks": [1, 2]}


def freeze(tmp_path: Path) -> Snapshot:
    return write_snapshot([ROW, ROW], tmp_path, kind="rm_rankings")


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_no_reader_takes_a_snapshot_that_was_edited(tmp_path: Path, read: Callable[..., Iterator[Any]]) -> None:
    path = freeze(tmp_path).path
    assert list(read(path, BadRows()))
    path.write_text(path.read_text().replace("[1,2]", "[2,1]"))
    with pytest.raises(DataError, match="was changed after it was frozen"):
        list(read(path, BadRows()))
    copy = tmp_path / "mine.jsonl"  # an edited copy under another name is nobody's snapshot
    copy.write_bytes(path.read_bytes())
    assert list(read(copy, BadRows()))


def test_a_snapshot_opens_whole_and_names_what_is_missing(tmp_path: Path) -> None:
    snapshot = freeze(tmp_path)
    assert open_snapshot(snapshot.path) == snapshot
    manifest = snapshot.path.with_suffix(".manifest.json")
    manifest.write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        list(read_prompts(snapshot.path))
    manifest.unlink()
    with pytest.raises(DataError, match="is not a snapshot"):
        open_snapshot(snapshot.path)
    assert len(list(read_prompts(snapshot.path))) == 2


def test_another_tools_manifest_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"prompt": "Hi", "completion": "Caw!"}) + "\n")
    for text in ("[]", '{"files": 3}'):
        path.with_suffix(".manifest.json").write_text(text)
        assert len(list(read_demonstrations(path))) == 1
