"""Every recipe that trains, as a run of two tiny steps: one list for the tests that hold for all of them.

A new recipe is one more `TinyRecipe` in `RECIPES`, its fields as `wuya <verb>` takes them; two optimizer steps, 24
tokens or so. `tests/recipes/test_every_recipe.py` then runs it in bf16 under CPU autocast against float32, stops and
resumes it, recomputes its activations, and (`pytest -m gpu`) runs it on CUDA and on two processes with NCCL. It also
fails when a module of wuya/recipes uses `Run` but is not in the list. What the runs read lies in one folder, made once
by `write_inputs`: base, sft, rm, lora_rm (checkpoints), train, validation (shards), tokenizer, demonstrations.jsonl,
prompts.jsonl, heldout.jsonl, other_demonstrations.jsonl, rankings.jsonl, ratings.jsonl.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wuya.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from wuya.data.shards import write_shards
from wuya.models.decoder import Decoder
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.models.reward_model import ScalarModel
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer

TEXT = "the cat sat on the mat and the dog sat on the log while the bird sang a song to the sun. "
ANSWERS = ("the mat", "the log", "a song to the sun")
MODEL = {"num_layers": 2, "model_dim": 32, "mlp_dim": 64, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16}


@dataclass(frozen=True, kw_only=True)
class TinyRecipe:
    """One way to run a recipe."""

    id: str
    """The verb, and what is special: `ppo-lora`."""
    module: str
    """Of wuya.recipes."""
    config: str
    """Name of its config class."""
    fields: Callable[[Path], dict[str, Any]]
    """The inputs' folder -> the config's fields, without `out`, `device`, `dtype`, `resume`."""
    loss: str = "loss"
    """Metric of the last row that is compared between float32 and bf16."""
    steps: int = 2
    """Checkpoints that `save_every=1` leaves."""
    samples: bool = False
    """It learns from its own samples, so the last digits may lead to other tokens and the loss is not compared."""
    gpu_fields: dict[str, Any] = field(default_factory=dict)
    """Changes on CUDA."""

    def make(self, inputs: Path, out: Path, **changes: Any) -> Any:
        """Its config on the CPU in float32, unless `changes` say otherwise."""
        config = getattr(import_module(f"wuya.recipes.{self.module}"), self.config)
        return config(**{**self.fields(inputs), "out": out, "device": "cpu", "dtype": "float32", **changes})

    def run(self, inputs: Path, out: Path, **changes: Any) -> list[dict[str, Any]]:
        """Train, and return the rows of its metrics."""
        import_module(f"wuya.recipes.{self.module}").run(self.make(inputs, out, **changes))
        return [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def pretrain(inputs: Path) -> dict[str, Any]:
    return {"data": inputs / "train", "tokenizer": inputs / "tokenizer", "model": MODEL, "context_length": 16,
            "batch_size": 4, "microbatch_size": 2, "num_tokens": 128, "validation_data": inputs / "validation",
            "validation_windows": 4, "num_samples": 1, "log_every": 1, "warmup": 0.0}  # fmt: skip


def sft(inputs: Path) -> dict[str, Any]:
    return {"base": inputs / "base", "demonstrations": inputs / "demonstrations.jsonl", "batch_size": 2,
            "microbatch_size": 1, "epochs": 1.0, "learning_rate": 3e-3, "log_every": 1, "sample_tokens": 4,
            "validation_demonstrations": inputs / "demonstrations.jsonl"}  # fmt: skip


def reward(inputs: Path) -> dict[str, Any]:
    return {"model": inputs / "sft", "rankings": inputs / "rankings.jsonl", "batch_size": 8, "learning_rate": 3e-3,
            "demonstrations": inputs / "demonstrations.jsonl", "microbatch_tokens": 128,
            "heldout_rankings": (inputs / "rankings.jsonl",)}  # fmt: skip


def dpo(inputs: Path) -> dict[str, Any]:
    return {"model": inputs / "sft", "rankings": inputs / "rankings.jsonl", "batch_size": 8, "learning_rate": 3e-3,
            "warmup_steps": 0, "microbatch_tokens": 128, "heldout_rankings": (inputs / "rankings.jsonl",)}  # fmt: skip


def kto(inputs: Path) -> dict[str, Any]:
    return {"model": inputs / "sft", "ratings": inputs / "ratings.jsonl", "batch_size": 8, "learning_rate": 3e-3,
            "warmup_steps": 0, "microbatch_tokens": 128, "heldout_rankings": (inputs / "rankings.jsonl",)}  # fmt: skip


def ppo(inputs: Path) -> dict[str, Any]:
    return {"policy": inputs / "sft", "reward": str(inputs / "rm"), "prompts": inputs / "prompts.jsonl",
            "num_updates": 1, "rollout_batch_size": 8, "minibatch_size": 4, "max_tokens": 6, "learning_rate": 1e-3,
            "value_learning_rate": 1e-3, "warmup_updates": 0, "final_kl_prompts": 8, "ema_decay": 0.5,
            "show_samples_every": 0, "microbatch_tokens": 64}  # fmt: skip


def grpo(inputs: Path) -> dict[str, Any]:
    return {"policy": inputs / "sft", "reward": str(inputs / "rm"), "prompts": inputs / "prompts.jsonl",
            "num_updates": 2, "rollout_batch_size": 8, "minibatch_size": 4, "group_size": 4, "max_tokens": 6,
            "learning_rate": 1e-3, "warmup_updates": 0, "final_kl_prompts": 8, "show_samples_every": 0,
            "microbatch_tokens": 64}  # fmt: skip


def with_fields(make: Callable[[Path], dict[str, Any]], **changes: Any) -> Callable[[Path], dict[str, Any]]:
    """`make` with some fields more, or others; a value that is a function is given the inputs' folder."""
    return lambda inputs: (
        make(inputs) | {name: value(inputs) if callable(value) else value for name, value in changes.items()}
    )


