"""Every architecture our decoder knows generates through the engine's cache what a full forward would say."""

import pytest
import torch

from tests.inference.naive import naive_greedy
from tests.models.architectures import ARCHITECTURES, random_model
from wuya.inference.engine import Engine
from wuya.inference.native_decode import native_decode
from wuya.inference.sampling import SamplingParams
from wuya.models.gpt import GPT
from wuya.models.lora import add_lora

NATIVE = {
    "gpt2", "gpt2-untied", "llama", "llama-biases", "llama3", "linear", "qwen2", "qwen3", "qwen3-untied", "yarn",
}  # fmt: skip
"""Decoded in C++; rescaled rotary positions are tables there as here."""


def prompts_of(model: GPT) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randint(0, model.config.vocab_size, (12,), generator=generator).tolist()
    tails = [torch.randint(0, model.config.vocab_size, (n,), generator=generator).tolist() for n in (1, 5, 9)]
    return [shared[:4], *([*shared, *tail] for tail in tails), shared]


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("adapted", [False, True], ids=["plain", "lora"])
def test_the_engine_says_what_a_full_forward_says(name: str, adapted: bool) -> None:
    """Rows of several lengths, longer than every window, prefixes from the cache; with an adapter torch decodes."""
    model = random_model(name)
    if adapted:
        add_lora(model, rank=2, alpha=4)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.2)
    engine = Engine(model, max_batch_size=3)
    prompts = prompts_of(model)
    groups = engine.generate(prompts, SamplingParams(max_tokens=26, temperature=0), num_samples=2)
    for prompt, group in zip(prompts, groups, strict=True):
        wanted = naive_greedy(model, prompt, 26)
        assert [list(generation.token_ids) for generation in group] == [wanted, wanted]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_step_in_c_takes_what_it_computes_and_refuses_the_rest(name: str) -> None:
    from wuya.models import native

    if native.kernels() is None:
        pytest.skip("no C++ compiler")
    assert (native_decode(random_model(name).requires_grad_(False)) is not None) == (name in NATIVE)
