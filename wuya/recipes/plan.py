"""Memory, compute and time of a model before anything is spent (spec section 11).

    wuya plan gpt3-175b                               # a published size by name
    wuya plan runs/sft --ppo_completion 128           # a checkpoint
    wuya plan configs/pretrain-small.yaml --json      # the config of a recipe, or a YAML of GPTConfig fields

Reads a preset name, checkpoint folder, GGUF file or YAML; prints tables, or JSON. Nothing is written but the measured
speed of this machine (<workspace>/machine.json), so that the next plan is instant. What wuya itself trains is float32
on a CPU; other precisions and optimizers are arithmetic for comparison.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from wuya.config import load_config, require_positive
from wuya.console import table
from wuya.errors import ConfigError
from wuya.files import default_workspace, to_json
from wuya.models.config import GPTConfig
from wuya.models.machine import Machine, machine_dict, this_machine
from wuya.models.plan import GIB, Row, Workload, make_plan, readable
from wuya.models.presets import PRESETS, preset

CHECKPOINT_FIELDS = ("init", "base", "sft", "policy", "checkpoint", "model")
"""Fields of recipe configs that name the model to start from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig:
    """Plan a model: does it fit this machine, for inference, training and PPO, and how long does it take?"""

    POSITIONAL: ClassVar[str] = "model"

    model: str
    """A preset (gpt3-175b), a checkpoint (folder, run or .gguf), or a YAML: a recipe's config or fields of a model."""
    batch_size: int | None = None
    """Rows of a training microbatch; the YAML's, else 8."""
    context_length: int | None = None
    """Tokens of a row and of a chat; the YAML's, else the model's, at most 2,048."""
    num_sequences: int = 1
    """Chats held in the KV cache at once."""
    num_tokens: float | None = None
    """Training tokens for the time estimate; the YAML's, else 20 per parameter (Chinchilla)."""
    lora_rank: int | None = None
    """Rank of the LoRA rows; the YAML's where it is above 0, else 16."""
    ppo_prompt: int | None = None
    """Tokens of the longest PPO prompt; the YAML's limit, else 128."""
    ppo_completion: int | None = None
    """Tokens of the longest PPO answer; the YAML's limit, else 128."""
    ppo_microbatch_tokens: int | None = None
    """Positions of one forward and backward pass of PPO; the YAML's, else 8,192."""
    memory_gib: float | None = None
    """Plan for a machine with so much memory instead of this one."""
    mfu: float = 0.5
    """Share of the measured matrix-product speed that training reaches; 0.4 to 0.7 is usual."""
    remeasure: bool = False
    """Measure this machine's speed again instead of reading it from the workspace."""
    json: bool = False
    """Print one JSON object instead of tables."""

    def __post_init__(self) -> None:
        require_positive(
            self, "batch_size", "context_length", "num_sequences", "num_tokens", "lora_rank", "ppo_prompt",
            "ppo_completion", "ppo_microbatch_tokens", "memory_gib", "mfu",
        )  # fmt: skip


def run(config: PlanConfig) -> None:
    """Print the plan."""
    workload = load_workload(config)
    machine = this_machine(default_workspace() / "machine.json", remeasure=config.remeasure)
    if config.memory_gib is not None:
        size = int(config.memory_gib * GIB)
        machine = dataclasses.replace(machine, memory_bytes=size, free_bytes=size)
    plan = {"planned": config.model, "machine": machine_dict(machine), **make_plan(workload, machine)}
    sys.stdout.write(to_json(plan, indent=2) + "\n" if config.json else render(plan, machine))


def load_workload(config: PlanConfig) -> Workload:
    """The architecture and the sizes that `config.model` names; flags go before what its YAML says."""
    architecture, recipe = find_model(config.model)

    def size(name: str, default: int) -> int:
        asked = getattr(config, name)
        return int(asked if asked is not None else recipe.get(name) or default)

    context = size("context_length", min(architecture.context_length, 2048))
    if context > architecture.context_length and architecture.positions == "learned":
        raise ConfigError(
            "`context_length` is more than the model has positions",
            found=f"{context} > {architecture.context_length}",
            hint=f"use `--context_length {architecture.context_length}`",
        )
    batch_size = config.batch_size or int(recipe.get("microbatch_size") or recipe.get("batch_size") or 8)
    return Workload(
        architecture=architecture,
        batch_size=batch_size,
        context_length=context,
        num_tokens=float(config.num_tokens or recipe.get("num_tokens") or 20 * architecture.num_parameters),
        num_sequences=config.num_sequences,
        lora_rank=size("lora_rank", 16),
        prompt=int(config.ppo_prompt or recipe.get("max_prompt_tokens") or 128),
        completion=int(config.ppo_completion or recipe.get("max_tokens") or 128),
        microbatch_tokens=int(config.ppo_microbatch_tokens or recipe.get("microbatch_tokens") or 8192),
        mfu=config.mfu,
        rollout_batch_size=int(recipe.get("rollout_batch_size") or 512),
        max_batch_size=int(recipe.get("max_batch_size") or 256),
    )


