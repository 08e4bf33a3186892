"""Reading a checkpoint folder, with a clear CheckpointError for whatever can be wrong with one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from wuya.errors import CheckpointError
from wuya.files import is_plain_name, read_json_object

WEIGHTS = "model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or a CheckpointError that names it."""
    return read_json_object(path, CheckpointError)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint folder."""
    if not (folder / "config.json").is_file():
        raise incomplete(folder, "config.json")
    return read_json(folder / "config.json")


def read_provenance(folder: Path) -> dict[str, Any]:
    """wuya.json of a folder that wuya wrote; empty for any other."""
    return read_json(folder / "wuya.json") if (folder / "wuya.json").is_file() else {}


def is_scalar(hf: Mapping[str, Any]) -> bool:
    """Whether a config.json describes a reward or value model."""
    names = hf.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError("`architectures` in config.json is no list of class names", found=str(names)[:80])
    return any(name.endswith("ForSequenceClassification") for name in names)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder under the names in its files; they are views of the files, so copy what you keep."""
    tensors = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():
                    tensors[name] = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"`{path}` is truncated or damaged",
                found=str(error),
                hint="copy it again, or resume the run that wrote it: its command with `--resume`",
            ) from error
    return tensors


def weight_files(folder: Path) -> list[Path]:
    """The safetensors file or shards of a folder."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / f"{WEIGHTS}.index.json"
    if index.is_file():
        shards = sorted(folder / name for name in _shard_names(index))
        if missing := [shard.name for shard in shards if not shard.is_file()]:
            raise incomplete(folder, missing[0])
        return shards
    if pickles := [path.name for pattern in PICKLES for path in folder.glob(pattern)]:
        raise CheckpointError(
            f"`{folder}` holds pickled weights, which can run any code when opened; wuya reads safetensors only",
            found=", ".join(sorted(pickles)),
            hint="convert it where you trust it, with transformers: "
            "`AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)`",
        )
    raise incomplete(folder, WEIGHTS)


def _shard_names(index: Path) -> set[str]:
    """The files of an index; one outside the folder is refused, whoever asks for it."""
    weight_map = read_json(index).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else [weight_map]
    for name in names:
        if not is_plain_name(name):
            raise CheckpointError(f"`weight_map` in `{index}` names no file of this folder", found=str(name)[:80])
    return {str(name) for name in names}


def incomplete(folder: Path, missing: str) -> CheckpointError:
    """The error for a folder that lacks a file, naming what is there."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return CheckpointError(
        f"`{folder}` is not a checkpoint: `{missing}` is missing",
        found=", ".join(names[:8]) or "an empty folder",
        hint="training may have stopped before the first save; run its command again with `--resume`",
    )
