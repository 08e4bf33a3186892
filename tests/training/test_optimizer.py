"""Muon's update is orthogonal; groups, learning rates and state are what they should be."""

import copy

import pytest
import torch
from torch import Tensor, nn

from wuya.models.gpt import GPT
from wuya.models.lora import add_lora
from wuya.models.presets import preset
from wuya.training.optimizer import (
    POLAR_EXPRESS,
    Muon,
    Optimizer,
    build_optimizer,
    clip_gradients,
    orthogonalize,
    set_lr,
)


def tiny(**changes: object) -> GPT:
    torch.manual_seed(0)
    return GPT(
        preset(
            "tiny",
            **{
                "vocab_size": 64,
                "model_dim": 32,
                "mlp_dim": 48,
                "num_heads": 2,
                "num_kv_heads": 1,
                "head_dim": 16,
                **changes,
            },
        )
    )


def give_gradients(model: nn.Module, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for param in model.parameters():
        if param.requires_grad:
            param.grad = torch.randn(param.shape, generator=generator)


@pytest.mark.parametrize("shape", [(3, 48, 48), (2, 32, 128), (2, 100, 40), (1, 30, 40)])
def test_orthogonalize_brings_every_singular_value_near_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    spread = torch.logspace(0, -1.5, u.size(-1))  # singular values over a factor of 30
    values = torch.linalg.svdvals(orthogonalize(u @ torch.diag(spread) @ vh))
    assert 0.85 < float(values.min()) and float(values.max()) < 1.15


def test_the_gram_form_equals_the_textbook_iteration() -> None:
    x = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(0))
    slow = x / (1.02 * x.norm(dim=(-2, -1), keepdim=True))
    for a, b, c in POLAR_EXPRESS:
        gram = slow @ slow.mT
        slow = a * slow + (b * gram + c * gram @ gram) @ slow
    torch.testing.assert_close(orthogonalize(x), slow, rtol=1e-4, atol=1e-4)


def test_polar_express_maps_scalars_as_published() -> None:
    def final(x: float) -> float:
        for a, b, c in POLAR_EXPRESS:
            x = a * x + b * x**3 + c * x**5
        return x

    values = [final(i / 1000) for i in range(10, 991)]
    assert 0.85 < min(values) and max(values) < 1.15


def test_muon_step_is_an_orthogonal_matrix_scaled_by_the_rate_and_the_shape() -> None:
    weight = nn.Parameter(torch.zeros(64, 16))
    weight.grad = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    Muon([weight], lr=0.1).step()
    values = torch.linalg.svdvals(weight.detach())
    assert values / (0.1 * 2.0) == pytest.approx(torch.ones(16), abs=0.2)  # sqrt(64 / 16) = 2


