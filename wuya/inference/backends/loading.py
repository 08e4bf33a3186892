"""From a checkpoint's place to a `HostedModel`."""

from hashlib import sha256
from pathlib import Path
from typing import Literal

from wuya import __version__
from wuya.checkpoints.checkpoint import load_checkpoint, resolve_checkpoint
from wuya.checkpoints.hf_folder import weight_files
from wuya.console import say
from wuya.files import sha256_file
from wuya.inference.backends.chat import knows_tools
from wuya.inference.backends.hosted import HostedModel
from wuya.inference.backends.protocol import ModelInfo
from wuya.models.decoder import require_own
from wuya.training.distributed import resolve_device, resolve_dtype

Quantize = Literal["none", "int8", "int4"]


def load_hosted(
    alias: str,
    path: Path | str,
    *,
    slots: int,
    cache_bytes: int,
    prefix_bytes: int,
    device: str = "auto",
    dtype: str = "auto",
    quantize: Quantize = "none",
    max_context: int | None = None,
) -> HostedModel:
    """Read weights and tokenizer; see `LocalEngine` for the arguments."""
    place, where = resolve_checkpoint(path), resolve_device(device)
    model, tokenizer = load_checkpoint(place, device=where, dtype=resolve_dtype(dtype, where))  # type: ignore[arg-type]
    if tokenizer.system_prompt:
        say(f"`{alias}`: system prompt of chats without one: {tokenizer.system_prompt}")
    if quantize != "none":
        from wuya.models.quantize import quantize_model

        quantize_model(require_own(model, "`--quantize`"), quantize)
    files = weight_files(place) if place.is_dir() else [place]
    info = ModelInfo(
        alias=alias,
        context_length=min(max_context or model.config.context_length, model.config.context_length),
        fingerprint=fingerprint(files, tokenizer.fingerprint, f"{model.dtype} {quantize}"),
        path=str(place),
        has_chat=bool(tokenizer.chat_template),
        has_tools=knows_tools(tokenizer.chat_template),
        created=int(max(file.stat().st_mtime for file in files)),
    )
    return HostedModel(info, model.eval(), tokenizer, slots=slots, cache_bytes=cache_bytes,
                       prefix_bytes=prefix_bytes)  # fmt: skip


def fingerprint(files: list[Path], tokenizer: str, arithmetic: str) -> str:
    """Of the weights, the tokenizer, how numbers are held, and this version."""
    parts = [*(sha256_file(file) for file in files), tokenizer, arithmetic, __version__]
    return "wuya-" + sha256(" ".join(parts).encode()).hexdigest()[:16]
