"""Checkpoints are Hugging Face folders: what wuya trains loads in transformers, vLLM and llama.cpp; theirs load here.

    config.json model.safetensors tokenizer.json tokenizer_config.json generation_config.json   the ecosystem's
    wuya.json checksums.json                                                 ours: where it came from, what was written

A folder is written under a temporary name and renamed, so it is whole or absent. Weights are safetensors only: a pickle
(`.bin`, `.pt`) can run code when it is opened, so it is refused. Models no Hugging Face class can express (the
`speedrun` preset) are stored with `model_type: wuya` under our own tensor names, and load here only.
"""

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from wuya import __version__
from wuya.checkpoints.checksums import require_whole, write_checksums
from wuya.checkpoints.converted_tokenizer import convert_tokenizer, is_convertible
from wuya.checkpoints.fingerprint import file_sha256, weights_sha256
from wuya.checkpoints.hf_folder import (
    WEIGHTS,
    incomplete,
    is_scalar,
    read_config,
    read_provenance,
    read_tensors,
)
from wuya.checkpoints.known_models import known_file, known_model
from wuya.checkpoints.package_files import find_in_package
from wuya.checkpoints.pretrained import (
    OWN_FAMILY,
    SCORE_BIAS,
    Family,
    config_from_hf,
    config_to_hf,
    state_from_hf,
    state_to_hf,
)
from wuya.checkpoints.weights import assign, on_meta, require_same_vocabulary
from wuya.errors import CheckpointError, ConfigError, UnsupportedModel
from wuya.files import atomic_folder, to_json, write_atomic
from wuya.models.config import GPTConfig
from wuya.models.decoder import Decoder, require_own
from wuya.models.gpt import GPT
from wuya.models.reward_model import ScalarModel
from wuya.models.wrapped import TransformersModel, WrappedConfig
from wuya.tokenizer.bpe import Tokenizer


