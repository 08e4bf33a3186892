import math

import numpy as np
import pytest
import torch

from wuya.evals.likelihood import (
    alignment_tax,
    bits_per_byte,
    kl_divergence,
    score_completions,
    score_texts,
    token_logprobs,
)
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer

SIZES = {"num_layers": 2, "model_dim": 32, "mlp_dim": 64, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["the cat sat on the mat and sang a song " * 20], vocab_size=280)


def model(seed: int, tokenizer: Tokenizer) -> GPT:
    torch.manual_seed(seed)
    gpt = GPT(preset("tiny", vocab_size=tokenizer.vocab_size, context_length=32, **SIZES)).eval()
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.mul_(2)  # so that two models differ clearly
    return gpt


def test_logprobs_do_not_depend_on_the_rows_beside(tokenizer: Tokenizer) -> None:
    gpt = model(0, tokenizer)
    sequences = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [5, 9]]
    together = token_logprobs(gpt, sequences)
    for sequence, logprobs_T in zip(sequences, together, strict=True):
        [alone_T] = token_logprobs(gpt, [sequence])
        torch.testing.assert_close(logprobs_T, alone_T, atol=1e-5, rtol=1e-5)
        full_TV = gpt.logits(gpt(torch.tensor([sequence]))).log_softmax(-1)[0]
        expected_T = torch.stack([full_TV[t, token] for t, token in enumerate(sequence[1:])])
        torch.testing.assert_close(logprobs_T, expected_T.detach(), atol=1e-5, rtol=1e-5)


def test_bits_per_byte_of_a_uniform_model_is_known(tokenizer: Tokenizer) -> None:
    gpt = model(0, tokenizer)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.zero_()
    text = "the cat sat on the mat and sang a song " * 5  # longer than one window
    [score] = score_texts(gpt, tokenizer, [text], context_length=32)
    assert score.num_bytes == len(text)
    tokens = len(tokenizer.encode(text))
    assert score.nats == pytest.approx(tokens * math.log(tokenizer.vocab_size), rel=1e-5)
    assert bits_per_byte([score]).mean == pytest.approx(score.nats / math.log(2) / len(text))


def test_completion_nats_are_those_after_the_prompt(tokenizer: Tokenizer) -> None:
    gpt = model(0, tokenizer)
    [score] = score_completions(gpt, tokenizer, [[5, 6, 7]], [[8, 9]])
    [logprobs_T] = token_logprobs(gpt, [[5, 6, 7, 8, 9]])
    assert score.nats == pytest.approx(-float(logprobs_T[2:].sum()), rel=1e-5)


def test_a_policy_pays_no_tax_and_has_no_kl_against_itself(tokenizer: Tokenizer) -> None:
    gpt = model(0, tokenizer)
    scores = score_texts(gpt, tokenizer, ["the cat sat", "a song"], context_length=32)
    assert alignment_tax(scores, scores).mean == 0.0
    assert kl_divergence(gpt, gpt, [[5, 6]], [[7, 8]]).per_response.mean == 0.0


def test_kl_estimate_approaches_the_exact_one(tokenizer: Tokenizer) -> None:
    policy, reference = model(0, tokenizer), model(1, tokenizer)
    prompt = [5, 6, 7]
    with torch.no_grad():
        p_V, q_V = (m.logits(m(torch.tensor([prompt])))[0, -1].double().log_softmax(-1) for m in (policy, reference))
    exact = float((p_V.exp() * (p_V - q_V)).sum())
    drawn = np.random.default_rng(0).choice(len(p_V), size=4_000, p=p_V.exp().numpy() / p_V.exp().sum().item())
    estimate = kl_divergence(policy, reference, [prompt] * len(drawn), [[int(token)] for token in drawn])
    assert estimate.per_response.low <= exact <= estimate.per_response.high
