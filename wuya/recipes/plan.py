"""Memory, compute and time of a model before anything is spent (FLOPs: arXiv:2001.08361, table 1).

    wuya plan gpt3-175b                               # a published size by name
    wuya plan runs/sft --ppo_completion 128           # a checkpoint
    wuya plan configs/pretrain-small.yaml --json      # the config of a recipe, or a YAML of GPTConfig fields
    wuya plan smollm2 --demonstrations mine.jsonl --lora_rank 16    # `wuya sft` on these rows, as it would lay them out

Reads a preset name, checkpoint folder, GGUF file or YAML; prints tables, or JSON. Nothing is written but the measured
speed of this machine (<workspace>/machine.json), so that the next plan is instant. What wuya itself trains is float32
on a CPU; other precisions and optimizers are arithmetic for comparison.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import yaml

from wuya.checkpoints.known_models import is_there
from wuya.config import load_config, require_positive
from wuya.console import table
from wuya.data.formats import read_demonstrations
from wuya.errors import ConfigError, DataError, UnsupportedModel
from wuya.files import BadRows, default_workspace, to_json
from wuya.models.config import GPTConfig
from wuya.models.presets import PRESETS, preset
from wuya.planning.machine import Machine, machine_dict, this_machine
from wuya.planning.plan import GIB, Row, Workload, make_plan, readable
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import check_demonstration
from wuya.tokenizer.system_prompt import with_system_prompt
from wuya.training.sft_rows import RowPlan, choose_rows, encode_demonstrations

CHECKPOINT_FIELDS = ("init", "base", "sft", "policy", "checkpoint", "model")
"""Fields of recipe configs that name the model to start from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig:
    """Plan a model: does it fit this machine, for inference, training and PPO, and how long does it take?"""

    POSITIONAL: ClassVar[str] = "model"

    model: str
    """A preset (gpt3-175b), a checkpoint (folder, run or .gguf), or a YAML: a recipe's config or fields of a model."""
    demonstrations: Path | None = None
    """JSONL of demonstrations to plan `wuya sft` on: rows and microbatches are those it would choose. The YAML's where
    it names some."""
    batch_size: int | None = None
    """Rows of a training microbatch; the YAML's, else what fits (with demonstrations) or 8."""
    context_length: int | None = None
    """Tokens of a row and of a chat; the YAML's, else the longest demonstration's, else the model's, at most 2,048."""
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
    machine = this_machine(default_workspace() / "machine.json", remeasure=config.remeasure)
    if config.memory_gib is not None:
        size = int(config.memory_gib * GIB)
        machine = dataclasses.replace(machine, memory_bytes=size, free_bytes=size)
    rows = plan_sft(config, machine)
    workload = load_workload(config, rows)
    plan = {"planned": config.model, "machine": machine_dict(machine), **make_plan(workload, machine)}
    if rows is not None:
        plan["sft"] = {**dataclasses.asdict(rows), "fits": rows.fits}
        plan["verdict"].append(f"sft: {'fits' if rows.fits else 'does NOT fit'}: {rows.summary()}")
    sys.stdout.write(to_json(plan, indent=2) + "\n" if config.json else render(plan, machine))


def plan_sft(config: PlanConfig, machine: Machine) -> RowPlan | None:
    """What `wuya sft` would choose for the demonstrations that are named; None without any."""
    architecture, recipe = find_model(config.model)
    file = config.demonstrations or recipe.get("demonstrations")
    if file is None or ("base" not in recipe and config.demonstrations is None):
        return None
    bad = BadRows()
    tokenizer = load_any_tokenizer(recipe.get("base") or config.model)
    tokenizer = with_system_prompt(tokenizer, str(recipe.get("system_prompt") or ""))
    last_only = bool(recipe.get("last_only"))
    usable = partial(check_demonstration, tokenizer, last_only=last_only)
    demonstrations = list(read_demonstrations(Path(file), bad, usable))
    if not demonstrations:
        raise DataError(f"`{file}` holds no demonstration", found=bad.summary() or "an empty file")
    lora_rank = config.lora_rank if config.lora_rank is not None else int(recipe.get("lora_rank") or 0)
    return choose_rows(
        [len(chat.ids) for chat in encode_demonstrations(demonstrations, tokenizer, last_only=last_only)],
        architecture,
        context_length=config.context_length or recipe.get("context_length"),
        batch_size=int(recipe.get("batch_size") or 0),
        microbatch_size=config.batch_size or int(recipe.get("microbatch_size") or 0),
        free_bytes=machine.free_bytes,
        device=machine.device,
        optimizer="muon" if recipe.get("optimizer") == "muon" else "adamw",
        lora_rank=lora_rank,
        activation_checkpointing=bool(recipe.get("activation_checkpointing")),
    )


def load_workload(config: PlanConfig, rows: RowPlan | None = None) -> Workload:
    """The architecture and the sizes that `config.model` names; flags go before what its YAML says.

    Args:
        rows: the layout of an SFT run, where one is planned.
    """
    architecture, recipe = find_model(config.model)

    def size(name: str, default: int) -> int:
        asked = getattr(config, name)
        return int(asked if asked is not None else recipe.get(name) or default)

    context = rows.context_length if rows else size("context_length", min(architecture.context_length, 2048))
    if context > architecture.context_length and architecture.positions == "learned":
        raise ConfigError(
            "`context_length` is more than the model has positions",
            found=f"{context} > {architecture.context_length}",
            hint=f"use `--context_length {architecture.context_length}`",
        )
    batch_size = config.batch_size or int(recipe.get("microbatch_size") or recipe.get("batch_size") or 8)
    tokens = config.num_tokens or recipe.get("num_tokens") or 20 * architecture.num_parameters
    if rows:
        batch_size = rows.microbatch_size
        tokens = config.num_tokens or recipe.get("num_tokens") or float(recipe.get("epochs") or 2) * rows.num_tokens
    return Workload(
        architecture=architecture,
        batch_size=batch_size,
        context_length=context,
        num_tokens=float(tokens),
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
    if is_there(name):
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
    from wuya.checkpoints.checkpoint import load_checkpoint, resolve_checkpoint
    from wuya.checkpoints.pretrained import config_from_hf
    from wuya.models.decoder import require_own

    folder = resolve_checkpoint(name)
    if folder.is_file():
        return require_own(load_checkpoint(folder)[0], "`wuya plan`").config
    try:
        return config_from_hf(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except UnsupportedModel as error:
        raise UnsupportedModel(
            f"`wuya plan` counts the families of wuya's own decoder only, `{name}` runs through transformers",
            found=str(error).splitlines()[0],
            hint="`wuya sft` says the memory it expects before it starts",
        ) from error


def load_any_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a checkpoint folder or GGUF file."""
    from wuya.checkpoints.checkpoint import load_checkpoint, load_tokenizer, resolve_checkpoint

    folder = resolve_checkpoint(name)
    return load_checkpoint(folder)[1] if folder.is_file() else load_tokenizer(folder)


def _vocabulary(tokenizer: object) -> int | None:
    """Size of the vocabulary of the tokenizer a recipe names, when it exists already."""
    if not isinstance(tokenizer, str) or not Path(tokenizer).exists():
        return None
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