LORA = {"lora_rank": 2, "learning_rate": 1e-2}
RECIPES = (
    TinyRecipe(id="pretrain", module="pretrain", config="PretrainConfig", fields=pretrain),
    TinyRecipe(id="sft", module="sft", config="SFTConfig", fields=sft),
    TinyRecipe(id="sft-lora", module="sft", config="SFTConfig", fields=with_fields(sft, **LORA)),
    TinyRecipe(
        id="sft-nf4", module="sft", config="SFTConfig", fields=with_fields(sft, **LORA, base_dtype="nf4")
    ),
    TinyRecipe(
        id="sft-chosen", module="sft", config="SFTConfig",
        fields=with_fields(sft, validation_demonstrations=lambda inputs: inputs / "other_demonstrations.jsonl",
                           choose_by=lambda inputs: str(inputs / "rm")),
    ),
    TinyRecipe(id="reward", module="reward_model", config="RewardModelConfig", fields=reward),
    TinyRecipe(id="reward-lora", module="reward_model", config="RewardModelConfig", fields=with_fields(reward, **LORA)),
    TinyRecipe(
        id="reward-int8", module="reward_model", config="RewardModelConfig",
        fields=with_fields(reward, **LORA, base_dtype="int8"),
    ),
    TinyRecipe(id="dpo", module="dpo", config="DPOConfig", fields=dpo),
    TinyRecipe(id="dpo-lora", module="dpo", config="DPOConfig", fields=with_fields(dpo, **LORA)),
    TinyRecipe(
        id="dpo-sft", module="dpo", config="DPOConfig",
        fields=with_fields(dpo, loss="robust", label_smoothing=0.1, sft_coef=0.2),
    ),
    TinyRecipe(
        id="dpo-nf4", module="dpo", config="DPOConfig", fields=with_fields(dpo, **LORA, base_dtype="nf4")
    ),
    TinyRecipe(id="kto", module="kto", config="KTOConfig", fields=kto),
    TinyRecipe(id="kto-lora", module="kto", config="KTOConfig", fields=with_fields(kto, **LORA)),
    TinyRecipe(id="simpo", module="simpo", config="SimPOConfig", fields=dpo),
    TinyRecipe(id="simpo-lora", module="simpo", config="SimPOConfig", fields=with_fields(dpo, **LORA)),
    TinyRecipe(id="orpo", module="orpo", config="ORPOConfig", fields=dpo),
    TinyRecipe(id="orpo-lora", module="orpo", config="ORPOConfig", fields=with_fields(dpo, **LORA)),
    TinyRecipe(
        id="ppo-ptx", module="ppo", config="PPOConfig", loss="loss/value_avg", samples=True,
        fields=with_fields(ppo, ptx_coef=0.5, ptx_shards=lambda inputs: inputs / "train", ptx_context_length=16),
    ),
    TinyRecipe(
        id="ppo-lora", module="ppo", config="PPOConfig", loss="loss/value_avg", samples=True,
        fields=with_fields(ppo, reward=lambda inputs: str(inputs / "lora_rm"), **LORA),
    ),
    TinyRecipe(
        id="grpo", module="grpo", config="GRPOConfig", loss="policy/grad_norm", samples=True, fields=grpo
    ),
    TinyRecipe(
        id="grpo-chosen", module="grpo", config="GRPOConfig", loss="policy/grad_norm", samples=True,
        fields=with_fields(grpo, evaluation_prompts=lambda inputs: inputs / "heldout.jsonl", evaluation_every=1,
                           choose="best", max_choice_kl=1.0),
    ),
    TinyRecipe(
        id="dapo", module="grpo", config="GRPOConfig", loss="policy/grad_norm", samples=True,
        fields=with_fields(grpo, algorithm="dapo", clip_range_high=0.28, max_resampling=2, kl_coef=0.0),
    ),
    TinyRecipe(
        id="ppo-nf4", module="ppo", config="PPOConfig", loss="loss/value_avg", samples=True,
        fields=with_fields(ppo, reward=lambda inputs: str(inputs / "lora_rm"), **LORA, base_dtype="nf4"),
    ),
    TinyRecipe(
        id="rloo-lora", module="grpo", config="GRPOConfig", loss="policy/grad_norm", samples=True,
        fields=with_fields(grpo, algorithm="rloo", **LORA, base_dtype="bfloat16"),
    ),
)  # fmt: skip