def find_model(name: str) -> tuple[GPTConfig, Mapping[str, Any]]:
    """(architecture, the recipe's own settings) of a preset, checkpoint or YAML."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return _from_yaml(path)
    if name.startswith("package:") or path.exists():
        return _from_checkpoint(name), {}
    if name in PRESETS or "/" not in name:
        return preset(name), {}
    raise ConfigError(f"`{name}` is no preset, checkpoint or YAML file", hint=f"presets: {', '.join(PRESETS)}")


def _from_yaml(path: Path) -> tuple[GPTConfig, Mapping[str, Any]]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"`{path}` can't be read as YAML", found=str(error)[:200]) from error
    if not isinstance(settings, dict):
        raise ConfigError(f"`{path}` holds no settings", found=type(settings).__name__)
    if {"num_layers", "model_dim", "num_heads"} <= set(settings):  # an architecture
        return load_config(GPTConfig, path), {}
    if "preset" in settings and not settings.get("init"):
        overrides = dict(settings.get("model") or {})
        if "context_length" in settings:
            overrides.setdefault("context_length", settings["context_length"])
        if vocabulary := _vocabulary(settings.get("tokenizer")):
            overrides.setdefault("vocab_size", vocabulary)
        return preset(settings["preset"], **overrides), settings
    for field in CHECKPOINT_FIELDS:
        if isinstance(settings.get(field), str):
            return _from_checkpoint(settings[field]), settings
    raise ConfigError(
        f"`{path}` names no model",
        found=", ".join(settings),
        hint="it needs `preset`, a checkpoint or `num_layers`, ...",
    )


def _from_checkpoint(name: str) -> GPTConfig:
    """The architecture in a checkpoint's config.json or in a GGUF file."""
    from wuya.models.checkpoint import load_checkpoint, resolve_checkpoint
    from wuya.models.pretrained import config_from_hf

    folder = resolve_checkpoint(name)
    if folder.is_file():
        return load_checkpoint(folder)[0].config
    return config_from_hf(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def _vocabulary(tokenizer: object) -> int | None:
    """Size of the vocabulary of the tokenizer a recipe names, when it exists already."""
    if not isinstance(tokenizer, str) or not Path(tokenizer).exists():
        return None
    from wuya.tokenizer.bpe import Tokenizer

    return Tokenizer.load(tokenizer).vocab_size


def render(plan: Mapping[str, Any], machine: Machine) -> str:
    """The plan as text."""
    model, compute = plan["model"], plan["compute"]
    parts = [
        f"{plan['planned']}: {model['parameters']:,} parameters ({model['embedding_parameters']:,} in the embedding), "
        f"{model['layers']} layers of {model['model_dim']}, vocabulary {model['vocab_size']:,}",
        f"planned for rows of {model['context_length']:,} tokens, {model['batch_size']} at once, on {machine.name} "
        f"({machine.device}): {readable(machine.free_bytes)} of {readable(machine.memory_bytes)} free, "
        f"{machine.float32_flops / 1e9:,.0f} GFLOP/s float32, {machine.bfloat16_flops / 1e9:,.0f} bfloat16",
        table([_shown(row) for row in plan["inference"]], "Inference"),
        table(
            [_shown(row) for row in plan["training"]], "Training (* arithmetic only: on a CPU wuya trains in float32)"
        ),
        table([_shown(row) for row in plan["reward"]], "Reward model"),
        table([_shown(row) for row in plan["ppo"]], "PPO"),
        "Compute\n\n"
        f"  {compute['training_flops_per_token']:.3g} FLOPs a training token; {compute['training_tokens']:.3g} tokens "
        f"are {compute['training_flops']:.3g} FLOPs ({compute['petaflop_days']:.3g} PF/s-days)\n"
        f"  here about {compute['training_tokens_per_second']:,.0f} tokens/s, {duration(compute['training_seconds'])}; "
        f"1,000 PPO episodes about {duration(compute['ppo_seconds_per_1000_episodes'])}",
        "Verdict\n\n" + "\n".join(f"  {line}" for line in plan["verdict"]),
        "Peaks are of tensors that live, over Python and torch (0.3 GiB). Resident memory is that much with\n"
        "WUYA_ALLOCATOR=return; by default freed blocks up to 32 MB are kept, for speed: 10 to 50 % more for small\n"
        "models, with checkpointing twice as much.",
    ]
    return "\n\n".join(parts) + "\n"


def _shown(row: Row) -> Row:
    """A row with readable sizes."""
    shown: Row = {"option": row["option"] + ("" if row["runs_here"] else " *")}
    for name, value in row.items():
        if name == "tokens_per_second_limit":
            shown["tokens/s at most"] = round(float(value), 1)
        elif name == "largest_moment":
            shown["largest moment"] = value
        elif name == "fits":
            shown["fits"] = "yes" if value else "NO"
        elif name not in ("option", "models", "moments", "runs_here"):
            shown["peak" if name == "total" else name.replace("_", " ")] = readable(value)
    return shown


def duration(seconds: float) -> str:
    """4 s, 12 min, 3.4 h, 5.6 days, 7.8 years."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h"), (6.3e7, 86_400, "days")):
        if seconds < limit:
            value = seconds / unit
            return f"{value:.2g} {name}" if value < 10 else f"{value:,.0f} {name}"
    return f"{seconds / 3.156e7:,.3g} years"
