"""A reward model as a judge of turns. The only module of the web layer with torch; loaded when a rule asks for it."""

from collections.abc import Sequence
from pathlib import Path

import torch

from wuya.checkpoints.checkpoint import load_scalar_model
from wuya.records import Message, Role
from wuya.tokenizer.chat_format import encode_answer, encode_prompt


class Scorer:
    """One checkpoint of `wuya reward`, or a Hugging Face sequence classifier with one label of a family we read."""

    def __init__(self, folder: Path) -> None:
        self._model, self._tokenizer = load_scalar_model(folder)
        self._model.eval()

    @torch.inference_mode()
    def score(self, turns: Sequence[tuple[Role, str]]) -> float:
        """The scalar at the end of a chat of (role, text) turns; the latest tokens of a long one."""
        messages = [Message(role=role, content=text) for role, text in turns]
        if messages[-1].role == "assistant":
            prompt = encode_prompt(self._tokenizer, messages[:-1])  # scored at the end token, as in training
            ids = prompt + encode_answer(self._tokenizer, messages[:-1], messages[-1])
        else:
            ids = encode_prompt(self._tokenizer, messages)
        ids = ids[-self._model.trunk.config.context_length :]
        return float(self._model.scores(torch.tensor([ids]), torch.tensor([len(ids) - 1])))