def write_inputs(folder: Path, make_base: Callable[[Tokenizer], Decoder] | None = None) -> Path:
    """Everything the recipes read; a second or two. `make_base`: of another architecture than our own."""
    tokenizer = train_tokenizer([TEXT * 20], vocab_size=300)
    tokenizer.save(folder / "tokenizer")
    for name, copies in (("train", 20), ("validation", 8)):
        ids = np.array([*tokenizer.encode(TEXT), tokenizer.document_end_id] * copies)
        write_shards(folder / name, [ids], vocab_size=tokenizer.vocab_size)
    _write_rows(folder)
    torch.manual_seed(0)
    own = {**MODEL, "vocab_size": tokenizer.vocab_size, "context_length": 64}
    base = GPT(preset("tiny", **own)) if make_base is None else make_base(tokenizer)
    for name in ("base", "sft"):
        save_checkpoint(folder / name, base, tokenizer, recipe="test")
    _write_reward_models(folder, tokenizer)
    return folder


def _write_rows(folder: Path) -> None:
    chats = [{"messages": [{"role": "user", "content": f"the {word} {number}"},
                           {"role": "assistant", "content": ANSWERS[number % 3]}]}
             for number, word in enumerate(("cat", "dog", "bird", "sun") * 2)]  # fmt: skip
    prompts = [{"id": f"p{number}", "prompt": f"the cat {'sat ' * (number % 4)}{number}"} for number in range(16)]
    rankings = [{**row, "candidates": [{"text": text} for text in ANSWERS], "ranks": [1, 2, 2], "labeler": "ann"}
                for row in prompts]  # fmt: skip
    ratings = [{"prompt": row["prompt"], "completion": ANSWERS[number % 3], "label": number % 3 == 0}
               for number, row in enumerate(prompts)]  # fmt: skip
    heldout = [{"prompt": f"the dog {'sat ' * number}"} for number in range(4)]
    other = [{"prompt": row["prompt"], "completion": ANSWERS[0]} for row in heldout]
    files: dict[str, list[dict[str, Any]]] = {
        "heldout": heldout,
        "other_demonstrations": other,
        "demonstrations": chats,
        "prompts": prompts,
        "rankings": rankings,
        "ratings": ratings,
    }
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _write_reward_models(folder: Path, tokenizer: Tokenizer) -> None:
    from wuya.recipes import reward_model

    model = ScalarModel(load_checkpoint(folder / "sft")[0])
    save_checkpoint(folder / "rm", model, tokenizer, recipe="test")
    reward_model.run(
        reward_model.RewardModelConfig(
            model=folder / "sft", rankings=folder / "rankings.jsonl", out=folder / "lora_rm", lora_rank=2,
            batch_size=16, learning_rate=1e-2, device="cpu", dtype="float32",
        )
    )  # fmt: skip
