"""Checkpoints are Hugging Face folders: what wuya trains loads in transformers, vLLM and llama.cpp, and theirs load here.

    config.json model.safetensors tokenizer.json tokenizer_config.json generation_config.json   the ecosystem's
    wuya.json                                                                                   ours: where it came from

A folder is written under a temporary name and renamed, so it is whole or absent. Weights are safetensors only: a pickle
(`.bin`, `.pt`) can run code when it is opened, so it is refused. Models no Hugging Face class can express (the `speedrun`
preset) are stored with `model_type: wuya` under our own tensor names, and load here only.
"""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from wuya import __version__
from wuya.errors import CheckpointError, ConfigError
from wuya.files import atomic_folder, sha256_file, to_json, write_atomic
from wuya.models.config import GPTConfig
from wuya.models.gpt import GPT
from wuya.models.pretrained import OWN_FAMILY, Family, config_from_hf, config_to_hf, state_from_hf, state_to_hf
from wuya.models.reward_model import ScalarModel
from wuya.tokenizer.bpe import Tokenizer

WEIGHTS = "model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def save_checkpoint(
    folder: Path | str,
    model: GPT | ScalarModel,
    tokenizer: Tokenizer,
    *,
    recipe: str = "",
    parents: Mapping[str, Path | str] | None = None,
    extra: Mapping[str, object] | None = None,
) -> None:
    """Write a checkpoint folder, whole or not at all.

    Args:
        recipe: the command that made it, e.g. `sft`.
        parents: what it was made from, by role (`policy`, `reward_model`, `data`): a checkpoint folder or a file; each is
            recorded with its SHA-256.
        extra: further facts for wuya.json: hashes of data, step, tokens seen, labeler.
    """
    require_same_vocabulary(model, tokenizer, where=str(folder))
    files = checkpoint_files(model, tokenizer)
    provenance: dict[str, object] = {
        "wuya_version": __version__,
        "recipe": recipe,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_sha": git_sha(),
        "parents": {role: describe_parent(Path(path)) for role, path in (parents or {}).items()},
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "extra": dict(extra or {}),
    }
    if isinstance(model, ScalarModel):
        provenance["reward_bias"] = float(model.bias)
    with atomic_folder(folder) as temporary:
        tokenizer.save(temporary)
        for name, content in {**files, "wuya.json": provenance}.items():
            write_atomic(temporary / name, to_json(content, indent=2) + "\n")
        save_file(checkpoint_tensors(model), temporary / WEIGHTS, metadata={"format": "pt"})


