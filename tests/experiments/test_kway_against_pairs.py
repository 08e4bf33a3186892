"""experiments/kway_against_pairs.py compares order and repetition alone: on one batch both losses are the same."""

import runpy
from pathlib import Path

import torch

from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.models.reward_model import ScalarModel
from wuya.records import Candidate, Message, Prompt, Ranking
from wuya.rlhf.ranked_prompts import ranked_prompts
from wuya.tokenizer.bpe import Tokenizer

kway = runpy.run_path(str(Path(__file__).parents[2] / "experiments" / "kway_against_pairs.py"))
TEXTS = ("a song", "the dog", "the cat sat on the log", "no")


def test_all_pairs_of_a_batch_have_the_gradient_of_its_lists(tokenizer: Tokenizer, tiny_model: dict[str, int]) -> None:
    torch.manual_seed(0)
    model = ScalarModel(GPT(preset("tiny", vocab_size=tokenizer.vocab_size, context_length=64, **tiny_model)))
    rankings = [
        Ranking(
            Prompt(f"p{n}", (Message("user", f"question {n}"),)), tuple(map(Candidate, TEXTS[: len(ranks)])), ranks, "o"
        )
        for n, ranks in enumerate([(2, 1), (1, 2, 3), (3, 1, 1, 2)])
    ]
    prompts, _ = ranked_prompts(rankings, tokenizer, max_length=64)
    pairs = [pair for prompt in prompts for pair in kway["as_pairs"](prompt)]
    assert [len(kway["as_pairs"](prompt)) for prompt in prompts] == [1, 3, 5]  # the tie is no pair
    gradients = []
    for batch in (prompts, pairs):
        model.zero_grad()
        kway["add_gradients"](model, batch)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.allclose(*gradients, atol=1e-5)  # of at most 1
    assert gradients[0].abs().max() > 1e-3
