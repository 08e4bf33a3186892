import gzip
import json
from pathlib import Path

import pytest

from wuya.data.evaluation_sets import evaluation_texts
from wuya.errors import DataError


def test_reads_the_usual_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "q1", "choices": ["c1", "c2"], "label": 1}\n')
    (tmp_path / "b.json").write_text(
        json.dumps({"examples": [{"input": "in", "target_scores": {"a long answer": 1, "no": 0}}]})
    )
    (tmp_path / "c.csv").write_text('"one, two",three\n')
    (tmp_path / "d.tsv").write_text("x\ty\n")
    with gzip.open(tmp_path / "e.txt.gz", "wt") as file:
        file.write("line one\n\nline two\n")
    (tmp_path / "LICENSE").write_text("not an example")
    assert list(evaluation_texts(tmp_path)) == [
        "q1\nc1\nc2", "in\na long answer", "one, two\nthree", "x\ny", "line one", "line two"
    ]  # fmt: skip


def test_unknown_and_broken_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_text("?")
    (tmp_path / "y.json").write_text("{")
    for name, message in (("x.bin", "known kind"), ("y.json", "not JSON"), ("missing.txt", "does not exist")):
        with pytest.raises(DataError, match=message):
            list(evaluation_texts(tmp_path / name))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no evaluation set"):
        list(evaluation_texts(tmp_path / "empty"))