def load_checkpoint(
    path: Path | str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[GPT, Tokenizer]:
    """The language model and tokenizer at a checkpoint folder, run folder or GGUF file (see `resolve_checkpoint`)."""
    folder = resolve_checkpoint(path)
    if folder.is_file():
        from wuya.models.gguf import load_gguf  # reads a foreign format; most runs never need it

        model, tokenizer = load_gguf(folder)
        return model.to(device=device, dtype=dtype), tokenizer
    model, tokenizer = load_model(folder, device=device, dtype=dtype), load_tokenizer(folder)
    require_same_vocabulary(model, tokenizer, where=str(folder))
    return model, tokenizer


def load_scalar_model(
    path: Path | str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[ScalarModel, Tokenizer]:
    """The reward or value model at a folder: ours, or any one-label `ForSequenceClassification` of a supported family."""
    folder = resolve_checkpoint(path)
    hf = read_config(folder)
    if not is_scalar(hf):
        raise CheckpointError(
            f"`{folder}` is a language model, not a reward model",
            found=str(hf.get("architectures")),
            hint=f"train one from it: `wuya reward --policy {folder} --out runs/reward`",
        )
    if (labels := len(hf.get("id2label") or {"0": 0, "1": 1})) != 1:
        raise CheckpointError(f"a reward model has one output, `{folder}` has {labels}", found=str(hf.get("id2label")))
    config = replace(config_from_hf(hf), tie_embeddings=True)  # a scalar model needs no output matrix
    state = read_state(folder, hf, config, scalar=True, device=device, dtype=dtype)
    model = ScalarModel(_on_meta(config))
    model.trunk = assign(_on_meta(config), {k: v for k, v in state.items() if k != "head.weight"}, folder)
    model.head.weight = nn.Parameter(state["head.weight"])
    if model.head.weight.shape != (1, config.model_dim):
        raise CheckpointError(
            f"`score.weight` of `{folder}` has the wrong shape", found=str(tuple(state["head.weight"].shape))
        )
    bias = read_json(folder / "wuya.json").get("reward_bias", 0.0) if (folder / "wuya.json").is_file() else 0.0
    model.bias = torch.tensor(float(bias), device=device)
    tokenizer = load_tokenizer(folder)
    require_same_vocabulary(model, tokenizer, where=str(folder))
    return model, tokenizer


def load_model(folder: Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> GPT:
    """The language model of a checkpoint folder, without its tokenizer."""
    hf = read_config(folder)
    if is_scalar(hf):
        raise CheckpointError(
            f"`{folder}` is a reward model (one scalar, no vocabulary), a language model is needed here",
            found=str(hf.get("architectures")),
        )
    config = config_from_hf(hf)
    return assign(_on_meta(config), read_state(folder, hf, config, scalar=False, device=device, dtype=dtype), folder)


# ---- finding
def resolve_checkpoint(path: Path | str) -> Path:
    """The checkpoint a path means: a Hugging Face folder or GGUF file itself, a run folder's final or latest one."""
    if str(path).startswith("package:"):
        from wuya.models.gguf import find_in_package

        return find_in_package(str(path).removeprefix("package:"))
    path = Path(path)
    if path.is_file() and path.suffix == ".gguf":
        return path
    if path.is_file():
        raise CheckpointError(
            f"`{path}` is a file; a checkpoint is a folder with config.json and {WEIGHTS}, or a .gguf file",
            found=path.name,
        )
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint at `{path}`", found="nothing there", hint=_nearby(path))
    steps = sorted((path / "checkpoints").glob("step_*"), key=lambda p: int(p.name.removeprefix("step_") or 0))
    for folder in (path, path / "model", *reversed(steps)):
        if (folder / "config.json").is_file():
            return folder
    raise _incomplete(path, "config.json")


def _nearby(path: Path) -> str:
    parent = path.parent
    names = [p.name for p in sorted(parent.iterdir()) if p.is_dir()][:8] if parent.is_dir() else []
    return f"`{parent}` holds: {', '.join(names)}" if names else ""


def _incomplete(folder: Path, missing: str) -> CheckpointError:
    names = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    return CheckpointError(
        f"`{folder}` is not a checkpoint: `{missing}` is missing",
        found=", ".join(names[:8]) or "an empty folder",
        hint="training may have stopped before the first save; run its command again with `--resume`",
    )


# ---- reading
def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or a CheckpointError that names it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"`{path}` cannot be read as JSON", found=str(error)) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"`{path}` does not hold a JSON object", found=type(value).__name__)
    return value


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint folder."""
    if not (folder / "config.json").is_file():
        raise _incomplete(folder, "config.json")
    return read_json(folder / "config.json")


def is_scalar(hf: Mapping[str, Any]) -> bool:
    """Whether a config.json describes a reward or value model."""
    return any(name.endswith("ForSequenceClassification") for name in hf.get("architectures") or ())


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint folder; one that was exchanged since the model was saved is refused."""
    tokenizer = Tokenizer.load(folder)
    wuya = read_json(folder / "wuya.json") if (folder / "wuya.json").is_file() else {}
    if wuya.get("tokenizer_fingerprint", tokenizer.fingerprint) != tokenizer.fingerprint:
        raise CheckpointError(
            f"vocabulary mismatch: `{folder / 'tokenizer.json'}` is not the tokenizer this model was trained with",
            found=f"fingerprint {tokenizer.fingerprint[:12]}, trained with {wuya['tokenizer_fingerprint'][:12]}",
            hint="put the original tokenizer.json back, or take the checkpoint from its run again",
        )
    return tokenizer


def read_state(
    folder: Path,
    hf: Mapping[str, Any],
    config: GPTConfig,
    *,
    scalar: bool,
    device: str | torch.device,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """The weights of a folder under our names."""
    tensors = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  a safetensors file is not a mapping
                    tensors[name] = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"`{path}` is truncated or damaged",
                found=str(error),
                hint="copy it again, or resume the run that wrote it",
            ) from error
    if hf["model_type"] == OWN_FAMILY:
        state = {name.removeprefix("trunk."): tensor for name, tensor in tensors.items()}
    else:
        state = state_from_hf(config, cast(Family, hf["model_type"]), tensors, scalar=scalar)
    # a copy even where nothing changes: tensors of safe_open are a view of the file
    return {
        k: v.to(device=device, dtype=dtype, copy=True, memory_format=torch.contiguous_format) for k, v in state.items()
    }


def weight_files(folder: Path) -> list[Path]:
    """The safetensors file or shards of a folder."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / f"{WEIGHTS}.index.json"
    if index.is_file():
        shards = sorted({folder / name for name in read_json(index).get("weight_map", {}).values()})
        if missing := [shard.name for shard in shards if not shard.is_file()]:
            raise _incomplete(folder, missing[0])
        return shards
    if pickles := [p.name for pattern in PICKLES for p in folder.glob(pattern)]:
        raise CheckpointError(
            f"`{folder}` holds pickled weights, which can run any code when they are opened; wuya reads safetensors only",
            found=", ".join(sorted(pickles)),
            hint="convert it where you trust it: `AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)` of transformers",
        )
    raise _incomplete(folder, WEIGHTS)


def _on_meta(config: GPTConfig) -> GPT:
    """A model without memory or random initialisation, to be filled by `assign`."""
    with torch.device("meta"):
        return GPT(config)


def assign(model: GPT, state: Mapping[str, Tensor], where: Path) -> GPT:
    """Put tensors in as the parameters (no second copy); shapes and names must be exactly the config's."""
    wrong = [
        f"{name} {tuple(state[name].shape)}, config.json says {tuple(parameter.shape)}"
        for name, parameter in model.named_parameters()
        if name in state and state[name].shape != parameter.shape
    ]
    if wrong:
        raise CheckpointError(
            f"tensors of `{where}` do not have the shapes of its config.json", found="; ".join(wrong[:3])
        )
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"tensors of `{where}` do not fit its config.json", found=str(error)[:300]) from error
    model.build_rotary(model.device)
    return model


