"""LoRA adapters on disk in the layout of Hugging Face PEFT, so that either side loads what the other trained.

    save_adapter(folder, model, "policy", base="HuggingFaceTB/SmolLM2-135M")     # adapter_config.json, .safetensors
    load_adapter(model, folder, name="policy")

PEFT knows q, k, v (and gate, up) as separate layers where we have one: a fused adapter is written as one B each with
the same A; read back, equal As fuse again. Adapters of some of the parts, or with different As, ranks or scales, become
one adapter of the summed rank whose B is zero outside each part's own block; it stays zero in training, and saving
takes the blocks apart again. What else PEFT can do to a layer (DoRA, whole modules, ...) is refused by name.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wuya.checkpoints.pretrained import TensorRule, hf_family, tensor_rules
from wuya.errors import CheckpointError, ConfigError
from wuya.files import atomic_folder, read_json_object, to_json, write_atomic
from wuya.models.decoder import Decoder
from wuya.models.lora import LoRALinear, adapter_names, adapter_parameters, set_adapter
from wuya.models.wrapped import TransformersModel

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
READ = {
    "peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out",
    "bias", "init_lora_weights",
}  # fmt: skip
HARMLESS = {
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "megatron_core",
    "eva_config", "runtime_config", "qalora_group_size",
}  # fmt: skip
"""Settings that say where adapters are (the tensors do, too) or how they were trained; any other must be empty."""
KEEPS_THE_BASE = (None, True, False, "gaussian", "orthogonal", "eva", "default")
"""Ways to start an adapter that leave the base's weights alone; PiSSA, OLoRA, CorDA and LoftQ change them."""


def save_adapter(folder: Path | str, model: Decoder, name: str, *, base: str = "") -> None:
    """Write one adapter, whole or not at all.

    Args:
        base: the model it belongs to, as PEFT's `base_model_name_or_path`.
    """
    layers = {
        path: layer for path, layer in model.named_modules() if isinstance(layer, LoRALinear) and name in layer.scales
    }
    if not layers:
        raise ConfigError(f"the model has no adapter `{name}`", found=", ".join(adapter_names(model)) or "no adapters")
    rules = _rules(model)
    tensors: dict[str, Tensor] = {}
    ranks, alphas = dict[str, int](), dict[str, float]()
    for rule in rules:
        if (layer := layers.get(rule.ours.removesuffix(".weight"))) is None:
            continue
        for module, a_RI, b_OR in _parts(rule, layer, name):
            tensors[f"{PREFIX}{module}.lora_A.weight"] = a_RI
            tensors[f"{PREFIX}{module}.lora_B.weight"] = b_OR
            ranks[module], alphas[module] = len(a_RI), round(layer.scales[name] * len(a_RI), 9)
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base or None,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {module: other for module, other in ranks.items() if other != rank},
        "alpha_pattern": {module: other for module, other in alphas.items() if other != alpha},
        "target_modules": _targets(set(ranks), {_module(name) for rule in rules for name in rule.theirs}),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(rule.transposed for rule in rules),
        "inference_mode": True,
    }
    with atomic_folder(folder) as temporary:
        write_atomic(temporary / SETTINGS, to_json(settings, indent=2) + "\n")
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})


