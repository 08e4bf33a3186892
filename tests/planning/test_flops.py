import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from wuya.models.gpt import GPT
from wuya.models.presets import modern, preset
from wuya.planning.flops import (
    PETAFLOP_DAY,
    decode_tokens_per_second,
    forward_flops_per_token,
    matmul_parameters,
    ppo_episode_flops,
    training_flops_per_token,
)


def test_gpt3_takes_3_14e23_flops_or_3637_petaflop_days() -> None:
    flops = 6 * 174.6e9 * 300e9
    assert flops == pytest.approx(3.143e23, rel=1e-3)
    assert flops / PETAFLOP_DAY == pytest.approx(3637.5, rel=1e-3)
    ours = training_flops_per_token(preset("gpt3-175b"), 2048) * 300e9  # with attention, without lookups
    assert ours == pytest.approx(flops, rel=0.02)


def test_attention_term_is_that_of_nanochat_d20() -> None:
    """golden_checks.py: 6 (parameters - embedding) + 12 L H C T = 3.4918e9 for 20 layers of 1280, T = 2048."""
    d20 = 6 * (560988160 - 65536 * 1280) + 12 * 20 * 1280 * 2048
    assert d20 == pytest.approx(3.4918e9, rel=1e-3)
    like = modern(vocab_size=65536, num_layers=20, model_dim=1280, context_length=2048, head_dim=128)
    attention = training_flops_per_token(like, 2048, causal=False) - 6 * matmul_parameters(like)
    assert attention == 12 * 20 * 1280 * 2048
    assert d20 * 11.2e9 == pytest.approx(3.91e19, rel=5e-3)


def test_six_n_is_what_torch_counts_within_5_percent() -> None:
    """Spec section 11, Verify, at small T."""
    config = modern(vocab_size=512, num_layers=2, model_dim=128, context_length=64)
    model, ids_BT = GPT(config).train(), torch.zeros(2, 64, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        logits_BTV = model.logits(model(ids_BT))
    with FlopCounterMode(display=False) as backward:
        logits_BTV.sum().backward()  # type: ignore[no-untyped-call]
    assert forward.get_total_flops() / 128 == pytest.approx(forward_flops_per_token(config, 64, causal=False), rel=0.05)
    both = (forward.get_total_flops() + backward.get_total_flops()) / 128
    assert both == pytest.approx(training_flops_per_token(config, 64, causal=False), rel=0.05)
    assert both == pytest.approx(6 * matmul_parameters(config), rel=0.1)


def test_an_episode_learns_more_than_it_samples() -> None:
    config = preset("demo")
    episode = ppo_episode_flops(config, prompt=32, completion=32, ppo_epochs=2)
    assert episode.learning == 12 * episode.generation and episode.scoring == 3 * episode.generation
    assert episode.total == 16 * episode.generation


def test_decoding_is_bound_by_reading_the_weights() -> None:
    assert decode_tokens_per_second(135e6 * 2, 30e9) == pytest.approx(111, rel=0.01)
