"""Checkpoints are Hugging Face folders: what wuya trains loads in transformers, vLLM and llama.cpp; theirs load here.

    config.json model.safetensors tokenizer.json tokenizer_config.json generation_config.json   the ecosystem's
    wuya.json                                                                                   ours: where it came from

A folder is written under a temporary name and renamed, so it is whole or absent. Weights are safetensors only: a pickle
(`.bin`, `.pt`) can run code when it is opened, so it is refused. Models no Hugging Face class can express (the
`speedrun` preset) are stored with `model_type: wuya` under our own tensor names, and load here only.
"""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from wuya import __version__
from wuya.errors import CheckpointError, ConfigError
from wuya.files import atomic_folder, sha256_file, to_json, write_atomic
from wuya.models.config import GPTConfig
from wuya.models.gpt import GPT
from wuya.models.hf_folder import (
    WEIGHTS,
    incomplete,
    is_scalar,
    read_config,
    read_provenance,
    read_tensors,
    weight_files,
)
from wuya.models.pretrained import OWN_FAMILY, Family, config_from_hf, config_to_hf, state_from_hf, state_to_hf
from wuya.models.reward_model import ScalarModel
from wuya.models.weights import assign, on_meta, require_same_vocabulary
from wuya.tokenizer.bpe import Tokenizer


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
        parents: what it was made from, by role (`policy`, `reward_model`, `data`): a checkpoint folder or a file; each
            is recorded with its SHA-256.
        extra: further facts for wuya.json: hashes of data, step, tokens seen, labeler.
    """
    require_same_vocabulary(model, tokenizer, where=str(folder))
    provenance: dict[str, object] = {
        "wuya_version": __version__,
        "recipe": recipe,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_sha": git_sha(),
        "parents": {role: describe_parent(path) for role, path in (parents or {}).items()},
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "extra": dict(extra or {}),
    }
    if isinstance(model, ScalarModel):
        provenance["reward_bias"] = float(model.bias)
    files = {**checkpoint_files(model, tokenizer), "wuya.json": provenance}
    with atomic_folder(folder) as temporary:
        tokenizer.save(temporary)
        for name, content in files.items():
            write_atomic(temporary / name, to_json(content, indent=2) + "\n")
        write_tensors(checkpoint_tensors(model), temporary / WEIGHTS)


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


def load_model(folder: Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> GPT:
    """The language model of a checkpoint folder, without its tokenizer."""
    hf = read_config(folder)
    if is_scalar(hf):
        raise CheckpointError(
            f"`{folder}` is a reward model (one scalar, no vocabulary), a language model is needed here",
            found=str(hf.get("architectures")),
        )
    config = config_from_hf(hf)
    state = our_state(folder, hf, config, scalar=False)
    return assign(on_meta(config), _copied(state, device=device, dtype=dtype), folder)


def load_scalar_model(
    path: Path | str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[ScalarModel, Tokenizer]:
    """The reward or value model at a folder: ours, or any one-label `ForSequenceClassification` of a known family."""
    folder = resolve_checkpoint(path)
    hf = read_config(folder) if folder.is_dir() else {}
    if not is_scalar(hf):
        raise CheckpointError(
            f"`{folder}` is a language model, not a reward model",
            found=str(hf.get("architectures")),
            hint=f"train one from it: `wuya reward --model {folder} --rankings rankings.jsonl --out runs/reward`",
        )
    config = replace(config_from_hf(hf), tie_embeddings=True)  # a scalar model has no output matrix to keep
    state = _copied(our_state(folder, hf, config, scalar=True), device=device, dtype=dtype)
    head = state.pop("head.weight")
    if head.shape != (1, config.model_dim):
        raise CheckpointError(
            f"a reward model has one output, `{folder}` has {head.shape[0]}",
            found=f"score.weight {tuple(head.shape)}, labels {hf.get('id2label')}",
        )
    model = ScalarModel(on_meta(config))
    model.trunk = assign(model.trunk, state, folder)
    model.head.weight = nn.Parameter(head)
    model.bias = torch.tensor(float(read_provenance(folder).get("reward_bias", 0.0)), device=device)
    tokenizer = load_tokenizer(folder)
    require_same_vocabulary(model, tokenizer, where=str(folder))
    return model, tokenizer


def load_any(
    path: Path | str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[GPT | ScalarModel, Tokenizer]:
    """The language model or reward model, whichever lies there."""
    folder = resolve_checkpoint(path)
    if folder.is_dir() and is_scalar(read_config(folder)):
        return load_scalar_model(folder, device=device, dtype=dtype)
    return load_checkpoint(folder, device=device, dtype=dtype)


def require_new_folder(out: Path) -> None:
    """A folder that holds something is never replaced by a command that writes a model."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"`{out}` exists already", hint=f"write elsewhere (`--out`), or remove it: `rm -r {out}`")


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint folder; one that was exchanged since the model was saved is refused."""
    tokenizer = Tokenizer.load(folder)
    expected = read_provenance(folder).get("tokenizer_fingerprint", tokenizer.fingerprint)
    if expected != tokenizer.fingerprint:
        raise CheckpointError(
            f"vocabulary mismatch: `{folder / 'tokenizer.json'}` is not the tokenizer this model was trained with",
            found=f"fingerprint {tokenizer.fingerprint[:12]}, trained with {expected[:12]}",
            hint="put the original tokenizer.json back, or take the checkpoint from its run again",
        )
    return tokenizer


def resolve_checkpoint(path: Path | str) -> Path:
    """The checkpoint a path means: a Hugging Face folder or GGUF file itself, or a run folder's final or newest one.

    `package:NAME` is the GGUF file inside an installed Python package.
    """
    if str(path).startswith("package:"):
        from wuya.models.gguf import find_in_package

        return find_in_package(str(path).removeprefix("package:"))
    path = Path(path)
    if path.is_file():
        if path.suffix == ".gguf":
            return path
        raise CheckpointError(
            f"`{path}` is not a checkpoint: that is a folder with config.json and {WEIGHTS}, or a .gguf file",
            found="a file",
        )
    if not path.exists():
        siblings = sorted(p.name for p in path.parent.iterdir() if p.is_dir())[:8] if path.parent.is_dir() else []
        hint = f"`{path.parent}` holds: {', '.join(siblings)}" if siblings else ""
        raise CheckpointError(f"there is no checkpoint at `{path}`", found="nothing there", hint=hint)
    steps = sorted((path / "checkpoints").glob("step_[0-9]*"), key=lambda step: int(step.name.removeprefix("step_")))
    for folder in (path, path / "model", *reversed(steps)):
        if (folder / "config.json").is_file():
            return folder
    raise incomplete(path, "config.json")


# ---- reading
def our_state(folder: Path, hf: Mapping[str, Any], config: GPTConfig, *, scalar: bool) -> dict[str, Tensor]:
    """The tensors of a folder under our names."""
    tensors = read_tensors(folder)
    if hf["model_type"] == OWN_FAMILY:
        return tensors
    return state_from_hf(config, cast(Family, hf["model_type"]), tensors, scalar=scalar)


def _copied(state: dict[str, Tensor], *, device: str | torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Own memory for tensors that are views of a file. Empties `state`, so that nothing is held twice for long."""
    form = torch.contiguous_format
    return {k: state.pop(k).to(device=device, dtype=dtype, copy=True, memory_format=form) for k in list(state)}


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
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return {"config.json": {**hf, "dtype": dtype}, "generation_config.json": ids}


def checkpoint_tensors(model: GPT | ScalarModel) -> dict[str, Tensor]:
    """What model.safetensors holds: Hugging Face names where a class fits, else ours."""
    trunk = model.trunk if isinstance(model, ScalarModel) else model
    state = {name: tensor.detach() for name, tensor in trunk.state_dict().items()}
    if isinstance(model, ScalarModel):
        state["head.weight"] = model.head.weight.detach()  # in the place of the output matrix, which it has no use for
    try:
        tensors = state_to_hf(trunk.config, state, scalar=isinstance(model, ScalarModel))
    except ConfigError:
        tensors = state
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """A safetensors file with the usual rights; a full disk is an OSError, as for every other file."""
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) if code else error from error
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def describe_parent(path: Path | str) -> dict[str, str]:
    """Where a parent lies and the SHA-256 of its weights (a checkpoint) or of the file."""
    path = Path(path)
    if path.is_dir():
        path = resolve_checkpoint(path)
    file = weight_files(path)[0] if path.is_dir() else path
    return {"path": str(path), "sha256": sha256_file(file) if file.is_file() else ""}


def git_sha() -> str:
    """The commit of the source this runs from; empty when it is an installed package or git is absent."""
    try:
        here = Path(__file__).parent
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