def load_adapter(model: Decoder, folder: Path | str, *, name: str = "default", trainable: bool = True) -> None:
    """Put an adapter from a PEFT folder beside the frozen weights; it becomes the active one."""
    folder = Path(folder)
    settings, tensors = _read(folder)
    if name in adapter_names(model):
        raise ConfigError(f"the model already has an adapter `{name}`", hint="choose another name")
    unused = set(tensors)
    modules = dict(model.named_modules())
    plans = []
    for rule in _rules(model):
        parts = [_part(folder, settings, tensors, _module(theirs)) for theirs in rule.theirs]
        if not any(parts):
            continue
        unused -= {f"{PREFIX}{_module(theirs)}.lora_{factor}.weight" for theirs in rule.theirs for factor in "AB"}
        path = rule.ours.removesuffix(".weight")
        layer = modules[path]
        assert isinstance(layer, nn.Linear), path
        rows = rule.rows or (layer.out_features,)
        a_RI, b_OR, scale, blocks_OR = _fuse(folder, parts, rows)
        if a_RI.shape[1] != layer.in_features or b_OR.shape[0] != layer.out_features:
            raise CheckpointError(
                f"the adapter in `{folder}` was made for another model",
                found=f"{path}: {b_OR.shape[0]} x {a_RI.shape[1]}, the model has {layer.out_features} x "
                f"{layer.in_features}",
            )
        plans.append((path, layer, a_RI, b_OR, scale, blocks_OR))
    if unused or not plans:
        raise CheckpointError(
            f"the adapter in `{folder}` changes layers this model does not have",
            found=", ".join(sorted(unused)[:3]) or "no tensors",
        )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for path, linear, a_RI, b_OR, scale, blocks_OR in plans:
        layer = linear if isinstance(linear, LoRALinear) else LoRALinear(linear)
        layer.add(name, a_RI, b_OR, scale)
        if blocks_OR is not None:
            layer.lora_b[name].register_hook(partial(torch.mul, blocks_OR.to(layer.weight.device)))
        parent, _, leaf = path.rpartition(".")
        setattr(modules[parent], leaf, layer.train(linear.training))
    for parameter in adapter_parameters(model):
        parameter.requires_grad_(True)
    for parameter in adapter_parameters(model, name):
        parameter.requires_grad_(trainable)
    set_adapter(model, name)


def _rules(model: Decoder) -> list[TensorRule]:
    if isinstance(model, TransformersModel):
        paths = [path for path, module in model.inner.named_modules() if isinstance(module, nn.Linear)]
        return [TensorRule(f"inner.{path}.weight", (f"{path}.weight",)) for path in paths]
    config = model.config
    return [rule for rule in tensor_rules(config, hf_family(config), scalar=False)
            if rule.ours.startswith("blocks.") and rule.ours.endswith(".weight")]  # fmt: skip


Part = tuple[Tensor, Tensor, float]
"""A, B and scale of one of PEFT's layers."""


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _part(folder: Path, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], module: str) -> Part | None:
    """The adapter of one of PEFT's layers; None where it has none."""
    a_RI, b_OR = (tensors.get(f"{PREFIX}{module}.lora_{factor}.weight") for factor in "AB")
    if a_RI is None and b_OR is None:
        return None
    rank = int(_setting(settings, "rank_pattern", "r", module))
    if a_RI is None or b_OR is None or a_RI.ndim != 2 or b_OR.ndim != 2 or not len(a_RI) == b_OR.shape[1] == rank:
        shapes = [None if factor is None else tuple(factor.shape) for factor in (a_RI, b_OR)]
        raise CheckpointError(
            f"the adapter in `{folder}` is damaged: the factors of `{module}` do not belong together",
            found=f"A {shapes[0]}, B {shapes[1]}, rank {rank}",
        )
    alpha = float(_setting(settings, "alpha_pattern", "lora_alpha", module))
    return a_RI.float(), b_OR.float(), alpha / (rank**0.5 if settings.get("use_rslora") else rank)


