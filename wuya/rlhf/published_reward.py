"""Published reward models: sequence classifiers of `transformers`, scored exactly as their own makers score.

    score = ChatScorer(folder, device="cpu", microbatch_tokens=8192)
    scores_B = score([[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}], ...])

The chat is rendered by the reward model's own template and encoded by its own tokenizer; what is longer than it can
read is cut on the side where its tokenizer cuts, and counted. One label is a score; of two labels that say what they
mean the score is the log-odds of the good one. Everything else is refused in words: a head that the class does not
have would be drawn at random by `transformers`, which scores noise.
Dimension key: B chats, T tokens.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wuya.checkpoints.wrapped_files import read_classifier
from wuya.console import warn
from wuya.data.batches import length_sorted_microbatches
from wuya.errors import CheckpointError, ConfigError, DataError, UnsupportedModel

Chat = Sequence[Mapping[str, Any]]
"""Messages as chat templates read them; the last is the answer."""
Tools = Sequence[Mapping[str, Any]]
"""Functions that the assistant was offered, in OpenAI's form."""

GOOD = {"good", "chosen", "positive", "accepted", "accept", "acceptable", "preferred", "helpful", "better", "win",
        "yes", "correct", "safe"}  # fmt: skip
NUMBERED = {"LABEL_0", "LABEL_1"}
"""What transformers calls labels that nobody named."""


class ChatScorer:
    """A sequence classifier as a function of chats. Never trained."""

    def __init__(self, folder: Path, *, device: torch.device | str, microbatch_tokens: int) -> None:
        self.folder, self.microbatch_tokens = folder, microbatch_tokens
        on_cpu = torch.device(device).type == "cpu"  # an accelerator may not hold a published 8B model in float32
        self.model = read_classifier(folder, dtype=torch.float32 if on_cpu else "auto").to(device).eval()
        self.tokenizer = _tokenizer(folder, self.model.config)
        self.good = _good_label(self.model.config, folder)
        self.max_length = _max_length(self.model.config, self.tokenizer)
        self.num_truncated = 0
        """Chats that were too long so far."""

    @torch.no_grad()
    def __call__(self, chats: Sequence[Chat], tools: Sequence[Tools] | None = None) -> Tensor:
        """Scores of the chats' answers, float32 [B] on the CPU; `tools`: those of each chat."""
        offered = tools or [()] * len(chats)
        encoded = [self.encode(*row) for row in zip(chats, offered, strict=True)]
        long = [index for index, row in enumerate(encoded) if len(row["input_ids"]) > self.max_length]
        self._say_truncated(len(long), len(chats))
        for index in long:
            encoded[index] = self.encode(chats[index], offered[index], truncation=True, max_length=self.max_length)
        scores_B = torch.zeros(len(encoded))
        for group in length_sorted_microbatches([len(row["input_ids"]) for row in encoded], self.microbatch_tokens):
            scores_B[group] = self._score([encoded[index] for index in group])
        return scores_B

    def encode(self, chat: Chat, tools: Tools = (), **cut: Any) -> dict[str, list[int]]:
        """Ids (and token types, if the tokenizer has them) of a chat; `cut`: arguments that truncate it, or none."""
        if not self.tokenizer.chat_template:
            return self._encode_pair(chat, **cut)
        try:
            rows = [dict(message) for message in chat]
            ids = self.tokenizer.apply_chat_template(rows, tools=list(tools) or None, return_dict=False, **cut)
        except Exception as error:  # templates raise errors of their own making
            raise DataError(
                f"the chat template of the reward model `{self.folder}` refuses a chat",
                found=f"{error}; roles: {', '.join(str(message['role']) for message in chat)}",
                hint="leave such prompts out, or use a reward model that knows these roles",
            ) from error
        return {"input_ids": list(ids)}

    def _encode_pair(self, chat: Chat, **cut: Any) -> dict[str, list[int]]:
        """Question and answer as two segments: how encoders without a template were trained."""
        *before, answer = chat
        if len(before) != 1 or before[0]["role"] != "user":
            raise DataError(
                f"the reward model `{self.folder}` has no chat template: it knows one question and one answer",
                found=f"a chat of {len(chat)} messages",
                hint="use single-turn prompts, or put its makers' `chat_template` into tokenizer_config.json",
            )
        row = self.tokenizer(before[0]["content"], answer["content"], **cut)
        known = ("input_ids", "token_type_ids")
        return {name: list(row[name]) for name in known if name in row}

    def _say_truncated(self, count: int, total: int) -> None:
        if count and not self.num_truncated:
            warn(
                f"{count} of {total} chats are longer than the {self.max_length} tokens that the reward model reads: "
                f"cut on the {self.tokenizer.truncation_side}, as its tokenizer does; from now on they are only counted"
            )
        self.num_truncated += count

    def _score(self, rows: Sequence[Mapping[str, list[int]]]) -> Tensor:
        """Padding stands on the right whatever the tokenizer prefers: there it changes no position and no attention."""
        config, device = self.model.config, self.model.device
        pad = config.get_text_config().pad_token_id
        if pad is None:  # then a decoder would read the last column as the answer's end: give it an id nobody uses
            used = {id for row in rows for id in row["input_ids"]}
            pad = next(id for id in range(len(used) + 1) if id not in used)
        longest = max(len(row["input_ids"]) for row in rows)
        lengths_B1 = torch.tensor([[len(row["input_ids"])] for row in rows])
        inputs = {"attention_mask": (torch.arange(longest) < lengths_B1).long().to(device)}
        for name, fill in (("input_ids", pad), ("token_type_ids", 0)):
            if all(name in row for row in rows):
                padded = [[*row[name], *[fill] * (longest - len(row[name]))] for row in rows]
                inputs[name] = torch.tensor(padded, device=device)
        text_config, before = config.get_text_config(), config.get_text_config().pad_token_id
        text_config.pad_token_id = pad
        try:
            with torch.autocast(device.type, enabled=False):  # PPO's rollouts run inside one
                logits_BL: Tensor = self.model(**inputs).logits.float().cpu()
        finally:
            text_config.pad_token_id = before
        if self.good is None:
            return logits_BL[:, 0]
        return logits_BL[:, self.good] - logits_BL[:, 1 - self.good]