def require_same_vocabulary(model: GPT | ScalarModel, tokenizer: Tokenizer, *, where: str) -> None:
    """A tokenizer may know fewer tokens than the model has rows (padding), never more."""
    config = model.trunk.config if isinstance(model, ScalarModel) else model.config
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"vocabulary mismatch in `{where}`: the tokenizer can give ids the model has no embedding for",
            found=f"{tokenizer.vocab_size} tokens, {config.vocab_size} embeddings",
            hint="use the tokenizer the model was trained with",
        )


# ---- writing
def checkpoint_files(model: GPT | ScalarModel, tokenizer: Tokenizer) -> dict[str, dict[str, Any]]:
    """config.json and generation_config.json."""
    scalar = isinstance(model, ScalarModel)
    config = model.trunk.config if isinstance(model, ScalarModel) else model.config
    ids = {"eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    try:
        hf = config_to_hf(config, scalar=scalar, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id)
    except ConfigError:  # no class of theirs: our own form
        kind = "WuyaForSequenceClassification" if scalar else "WuyaForCausalLM"
        hf = {"architectures": [kind], "model_type": OWN_FAMILY, **asdict(config), **ids}
        hf |= {"id2label": {"0": "score"}} if scalar else {}
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return {"config.json": {**hf, "dtype": dtype}, "generation_config.json": ids}


def checkpoint_tensors(model: GPT | ScalarModel) -> dict[str, Tensor]:
    """What model.safetensors holds: Hugging Face names where a class fits, else ours."""
    scalar = isinstance(model, ScalarModel)
    trunk = model.trunk if isinstance(model, ScalarModel) else model
    config = replace(trunk.config, tie_embeddings=True) if scalar else trunk.config
    state = {name: tensor.detach() for name, tensor in trunk.state_dict().items()}
    if isinstance(model, ScalarModel):
        state["head.weight"] = model.head.weight.detach()
    try:
        tensors = state_to_hf(config, state, scalar=scalar)
    except ConfigError:
        tensors = state
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def describe_parent(path: Path) -> dict[str, str]:
    """Where a parent lies and the SHA-256 of its weights (a checkpoint) or of the file."""
    file = path
    if path.is_dir():
        folder = resolve_checkpoint(path)
        file = weight_files(folder)[0]
        path = folder
    return {"path": str(path), "sha256": sha256_file(file) if file.is_file() else ""}


def git_sha() -> str:
    """The commit of the source this runs from; empty when it is an installed package or git is absent."""
    try:
        here = Path(__file__).parent
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
