"""A hash of everything a path holds: all shards of a checkpoint, and no file that says nothing about it."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from wuya.checkpoints import fingerprint as module
from wuya.checkpoints.checkpoint import describe_parent
from wuya.checkpoints.fingerprint import file_sha256, fingerprint
from wuya.data.shards import write_shards
from wuya.errors import DataError
from wuya.files import sha256_file


def sharded(folder: Path) -> Path:
    folder.mkdir()
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for name in names:
        (folder / name).write_bytes(name.encode())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict(zip("ab", names, strict=True))})
    )
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("shard", [1, 2])
def test_a_parents_hash_covers_every_shard(tmp_path: Path, shard: int) -> None:
    folder = sharded(tmp_path / "model")
    before = describe_parent(folder)["sha256"]
    (folder / f"model-0000{shard}-of-00002.safetensors").write_bytes(b"other weights")
    assert describe_parent(folder)["sha256"] != before


def test_one_file_of_weights_keeps_the_hash_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"w")
    assert describe_parent(tmp_path)["sha256"] == sha256_file(tmp_path / "model.safetensors")


def test_a_model_is_its_files_and_not_where_it_came_from(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "model")
    before = fingerprint(folder)
    (folder / "wuya.json").write_text("{}")
    (folder / "resume").mkdir()
    (folder / "resume" / "state.pt").write_bytes(b"x")
    assert fingerprint(folder) == before
    for name in ("tokenizer.json", "generation_config.json", "adapter/adapter_config.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
        assert fingerprint(folder) != before
        before = fingerprint(folder)


def test_a_large_file_is_read_again_when_it_was_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED_BYTES", 1)
    path = tmp_path / "data"
    path.write_bytes(b"one")
    first = file_sha256(path)
    stat = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the same size and time of change: ctime tells
    assert file_sha256(path) != first


def test_shards_that_were_exchanged_under_their_manifest_are_noticed(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "train", [np.arange(40)], vocab_size=100)
    before = fingerprint(folder)
    other = write_shards(tmp_path / "other", [np.arange(40) + 1], vocab_size=100)
    assert fingerprint(other) != before
    (folder / "00000.bin").write_bytes((other / "00000.bin").read_bytes())  # the same size
    with pytest.raises(DataError, match=r"00000\.bin` differs from its SHA-256"):
        fingerprint(folder)