def _problem(settings: Mapping[str, Any]) -> str:
    """What is wrong with the ranks and scales; empty when all can be read."""
    for default, pattern in (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern")):
        patterns = settings.get(pattern) or {}
        if not isinstance(patterns, dict):
            return f"{pattern}: {str(patterns)[:60]}"
        for key, value in ((default, settings.get(default)), *patterns.items()):
            if type(value) not in (int, float) or not 0 < value < 2**31 or (default == "r" and value != int(value)):
                return f"{key}: {str(value)[:60]}"
        try:
            re.compile("|".join(patterns))
        except re.error as error:
            return f"{pattern}: {error}"
    return ""


def _setting(settings: Mapping[str, Any], pattern: str, default: str, module: str) -> Any:
    """The value of the first pattern that ends the module's name, as PEFT looks it up."""
    for key, value in (settings.get(pattern) or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return settings[default]


def _fuse(folder: Path, parts: list[Part | None], rows: tuple[int, ...]) -> tuple[Tensor, Tensor, float, Tensor | None]:
    """A, B and scale of a fused layer from those of its parts, and where B may be other than 0 if not everywhere."""
    present = [part for part in parts if part is not None]
    first_RI, _, scale = present[0]
    for part, height in zip(parts, rows, strict=True):
        if part is not None and (len(part[1]) != height or part[0].shape[1] != first_RI.shape[1]):
            shape = f"{len(part[1])} x {part[0].shape[1]}, the model has {height} rows"
            raise CheckpointError(f"the adapter in `{folder}` was made for another model", found=shape)
    if len(present) == len(parts) and all(torch.equal(a, first_RI) and its == scale for a, _, its in present):
        return first_RI, torch.cat([b for _, b, _ in present]), scale, None
    a_RI = torch.cat([a for a, _, _ in present])
    b_OR, blocks_OR = torch.zeros(2, sum(rows), len(a_RI))  # each part's B on its own rows and its own A
    row = column = 0
    for part, height in zip(parts, rows, strict=True):
        if part is not None:
            _, b, its = part
            block = slice(row, row + height), slice(column, column + b.shape[1])
            b_OR[block], blocks_OR[block] = b * (its / scale), 1.0
            column += b.shape[1]
        row += height
    return a_RI, b_OR, scale, blocks_OR


def _parts(rule: TensorRule, layer: LoRALinear, name: str) -> Iterator[tuple[str, Tensor, Tensor]]:
    """PEFT's layers of one of ours, with what of the adapter concerns each: columns where B is not zero."""
    a_RI, b_OR = layer.lora_a[name].detach().cpu(), layer.lora_b[name].detach().cpu()
    parts = torch.split(b_OR, list(rule.rows)) if rule.rows else (b_OR,)
    for theirs, part in zip(rule.theirs, parts, strict=True):
        live_R = part.any(0) if len(parts) > 1 and b_OR.any() else torch.ones(len(a_RI), dtype=torch.bool)
        if live_R.any():
            yield _module(theirs), a_RI[live_R].clone(), part[:, live_R].clone()


def _targets(adapted: set[str], every: set[str]) -> list[str]:
    """The shortest endings that name the adapted layers and no other (GPT-2 calls two of its layers `c_proj`)."""
    for length in (1, 2):
        endings = {".".join(module.split(".")[-length:]) for module in adapted}
        if {module for module in every if module.endswith(tuple(f".{ending}" for ending in endings))} == adapted:
            return sorted(endings)
    return sorted(adapted)


def _read(folder: Path) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    for file in (SETTINGS, WEIGHTS):
        if not (folder / file).is_file():
            found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) if folder.is_dir() else "nothing there"
            raise CheckpointError(f"`{folder}` is not a LoRA adapter: `{file}` is missing", found=found)
    settings = read_json_object(folder / SETTINGS, CheckpointError)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (ValueError, SafetensorError) as error:
        raise CheckpointError(f"the adapter in `{folder}` is damaged", found=str(error)) from error
    if settings.get("peft_type") != "LORA":
        raise CheckpointError(f"the adapter in `{folder}` is not LoRA", found=str(settings.get("peft_type")))
    refused = [key for key, value in settings.items() if value and key not in READ | HARMLESS]
    if settings.get("bias", "none") != "none":
        refused.append("bias")
    if settings.get("init_lora_weights", True) not in KEEPS_THE_BASE:
        refused.append("init_lora_weights")
    if problem := _problem(settings):
        raise CheckpointError(f"the adapter in `{folder}` is damaged: `{SETTINGS}`", found=problem)
    if refused:
        raise CheckpointError(
            f"`{refused[0]}` of the adapter in `{folder}` is not supported",
            found=", ".join(f"{key}: {str(settings[key])[:60]}" for key in refused),
            hint="merge it with PEFT, where it was trained: "
            "`AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload().save_pretrained(new_folder)`",
        )
    return settings, tensors
