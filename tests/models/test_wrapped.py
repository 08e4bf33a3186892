"""Any causal model of `transformers` behind GPT's interface: its own logits, and the same states packed or not."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, BertLMHeadModel

from tests.models.wrapped_zoo import OWN_POSITIONS, RECURRENT, STATELESS, ZOO, random_wrapped
from wuya.errors import CheckpointError, DataError
from wuya.models.gpt import SHARED, set_dropout
from wuya.models.wrapped import TransformersModel

FAST = ("gemma2", "llama4_text", "mamba", "opt")
"""A window and caps, chunks and experts, a recurrence, a trunk inside the trunk."""
NAMES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in ZOO]

PROMPT, ANSWERS = 9, (14, 3, 6)
SEGMENTS = [SHARED] * PROMPT + [n for n, length in enumerate(ANSWERS) for _ in range(length)] + [-1] * 3
POSITIONS = [*range(PROMPT), *(PROMPT + t for length in ANSWERS for t in range(length)), 0, 0, 0]


def ids_of(*shape: int) -> torch.Tensor:
    return torch.randint(3, 300, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_logits_are_those_of_the_models_own_forward(name: str) -> None:
    inner = random_wrapped(name)
    model, ids = TransformersModel(inner), ids_of(2, 20)
    logits = model.logits(model(ids))
    torch.testing.assert_close(logits, inner(input_ids=ids, use_cache=False).logits.float(), rtol=1e-4, atol=1e-5)
    wanted = torch.rand(2, 20) > 0.5
    torch.testing.assert_close(model(ids, wanted_BT=wanted), model(ids)[wanted])
    assert model.config.vocab_size == 300 and logits.shape == (2, 20, 300)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_answers_behind_a_shared_prompt_are_sequences_of_their_own(name: str) -> None:
    """Longer than the windows of the zoo, so that a window by column instead of by position would show."""
    model = TransformersModel(random_wrapped(name))
    assert model.config.packs == (name not in RECURRENT | OWN_POSITIONS)
    assert bool(model.config.cache_layers) == model.config.packs
    assert bool(model.config.own_cache) == (not model.config.packs and name not in STATELESS)
    ids = ids_of(2, len(SEGMENTS))
    segments, positions = torch.tensor([SEGMENTS, SEGMENTS]), torch.tensor([POSITIONS, POSITIONS])
    packed = model(ids, positions_BT=positions, segments_BT=segments)
    start = PROMPT
    for length in ANSWERS:
        alone = model(torch.cat((ids[:, :PROMPT], ids[:, start : start + length]), dim=1))
        torch.testing.assert_close(packed[:, start : start + length], alone[:, PROMPT:], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(packed[:, :PROMPT], alone[:, :PROMPT], rtol=1e-3, atol=1e-4)
        start += length


@pytest.mark.parametrize("name", FAST)
def test_gradients_are_the_same_however_rows_are_read_and_blocks_recomputed(name: str) -> None:
    model, ids = TransformersModel(random_wrapped(name)), ids_of(1, len(SEGMENTS))
    rows = {"positions_BT": torch.tensor([POSITIONS]), "segments_BT": torch.tensor([SEGMENTS])}
    real = torch.tensor([SEGMENTS]) != -1

    def gradient() -> torch.Tensor:
        model.zero_grad()
        model.logits(model(ids, **rows)[real]).square().mean().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    plain = gradient()
    model.train()
    model.activation_checkpointing = True
    torch.testing.assert_close(gradient(), plain)
    model.activation_checkpointing = False
    object.__setattr__(model.config, "packs", False)
    torch.testing.assert_close(gradient(), plain, rtol=1e-3, atol=1e-5)


def test_dropout_is_off_unless_it_is_set() -> None:
    """OPT's config asks for dropout 0.1, as its training did."""
    model, ids = TransformersModel(random_wrapped("opt")).train(), ids_of(1, 12)
    assert torch.equal(model(ids), model(ids))
    set_dropout(model, 0.3)
    assert not torch.equal(model(ids), model(ids))
    assert model.inner.config.dropout == 0.1, "what is saved stays the model's own"
    model.eval()
    assert torch.equal(model(ids), model(ids))


def test_an_encoder_is_refused() -> None:
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=300
    )
    with pytest.raises(CheckpointError, match="not a causal language model"):
        TransformersModel(BertLMHeadModel(config).eval())


def test_a_sequence_longer_than_the_context_is_refused() -> None:
    with pytest.raises(DataError, match="longer than the model's context"):
        TransformersModel(random_wrapped("opt"))(ids_of(1, 129))


@pytest.mark.parametrize("name", FAST)
def test_a_copy_is_independent(name: str, tmp_path: Path) -> None:
    """PPO's reference is a copy of its policy."""
    import copy

    model, ids = TransformersModel(random_wrapped(name)), ids_of(1, 12)
    reference = copy.deepcopy(model)
    before = reference.logits(reference(ids))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    torch.testing.assert_close(reference.logits(reference(ids)), before)
    assert not torch.allclose(model.logits(model(ids)), before)
    reference.inner.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(again(input_ids=ids, use_cache=False).logits, before)


@pytest.mark.parametrize("training", [False, True])
def test_recomputed_blocks_have_the_dropout_of_their_forward_pass(training: bool) -> None:
    """In evaluation mode (PPO, DPO, reward models) blocks are recomputed, too, without dropout."""
    gradients = []
    for checkpointing in (False, True):
        model, ids = TransformersModel(random_wrapped("opt")).train(training), ids_of(2, 12)
        model.activation_checkpointing = checkpointing
        set_dropout(model, 0.3)
        calls: list[int] = []
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(5)
        hidden = model(ids)
        before = len(calls)
        hidden.square().sum().backward()
        assert (len(calls) > before) == checkpointing
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[1], gradients[0])
