"""The frozen states that scripts/human_heads.py keeps: two answers share their prompt and nothing else."""

import runpy
from pathlib import Path

import numpy as np
import torch

from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.records import Message
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import encode_prompt

heads = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "human_heads.py"))


def test_two_answers_behind_one_prompt_have_the_states_they_have_alone(
    tokenizer: Tokenizer, tiny_model: dict[str, int]
) -> None:
    model = GPT(preset("tiny", vocab_size=tokenizer.vocab_size, context_length=128, **tiny_model)).eval()
    model.final_norm = None
    row = {"prompt": [{"role": "user", "content": "the cat?"}], "chosen": "a song", "rejected": "the dog sang"}
    other = {**row, "chosen": "the dog sang to the sun", "rejected": "no"}
    together = heads["shard_states"](model, tokenizer, [row, other], (1, tiny_model["num_layers"]))
    prompt = encode_prompt(tokenizer, [Message("user", "the cat?")])
    for n, answer in enumerate(("a song", "the dog sang")):
        ids = [*tokenizer.encode(answer), tokenizer.eos_id]
        states_TD = model(torch.tensor([[*prompt, *ids]]))[0, len(prompt) :].detach()
        assert np.allclose(together[0, n, 1, 0], states_TD.mean(dim=0), atol=1e-5)
        assert np.allclose(together[0, n, 1, 1], states_TD[-1], atol=1e-5)
