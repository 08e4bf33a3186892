"""What a file or folder holds, as a hash: data, token shards, checkpoints, tokenizers.

Sizes and names say nothing: two tokenizers have as many tokens, a file is replaced under its name. Everything that must
be the same later (to resume a run, to trust a frozen file, to say where a model comes from) is known by these hashes.
"""

import json
from functools import lru_cache
from pathlib import Path

from wuya.checkpoints.hf_folder import weight_files
from wuya.errors import DataError
from wuya.files import sha256_file, sha256_json

REMEMBERED_BYTES = 1 << 20
"""Files from this size on are read once per process, as long as their times stay; smaller ones cost nothing."""
VERIFIED_BYTES = 4 << 30
"""Token shards of at most so many bytes are compared with their manifest when a run starts: some seconds."""
CHECKSUMS = "checksums.json"
"""Digests of a checkpoint folder's files (checkpoints/checksums.py)."""
NOT_CONTENT = ("wuya.json", CHECKSUMS, "config.yaml", "inputs.json", "README.md", "resume")
"""Beside a model: where it came from, and what only its own run reads."""


def file_sha256(path: Path | str) -> str:
    """Hex digest of a file's bytes; a large one that has not been touched is not read again."""
    path = Path(path)
    stat = path.stat()
    if stat.st_size < REMEMBERED_BYTES:
        return sha256_file(path)
    return _remembered(str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


@lru_cache(maxsize=4096)
def _remembered(path: str, size: int, modified: int, changed: int, inode: int) -> str:
    return sha256_file(path)


def weights_sha256(folder: Path) -> str:
    """Digest of a checkpoint's weights: of the one file, or of the names and digests of all shards."""
    files = weight_files(folder)
    if len(files) == 1:
        return file_sha256(files[0])
    return sha256_json([[file.name, file_sha256(file)] for file in files])


def fingerprint(path: Path) -> str:
    """Digest of what a run reads at a path: a file, token shards (by their manifest), a model, any other folder."""
    if path.is_file():
        return file_sha256(path)
    if (shards := _shards(path)) is not None:
        return shards
    files = sorted(file for file in path.rglob("*") if file.is_file() and not _is_left_out(file.relative_to(path)))
    return sha256_json([[str(file.relative_to(path)), file_sha256(file)] for file in files])


def _is_left_out(relative: Path) -> bool:
    return any(part in NOT_CONTENT or part.startswith(".") for part in relative.parts)


def _shards(folder: Path) -> str | None:
    """The digests that the manifest of token shards keeps, after comparing them with the files if that is soon done.

    Raises: DataError where a file is not what the manifest says. Of a large corpus reading compares the sizes only.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        digests = {folder / shard["file"]: str(shard["sha256"]) for shard in manifest["shards"]}
        kept = sha256_json([manifest["shards"], manifest["dtype"], manifest.get("tokenizer_fingerprint", "")])
        sizes = [file.stat().st_size for file in digests]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    for file, digest in digests.items() if sum(sizes) <= VERIFIED_BYTES else ():
        if file_sha256(file) != digest:
            raise DataError(
                f"`{file}` differs from its SHA-256 in the manifest",
                hint="make the shards again: `wuya prepare --help`",
            )
    return kept
