"""Take a model out: a run's checkpoint as a Hugging Face folder for transformers, vLLM or llama.cpp's converter.

    wuya export runs/demo/ppo_ptx --out my-model --dtype bfloat16

Reads a checkpoint or run folder; writes <out>/ (config.json, generation_config.json, model.safetensors, tokenizer with
its chat template, wuya.json). wuya's checkpoints are such folders already; exporting picks the run's last one, converts
the dtype and leaves resume state behind. A model no Hugging Face class can express (squared ReLU, softcap) is refused
with the reason. A reward model's bias stays in wuya.json: transformers' `score` layer has none, so its scores are
shifted by it.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch

from wuya.console import warn
from wuya.files import to_json
from wuya.models.checkpoint import load_any, require_new_folder, resolve_checkpoint, save_checkpoint
from wuya.models.hf_folder import read_config
from wuya.models.pretrained import hf_family
from wuya.models.reward_model import ScalarModel


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """Checkpoint -> Hugging Face folder."""

    POSITIONAL: ClassVar[str] = "checkpoint"

    checkpoint: Path
    """Run folder (its final or newest checkpoint), checkpoint folder or .gguf file."""
    out: Path
    """Folder to write."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """How the weights are stored; bfloat16 halves the file and keeps 8 bits of precision."""
    json: bool = False
    """Print the facts as JSON."""


def run(config: ExportConfig) -> Path:
    """Load, refuse what has no class, save."""
    require_new_folder(config.out)
    source = resolve_checkpoint(config.checkpoint)
    model, tokenizer = load_any(source, dtype=getattr(torch, config.dtype))
    hf_family((model.trunk if isinstance(model, ScalarModel) else model).config)  # raises with the reason
    save_checkpoint(config.out, model, tokenizer, recipe="export", parents={"checkpoint": source})
    if isinstance(model, ScalarModel) and float(model.bias):
        warn(
            f"transformers' scores of this reward model are {float(model.bias):+.4f} above wuya's: it has no bias there"
        )
    architecture = read_config(config.out)["architectures"][0]
    if config.json:
        facts = {"out": config.out, "architecture": architecture, "dtype": config.dtype, "source": source}
        sys.stdout.write(to_json(facts) + "\n")
    else:
        sys.stdout.write(f"{architecture} in {config.dtype}, loads in transformers, vLLM and llama.cpp\n{config.out}\n")
    return config.out
