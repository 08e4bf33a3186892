"""Where a score comes from: our reward model, a published sequence classifier, or a Python function.

    score = load_reward("runs/rm", tokenizer)            # a checkpoint of `wuya reward`
    score = load_reward("models/deberta-rm", tokenizer)  # scores chats by its own template and tokenizer
    score = load_reward("my.py:politeness", tokenizer)   # def politeness(prompts: list[str], completions: list[str])
    score = load_reward("runs/rm_a,runs/rm_b", tokenizer)  # an ensemble: the mean of the two scores
    scores_B = score(prompt_ids, completion_ids)

All are the same thing to PPO and best-of-n: (prompt ids, completion ids as sampled) -> scores_B.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wuya.checkpoints.checkpoint import load_scalar_model, resolve_checkpoint
from wuya.checkpoints.hf_folder import read_config
from wuya.errors import ConfigError, DataError
from wuya.models.protocols import TokenValues
from wuya.rlhf.answer_rows import answer_rows
from wuya.rlhf.model_outputs import answer_scores
from wuya.rlhf.published_reward import Chat, ChatScorer, Tools, refuse_other_heads
from wuya.rlhf.user_functions import is_function_spec, load_function
from wuya.tokenizer.chat_notes import reads_alike

if TYPE_CHECKING:
    from wuya.records import Message
    from wuya.rlhf.rollouts import Score
    from wuya.tokenizer.bpe import Tokenizer


@dataclass(frozen=True, slots=True)
class LimitedScore:
    """A score that reads only so many tokens of prompt and completion."""

    function: "Score"
    max_length: int

    def __call__(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Tensor:
        """scores_B, as `Score` says."""
        return self.function(prompts, completions)


def max_length_of(score: "Score") -> int | None:
    """Most tokens of prompt and completion that a score can read; None where nothing is known of a limit."""
    return score.max_length if isinstance(score, LimitedScore) else None


def load_reward(
    reward: str, tokenizer: "Tokenizer", *, device: torch.device | str = "cpu", microbatch_tokens: int = 8192
) -> "Score":
    """The score that `reward` names: `file.py:function`, or a folder with our reward model or with a published one.

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
    if _is_published(folder):
        return chat_reward(ChatScorer(folder, device=device, microbatch_tokens=microbatch_tokens), tokenizer)
    model, reward_tokenizer = load_scalar_model(folder, device=device)
    if reward_tokenizer.fingerprint != tokenizer.fingerprint:
        raise ConfigError(
            "reward model and policy have different tokenizers",
            found=f"{reward_tokenizer.vocab_size} and {tokenizer.vocab_size} tokens",
            hint="train the reward model from the policy's SFT checkpoint: `wuya reward --model runs/sft ...`",
        )
    if not reads_alike(reward_tokenizer, tokenizer):
        prompts = [repr(one.system_prompt) for one in (reward_tokenizer, tokenizer)]
        raise ConfigError(
            f"the reward model `{reward}` was trained on chats in another format than the policy's",
            found=f"{reward_tokenizer.template_name} (system prompt {prompts[0]}) and {tokenizer.template_name} "
            f"({prompts[1]})",
            hint="train the reward model from the policy's SFT checkpoint: `wuya reward --model runs/sft ...`",
        )
    context_length = model.trunk.config.context_length
    return model_reward(model.eval(), max_length=context_length, microbatch_tokens=microbatch_tokens)


def mean_reward(scores: Sequence["Score"]) -> "Score":
    """The mean of several scores: models of different labelers, or of different seeds, outvote each other's quirks."""

    def score(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Tensor:
        return torch.stack([one(prompts, completions) for one in scores]).mean(dim=0)

    limits = [limit for limit in map(max_length_of, scores) if limit is not None]
    return LimitedScore(score, min(limits)) if limits else score


def model_reward(model: TokenValues, *, max_length: int, microbatch_tokens: int = 8192) -> "Score":
    """Score of the last kept token under our reward model; same ids as the policy saw, nothing is encoded again."""

    def score(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Tensor:
        return score_answers(model, prompts, completions, max_length=max_length, microbatch_tokens=microbatch_tokens)

    return LimitedScore(score, max_length)


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


def chat_reward(function: Callable[[list[Chat], list[Tools]], Tensor], tokenizer: "Tokenizer") -> "Score":
    """Adapt a function of chats in the form of chat templates, the answer last, and of the tools offered in each.

    It sees the messages as given. The text of an answer is its completion without the token that ended it.
    """
    tokenizer.prompts.start()

    def score(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Tensor:
        chats: list[Chat] = []
        offered: list[Tools] = []
        for prompt, ids in zip(prompts, completions, strict=True):
            ended = bool(ids) and ids[-1] in tokenizer.turn_end.ids
            text = tokenizer.decode(list(ids[:-1] if ended else ids), skip_special=True)
            messages, tools = tokenizer.prompts.chat(prompt)
            chats.append([*map(template_row, messages), {"role": "assistant", "content": text}])
            offered.append([json.loads(tool) for tool in tools])
        return function(chats, offered)

    return score


def template_row(message: "Message") -> dict[str, Any]:
    """One message as the chat templates of transformers read it."""
    row: dict[str, Any] = {"role": message.role, "content": message.content}
    optional = {"reasoning_content": message.reasoning, "tool_call_id": message.tool_call_id, "name": message.name}
    row |= {key: value for key, value in optional.items() if value}
    if message.tool_calls:
        calls = [{"name": call.name, "arguments": json.loads(call.arguments or "{}")} for call in message.tool_calls]
        row["tool_calls"] = [{"type": "function", "function": call} for call in calls]
    return row


def _is_published(folder: Path) -> bool:
    """Whether a folder holds a reward model that wuya did not write."""
    if folder.is_file():
        return False
    architectures = read_config(folder).get("architectures") or ()
    if (folder / "wuya.json").is_file():
        return False
    refuse_other_heads(folder, architectures)
    return any("SequenceClassification" in name for name in architectures)
