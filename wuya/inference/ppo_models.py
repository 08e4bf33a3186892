"""PPO's four models: policy and value model that learn, reference and reward that don't; apart, or on one trunk.

RLOO and GRPO have no value model: `models_without_values`.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wuya.console import warn
from wuya.errors import CheckpointError, ConfigError
from wuya.inference.rewards import load_reward, model_reward
from wuya.inference.rollouts import Score
from wuya.models.checkpoint import describe_parent, load_checkpoint, load_scalar_model, resolve_checkpoint
from wuya.models.gpt import GPT
from wuya.models.hf_folder import read_json, read_provenance
from wuya.models.lora import LanguageView, adapter_state, add_lora, merge_lora
from wuya.models.lora_files import load_adapter
from wuya.models.reward_model import ScalarModel, value_model_from
from wuya.tokenizer.bpe import Tokenizer
from wuya.training.ppo_batches import LanguageModel
from wuya.training.shared_trunk import AdapterPolicy, AdapterValues
from wuya.training.user_functions import is_function_spec


@dataclass(frozen=True, kw_only=True)
class PPOModels:
    """What PPO works with. `policy` and `value_model` are modules whose trainable parameters learn."""

    policy: Any
    reference: LanguageModel
    value_model: Any
    score: Score
    engine_model: GPT
    """Generates as the policy."""
    tokenizer: Tokenizer
    export: Callable[[], GPT]
    """The policy as an ordinary model, adapters merged."""


def separate_models(
    policy_path: Path, reward: str, value_path: str, *, device: torch.device, microbatch_tokens: int
) -> PPOModels:
    """InstructGPT's way: every model has its own weights; the value model starts as a copy of the reward model."""
    policy, tokenizer = load_checkpoint(policy_path, device=device)
    return PPOModels(
        policy=policy,
        reference=copy.deepcopy(policy).requires_grad_(False).eval(),
        value_model=starting_value_model(policy, value_path, reward),
        score=load_reward(reward, tokenizer, device=device, microbatch_tokens=microbatch_tokens),
        engine_model=policy,
        tokenizer=tokenizer,
        export=lambda: policy,
    )


def starting_value_model(policy: GPT, value_path: str, reward: str) -> ScalarModel:
    """A copy of the model at `value_path`, else of the reward model (InstructGPT), else on the policy's trunk.

    The last has a head of zeros (Ziegler et al.) and stands in when the reward is a function or a foreign model.
    """
    source = value_path or ("" if is_function_spec(reward) else reward)
    if source:
        try:
            model, _ = load_scalar_model(source, device=policy.device)
        except CheckpointError:
            if value_path:
                raise
        else:
            if model.trunk.config.vocab_size == policy.config.vocab_size:
                return value_model_from(model)
            if value_path:
                raise ConfigError(f"`{value_path}` has another vocabulary than the policy")
    model = ScalarModel(copy.deepcopy(policy)).requires_grad_(True)
    nn.init.zeros_(model.head.weight)
    return model


