"""Claims about next-token cross-entropy."""

import math

import torch

from wuya.losses.language_model import chunked_cross_entropy, cross_entropy, token_logprobs


def test_uniform_model_has_loss_ln_vocabulary() -> None:
    for vocabulary, nats in ((50257, 10.82490), (32768, 10.39721)):
        total, weight = cross_entropy(torch.zeros(2, vocabulary), torch.tensor([0, 7]))
        assert math.isclose(float(total / weight), nats, abs_tol=1e-4)


def test_tokens_of_weight_zero_change_nothing() -> None:
    logits_NV, targets_N = torch.randn(6, 11), torch.randint(0, 11, (6,))
    weights_N = torch.tensor([1.0, 0, 1, 0, 0, 1])
    kept = weights_N > 0
    total, weight = cross_entropy(logits_NV, targets_N, weights_N)
    expected, count = cross_entropy(logits_NV[kept], targets_N[kept])
    torch.testing.assert_close(total, expected)
    assert weight == count == 3


def test_chunked_equals_whole_in_value_and_gradients() -> None:
    torch.manual_seed(0)
    targets_N, weights_N = torch.randint(0, 19, (10,)), torch.rand(10)
    results = []
    for chunked in (False, True):
        torch.manual_seed(1)
        hidden_ND, head_VD = torch.randn(10, 4, requires_grad=True), torch.randn(19, 4, requires_grad=True)
        if chunked:
            total, weight = chunked_cross_entropy(hidden_ND, head_VD, targets_N, weights_N, chunk_size=3)
        else:
            total, weight = cross_entropy(hidden_ND @ head_VD.T, targets_N, weights_N)
        (3 * total).backward()
        results.append((total.detach(), weight, hidden_ND.grad, head_VD.grad))
    for ours, whole in zip(*results, strict=True):
        torch.testing.assert_close(ours, whole)


def test_token_logprobs_are_those_of_the_tempered_softmax() -> None:
    logits_NV, tokens_N = torch.randn(5, 7), torch.randint(0, 7, (5,))
    expected_N = (logits_NV / 0.7).log_softmax(-1)[torch.arange(5), tokens_N]
    torch.testing.assert_close(token_logprobs(logits_NV, tokens_N, temperature=0.7), expected_N)
