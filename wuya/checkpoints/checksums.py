"""SHA-256 of every file of a checkpoint folder, kept beside them and compared whenever the folder is read.

    checksums.json    {"config.json": "5f0c...", "model.safetensors": "91ab...", "resume/state.pt": "c2d4..."}

Files that are not listed may be added later; one that is listed and differs or is gone makes the folder damaged. A
folder without the list (of another maker, or an older version) is read as it is; before a run resumes from one, its
weights and its state must at least be whole by their own formats. A file is hashed once per process as
long as its times stay, at about 1 GB/s (checkpoints/fingerprint.py).
"""

import json
import shutil
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from wuya.checkpoints.fingerprint import CHECKSUMS, file_sha256
from wuya.console import warn
from wuya.errors import CheckpointError
from wuya.files import to_json, write_atomic

EDITED_BY_PEOPLE = ("tokenizer_config.json", "generation_config.json", "chat_template.jinja", "README.md")
"""Text that owners of a model change in place: loading warns, resuming does not take it."""


def write_checksums(folder: Path, *, changed: Collection[str] = ()) -> None:
    """List the files of a folder that is still being written.

    Args:
        changed: files that an earlier list of this folder has, but that were written anew since; the others keep their
            digests and are not read again.
    """
    known = {} if not (folder / CHECKSUMS).is_file() else _listed(folder)
    digests = {}
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        name = file.relative_to(folder).as_posix()
        if name == CHECKSUMS:
            continue
        digests[name] = known[name] if name in known and name not in changed else file_sha256(file)
    write_atomic(folder / CHECKSUMS, to_json(digests, indent=1) + "\n")


def damage(folder: Path, *, but: Collection[str] = ()) -> str:
    """What is wrong with a folder's files, naming the first of them; empty when all are as they were written.

    Args:
        but: files that are not compared.
    """
    if not (folder / CHECKSUMS).exists():
        return ""
    try:
        listed = _listed(folder)
    except CheckpointError:
        return f"`{folder / CHECKSUMS}` is damaged"
    for name, digest in listed.items():
        if name in but:
            continue
        file = folder / name
        if not file.is_file():
            return f"`{file}` is missing"
        try:
            found = file_sha256(file)
        except OSError as error:
            return f"`{file}` cannot be read: {error.strerror}"
        if found != digest:
            return f"`{file}` differs from what was written"
    return ""


def require_whole(folder: Path) -> None:
    """Raises CheckpointError where a file of the folder is not what was written, naming it; warns of edited text."""
    if not (folder / "wuya.json").is_file():  # written anew by other software: no longer ours
        return
    if problem := damage(folder, but=(*EDITED_BY_PEOPLE, "tokenizer.json")):  # the tokenizer has a fingerprint
        raise CheckpointError(
            f"the checkpoint is damaged: {problem}",
            found=f"another SHA-256 than in `{folder / CHECKSUMS}`",
            hint="copy the folder again, or resume the run that wrote it: its command with `--resume`; if you edited "
            f"the file yourself, remove the list: `rm {folder / CHECKSUMS}`",
        )
    if edited := damage(folder):
        warn(f"{edited}; it is used as it is now")


def unreadable(folder: Path) -> str:
    """What a run cannot resume from in a folder without a list of digests: weights or state that are cut or gone.

    The header of a safetensors file gives its length, and a torch file is a zip archive with a CRC per member, so a
    flipped bit in the state is found and one in the weights is not.
    """
    if (folder / CHECKSUMS).exists():
        return ""
    state, weights = folder / "resume" / "state.pt", sorted(folder.glob("*.safetensors"))
    if not weights and ((folder / "config.json").exists() or not state.exists()):
        return f"`{folder}` holds no weights"
    for file in weights:
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (OSError, SafetensorError) as error:
            return f"`{file}` cannot be read: {error}"
    try:
        with zipfile.ZipFile(state) as archive:
            cut = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        return f"`{state}` cannot be read: {error}"
    return f"`{state}` is damaged in `{cut}`" if cut else ""


def newest_whole(run: Path, checkpoints: Sequence[Path]) -> Path | None:
    """The newest of a run's checkpoints whose files are as they were written; damaged newer ones are put aside.

    Args:
        checkpoints: from old to new.

    Raises: CheckpointError where there are checkpoints and none is whole; then nothing is moved.
    """
    problems: dict[Path, str] = {}
    for folder in reversed(checkpoints):
        if problem := damage(folder) or unreadable(folder):
            problems[folder] = problem
            continue
        for damaged, problem in problems.items():
            aside = damaged.with_name(f"damaged_{damaged.name}")
            shutil.rmtree(aside, ignore_errors=True)
            damaged.rename(aside)
            warn(f"passing over a damaged checkpoint: {problem}; it lies in `{aside}` now, `{folder.name}` is whole")
        return folder
    if problems:
        raise CheckpointError(
            f"`{run}` cannot be resumed: no checkpoint in it is whole",
            found="; ".join(problems.values())[:500],
            hint=f"put back a copy of a checkpoint, or start anew with another `--out`: `{run}-2`",
        )
    return None


def _listed(folder: Path) -> dict[str, str]:
    try:
        listed = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"`{folder / CHECKSUMS}` is damaged", found=str(error)) from error
    if not isinstance(listed, dict) or not listed or not all(isinstance(value, str) for value in listed.values()):
        raise CheckpointError(f"`{folder / CHECKSUMS}` is damaged", found="no list of digests")
    return listed
