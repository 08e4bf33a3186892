"""From raw chats to an SFT model: tokenizer, corpus, pre-training, demonstrations."""

import json
from typing import Any

from wuya.data.quality import QualityRules
from wuya.demo.sizes import Demo
from wuya.recipes import prepare_data, sft
from wuya.recipes import pretrain as pretrain_recipe
from wuya.recipes import train_tokenizer as train_tokenizer_recipe
from wuya.recipes.prepare_data import PrepareConfig
from wuya.recipes.pretrain import PretrainConfig
from wuya.recipes.sft import SFTConfig
from wuya.recipes.train_tokenizer import TokenizerConfig


def train_tokenizer(demo: Demo) -> dict[str, Any]:
    """Byte-level BPE on the training chats."""
    train_tokenizer_recipe.run(
        TokenizerConfig(
            inputs=(str(demo.folder / "data" / "train.txt"),),
            vocab_size=demo.size.vocab_size,
            out=demo.folder / "tokenizer",
        )
    )
    return {}


def prepare_corpus(demo: Demo) -> dict[str, Any]:
    """Training shards by GPT-3's preparation, without the final prompts' text; validation shards as they are."""
    data = demo.folder / "data"
    prepare_data.run(
        PrepareConfig(
            inputs=(str(data / "train.txt"),),
            tokenizer=demo.folder / "tokenizer",
            out=demo.folder / "shards",
            rules=QualityRules(min_words=20),  # chats are short documents
            decontaminate_against=(data / "evaluation.jsonl",),
            validation_fraction=0.0,
            seed=demo.seed,
        )
    )
    prepare_data.run(
        PrepareConfig(
            inputs=(str(data / "validation.txt"),),
            tokenizer=demo.folder / "tokenizer",
            out=demo.folder / "shards_validation",
            rules=QualityRules(min_words=1),
            exact_dedup=False,
            fuzzy_dedup=False,
            validation_fraction=0.0,
            seed=demo.seed,
        )
    )
    return {"manifest": json.loads((demo.folder / "shards" / "manifest.json").read_text(encoding="utf-8"))["stages"]}


def pretrain(demo: Demo) -> dict[str, Any]:
    """A GPT from random weights."""
    pretrain_recipe.run(_pretrain_config(demo))
    return {}


def _pretrain_config(demo: Demo) -> PretrainConfig:
    batch_size = 4_096 // demo.size.pretraining_window
    return PretrainConfig(
        data=demo.folder / "shards" / "train",
        validation_data=demo.folder / "shards_validation" / "train",
        tokenizer=demo.folder / "tokenizer",
        model={**demo.size.model, "context_length": demo.size.context_length},
        num_tokens=demo.size.pretraining_tokens,
        context_length=demo.size.pretraining_window,
        batch_size=batch_size,
        microbatch_size=batch_size,
        learning_rate=0.02,
        adam_learning_rate=0.01,
        out=demo.folder / "base",
        resume=(demo.folder / "base").exists(),
        validate_every=60,
        validation_windows=128,
        save_every=60,
        seed=demo.seed,
        dtype="float32",
    )


def finetune(demo: Demo) -> dict[str, Any]:
    """The SFT model: PPO's start, its reference, the reward model's trunk."""
    sft.run(_sft_config(demo, "sft", "sft", demo.size.sft_tokens, demo.seed))
    return {}


def finetune_judge(demo: Demo) -> dict[str, Any]:
    """A model of another seed on demonstrations of other chats: it judges answers and never sees PPO."""
    sft.run(_sft_config(demo, "judge", "real_turns", demo.size.judge_tokens, demo.seed + 1_000))
    return {}


def _sft_config(demo: Demo, name: str, demonstrations: str, num_tokens: int, seed: int) -> SFTConfig:
    return SFTConfig(
        base=demo.folder / "base",
        demonstrations=demo.folder / "data" / f"{demonstrations}.jsonl",
        out=demo.folder / name,
        resume=(demo.folder / name).exists(),
        num_tokens=num_tokens,
        context_length=demo.size.context_length,
        batch_size=16,
        microbatch_size=16,
        optimizer="muon",
        learning_rate=0.01,
        adam_learning_rate=0.005,
        ptx_share=0.1,  # as InstructGPT trains the model PPO starts from; without it the raw chats are forgotten
        ptx_data=demo.folder / "shards" / "train",
        last_only=True,  # earlier answers in a prompt were not chosen by a labeler
        seed=seed,
        dtype="float32",
    )