def test_muon_is_nesterov_momentum_then_orthogonalize() -> None:
    weight = nn.Parameter(torch.zeros(8, 12))
    optimizer = Muon([weight], lr=0.1, momentum=0.9)
    g1, g2 = torch.randn(2, 8, 12, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(8, 12)
    momentum = torch.zeros(8, 12)
    for gradient in (g1, g2):
        weight.grad = gradient.clone()
        optimizer.step()
        momentum = 0.9 * momentum + gradient
        expected -= 0.1 * orthogonalize((gradient + 0.9 * momentum)[None])[0]
    torch.testing.assert_close(weight.detach(), expected)


def test_weight_decay_is_decoupled() -> None:
    weight = nn.Parameter(torch.eye(4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), 0.95 * torch.eye(4))


def test_fused_matrices_are_orthogonalised_one_by_one() -> None:
    model = tiny()
    before = model.blocks[0].attention.qkv.weight.detach().clone()
    give_gradients(model)
    build_optimizer(model, name="muon", lr=0.1).step()
    change = (before - model.blocks[0].attention.qkv.weight.detach()) / 0.1
    config = model.config
    for part in torch.split(change, list(config.qkv_rows)):
        scale = max(1.0, part.size(0) / part.size(1)) ** 0.5
        assert torch.linalg.svdvals(part / scale).mean() == pytest.approx(1.0, abs=0.1)


def names_of(model: nn.Module, params: list[Tensor]) -> set[str]:
    names = {id(param): name for name, param in model.named_parameters()}
    return {names[id(param)] for param in params}


def test_muon_takes_the_matrices_of_the_blocks_and_nothing_else() -> None:
    model = tiny(tie_embeddings=False)
    muon, adam = build_optimizer(model, name="muon", lr=0.1, adam_lr=0.01, weight_decay=0.2).parts
    assert isinstance(muon, Muon)
    expected = {n for n, p in model.named_parameters() if n.startswith("blocks.") and p.ndim == 2}
    assert names_of(model, muon.param_groups[0]["params"]) == expected
    tables, vectors = adam.param_groups
    assert names_of(model, tables["params"]) == {"embedding.weight", "head.weight"}
    assert all(p.ndim == 1 for p in vectors["params"])
    assert tables["weight_decay"] == vectors["weight_decay"] == 0.0
    covered = sum(len(group["params"]) for part in (muon, adam) for group in part.param_groups)
    assert covered == len(list(model.parameters()))


def test_adamw_decays_matrices_but_no_gains_and_biases() -> None:
    optimizer = build_optimizer(tiny(attention_bias=True), name="adamw", lr=0.1, weight_decay=0.2)
    decays = {param.ndim: group["weight_decay"] for group in optimizer.param_groups for param in group["params"]}
    assert decays == {2: 0.2, 1: 0.0}


def test_frozen_weights_are_left_out_and_lora_factors_go_to_adamw() -> None:
    model = tiny()
    add_lora(model, rank=2, alpha=4)
    optimizer = build_optimizer(model, name="muon", lr=0.1)
    names = {name for group in optimizer.param_groups for name in names_of(model, group["params"])}
    assert len(optimizer.parts) == 1 and all("lora" in name for name in names)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_state_round_trips_bit_for_bit_and_keeps_this_runs_learning_rates(name: str) -> None:
    model, twin = tiny(), tiny()
    optimizer = build_optimizer(model, name=name, lr=0.1)  # type: ignore[arg-type]
    for seed in range(3):
        give_gradients(model, seed)
        set_lr(optimizer, 0.5**seed)
        optimizer.step()
    twin.load_state_dict(model.state_dict())
    resumed = build_optimizer(twin, name=name, lr=0.2)  # type: ignore[arg-type]
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # torch would share the tensors
    assert all(group["lr"] == group["initial_lr"] for group in resumed.param_groups)
    for own, other in ((model, optimizer), (twin, resumed)):
        give_gradients(own, 9)
        for group in other.param_groups:
            group["lr"] = 0.01
        other.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_set_lr_scales_each_group_from_its_own_peak() -> None:
    optimizer = build_optimizer(tiny(), name="muon", lr=0.1, adam_lr=0.01)
    set_lr(optimizer, 0.5)
    assert set_lr(optimizer, 0.5) == pytest.approx(0.05)  # what runs log as `lr`: the matrices' rate, no multiplier
    assert {round(group["lr"], 6) for group in optimizer.param_groups} == {0.05, 0.005}


def test_clipping_scales_the_joint_norm_and_reports_the_one_before() -> None:
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert clip_gradients([a, b], 0.0) == pytest.approx(5.0)
    assert float(a.grad) == 3.0
    assert clip_gradients([a, b], 1.0) == pytest.approx(5.0)
    assert float(a.grad) == pytest.approx(0.6, rel=1e-4)


def test_parameters_without_gradient_are_left_alone() -> None:
    model = tiny()
    before = [param.detach().clone() for param in model.parameters()]
    optimizer = build_optimizer(model, name="muon", lr=0.1)
    assert isinstance(optimizer, Optimizer)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
