"""BERT against transformers on the same weights, and what full attention must not do."""

import pytest
import torch

from wuya.errors import CheckpointError, ConfigError
from wuya.models.bert import Bert
from wuya.models.gpt import GPT
from wuya.models.presets import bert, preset


def small(**changes: object) -> Bert:
    torch.manual_seed(0)
    config = preset("tiny", vocab_size=60, context_length=24, num_layers=2, attention="full", **changes)
    return Bert(config).eval()


def test_parameters_are_those_of_the_published_sizes() -> None:
    with torch.device("meta"):
        assert Bert(bert(12, 768, 12)).num_parameters == 110_106_428  # BertForPreTraining of bert-base-uncased
        assert Bert(bert(24, 1024, 16)).num_parameters == 336_226_108
        assert GPT(bert(2, 128, 2)).config.num_parameters == sum(p.numel() for p in GPT(bert(2, 128, 2)).parameters())


def test_every_token_sees_the_whole_sequence_and_no_padding() -> None:
    model = small()
    ids = torch.randint(60, (1, 10))
    changed = ids.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 60
    with torch.no_grad():
        assert not torch.allclose(model(ids)[0, 0], model(changed)[0, 0]), "the first token sees the last"
        padded = torch.cat([ids, torch.randint(60, (1, 6))], dim=1)
        segments = torch.tensor([[0] * 10 + [-1] * 6])
        torch.testing.assert_close(model(padded, segments_BT=segments)[:, :10], model(ids), atol=1e-5, rtol=1e-5)
        packed = torch.cat([ids, changed], dim=1)
        halves = model(packed[:, :20], segments_BT=torch.tensor([[0] * 10 + [1] * 10]))
        assert not torch.allclose(halves[:, 10:], model(changed)), "positions run on where none are given"


def test_wanted_positions_are_those_of_the_whole() -> None:
    model = small()
    ids, wanted = torch.randint(60, (2, 9)), torch.rand(2, 9) < 0.3
    with torch.no_grad():
        torch.testing.assert_close(model(ids, wanted_BT=wanted), model(ids)[wanted], atol=1e-5, rtol=1e-5)


def test_dropout_and_bf16_stay_near() -> None:
    model = small()
    ids = torch.randint(60, (2, 12))
    with torch.no_grad():
        exact = model.logits(model(ids))
        with torch.autocast("cpu", torch.bfloat16):
            near = model.logits(model(ids))
    assert near.dtype == torch.float32
    torch.testing.assert_close(near, exact, atol=0.05, rtol=0.05)


def test_what_an_encoder_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="full attention"):
        Bert(preset("tiny", vocab_size=60))
    with pytest.raises(ConfigError, match="causal"):
        preset("tiny", vocab_size=60, attention="full", window=4, local_layers=(0,))
    bare = Bert(bert(1, 32, 2, vocab_size=50), heads=("pooler",))
    with pytest.raises(CheckpointError, match="without its head for masked tokens"):
        bare.logits(torch.zeros(1, 32))
