"""Token shards: a tokenized corpus as flat files of uint16 or uint32 that training maps into memory.

    shards/manifest.json  what is in it: tokens, dtype, SHA-256 of each file, and what the writer wants to be known
    shards/00000.bin      token ids, little-endian, nothing else; documents follow each other, cut by their end token

Training reads windows anywhere, across file borders, without loading what it does not read.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wuya.data.batches import PretrainingBatches
from wuya.errors import ConfigError, DataError
from wuya.files import atomic_folder, is_plain_name, read_json_object, sha256_file, to_json
from wuya.tokenizer.bpe import Tokenizer

FORMAT = "wuya-shards-1"
SHARD_TOKENS = 1 << 26
"""Tokens a file: 128 MiB of uint16."""


def write_shards(
    folder: Path | str,
    token_arrays: Iterable[NDArray[np.integer[Any]]],
    *,
    vocab_size: int,
    shard_tokens: int = SHARD_TOKENS,
    manifest: Mapping[str, Any] | None = None,
) -> Path:
    """Write arrays of token ids, one after the other, as shards; the folder appears whole or not at all.

    Args:
        token_arrays: consumed as a stream; memory is one array at a time.
        vocab_size: ids are below it; up to 65,536 they take two bytes, above four.
        manifest: more entries for manifest.json: sources, tokenizer, what was dropped and why. Evaluated at the end, so
        a mapping that is filled while the arrays are made is complete.
    """
    folder = Path(folder)
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    with atomic_folder(folder) as temporary:
        shards: list[dict[str, Any]] = []
        for number, arrays in enumerate(_by_shard(token_arrays, shard_tokens)):
            path = temporary / f"{number:05d}.bin"
            count, digest = 0, hashlib.sha256()
            with path.open("wb") as file:
                for array in arrays:
                    if array.size and not 0 <= int(array.min()) <= int(array.max()) < vocab_size:
                        raise DataError(
                            "a token id does not fit the vocabulary",
                            found=f"ids {array.min()} to {array.max()}, vocab_size {vocab_size}",
                        )
                    data = array.astype(dtype).tobytes()
                    file.write(data)
                    digest.update(data)
                    count += array.size
            shards.append({"file": path.name, "num_tokens": count, "sha256": digest.hexdigest()})
        facts = {
            "format": FORMAT,
            "dtype": dtype.name,
            "vocab_size": vocab_size,
            "num_tokens": sum(shard["num_tokens"] for shard in shards),
            "shards": shards,
        }
        if not facts["num_tokens"]:
            raise DataError("there are no tokens to write: the corpus is empty", hint="check the inputs and filters")
        (temporary / "manifest.json").write_text(to_json({**(manifest or {}), **facts}, indent=2) + "\n")
    return folder


def _by_shard(
    arrays: Iterable[NDArray[np.integer[Any]]], shard_tokens: int
) -> Iterator[Iterator[NDArray[np.integer[Any]]]]:
    """Group a stream into streams of exactly `shard_tokens` (the last has the rest); consume each before the next."""
    source = iter(arrays)
    rest: list[NDArray[np.integer[Any]]] = []

    def one_shard() -> Iterator[NDArray[np.integer[Any]]]:
        room = shard_tokens
        while room:
            array = rest.pop() if rest else next(source, None)
            if array is None:
                return
            if len(array) > room:
                rest.append(array[room:])
            yield array[:room]
            room -= min(room, len(array))

    while True:
        if not rest:
            first = next((array for array in source if len(array)), None)
            if first is None:
                return
            rest.append(first)
        yield one_shard()


def _problem(manifest: dict[str, Any]) -> str:
    """What is wrong with a manifest; empty when it says all that is read."""
    shards = manifest.get("shards")
    if manifest.get("dtype") not in ("uint16", "uint32"):
        return f"dtype: {str(manifest.get('dtype'))[:40]}"
    if not isinstance(shards, list) or not all(isinstance(shard, dict) for shard in shards):
        return "shards is no list of objects"
    counts = [manifest.get("vocab_size"), manifest.get("num_tokens"), *(shard.get("num_tokens") for shard in shards)]
    if not all(type(count) is int and count >= 0 for count in counts):
        return "vocab_size and num_tokens must be counts"
    if manifest["num_tokens"] != sum(shard["num_tokens"] for shard in shards):
        return f"num_tokens is {manifest['num_tokens']}, its shards have {sum(shard['num_tokens'] for shard in shards)}"
    names = [shard.get("file") for shard in shards]
    outside = [name for name in names if not is_plain_name(name)]
    return f"a shard's file is {str(outside[0])[:80]}" if outside else ""


class TokenShards:
    """A folder of shards as one long array of token ids."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        file = self.folder / "manifest.json"
        if not file.is_file():
            found = ", ".join(sorted(item.name for item in self.folder.iterdir())[:8]) if self.folder.is_dir() else ""
            raise DataError(
                f"`{self.folder}` holds no token shards: manifest.json is missing",
                found=found,
                hint="make them: `wuya prepare --help`",
            )
        self.manifest: dict[str, Any] = read_json_object(file)
        if self.manifest.get("format") != FORMAT:
            raise DataError(f"`{file}` is not a manifest of token shards", found=str(self.manifest.get("format")))
        if problem := _problem(self.manifest):
            raise DataError(f"`{file}` is damaged", found=problem, hint="make the shards again: `wuya prepare --help`")
        self.dtype = np.dtype(self.manifest["dtype"]).newbyteorder("<")
        self.vocab_size: int = self.manifest["vocab_size"]
        self.num_tokens: int = self.manifest["num_tokens"]
        self._files = [self.folder / shard["file"] for shard in self.manifest["shards"]]
        self._starts = np.cumsum([0, *(shard["num_tokens"] for shard in self.manifest["shards"])])
        for path, shard in zip(self._files, self.manifest["shards"], strict=True):
            expected = shard["num_tokens"] * self.dtype.itemsize
            found_bytes = path.stat().st_size if path.is_file() else 0
            if found_bytes != expected:
                raise DataError(
                    f"`{path}` is damaged",
                    found=f"{found_bytes:,} bytes instead of {expected:,}",
                    hint="make the shards again: `wuya prepare --help`",
                )

    @cached_property
    def _arrays(self) -> list[NDArray[np.integer[Any]]]:
        return [np.memmap(path, dtype=self.dtype, mode="r") for path in self._files]

    def __len__(self) -> int:
        return self.num_tokens

    def window(self, start: int, length: int) -> NDArray[np.integer[Any]]:
        """Tokens start .. start + length - 1, also where they cross from one file into the next."""
        if not 0 <= start <= start + length <= self.num_tokens:
            raise IndexError(f"window {start}:{start + length} of {self.num_tokens} tokens")
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        parts = []
        while length > 0:
            offset = start - int(self._starts[first])
            part = self._arrays[first][offset : offset + length]
            parts.append(part)
            start, length, first = start + len(part), length - len(part), first + 1
        return np.concatenate(parts) if len(parts) != 1 else np.asarray(parts[0])

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """The tokenizer that wrote the shards; empty where nobody wrote it down.

        `wuya prepare` keeps it in each manifest; shards of older versions have it in the folder above.
        """
        if own := self.manifest.get("tokenizer_fingerprint"):
            return str(own)
        try:
            above = json.loads((self.folder.parent / "manifest.json").read_text(encoding="utf-8"))
            same_run = above["fingerprint"] == self.manifest["fingerprint"]
            return str(above["tokenizer"]["fingerprint"]) if same_run else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Refuse a tokenizer that gives other ids than the one the shards were written with, whatever its size."""
        same = self.tokenizer_fingerprint in ("", tokenizer.fingerprint)
        if tokenizer.vocab_size == self.vocab_size and same:
            return
        theirs = f"{self.vocab_size} tokens, fingerprint {self.tokenizer_fingerprint[:12] or 'unknown'}"
        raise DataError(
            f"the token shards `{self.folder}` belong to another tokenizer",
            found=f"shards: {theirs}; tokenizer: {tokenizer.vocab_size} tokens, {tokenizer.fingerprint[:12]}",
            hint="prepare the corpus with this tokenizer: `wuya prepare --help`",
        )

    def verify(self) -> None:
        """Compare each file with its SHA-256; reads everything."""
        for path, shard in zip(self._files, self.manifest["shards"], strict=True):
            if sha256_file(path) != shard.get("sha256"):
                raise DataError(f"`{path}` differs from its SHA-256 in the manifest", hint="make the shards again")


def pretraining_batches(
    folder: Path,
    tokenizer: Tokenizer,
    *,
    ptx_context_length: int,
    batch_size: int,
    context_length: int,
    seed: int,
) -> PretrainingBatches:
    """Windows of pre-training text for PPO-ptx, in a seeded order of their own.

    Args:
        ptx_context_length: tokens of a window; at most `context_length`, the model's.
        batch_size: windows per optimizer step, over all ranks.
    """
    if ptx_context_length > context_length:
        raise ConfigError(
            "`ptx_context_length` is longer than the policy's context",
            found=f"{ptx_context_length} > {context_length}",
            hint=f"`--ptx_context_length {context_length}`",
        )
    shards = TokenShards(folder)
    shards.check_tokenizer(tokenizer)
    return PretrainingBatches(shards, context_length=ptx_context_length, batch_size=batch_size, seed=seed)
