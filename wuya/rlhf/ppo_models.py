"""PPO's four models: policy and value model that learn, reference and reward that don't; apart, or on one trunk.

RLOO and GRPO have no value model: `models_without_values`.
"""

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from wuya.checkpoints.checkpoint import describe_parent, load_checkpoint, load_scalar_model, resolve_checkpoint
from wuya.checkpoints.hf_folder import read_json, read_provenance, read_tensors
from wuya.checkpoints.lora_files import load_adapter
from wuya.checkpoints.wrapped_files import HEAD
from wuya.console import warn
from wuya.errors import CheckpointError, ConfigError, DataError
from wuya.models.decoder import Decoder
from wuya.models.lora import LanguageView, adapter_state, add_lora, merge_lora, share_frozen_layers
from wuya.models.protocols import LanguageModel
from wuya.models.reward_model import ScalarModel, value_model_from
from wuya.models.stored import BaseDtype, store_base
from wuya.rlhf.rewards import load_reward, model_reward
from wuya.rlhf.rollouts import Score
from wuya.rlhf.shared_trunk import AdapterPolicy, AdapterValues
from wuya.rlhf.user_functions import is_function_spec
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_notes import tell_chat_format


@dataclass(frozen=True, kw_only=True)
class PPOModels:
    """What PPO works with. `policy` and `value_model` are modules whose trainable parameters learn."""

    policy: Any
    reference: LanguageModel
    value_model: Any
    score: Score
    engine_model: Decoder
    """Generates as the policy."""
    tokenizer: Tokenizer
    export: Callable[[], Decoder]
    """The policy as an ordinary model, adapters merged."""


def recompute_activations(models: PPOModels) -> None:
    """Compute each block again in the backward pass of whatever learns (`activation_checkpointing`)."""
    roots = [models.engine_model, *(m for m in (models.policy, models.value_model) if isinstance(m, nn.Module))]
    for module in (module for root in roots for module in root.modules()):
        if hasattr(module, "activation_checkpointing"):
            setattr(module, "activation_checkpointing", True)  # noqa: B010 - of ours and of wrapped models


def ppo_models(
    policy_path: Path,
    reward: str,
    value_path: str,
    *,
    lora_rank: int,
    lora_alpha: float,
    lora_targets: tuple[str, ...],
    lora_layers: int,
    base_dtype: BaseDtype,
    activation_checkpointing: bool,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    microbatch_tokens: int,
) -> PPOModels:
    """Four models apart, or on one trunk when `lora_rank` is above 0; warns of settings without effect."""
    if not lora_rank:
        if base_dtype != "float32":
            warn("`base_dtype` has no effect without adapters: set `--lora_rank`, say 16")
        models = separate_models(policy_path, reward, value_path, device=device, microbatch_tokens=microbatch_tokens)
    else:
        if value_path:
            warn("`value_model` has no effect with adapters: the value model is one of them")
        models = shared_trunk_models(
            policy_path,
            reward,
            rank=lora_rank,
            alpha=lora_alpha,
            targets=lora_targets,
            layers=lora_layers,
            seed=seed,
            device=device,
            microbatch_tokens=microbatch_tokens,
            base_dtype=base_dtype,
            dtype=dtype,
        )
    if activation_checkpointing:
        recompute_activations(models)
    return models


def separate_models(
    policy_path: Path, reward: str, value_path: str, *, device: torch.device, microbatch_tokens: int
) -> PPOModels:
    """InstructGPT's way: every model has its own weights; the value model starts as a copy of the reward model."""
    policy, tokenizer = load_checkpoint(policy_path, device=device)
    tell_chat_format(tokenizer)
    return PPOModels(
        policy=policy,
        reference=copy.deepcopy(policy).requires_grad_(False).eval(),
        value_model=starting_value_model(policy, tokenizer, value_path, reward),
        score=load_reward(reward, tokenizer, device=device, microbatch_tokens=microbatch_tokens),
        engine_model=policy,
        tokenizer=tokenizer,
        export=lambda: policy,
    )


