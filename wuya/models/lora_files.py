"""LoRA adapters on disk in the layout of Hugging Face PEFT, so that either side loads what the other trained.

    save_adapter(folder, model, "policy", base="HuggingFaceTB/SmolLM2-135M")     # adapter_config.json, .safetensors
    load_adapter(model, folder, name="policy")

PEFT knows q, k, v (and gate, up) as separate layers where we have one: a fused adapter is written as one B each with
the same A; read back, equal As fuse again, and unequal ones become one adapter of the summed rank, exactly.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wuya.errors import CheckpointError, ConfigError
from wuya.files import atomic_folder, to_json, write_atomic
from wuya.models.gpt import GPT
from wuya.models.lora import LoRALinear, adapter_names, adapter_parameters, set_adapter
from wuya.models.pretrained import TensorRule, hf_family, tensor_rules

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
UNSUPPORTED = ("use_dora", "alpha_pattern", "rank_pattern", "modules_to_save")


def save_adapter(folder: Path | str, model: GPT, name: str, *, base: str = "") -> None:
    """Write one adapter, whole or not at all.

    Args:
        base: the model it belongs to, as PEFT's `base_model_name_or_path`.
    """
    layers = {
        path: layer for path, layer in model.named_modules() if isinstance(layer, LoRALinear) and name in layer.scales
    }
    if not layers:
        raise ConfigError(f"the model has no adapter `{name}`", found=", ".join(adapter_names(model)) or "no adapters")
    tensors: dict[str, Tensor] = {}
    leaves, ranks, alphas = set(), set(), set()
    transposed = False
    for rule in _rules(model):
        layer = layers.get(rule.ours.removesuffix(".weight"))
        if layer is None:
            continue
        a_RI, b_OR = layer.lora_a[name].detach().cpu(), layer.lora_b[name].detach().cpu()
        transposed = rule.transposed
        ranks.add(a_RI.shape[0])
        alphas.add(round(layer.scales[name] * a_RI.shape[0], 9))
        parts = torch.split(b_OR, list(rule.rows)) if rule.rows else (b_OR,)
        for theirs, part in zip(rule.theirs, parts, strict=True):
            module = theirs.removesuffix(".weight")
            leaves.add(module.rpartition(".")[2])
            tensors[f"{PREFIX}{module}.lora_A.weight"] = a_RI.clone()
            tensors[f"{PREFIX}{module}.lora_B.weight"] = part.clone()
    if len(ranks) > 1 or len(alphas) > 1:
        raise ConfigError("an adapter with several ranks has no simple PEFT form", found=str(sorted(ranks)))
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base or None,
        "r": ranks.pop(),
        "lora_alpha": alphas.pop(),
        "target_modules": sorted(leaves),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
    }
    with atomic_folder(folder) as temporary:
        write_atomic(temporary / SETTINGS, to_json(settings, indent=2) + "\n")
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})


def load_adapter(model: GPT, folder: Path | str, *, name: str = "default", trainable: bool = True) -> None:
    """Put an adapter from a PEFT folder beside the frozen weights; it becomes the active one."""
    folder = Path(folder)
    settings, tensors = _read(folder)
    if name in adapter_names(model):
        raise ConfigError(f"the model already has an adapter `{name}`", hint="choose another name")
    rank = int(settings["r"])
    scale = float(settings["lora_alpha"]) / (rank**0.5 if settings.get("use_rslora") else rank)
    unused = set(tensors)
    modules = dict(model.named_modules())
    plans = []
    for rule in _rules(model):
        keys = [f"{PREFIX}{theirs.removesuffix('.weight')}" for theirs in rule.theirs]
        pairs = [(tensors.get(f"{key}.lora_A.weight"), tensors.get(f"{key}.lora_B.weight")) for key in keys]
        if all(a is None for a, _ in pairs):
            continue
        unused -= {f"{key}.lora_{factor}.weight" for key in keys for factor in "AB"}
        path = rule.ours.removesuffix(".weight")
        layer = modules[path]
        assert isinstance(layer, nn.Linear), path
        rows = rule.rows or (layer.out_features,)
        a_RI, b_OR = _fuse(pairs, rows)
        if a_RI.shape[1] != layer.in_features or b_OR.shape[0] != layer.out_features:
            raise CheckpointError(
                f"the adapter in `{folder}` was made for another model",
                found=f"{path}: {b_OR.shape[0]} x {a_RI.shape[1]}, the model has {layer.out_features} x "
                f"{layer.in_features}",
            )
        plans.append((path, layer, a_RI, b_OR))
    if unused or not plans:
        raise CheckpointError(
            f"the adapter in `{folder}` changes layers this model does not have",
            found=", ".join(sorted(unused)[:3]) or "no tensors",
        )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for path, linear, a_RI, b_OR in plans:
        layer = linear if isinstance(linear, LoRALinear) else LoRALinear(linear)
        layer.add(name, a_RI, b_OR, scale)
        parent, _, leaf = path.rpartition(".")
        setattr(modules[parent], leaf, layer.train(linear.training))
    for parameter in adapter_parameters(model):
        parameter.requires_grad_(True)
    for parameter in adapter_parameters(model, name):
        parameter.requires_grad_(trainable)
    set_adapter(model, name)


def _rules(model: GPT) -> list[TensorRule]:
    return [rule for rule in tensor_rules(model.config, hf_family(model.config), scalar=False)
            if rule.ours.startswith("blocks.") and rule.ours.endswith(".weight")]  # fmt: skip


def _fuse(pairs: list[tuple[Tensor | None, Tensor | None]], rows: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """A and B of a fused layer from those of its parts; a part without an adapter changes nothing."""
    present = [(a.float(), b.float()) for a, b in pairs if a is not None and b is not None]
    first_RI = present[0][0]
    if len(present) == len(pairs) and all(torch.equal(a, first_RI) for a, _ in present):
        return first_RI, torch.cat([b for _, b in present])
    a_RI = torch.cat([a for a, _ in present])
    b_OR = torch.zeros(sum(rows), a_RI.shape[0])  # each part's B on its own rows and its own A
    row = column = 0
    for (_, b), height in zip(pairs, rows, strict=True):
        if b is not None:
            b_OR[row : row + height, column : column + b.shape[1]] = b
            column += b.shape[1]
        row += height
    return a_RI, b_OR


def _read(folder: Path) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    for file in (SETTINGS, WEIGHTS):
        if not (folder / file).is_file():
            found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) if folder.is_dir() else "nothing there"
            raise CheckpointError(f"`{folder}` is not a LoRA adapter: `{file}` is missing", found=found)
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except (ValueError, SafetensorError) as error:
        raise CheckpointError(f"the adapter in `{folder}` is damaged", found=str(error)) from error
    if settings.get("peft_type") != "LORA":
        raise CheckpointError(f"the adapter in `{folder}` is not LoRA", found=str(settings.get("peft_type")))
    if wrong := [key for key in UNSUPPORTED if settings.get(key)]:
        raise CheckpointError(f"`{wrong[0]}` of the adapter in `{folder}` is not supported", found=str(wrong))
    return settings, tensors