def shared_trunk_models(
    policy_path: Path,
    reward: str,
    *,
    rank: int,
    alpha: float,
    targets: tuple[str, ...],
    seed: int,
    device: torch.device,
    microbatch_tokens: int,
) -> PPOModels:
    """One frozen trunk: adapters as policy and value model, no adapter as reference.

    A reward model trained with adapters on the same trunk joins as one more adapter, and the value model starts as its
    copy; any other reward keeps its own weights, and the value model starts with a head of zeros.
    """
    trunk, tokenizer = load_checkpoint(policy_path, device=device)
    trunk.eval()
    folder = None if is_function_spec(reward) else resolve_checkpoint(reward)
    if folder is not None and _belongs_to(folder, policy_path):
        load_adapter(trunk, folder / "adapter", name="reward", trainable=False)
        settings = read_json(folder / "adapter" / "adapter_config.json")
        rank, alpha, same_rank = int(settings["r"]), float(settings["lora_alpha"]), rank == int(settings["r"])
        if not same_rank:
            warn(f"the adapters have rank {rank}, like the reward model's, since the value model starts as its copy")
        scorer = AdapterValues(trunk, "reward")
        _take_head(scorer, folder)
        score = model_reward(
            scorer.requires_grad_(False),
            max_length=trunk.config.context_length,
            microbatch_tokens=microbatch_tokens,
        )
    else:
        scorer = None
        score = load_reward(reward, tokenizer, device=device, microbatch_tokens=microbatch_tokens)
    add_lora(trunk, rank=rank, alpha=alpha, targets=targets, name="value", seed=seed + 1)
    if scorer is not None:
        _copy_adapter(trunk, "reward", "value")
    add_lora(trunk, rank=rank, alpha=alpha, targets=targets, name="policy", seed=seed)  # the active one
    value_model = AdapterValues(trunk, "value")
    if scorer is not None:
        value_model.own.load_state_dict(scorer.own.state_dict())
        for parameter in scorer.parameters():
            parameter.requires_grad_(False)  # add_lora made every adapter trainable

    def export() -> GPT:
        merged = copy.deepcopy(trunk)
        merge_lora(merged, "policy")
        return merged

    return PPOModels(
        policy=AdapterPolicy(trunk, "policy"),
        reference=LanguageView(trunk, None),
        value_model=value_model,
        score=score,
        engine_model=trunk,
        tokenizer=tokenizer,
        export=export,
    )


class NoValues:
    """Stands where a method without value model has none: every value is 0, and costs nothing."""

    bias = torch.zeros(())

    def values(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        wanted_BT: Tensor | None = None,
    ) -> Tensor:
        """Zeros, [B, T], or [N] of the wanted positions."""
        return torch.zeros(ids_BT.shape if wanted_BT is None else int(wanted_BT.sum()), device=ids_BT.device)


def models_without_values(
    policy_path: Path,
    reward: str,
    *,
    lora_rank: int,
    lora_alpha: float,
    lora_targets: tuple[str, ...],
    seed: int,
    device: torch.device,
    microbatch_tokens: int,
) -> PPOModels:
    """Policy, reference and reward; with `lora_rank` above 0 the policy is an adapter and the reference its trunk."""
    trunk, tokenizer = load_checkpoint(policy_path, device=device)
    score = load_reward(reward, tokenizer, device=device, microbatch_tokens=microbatch_tokens)
    policy: Any = trunk
    if lora_rank:
        trunk.eval()
        add_lora(trunk, rank=lora_rank, alpha=lora_alpha, targets=lora_targets, name="policy", seed=seed)
        policy = AdapterPolicy(trunk, "policy")

    def export() -> GPT:
        if not lora_rank:
            return trunk
        merged = copy.deepcopy(trunk)
        merge_lora(merged, "policy")
        return merged

    return PPOModels(
        policy=policy,
        reference=LanguageView(trunk, None) if lora_rank else copy.deepcopy(trunk).requires_grad_(False).eval(),
        value_model=NoValues(),
        score=score,
        engine_model=trunk,
        tokenizer=tokenizer,
        export=export,
    )


def _belongs_to(reward_folder: Path, trunk: Path) -> bool:
    """Whether the reward model is an adapter that was trained on exactly these weights."""
    if not (reward_folder / "adapter").is_dir():
        return False
    parent = read_provenance(reward_folder).get("parents", {}).get("model", {})
    return bool(parent.get("sha256") == describe_parent(trunk)["sha256"])


def _take_head(scorer: AdapterValues, folder: Path) -> None:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="pt") as tensors:
        head = tensors.get_tensor("score.weight")
    scorer.own.head.weight.data.copy_(head)
    scorer.own.bias.fill_(float(read_provenance(folder)["reward_bias"]))


@torch.no_grad()
def _copy_adapter(trunk: GPT, source: str, target: str) -> None:
    factors = adapter_state(trunk, source)
    for path, parameter in adapter_state(trunk, target).items():
        parameter.copy_(factors[path.removesuffix(target) + source])
