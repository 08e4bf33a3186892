from dataclasses import replace
from functools import partial
from typing import Literal

import pytest
import torch

from tests.models.architectures import ARCHITECTURES
from wuya.checkpoints.checkpoint import checkpoint_tensors
from wuya.models import native
from wuya.models.config import GPTConfig
from wuya.models.gpt import GPT
from wuya.models.lora import adapter_parameters, add_lora
from wuya.models.presets import gpt2, modern, preset, smollm2_135m, tiny
from wuya.models.quantize import PackedLinear, quantize_model
from wuya.planning.planner import (
    block_activation_bytes,
    decoder_bytes,
    kv_cache_bytes,
    lora_activation_bytes,
    lora_parameters,
    published_activation_bytes,
    rotary_table,
    saving_bytes,
    state_bytes,
    training_memory,
    weight_bytes,
    zero_bytes,
)
from wuya.planning.ppo_memory import ppo_memory

MIB, GIB = 2**20, 2**30


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt1", 116_534_784),
        ("gpt2-124m", 124_439_808),
        ("gpt2-355m", 354_823_168),
        ("gpt2-774m", 774_030_080),
        ("gpt2-1558m", 1_557_611_200),
    ],
)
def test_weights_in_four_precisions(name: str, parameters: int) -> None:
    found = preset(name).num_parameters
    assert found == parameters
    assert [weight_bytes(found, p) / found for p in ("float32", "bfloat16", "int8")] == [4, 2, 1]
    assert weight_bytes(found, "int4") / found == 0.5625


def test_gpt3_has_175_billion_parameters() -> None:
    assert preset("gpt3-175b").num_parameters == pytest.approx(1.746e11, rel=1e-3)


def test_kv_cache_of_gpt2_is_36_mib_and_of_gpt3_9_gib() -> None:
    assert kv_cache_bytes(preset("gpt2-124m"), length=1024, precision="bfloat16") == 36 * MIB
    assert kv_cache_bytes(preset("gpt3-175b"), length=2048, precision="bfloat16") == 9 * GIB


def test_training_state_per_parameter() -> None:
    assert state_bytes("adamw", "float32").total == 16
    assert state_bytes("muon", "float32").total == state_bytes("sgd", "float32").total == 12
    assert state_bytes("adamw", "bfloat16").total == 16
    assert state_bytes("sgd", "bfloat16").total == state_bytes("muon", "bfloat16").total == 12
    assert state_bytes("adamw8bit", "bfloat16").total == 10


def test_zero_of_7_5_billion_on_64_gpus() -> None:
    found = [zero_bytes(7.5e9, stage=stage, num_ranks=64) / 1e9 for stage in (0, 1, 2, 3)]
    assert found == pytest.approx([120, 31.40625, 16.640625, 1.875])


def test_published_activations_of_gpt2_are_684_mib_a_layer() -> None:
    gpt2_layer = partial(published_activation_bytes, tokens=1024, batch_size=8, model_dim=768, num_heads=12)
    assert gpt2_layer() == 684 * MIB
    assert gpt2_layer(flash=True) == 204 * MIB
    assert gpt2_layer(dropout=False) == 1024 * 8 * 768 * (32 + 2 * 12 * 1024 / 768)


SMALL: dict[str, GPTConfig] = {
    "modern": modern(vocab_size=64, num_layers=1, model_dim=64, context_length=600),
    "grouped": modern(vocab_size=64, num_layers=1, model_dim=64, context_length=600, head_dim=16, kv_groups=2),
    "gpt2": replace(gpt2(1, 48, 3), vocab_size=64, dropout=0.0),
    "gpt1": replace(gpt2(1, 48, 3), vocab_size=64, dropout=0.0, norm_position="post"),
    "relu2": replace(modern(vocab_size=64, num_layers=1, model_dim=64, context_length=600), mlp="relu2"),
    "llama": replace(smollm2_135m(), vocab_size=64, num_layers=1, model_dim=48, num_heads=3, num_kv_heads=1,
                     head_dim=16, mlp_dim=96, context_length=600),
    **{name: replace(ARCHITECTURES[name], num_layers=1, context_length=600, rope_scaling=None, local_layers=(),
                     nope_layers=()) for name in ("gemma3", "olmo2", "phi3", "smollm3")},
}  # fmt: skip