def starting_value_model(policy: Decoder, tokenizer: Tokenizer, value_path: str, reward: str) -> ScalarModel:
    """A copy of the model at `value_path`, else of the reward model (InstructGPT), else on the policy's trunk.

    The last has a head of zeros (Ziegler et al.) and stands in when the reward is a function, several models, or a
    published model that reads other tokens than the policy.
    """
    if value_path:
        model, its_tokenizer = load_scalar_model(value_path, device=policy.device)
        if its_tokenizer.fingerprint != tokenizer.fingerprint:
            raise ConfigError(
                f"the value model `{value_path}` and the policy have different tokenizers",
                found=f"{its_tokenizer.vocab_size} and {tokenizer.vocab_size} tokens",
                hint="start it from a reward model that was trained from this policy's SFT checkpoint",
            )
        return value_model_from(model)
    if not is_function_spec(reward) and _reads_the_same_tokens(reward, tokenizer):
        with suppress(CheckpointError):  # a reward that is no decoder with one linear score
            return value_model_from(load_scalar_model(reward, device=policy.device)[0])
    model = ScalarModel(copy.deepcopy(policy)).requires_grad_(True)
    nn.init.zeros_(model.head.weight)
    return model


def _reads_the_same_tokens(reward: str, tokenizer: Tokenizer) -> bool:
    try:
        return Tokenizer.load(resolve_checkpoint(reward)).fingerprint == tokenizer.fingerprint
    except (CheckpointError, DataError):  # several rewards, or a tokenizer that only transformers can read
        return False


def shared_trunk_models(
    policy_path: Path,
    reward: str,
    *,
    rank: int,
    alpha: float,
    targets: tuple[str, ...],
    layers: int = 0,
    seed: int,
    device: torch.device,
    microbatch_tokens: int,
    base_dtype: BaseDtype = "float32",
    dtype: torch.dtype = torch.float32,
) -> PPOModels:
    """One frozen trunk: adapters as policy and value model, no adapter as reference.

    A reward model trained with adapters on the same trunk joins as one more adapter, and the value model starts as its
    copy; any other reward keeps its own weights, and the value model starts with a head of zeros.
    """
    trunk, tokenizer = load_checkpoint(policy_path, device=device)
    tell_chat_format(tokenizer)
    trunk.eval()
    store_base(trunk, base_dtype, lora_rank=rank, dtype=dtype)
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
    add_lora(trunk, rank=rank, alpha=alpha, targets=targets, layers=layers, name="value", seed=seed + 1)
    if scorer is not None:
        _copy_adapter(trunk, "reward", "value")
    add_lora(trunk, rank=rank, alpha=alpha, targets=targets, layers=layers, name="policy", seed=seed)  # active
    share_frozen_layers(trunk)
    value_model = AdapterValues(trunk, "value")
    if scorer is not None:
        value_model.own.load_state_dict(scorer.own.state_dict())
        for parameter in scorer.parameters():
            parameter.requires_grad_(False)  # add_lora made every adapter trainable

    def export() -> Decoder:
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
    base_dtype: BaseDtype = "float32",
    dtype: torch.dtype = torch.float32,
) -> PPOModels:
    """Policy, reference and reward; with `lora_rank` above 0 the policy is an adapter and the reference its trunk."""
    trunk, tokenizer = load_checkpoint(policy_path, device=device)
    tell_chat_format(tokenizer)
    score = load_reward(reward, tokenizer, device=device, microbatch_tokens=microbatch_tokens)
    policy: Any = trunk
    store_base(trunk, base_dtype, lora_rank=lora_rank, dtype=dtype)
    if lora_rank:
        trunk.eval()
        add_lora(trunk, rank=lora_rank, alpha=lora_alpha, targets=lora_targets, name="policy", seed=seed)
        policy = AdapterPolicy(trunk, "policy")

    def export() -> Decoder:
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
    tensors = load_file(folder / HEAD) if (folder / HEAD).is_file() else read_tensors(folder)
    scorer.own.head.weight.data.copy_(tensors["score.weight"])
    scorer.own.bias.fill_(float(read_provenance(folder)["reward_bias"]))


@torch.no_grad()
def _copy_adapter(trunk: Decoder, source: str, target: str) -> None:
    factors = adapter_state(trunk, source)
    for path, parameter in adapter_state(trunk, target).items():
        parameter.copy_(factors[path.removesuffix(target) + source])
