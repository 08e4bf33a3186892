"""Take a model out: a run's checkpoint as a Hugging Face folder, or a GGUF file for llama.cpp and OpenVINO.

    wuya export runs/demo/ppo_ptx --out my-model --dtype bfloat16
    wuya export runs/demo/ppo_ptx --out my-model.gguf --dtype q8_0

Reads a checkpoint or run folder; writes <out>/ (config.json, generation_config.json, model.safetensors, tokenizer with
its chat template, wuya.json), or one GGUF file with all of it when `--out` ends in .gguf. wuya's checkpoints are such
folders already; exporting picks the run's last one, converts the dtype and leaves resume state behind. A model no
Hugging Face class can express (squared ReLU, softcap) is refused with the reason. A reward model's bias
goes into its last LayerNorm (GPT-1, GPT-2); with RMSNorm there is no such place, and `score` has no bias in
transformers: it is the tensor `score.bias`, which transformers reports as unexpected, and README.md says how to set it.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch

from wuya.checkpoints.checkpoint import load_any, require_new_folder, resolve_checkpoint, save_checkpoint
from wuya.checkpoints.hf_folder import read_config
from wuya.checkpoints.pretrained import hf_family
from wuya.console import warn
from wuya.errors import ConfigError
from wuya.files import to_json, write_atomic
from wuya.models.decoder import require_own
from wuya.models.gpt import GPT
from wuya.models.reward_model import ScalarModel, fold_bias

CARD = """\
# A reward model

Its scores are centred: demonstrations score 0 on average. `AutoModelForSequenceClassification` has no bias in its
`score` layer, so its scores are {bias:+.6f} above these until you set it (the order of answers is the same either way):

```python
model = AutoModelForSequenceClassification.from_pretrained(folder)
model.score.bias = torch.nn.Parameter(torch.tensor([-({bias!r})]))  # also in model.safetensors, as score.bias
```

Programs that refuse tensors they do not know need `score.bias` removed from model.safetensors.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """Checkpoint -> Hugging Face folder."""

    POSITIONAL: ClassVar[str] = "checkpoint"

    checkpoint: Path
    """Run folder (its final or newest checkpoint), checkpoint folder or .gguf file."""
    out: Path
    """Folder to write, or a file whose name ends in .gguf."""
    dtype: Literal["float32", "float16", "bfloat16", "q8_0"] = "float32"
    """How the weights are stored; 16 bits halve the file (bfloat16 keeps 8 bits of precision, float16 11); q8_0, of
    GGUF only, is a byte a weight with a scale for every 32. OpenVINO reads float16 and q8_0."""
    json: bool = False
    """Print the facts as JSON."""


def run(config: ExportConfig) -> Path:
    """Load, refuse what has no class, save."""
    if config.out.suffix == ".gguf":
        return _export_gguf(config)
    if config.dtype == "q8_0":
        raise ConfigError("only GGUF files hold q8_0 weights", hint=f"`--out {config.out}.gguf`")
    require_new_folder(config.out)
    source = resolve_checkpoint(config.checkpoint)
    model, tokenizer = load_any(source, dtype=getattr(torch, config.dtype))
    decoder = model.trunk if isinstance(model, ScalarModel) else model
    if isinstance(decoder, GPT):
        hf_family(decoder.config)  # raises with the reason
    if isinstance(model, ScalarModel) and isinstance(model.trunk, GPT) and model.bias.item():
        fold_bias(model)
    save_checkpoint(config.out, model, tokenizer, recipe="export", parents={"checkpoint": source})
    if isinstance(model, ScalarModel) and float(model.bias):
        bias = float(model.bias)
        write_atomic(config.out / "README.md", CARD.format(bias=bias))
        warn(f"transformers' scores of this reward model are {bias:+.4f} above wuya's until its bias is set: "
             f"three lines in `{config.out / 'README.md'}`")  # fmt: skip
    return _told(config, source, read_config(config.out)["architectures"][0], "transformers and vLLM")


def _export_gguf(config: ExportConfig) -> Path:
    if config.out.exists():
        raise ConfigError(f"`{config.out}` exists already", hint=f"write elsewhere (`--out`), or: `rm {config.out}`")
    source = resolve_checkpoint(config.checkpoint)
    model, tokenizer = load_any(source)
    if isinstance(model, ScalarModel):
        raise ConfigError("GGUF has no place for a reward model", hint="export a folder: `--out` without .gguf")
    from wuya.checkpoints.gguf_writer import save_gguf

    own = require_own(model, "Export to GGUF")
    save_gguf(config.out, own, tokenizer, precision=config.dtype)
    return _told(config, source, hf_family(own.config), "llama.cpp, OpenVINO GenAI and `wuya serve`")


def _told(config: ExportConfig, source: Path, architecture: str, readers: str) -> Path:
    if config.json:
        facts = {"out": config.out, "architecture": architecture, "dtype": config.dtype, "source": source}
        sys.stdout.write(to_json(facts) + "\n")
    else:
        sys.stdout.write(f"{architecture} in {config.dtype}, loads in {readers}\n{config.out}\n")
    return config.out
