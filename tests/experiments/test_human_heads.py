"""The frozen states that experiments/human_heads.py keeps: two answers share their prompt and nothing else."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.records import Message
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import encode_prompt

heads = runpy.run_path(str(Path(__file__).parents[2] / "experiments" / "human_heads.py"))


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
        both_TD = model(torch.tensor([[*prompt, *ids]]))[0].detach()
        assert np.allclose(together[0, 2, 1, 0], both_TD[: len(prompt)].mean(dim=0), atol=1e-5)
        states_TD = both_TD[len(prompt) :]
        assert np.allclose(together[0, n, 1, 0], states_TD.mean(dim=0), atol=1e-5)
        assert np.allclose(together[0, n, 1, 1], states_TD[-1], atol=1e-5)


def test_a_taste_that_depends_on_the_kind_of_prompt_is_found_only_by_kind() -> None:
    """What helps with one kind of prompt harms with the other: no single direction is right for both."""
    rng = np.random.default_rng(0)

    def row_of(kind: int) -> dict[str, Any]:
        return {"source": f"kind {kind}", "prompt": [{"role": "user", "content": "the same words"}]}

    def states(count: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
        kind_N = rng.integers(2, size=count)
        found = rng.normal(size=(count, 3, 2, 2, 4))
        found[:, 2, :, :, 0] += 6.0 * kind_N[:, None, None]  # the prompt's states say of which kind it is
        found[:, 0, 1, 0, 1] += 2.0 * (2 * kind_N - 1)  # the chosen answer has more of something, or less
        return found, [row_of(kind) for kind in kind_N]

    (train, train_rows), (dev, dev_rows) = states(400), states(200)
    both, rows = {"train": train, "dev": dev}, {"train": train_rows, "dev": dev_rows}
    plain = heads["state_features"](both)["all states"]
    kinds = heads["kinds_of_prompts"](both, rows)
    likelier = kinds[1][:, 1] > kinds[1][:, 1].mean()
    assert np.mean(likelier == [row["source"] == "kind 1" for row in dev_rows]) > 0.95
    sets = heads["features_by_kind"](plain, (np.zeros((400, 1)), np.zeros((200, 1))), kinds)
    rights = [
        (dev_ND @ heads["logistic"](train_ND, 30.0) > 0).mean()
        for train_ND, dev_ND in (plain, sets["main states and manner by kind"])
    ]
    assert rights[0] < 0.65 < 0.8 < rights[1]
