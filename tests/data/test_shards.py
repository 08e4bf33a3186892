"""Shards read back what was written, wherever the files are cut, and damage is noticed."""

import json
from pathlib import Path

import numpy as np
import pytest

from wuya.data.shards import TokenShards, write_shards
from wuya.errors import DataError
from wuya.tokenizer.bpe import train_tokenizer


def arrays(count: int, *, seed: int = 0, vocab_size: int = 1000) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab_size, size=rng.integers(0, 40)) for _ in range(count)]


@pytest.mark.parametrize("shard_tokens", [7, 64, 10_000])
def test_windows_cross_file_borders(tmp_path: Path, shard_tokens: int) -> None:
    tokens = np.concatenate(arrays(30))
    folder = write_shards(tmp_path / "s", iter(arrays(30)), vocab_size=1000, shard_tokens=shard_tokens)
    shards = TokenShards(folder)
    assert len(shards) == shards.num_tokens == len(tokens)
    sizes = [shard["num_tokens"] for shard in shards.manifest["shards"]]
    assert set(sizes[:-1]) <= {shard_tokens} and 0 < sizes[-1] <= shard_tokens
    for start in range(0, len(tokens) - 20, 3):
        assert (shards.window(start, 20) == tokens[start : start + 20]).all()
    assert (shards.window(0, len(tokens)) == tokens).all()
    shards.verify()


def test_ids_take_two_bytes_up_to_65536_and_four_above(tmp_path: Path) -> None:
    for vocab_size, size in ((1 << 16, 2), ((1 << 16) + 1, 4)):
        folder = write_shards(tmp_path / str(size), [np.array([0, vocab_size - 1])], vocab_size=vocab_size)
        shards = TokenShards(folder)
        assert shards.dtype.itemsize == size
        assert shards.window(0, 2).tolist() == [0, vocab_size - 1]


def test_the_manifest_keeps_what_the_writer_adds_even_during_writing(tmp_path: Path) -> None:
    counts = {"documents": 0}

    def stream():  # type: ignore[no-untyped-def]
        for array in arrays(5):
            counts["documents"] += 1
            yield array

    manifest = TokenShards(write_shards(tmp_path / "s", stream(), vocab_size=1000, manifest=counts)).manifest
    assert manifest["documents"] == 5
    assert manifest["vocab_size"] == 1000


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield np.arange(10)
        raise DataError("boom")

    with pytest.raises(DataError, match="boom"):
        write_shards(tmp_path / "s", broken(), vocab_size=1000)
    with pytest.raises(DataError, match="does not fit the vocabulary"):
        write_shards(tmp_path / "s", [np.array([1000])], vocab_size=1000)
    with pytest.raises(DataError, match="corpus is empty"):
        write_shards(tmp_path / "s", [np.array([], dtype=int)], vocab_size=1000)
    assert list(tmp_path.iterdir()) == []


def test_damage_is_noticed(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "s", [np.arange(100)], vocab_size=1000)
    file = folder / "00000.bin"
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match="SHA-256"):
        TokenShards(folder).verify()
    file.write_bytes(data[:-2])
    with pytest.raises(DataError, match="damaged"):
        TokenShards(folder)
    file.unlink()
    with pytest.raises(DataError, match="damaged"):
        TokenShards(folder)
    (folder / "manifest.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(DataError, match="not a manifest"):
        TokenShards(folder)
    with pytest.raises(DataError, match=r"manifest\.json is missing"):
        TokenShards(tmp_path)


def test_windows_outside_and_foreign_vocabularies_are_refused(tmp_path: Path) -> None:
    shards = TokenShards(write_shards(tmp_path / "s", [np.arange(100)], vocab_size=1000))
    for start, length in ((-1, 2), (99, 2), (0, 101)):
        with pytest.raises(IndexError):
            shards.window(start, length)


def test_shards_know_their_tokenizer_by_what_it_does_not_by_its_size(tmp_path: Path) -> None:
    texts = ["aa ab ac ad aa ab ac", "xx xy xz xw xx xy xz"]
    one, other = (train_tokenizer([text * 9], vocab_size=270) for text in texts)
    assert one.vocab_size == other.vocab_size

    def shards(name: str, **facts: object) -> TokenShards:
        return TokenShards(write_shards(tmp_path / name, [np.arange(9)], vocab_size=one.vocab_size, manifest=facts))

    marked = shards("marked", tokenizer_fingerprint=one.fingerprint)
    marked.check_tokenizer(one)
    with pytest.raises(DataError, match="belong to another tokenizer"):
        marked.check_tokenizer(other)
    shards("foreign").check_tokenizer(other)  # nobody said whose they are
    larger = train_tokenizer([texts[0] * 9], vocab_size=265)
    with pytest.raises(DataError, match="belong to another tokenizer"):
        shards("foreign2").check_tokenizer(larger)


def test_shards_of_older_versions_find_their_tokenizer_in_the_folder_above(tmp_path: Path) -> None:
    one, other = (train_tokenizer([text * 9], vocab_size=265) for text in ("aa ab ac", "xx xy xz"))
    facts = {"fingerprint": "f", "tokenizer": {"fingerprint": one.fingerprint}}
    (tmp_path / "manifest.json").write_text(json.dumps(facts))
    size = one.vocab_size
    folder = write_shards(tmp_path / "train", [np.arange(9)], vocab_size=size, manifest={"fingerprint": "f"})
    shards = TokenShards(folder)
    shards.check_tokenizer(one)
    with pytest.raises(DataError, match="another tokenizer"):
        shards.check_tokenizer(other)
    elsewhere = write_shards(tmp_path / "else", [np.arange(9)], vocab_size=size, manifest={"fingerprint": "g"})
    TokenShards(elsewhere).check_tokenizer(other)
