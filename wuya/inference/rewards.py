"""Where a score comes from: our reward model, a Hugging Face sequence classifier, or a Python function.

    score = load_reward("runs/rm", tokenizer)            # a checkpoint of `wuya reward`
    score = load_reward("my.py:politeness", tokenizer)   # def politeness(prompts: list[str], completions: list[str])
    score = load_reward("runs/rm_a,runs/rm_b", tokenizer)  # an ensemble: the mean of the two scores
    scores_B = score(prompt_ids, completion_ids)

All are the same thing to PPO and best-of-n: (prompt ids, completion ids as sampled) -> scores_B.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wuya.data.batches import length_sorted_microbatches
from wuya.errors import ConfigError, DataError
from wuya.models.checkpoint import load_scalar_model, resolve_checkpoint
from wuya.training.answer_rows import answer_rows, answer_scores
from wuya.training.ppo_batches import TokenValues
from wuya.training.user_functions import is_function_spec, load_function

if TYPE_CHECKING:
    from wuya.inference.rollouts import Score
    from wuya.tokenizer.bpe import Tokenizer


def load_reward(
    reward: str, tokenizer: "Tokenizer", *, device: torch.device | str = "cpu", microbatch_tokens: int = 8192
) -> "Score":
    """The score that `reward` names: `file.py:function`, or a folder with our reward model or with a foreign one.

    Several of them with commas between are an ensemble: the mean of their scores.

    Args:
        tokenizer: of the policy, whose token ids will be scored.
        microbatch_tokens: positions, padding included, of one forward pass.
    """
    if "," in reward:
        parts = [name.strip() for name in reward.split(",") if name.strip()]
        return mean_reward(
            [load_reward(name, tokenizer, device=device, microbatch_tokens=microbatch_tokens) for name in parts]
        )
    if is_function_spec(reward):
        return text_reward(load_function(reward), tokenizer)
    folder = resolve_checkpoint(reward)
    if _is_foreign_classifier(folder):
        return text_reward(_classifier(folder, device=device, microbatch_tokens=microbatch_tokens), tokenizer)
    model, reward_tokenizer = load_scalar_model(folder, device=device)
    if reward_tokenizer.fingerprint != tokenizer.fingerprint:
        raise ConfigError(
            "reward model and policy have different tokenizers",
            found=f"{reward_tokenizer.vocab_size} and {tokenizer.vocab_size} tokens",
            hint="train the reward model from the policy's SFT checkpoint: `wuya reward --model runs/sft ...`",
        )
    context_length = model.trunk.config.context_length
    return model_reward(model.eval(), max_length=context_length, microbatch_tokens=microbatch_tokens)


def mean_reward(scores: Sequence["Score"]) -> "Score":
    """The mean of several scores: models of different labelers, or of different seeds, outvote each other's quirks."""

    def score(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Tensor:
        return torch.stack([one(prompts, completions) for one in scores]).mean(dim=0)

    return score


def model_reward(model: TokenValues, *, max_length: int, microbatch_tokens: int = 8192) -> "Score":
    """Score of the last kept token under our reward model; same ids as the policy saw, nothing is encoded again."""

    def score(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Tensor:
        return score_answers(model, prompts, completions, max_length=max_length, microbatch_tokens=microbatch_tokens)

    return score


@torch.no_grad()
def score_answers(
    model: TokenValues,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    max_length: int,
    microbatch_tokens: int = 8192,
) -> Tensor:
    """Score of each answer to its prompt, float32 [B] on the CPU; a prompt that comes often is read once.

    Args:
        max_length: the model's context.
        microbatch_tokens: positions, padding included, of one forward pass.
    """
    scores_B = torch.zeros(len(answers))
    for rows in answer_rows(prompts, answers, max_length=max_length, max_tokens=microbatch_tokens):
        scores_B[rows.answer_B] = answer_scores(model, rows).float().cpu()
    return scores_B


def text_reward(function: Callable[..., object], tokenizer: "Tokenizer") -> "Score":
    """Adapt a function of texts: prompts as rendered for the policy, completions without special tokens."""

    def score(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Tensor:
        prompt_texts = [tokenizer.decode(list(ids)) for ids in prompts]
        texts = [tokenizer.decode(list(ids), skip_special=True) for ids in completions]
        scores_B = torch.as_tensor(function(prompt_texts, texts), dtype=torch.float32)
        if scores_B.shape != (len(prompts),) or not torch.isfinite(scores_B).all():
            raise DataError(
                "the reward function must return one finite number a completion",
                found=f"shape {tuple(scores_B.shape)} for {len(prompts)} completions",
            )
        return scores_B

    return score


def _is_foreign_classifier(folder: Path) -> bool:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    ours = (folder / "wuya.json").exists()
    return not ours and any("SequenceClassification" in name for name in config.get("architectures") or ())


def _classifier(
    folder: Path, *, device: torch.device | str, microbatch_tokens: int
) -> Callable[[list[str], list[str]], Tensor]:
    """A Hugging Face sequence classifier of one label, asked about prompt + completion as one text."""
    try:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
    except ImportError as error:
        raise ConfigError(
            f"`{folder}` needs the package transformers", hint="install it: `pip install wuya[hf]`"
        ) from error
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if model.config.num_labels != 1:
        raise ConfigError(
            f"`{folder}` is a classifier, not a reward model",
            found=f"{model.config.num_labels} labels",
            hint="a reward has one label (num_labels=1)",
        )

    @torch.no_grad()
    def score(prompts: list[str], completions: list[str]) -> Tensor:
        texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        lengths = [len(tokenizer(text)["input_ids"]) for text in texts]
        scores_B = torch.zeros(len(texts))
        for group in length_sorted_microbatches(lengths, microbatch_tokens):
            batch = tokenizer([texts[row] for row in group], padding=True, return_tensors="pt").to(device)
            scores_B[group] = model(**batch).logits[:, 0].float().cpu()
        return scores_B

    return score