def saved_bytes(model: GPT, batch_size: int, tokens: int, *, wanted_BT: torch.Tensor | None = None) -> int:
    """What autograd keeps for the backward pass, weights and tables apart: each storage once."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden_BTD = model(torch.zeros(batch_size, tokens, dtype=torch.long), wanted_BT=wanted_BT)
    assert hidden_BTD.requires_grad
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("tokens", [100, 512, 600])
@pytest.mark.parametrize("name", SMALL)
def test_activations_of_a_block_are_what_autograd_keeps_to_the_byte(name: str, tokens: int) -> None:
    one, two = (GPT(replace(SMALL[name], num_layers=layers)).train() for layers in (1, 2))
    measured = saved_bytes(two, 2, tokens) - saved_bytes(one, 2, tokens)
    assert block_activation_bytes(SMALL[name], batch_size=2, tokens=tokens) == measured


@pytest.mark.parametrize("name", SMALL)
def test_the_last_block_keeps_less_where_few_positions_are_read(name: str) -> None:
    config, wanted_BT = SMALL[name], torch.zeros(2, 100, dtype=torch.bool)
    wanted_BT[:, 70:] = True
    model = GPT(config).train()
    saved = saved_bytes(model, 2, 100) - saved_bytes(model, 2, 100, wanted_BT=wanted_BT)
    whole, last = (block_activation_bytes(config, batch_size=2, tokens=100, read=read) for read in (None, 60))
    final_norm = 0 if model.final_norm is None else 4 * (200 - 60) * config.model_dim
    assert whole - last + final_norm == pytest.approx(saved, rel=0.02)


def test_lora_parameters_and_activations() -> None:
    def with_adapters(layers: int) -> GPT:
        model = GPT(replace(SMALL["modern"], num_layers=layers)).train()
        add_lora(model, rank=4, alpha=8.0)
        return model

    one, two, three = (with_adapters(layers) for layers in (1, 2, 3))
    assert sum(p.numel() for p in adapter_parameters(two)) == lora_parameters(two.config, 4)
    measured = saved_bytes(three, 2, 100) - saved_bytes(two, 2, 100)  # the first block's input needs no gradient
    predicted = block_activation_bytes(one.config, batch_size=2, tokens=100)
    predicted += lora_activation_bytes(one.config, num_tokens=200, rank=4)
    assert predicted == pytest.approx(measured, rel=0.05)


def test_parameter_bytes_are_exact() -> None:
    for name in ("tiny", "demo"):
        model = GPT(preset(name))
        stored = sum(p.nbytes for p in model.parameters()) + sum(b.nbytes for b in model.buffers())
        assert training_memory(model.config, batch_size=1, tokens=1).weights == stored


def test_peak_grows_linearly_in_the_batch_and_faster_in_the_length() -> None:
    def peak(batch_size: int, tokens: int) -> int:
        return training_memory(preset("demo"), batch_size=batch_size, tokens=tokens).peak

    assert peak(24, 256) - peak(16, 256) == peak(32, 256) - peak(24, 256)
    assert peak(16, 512) > 2 * peak(16, 256) - peak(1, 1)


def test_checkpointing_accumulation_muon_and_lora_change_what_they_should() -> None:
    config = preset("gpt2-124m")
    plain = training_memory(config, batch_size=8, tokens=512)
    assert training_memory(config, batch_size=8, tokens=512, activation_checkpointing=True).peak < plain.peak / 2
    accumulating = training_memory(config, batch_size=8, tokens=512, accumulates=True)
    assert accumulating.peak == plain.peak + plain.gradients
    assert training_memory(config, batch_size=8, tokens=512, optimizer="muon").optimizer < plain.optimizer
    adapters = training_memory(config, batch_size=8, tokens=512, lora_rank=8)
    assert adapters.gradients == 4 * lora_parameters(config, 8) and adapters.optimizer == 2 * adapters.gradients


def test_ppo_holds_two_training_states_and_two_frozen_models() -> None:
    config = tiny()
    N, table = config.num_parameters, rotary_table(config)
    memory = ppo_memory(config, prompt=32, completion=32, ema=False)
    policy, value, reference, reward = memory.models
    assert (policy.weights, policy.gradients, policy.optimizer) == (4 * (N + table), 4 * N, 8 * N)
    assert value.optimizer == 8 * (N + config.model_dim)
    assert (reference.resident, reward.optimizer) == (4 * (N + table), 0)
    assert memory.peak > memory.resident
    with_average = ppo_memory(config, prompt=32, completion=32)
    assert with_average.resident == memory.resident + 4 * N


def test_ppo_plans_the_logits_and_the_cache_that_it_holds() -> None:
    """A vocabulary of 151,936 costs chunks of logits, not the table; keys and values are as many as memory holds."""
    config = replace(smollm2_135m(), vocab_size=151_936)
    memory = ppo_memory(config, prompt=512, completion=512, microbatch_tokens=8192)
    assert memory.moments["scoring"] < 4 * 4096 * config.vocab_size / 2
    row = kv_cache_bytes(config, length=1024)
    small = ppo_memory(config, prompt=512, completion=512, microbatch_tokens=8192, cache_bytes=10 * row)
    assert memory.moments["sampling"] > 20 * small.moments["sampling"] > 0


def test_one_trunk_with_adapters_needs_a_fraction() -> None:
    config = smollm2_135m()
    apart = ppo_memory(config, prompt=64, completion=64, microbatch_tokens=1024)
    trunk = ppo_memory(config, prompt=64, completion=64, microbatch_tokens=1024, lora_rank=16, reward_on_trunk=True)
    assert trunk.resident < apart.resident / 6
    assert {model.role for model in trunk.models} == {
        "trunk = reference", "policy (adapter)", "value model (adapter)", "reward model (adapter)"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["modern", "llama", "gpt2"])
def test_saving_copies_what_hugging_face_stores_in_another_form(name: str) -> None:
    model = GPT(SMALL[name])
    own = {t.untyped_storage().data_ptr() for t in model.parameters()}
    written = checkpoint_tensors(model).values()
    copied = sum(t.nbytes for t in written if t.untyped_storage().data_ptr() not in own)
    assert saving_bytes(SMALL[name]) == copied
    merged = saving_bytes(SMALL[name], lora_rank=4, num_adapters=2)
    parameters = sum(p.nbytes for p in model.parameters()) + sum(b.nbytes for b in model.buffers())
    assert merged == copied + parameters + 2 * 4 * lora_parameters(SMALL[name], 4)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("size", [0, 1, 2])
def test_peak_of_a_training_step_is_as_measured_within_10_percent(size: int, checkpointing: bool) -> None:
    import runpy
    from pathlib import Path

    script = runpy.run_path(str(Path(__file__).parents[2] / "experiments" / "plan_memory.py"))
    result = script["measure_apart"]({**script["CASES"][size], "activation_checkpointing": checkpointing})
    assert 0.9 < result["predicted_over_measured"] < 1.1, result


@pytest.mark.parametrize("bits", ["int8", "int4"])
@pytest.mark.parametrize("tied", [True, False])
def test_packed_weights_take_what_is_planned(bits: Literal["int8", "int4"], tied: bool) -> None:
    if native.kernels() is None:
        pytest.skip("no compiler: torch's own packed matrices have another size")
    config = replace(modern(vocab_size=512, num_layers=2, model_dim=64, context_length=32), tie_embeddings=tied)
    model = GPT(config)
    quantize_model(model, bits)
    packed = [module for module in model.modules() if isinstance(module, PackedLinear)]
    held = sum(p.nbytes for p in model.parameters()) + sum(module.packed.nbytes for module in packed)
    assert held == pytest.approx(decoder_bytes(config, bits), rel=0.01)
