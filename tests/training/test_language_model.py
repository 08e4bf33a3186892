"""Loss sums, gradients and validation against the obvious computation."""

import math

import pytest
import torch
from torch.nn import functional as F

from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.training import language_model
from wuya.training.language_model import add_gradients, nats_sum, validate

SIZES = {"vocab_size": 50, "context_length": 16, "model_dim": 32, "mlp_dim": 48, "num_heads": 2, "num_kv_heads": 1}


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(0)
    return GPT(preset("tiny", **SIZES, head_dim=16))


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, 50, (6, 13), generator=torch.Generator().manual_seed(1))


def test_weights_choose_targets(model: GPT, ids: torch.Tensor) -> None:
    weights_BT = (torch.rand(6, 12, generator=torch.Generator().manual_seed(2)) > 0.5).float()
    logits_BTV = model.logits(model(ids[:, :-1]))
    expected = (F.cross_entropy(logits_BTV.mT, ids[:, 1:], reduction="none") * weights_BT).sum()
    torch.testing.assert_close(nats_sum(model, ids[:, :-1], ids[:, 1:], weights_BT), expected)


def test_chunks_give_the_same_loss_and_gradient(model: GPT, ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for rows in (1000, 7):
        monkeypatch.setattr(language_model, "rows_at_once", lambda *_, rows=rows: rows)
        model.zero_grad()
        loss = add_gradients(model, ids[:, :-1], ids[:, 1:], microbatch_size=6)
        results.append((loss, model.embedding.weight.grad))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1])


def test_scale_scales_the_gradient_and_not_what_is_reported(model: GPT, ids: torch.Tensor) -> None:
    plain = add_gradients(model, ids[:, :-1], ids[:, 1:], microbatch_size=2)
    gradient = model.embedding.weight.grad
    model.zero_grad()
    assert add_gradients(model, ids[:, :-1], ids[:, 1:], microbatch_size=2, scale=0.25) == plain
    assert gradient is not None and model.embedding.weight.grad is not None
    torch.testing.assert_close(model.embedding.weight.grad, 0.25 * gradient)


def test_bits_per_byte_skips_specials_and_divides_by_bytes(model: GPT, ids: torch.Tensor) -> None:
    token_bytes_V = torch.arange(50) % 4  # a quarter of the tokens are specials
    result = validate(model, [(ids[:4, :-1], ids[:4, 1:]), (ids[4:, :-1], ids[4:, 1:])], token_bytes_V)
    with torch.no_grad():
        nats_BT = F.cross_entropy(model.logits(model(ids[:, :-1])).mT, ids[:, 1:], reduction="none")
    bytes_BT = token_bytes_V[ids[:, 1:]]
    expected = float(nats_BT[bytes_BT > 0].sum()) / (math.log(2) * float(bytes_BT.sum()))
    assert result.bits_per_byte == pytest.approx(expected, rel=1e-5)
    assert result.loss == pytest.approx(float(nats_BT.mean()), rel=1e-5) and result.num_tokens == 72
    assert model.training


def test_worked_example_of_bits_per_byte() -> None:
    """3.28 nats a token at 4.8 bytes a token are .98585 bits per byte."""
    assert 3.28 / (math.log(2) * 4.8) == pytest.approx(0.98585, abs=1e-5)


def test_bfloat16_arithmetic_stays_close(model: GPT, ids: torch.Tensor) -> None:
    full = float(nats_sum(model, ids[:, :-1], ids[:, 1:]).detach())
    half = float(nats_sum(model, ids[:, :-1], ids[:, 1:], dtype=torch.bfloat16).detach())
    assert half == pytest.approx(full, rel=0.01)