def save_checkpoint(
    folder: Path | str,
    model: Decoder | ScalarModel,
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
    facts = provenance(tokenizer, recipe=recipe, parents=parents or {}, extra=extra or {})
    if isinstance(model, ScalarModel):
        facts["reward_bias"] = float(model.bias)
    decoder = model.trunk if isinstance(model, ScalarModel) else model

    def write_weights(temporary: Path) -> None:
        if isinstance(decoder, GPT):
            write_tensors(checkpoint_tensors(model), temporary / WEIGHTS)
        else:
            _write_wrapped(temporary, model, tokenizer)

    write_folder(folder, tokenizer, write_weights, {**checkpoint_files(model, tokenizer), "wuya.json": facts})


def write_folder(
    folder: Path | str,
    tokenizer: Tokenizer,
    write_weights: Callable[[Path], None],
    files: Mapping[str, Mapping[str, object]],
) -> None:
    """A checkpoint folder of any family, whole or not at all: tokenizer, weights, JSON files, checksums."""
    with atomic_folder(folder) as temporary:
        tokenizer.save(temporary)
        write_weights(temporary)
        for name, content in files.items():
            write_atomic(temporary / name, to_json(content, indent=2) + "\n")
        write_checksums(temporary)


def provenance(
    tokenizer: Tokenizer, *, recipe: str, parents: Mapping[str, Path | str], extra: Mapping[str, object]
) -> dict[str, object]:
    """wuya.json: what made a checkpoint, when, and of what."""
    return {
        "wuya_version": __version__,
        "recipe": recipe,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_sha": git_sha(),
        "parents": {role: describe_parent(path) for role, path in parents.items()},
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "turn_end": list(tokenizer.turn_end.ids),
        "system_prompt": tokenizer.system_prompt,
        "extra": dict(extra),
    }


def _write_wrapped(folder: Path, model: Decoder | ScalarModel, tokenizer: Tokenizer) -> None:
    from wuya.checkpoints.wrapped_files import write_wrapped, write_wrapped_scalar

    if isinstance(model, TransformersModel):
        write_wrapped(folder, model)
    elif isinstance(model, ScalarModel) and isinstance(model.trunk, TransformersModel):
        write_wrapped_scalar(folder, model.trunk, model.head.weight, pad_id=tokenizer.pad_id)


def load_checkpoint(
    path: Path | str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Decoder, Tokenizer]:
    """The language model and tokenizer at a checkpoint folder, run folder or GGUF file (see `resolve_checkpoint`)."""
    folder = resolve_checkpoint(path)
    if folder.is_file():
        from wuya.checkpoints.gguf import load_gguf  # reads a foreign format; most runs never need it

        from_gguf, tokenizer = load_gguf(folder)
        return from_gguf.to(device=device, dtype=dtype), tokenizer
    model, tokenizer = load_model(folder, device=device, dtype=dtype), load_tokenizer(folder)
    require_same_vocabulary(model, tokenizer, where=str(folder))
    return model, tokenizer


def load_model(folder: Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Decoder:
    """The language model of a checkpoint folder, without its tokenizer; its files are what was written."""
    model = _model_of(folder, device=device, dtype=dtype)
    require_whole(folder)  # last: other checks say more about a file that is cut off or was edited
    return model


def _model_of(folder: Path, *, device: str | torch.device, dtype: torch.dtype) -> Decoder:
    hf = read_config(folder)
    if is_scalar(hf):
        raise CheckpointError(
            f"`{folder}` is a reward model (one scalar, no vocabulary), a language model is needed here",
            found=str(hf.get("architectures")),
        )
    try:
        config = config_from_hf(hf)
    except UnsupportedModel as refused:
        from wuya.checkpoints.wrapped_files import load_wrapped  # transformers takes seconds to import

        return load_wrapped(folder, refused, device=device, dtype=dtype)
    if config.attention == "full":
        raise CheckpointError(
            f"`{folder}` is an encoder, which fills in masked tokens; a decoder, which writes, is needed here",
            found=f"{hf.get('architectures')}, attention: full",
        )
    state = our_state(folder, hf, config, scalar=False)
    model = on_meta(config, state, GPT)
    return assign(model, _copied(state, device=device, dtype=dtype), folder)


def load_scalar_model(
    path: Path | str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[ScalarModel, Tokenizer]:
    """The reward or value model at a folder: ours, or any one-label `ForSequenceClassification` of a known family."""
    folder = resolve_checkpoint(path)
    loaded = _scalar_model_of(folder, device=device, dtype=dtype)
    require_whole(folder)
    return loaded


def _scalar_model_of(folder: Path, *, device: str | torch.device, dtype: torch.dtype) -> tuple[ScalarModel, Tokenizer]:
    hf = read_config(folder) if folder.is_dir() else {}
    if not is_scalar(hf):
        raise CheckpointError(
            f"`{folder}` is a language model, not a reward model",
            found=str(hf.get("architectures")),
            hint=f"train one from it: `wuya reward --model {folder} --rankings rankings.jsonl --out runs/reward`",
        )
    try:
        config = replace(config_from_hf(hf), tie_embeddings=True)  # a scalar model has no output matrix to keep
    except UnsupportedModel as refused:
        return _wrapped_scalar_model(folder, refused, device=device, dtype=dtype)
    state = _copied(our_state(folder, hf, config, scalar=True), device=device, dtype=dtype)
    head, bias = state.pop("head.weight"), -float(state.pop("head.bias", torch.zeros(())))
    if head.shape != (1, config.model_dim):
        raise CheckpointError(
            f"a reward model has one output, `{folder}` has {head.shape[0]}",
            found=f"score.weight {tuple(head.shape)}, labels {hf.get('id2label')}",
        )
    return _with_head(assign(on_meta(config, state, GPT), state, folder), head, folder, bias=bias)


def _wrapped_scalar_model(
    folder: Path, refused: UnsupportedModel, *, device: str | torch.device, dtype: torch.dtype
) -> tuple[ScalarModel, Tokenizer]:
    from wuya.checkpoints.wrapped_files import load_wrapped_scalar

    return _with_head(*load_wrapped_scalar(folder, refused, device=device, dtype=dtype), folder)


def _with_head(trunk: Decoder, head_1D: Tensor, folder: Path, *, bias: float = 0.0) -> tuple[ScalarModel, Tokenizer]:
    with torch.random.fork_rng():  # the head that is drawn is not kept
        model = ScalarModel(trunk)
    model.head.weight = nn.Parameter(head_1D)
    stored = read_provenance(folder).get("reward_bias", bias)
    if not isinstance(stored, int | float):
        raise CheckpointError(f"`reward_bias` in `{folder / 'wuya.json'}` is no number", found=str(stored)[:40])
    model.bias = torch.tensor(float(stored), device=trunk.device)
    tokenizer = load_tokenizer(folder)
    require_same_vocabulary(model, tokenizer, where=str(folder))
    return model, tokenizer


def load_any(
    path: Path | str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Decoder | ScalarModel, Tokenizer]:
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
    if is_convertible(folder):
        return convert_tokenizer(folder)
    tokenizer = Tokenizer.load(folder)
    expected = str(read_provenance(folder).get("tokenizer_fingerprint", tokenizer.fingerprint))
    if expected != tokenizer.fingerprint:
        raise CheckpointError(
            f"vocabulary mismatch: `{folder / 'tokenizer.json'}` is not the tokenizer this model was trained with",
            found=f"fingerprint {tokenizer.fingerprint[:12]}, trained with {expected[:12]}",
            hint="put the original tokenizer.json back, or take the checkpoint from its run again",
        )
    return tokenizer


def resolve_checkpoint(path: Path | str) -> Path:
    """The checkpoint a path means: a Hugging Face folder or GGUF file itself, or a run folder's final or newest one.

    `package:NAME` is the GGUF file inside an installed Python package, `smollm2` one of checkpoints/known_models.py.
    """
    if (known := known_model(path)) is not None:
        return known_file(str(path), known)
    if str(path).startswith("package:"):
        return find_in_package(str(path).removeprefix("package:"))
    path = Path(path)
    if path.is_file() and path.suffix == ".gguf":
        return path
    if path.exists() and not path.is_dir():
        raise CheckpointError(
            f"`{path}` is not a checkpoint: that is a folder with config.json and {WEIGHTS}, or a .gguf file",
            found="a file" if path.is_file() else "neither a file nor a folder",
        )
    if not path.exists():
        siblings = sorted(p.name for p in path.parent.iterdir() if p.is_dir())[:8] if path.parent.is_dir() else []
        hint = f"`{path.parent}` holds: {', '.join(siblings)}" if siblings else ""
        raise CheckpointError(f"there is no checkpoint at `{path}`", found="nothing there", hint=hint)
    found = [step for step in (path / "checkpoints").glob("step_*") if step.name[5:].isdecimal()]
    steps = sorted(found, key=lambda step: int(step.name[5:]))
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
def checkpoint_files(model: Decoder | ScalarModel, tokenizer: Tokenizer) -> dict[str, dict[str, Any]]:
    """config.json and generation_config.json."""
    scalar = isinstance(model, ScalarModel)
    config = model.trunk.config if isinstance(model, ScalarModel) else model.config
    ends = tokenizer.turn_end.json
    ids = {"eos_token_id": ends, "pad_token_id": tokenizer.pad_id}
    if isinstance(config, WrappedConfig):  # transformers wrote its config.json
        return {"generation_config.json": ids}
    try:
        hf = config_to_hf(config, scalar=scalar, eos_id=ends, pad_id=tokenizer.pad_id)
    except ConfigError:  # no class of theirs: our own form
        kind = "WuyaForSequenceClassification" if scalar else "WuyaForCausalLM"
        hf = {"architectures": [kind], "model_type": OWN_FAMILY, **asdict(config), **ids}
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return {"config.json": {**hf, "dtype": dtype}, "generation_config.json": ids}


def checkpoint_tensors(model: Decoder | ScalarModel) -> dict[str, Tensor]:
    """What model.safetensors holds: Hugging Face names where a class fits, else ours."""
    trunk = require_own(model.trunk if isinstance(model, ScalarModel) else model, "Our list of tensors")
    state = {name: tensor.detach() for name, tensor in trunk.state_dict().items()}
    if isinstance(model, ScalarModel):
        state["head.weight"] = model.head.weight.detach()  # in the place of the output matrix, which it has no use for
    try:
        tensors = state_to_hf(trunk.config, state, scalar=isinstance(model, ScalarModel))
    except ConfigError:
        tensors = state
    else:
        if isinstance(model, ScalarModel) and model.bias.item():
            tensors[SCORE_BIAS] = -model.bias.reshape(1).to(model.head.weight.dtype)
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
    """Where a parent lies and the SHA-256 of its weights (a checkpoint, all shards of it) or of the file."""
    if known_model(path) is not None or str(path).startswith("package:") or Path(path).is_dir():
        path = resolve_checkpoint(path)
    path = Path(path)
    if path.is_dir():
        return {"path": str(path), "sha256": weights_sha256(path)}
    return {"path": str(path), "sha256": file_sha256(path) if path.is_file() else ""}


def git_sha() -> str:
    """The commit of the source this runs from; empty when it is an installed package or git is absent."""
    try:
        here = Path(__file__).parent
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
