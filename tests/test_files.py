import errno
import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wuya import files
from wuya.errors import DataError, RunError, RunLocked


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_atomic_writes_text_and_bytes_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "deep" / "a.txt", "乌鸦")
    files.write_atomic(tmp_path / "deep" / "a.txt", b"\x00\xff")
    assert (tmp_path / "deep" / "a.txt").read_bytes() == b"\x00\xff"
    assert names(tmp_path / "deep") == ["a.txt"]


def test_write_atomic_on_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_atomic(tmp_path / "a", "old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="no space left") as caught:
        files.write_atomic(tmp_path / "a", "new")
    assert caught.value.exit_code == 3 and "free some space" in caught.value.hint
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == ["a"]


def test_no_permission_is_the_machines_problem() -> None:
    with pytest.raises(RunError, match="cannot create"):
        files.write_atomic("/proc/wuya/file", "text")


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(RunError, match="a file is in the way"):
        files.make_folder(tmp_path / "a" / "b")


def test_atomic_folder_replaces_the_old_one_only_on_success(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for text in ("first", "second"):
        with files.atomic_folder(target) as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "a").write_text(text)
    with pytest.raises(KeyboardInterrupt), files.atomic_folder(target) as folder:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["model"] and (target / "sub" / "a").read_text() == "second"


def test_atomic_folder_cleans_up_after_a_killed_process(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from wuya.files import atomic_folder\n"
        "with atomic_folder(sys.argv[1]) as f:\n (f / 'a').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "model")], check=False, timeout=60)
    assert len(names(tmp_path)) == 1 and not (tmp_path / "model").exists()
    (tmp_path / ".model.999999999.old").mkdir()  # killed between the two renames: the old folder comes back
    with pytest.raises(ValueError, match="stop"), files.atomic_folder(tmp_path / "model"):
        raise ValueError("stop")
    assert names(tmp_path) == ["model"]


def test_hashes_are_those_of_hashlib_and_independent_of_key_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"crow" * 100_000)
    assert files.sha256_file(tmp_path / "a") == hashlib.sha256(b"crow" * 100_000).hexdigest()
    assert files.sha256_json({"a": 1, "b": [1.5, None]}) == files.sha256_json({"b": [1.5, None], "a": 1})
    assert files.sha256_json({"a": 1}) != files.sha256_json({"a": 2})


def test_json_is_strict_and_takes_what_recipes_hold() -> None:
    row = {
        "nan": float("nan"),
        "inf": [float("inf")],
        "path": Path("a/b"),
        "np": np.float32(0.5),
        "array": np.arange(2),
    }
    assert json.loads(files.to_json(row)) == {"nan": None, "inf": [None], "path": "a/b", "np": 0.5, "array": [0, 1]}
    with pytest.raises(TypeError, match="object"):
        files.to_json({"x": object()})


def test_jsonl_round_trips_with_line_numbers_plain_and_gz(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": "a\nb\u2028c"}, {"n": 1}]
    for row in rows:
        files.append_jsonl(tmp_path / "r.jsonl", row)
    assert list(files.read_jsonl(tmp_path / "r.jsonl")) == list(enumerate(rows, start=1))
    with gzip.open(tmp_path / "r.jsonl.gz", "wb") as file:
        file.write((tmp_path / "r.jsonl").read_bytes())
    assert [row for _, row in files.read_jsonl(tmp_path / "r.jsonl.gz")] == rows


BAD = b'\xef\xbb\xbf{"a": 1}\n\n{"a": \n[1]\n{"a": "\xff"}\n{"a": 2}'


def test_bad_rows_are_counted_and_named_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(BAD)
    bad = files.BadRows(keep=2)
    assert list(files.read_jsonl(path, bad)) == [(1, {"a": 1}), (6, {"a": 2})]
    assert bad.count == 3
    summary = bad.summary()
    assert summary.startswith("3 bad rows were skipped:") and f"{path}:3: not JSON" in summary
    assert f"{path}:4: expected a JSON object" in summary and "and 1 more" in summary
    assert files.BadRows().summary() == ""


def test_without_a_collector_the_first_bad_row_is_an_error_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(BAD)
    with pytest.raises(DataError, match=r"bad\.jsonl:3: not JSON"):
        list(files.read_jsonl(path))


@pytest.mark.parametrize("missing", ["nope.jsonl", "."])
def test_missing_files_and_folders_are_data_errors(missing: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist|is a folder"):
        list(files.read_jsonl(tmp_path / missing))


def test_truncated_and_foreign_gz_are_data_errors(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"a": 1}\n' * 10_000)
    for name, content in (("cut", whole[: len(whole) // 2]), ("foreign", b'{"a": 1}\n')):
        (tmp_path / f"{name}.jsonl.gz").write_bytes(content)
        with pytest.raises(DataError, match="cannot read"):
            list(files.read_jsonl(tmp_path / f"{name}.jsonl.gz"))


def test_a_lock_has_one_owner_and_dies_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lock"
    script = (
        "import sys; from wuya.files import FileLock\n"
        "with FileLock(sys.argv[1]):\n print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    with pytest.raises(RunLocked, match=f"found: process {other.pid}"), files.FileLock(path):
        pass
    other.kill()
    other.communicate()
    with files.FileLock(path), pytest.raises(RunLocked), files.FileLock(path):
        pass
    with files.FileLock(path):
        pass


def test_the_workspace_is_a_folder_here_unless_the_environment_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert files.default_workspace() == Path("workspace")
    monkeypatch.setenv("WUYA_WORKSPACE", "/data/w")
    assert files.default_workspace() == Path("/data/w")