def _tokenizer(folder: Path, config: Any) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise CheckpointError(
            f"the reward model `{folder}` has no tokenizer that transformers can load",
            found=str(error).splitlines()[0][:200],
            hint="copy its tokenizer files, too: tokenizer.json and tokenizer_config.json",
        ) from error


def _good_label(config: Any, folder: Path) -> int | None:
    """None for one label; which of two is good, by their names."""
    names = {int(number): str(name) for number, name in (config.id2label or {}).items()}
    if config.num_labels == 1:
        return None
    good = [number for number, name in names.items() if name.strip().lower() in GOOD]
    if config.num_labels == 2 and len(good) == 1:
        return good[0]
    unnamed = set(names.values()) <= NUMBERED
    raise ConfigError(
        f"`{folder}` is a classifier of {config.num_labels} labels, not a reward model"
        + (", and does not say what they mean" if unnamed else ""),
        found=", ".join(names.values()),
        hint='name the good one of two in config.json: `"id2label": {"0": "rejected", "1": "chosen"}`; or score with '
        "a function of yours: `my.py:fn`",
    )


def _max_length(config: Any, tokenizer: Any) -> int:
    """Tokens that the model reads: its positions, or fewer if its tokenizer says so."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    limits = [] if not isinstance(positions, int) or positions < 1 else [positions]
    if limits and config.model_type in ("roberta", "xlm-roberta", "camembert", "roberta-prelayernorm", "longformer"):
        limits[0] -= (config.pad_token_id or 0) + 1  # their positions begin behind the padding id
    if 0 < tokenizer.model_max_length < 1 << 30:
        limits.append(int(tokenizer.model_max_length))
    return min(limits, default=1 << 30)


def refuse_other_heads(folder: Path, architectures: Sequence[str]) -> None:
    """A folder that says it is neither a language model nor a classifier has a head that nothing here computes."""
    known = ("ForCausalLM", "LMHeadModel", "ForSequenceClassification")
    if strange := [name for name in architectures if not name.endswith(known) and "For" in name]:
        raise UnsupportedModel(
            f"`{folder}` has a head that neither wuya nor transformers knows",
            found=", ".join(strange),
            hint="its own Python code is never run; wrap it in a function of yours: `my.py:fn`",
        )
