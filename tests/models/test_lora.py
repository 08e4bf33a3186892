"""lora.py: adapters beside frozen weights."""

import copy

import pytest
import torch

from wuya.errors import ConfigError
from wuya.models.gpt import GPT
from wuya.models.lora import (
    LanguageView,
    LoRALinear,
    ScalarView,
    adapter_names,
    adapter_parameters,
    adapter_state,
    add_lora,
    merge_lora,
    remove_lora,
    set_adapter,
    use_adapter,
)
from wuya.models.presets import preset
from wuya.models.reward_model import ScalarModel

IDS = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))


def small_model(name: str = "tiny") -> GPT:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "num_layers": 2, "model_dim": 32, "num_heads": 4, "head_dim": 8, "mlp_dim": 64}
    kv = {"num_kv_heads": 2 if name == "tiny" else 4}
    return GPT(preset(name, context_length=32, **sizes, **kv)).eval()


def randomise(model: torch.nn.Module, name: str, seed: int = 1) -> None:
    """As if the adapter had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter_parameters(model, name):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


@pytest.mark.parametrize("name", ["tiny", "gpt2-124m"])
@torch.no_grad()
def test_a_new_adapter_changes_nothing(name: str) -> None:
    model = small_model(name)
    before = model(IDS)
    add_lora(model, rank=4, alpha=8)
    assert torch.equal(model(IDS), before)
    assert sum(isinstance(module, LoRALinear) for module in model.modules()) == 8  # 4 a block, the fused ones too


@torch.no_grad()
def test_adapters_off_is_the_base_model_bit_for_bit() -> None:
    model = small_model()
    before = model(IDS)
    add_lora(model, rank=4, alpha=8, name="policy")
    randomise(model, "policy")
    assert not torch.allclose(model(IDS), before)
    with use_adapter(model, None):
        assert torch.equal(model(IDS), before)
    assert not torch.allclose(model(IDS), before)
    remove_lora(model)
    assert torch.equal(model(IDS), before)
    assert all(parameter.requires_grad for parameter in model.parameters())


@torch.no_grad()
def test_an_adapter_adds_scale_b_a_to_the_weight() -> None:
    model = small_model()
    add_lora(model, rank=4, alpha=12)
    randomise(model, "default")
    layer = model.blocks[0].attention.qkv
    x = torch.randn(3, 32)
    expected = x @ (layer.weight + 3.0 * layer.lora_b["default"] @ layer.lora_a["default"]).T
    assert torch.allclose(layer(x), expected, atol=1e-4)


@torch.no_grad()
def test_merging_gives_an_ordinary_model_of_the_same_function() -> None:
    model = small_model()
    names = list(model.state_dict())
    add_lora(model, rank=4, alpha=8, name="policy")
    add_lora(model, rank=2, alpha=8, name="value")
    randomise(model, "policy")
    randomise(model, "value", seed=2)
    with use_adapter(model, "policy"):
        adapted = model(IDS)
    merged = copy.deepcopy(model)
    merge_lora(merged, "policy")
    assert torch.allclose(merged(IDS), adapted, atol=1e-5)
    assert list(merged.state_dict()) == names
    assert adapter_names(merged) == [] and adapter_names(model) == ["policy", "value"]


def test_only_adapters_get_gradients_and_each_only_its_own() -> None:
    model = small_model()
    add_lora(model, rank=4, alpha=8, name="policy")
    add_lora(model, rank=4, alpha=8, name="value", seed=5)
    randomise(model, "policy")
    randomise(model, "value")
    with use_adapter(model, "policy"):
        model(IDS).square().sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0
        for parameter in adapter_parameters(model, "policy")
    )
    assert all(parameter.grad is None for parameter in adapter_parameters(model, "value"))
    adapters = {id(parameter) for parameter in adapter_parameters(model)}
    assert {id(p) for p in model.parameters() if p.requires_grad} == adapters
    assert all(p.grad is None for p in model.parameters() if id(p) not in adapters)


def test_one_trunk_is_policy_reference_and_value_model() -> None:
    trunk = small_model()
    base = trunk(IDS).detach()
    scalar = ScalarModel(trunk)
    add_lora(trunk, rank=4, alpha=8, name="policy")
    add_lora(trunk, rank=4, alpha=8, name="value")
    randomise(trunk, "policy")
    randomise(trunk, "value", seed=2)
    policy, reference, value_model = (
        LanguageView(trunk, "policy"),
        LanguageView(trunk, None),
        ScalarView(scalar, "value"),
    )
    loss = policy.logits(policy(IDS)).sum() + value_model.values(IDS).sum()  # both forwards, then one backward
    assert torch.equal(reference(IDS), base)
    loss.backward()
    together = [parameter.grad.clone() for parameter in adapter_parameters(trunk) if parameter.grad is not None]
    trunk.zero_grad()
    with use_adapter(trunk, "policy"):
        trunk.logits(trunk(IDS)).sum().backward()
    with use_adapter(trunk, "value"):
        scalar.values(IDS).sum().backward()
    apart = [parameter.grad for parameter in adapter_parameters(trunk) if parameter.grad is not None]
    assert len(together) == len(adapter_parameters(trunk))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(together, apart, strict=True))


def test_blocks_computed_again_in_the_backward_pass_have_the_adapter_of_their_view() -> None:
    """Two views in one graph, and another adapter active when the backward pass begins."""
    gradients = []
    for checkpointing in (False, True):
        trunk = small_model()
        for name in ("policy", "value"):
            add_lora(trunk, rank=2, alpha=2, name=name, seed=len(name))
            with torch.no_grad():
                for path, factor in adapter_state(trunk, name).items():
                    if ".lora_b." in path:
                        factor.normal_(generator=torch.Generator().manual_seed(7))
        trunk.activation_checkpointing = checkpointing
        hidden = [LanguageView(trunk, name)(IDS) for name in ("policy", "value", None)]
        set_adapter(trunk, None)
        (hidden[0].square().sum() + (hidden[1] * hidden[2]).sum()).backward()
        gradients.append({path: factor.grad for path, factor in adapter_state(trunk).items()})
    assert all(gradient is not None for gradient in gradients[0].values())
    torch.testing.assert_close(gradients[1], gradients[0])


def test_adapters_learn_and_leave_the_weights_alone() -> None:
    model = small_model()
    with torch.no_grad():
        model.embedding.weight.mul_(30)  # the frozen output matrix must be able to express an opinion
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    add_lora(model, rank=4, alpha=8)
    optimizer = torch.optim.Adam(adapter_parameters(model), lr=3e-2)
    losses = []
    for _ in range(60):
        logits = model.logits(model(IDS[:, :-1]))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), IDS[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_adapters_stay_float32_on_a_bfloat16_trunk() -> None:
    model = small_model().to(torch.bfloat16)
    add_lora(model, rank=4, alpha=8)
    assert model(IDS).dtype == torch.bfloat16
    assert {parameter.dtype for parameter in adapter_parameters(model)} == {torch.float32}


@pytest.mark.parametrize(
    "wrong,what",
    [
        ({"rank": 0}, "rank"),
        ({"targets": ("qvk",)}, "qvk"),
        ({"name": "a.b"}, "name"),
        ({"targets": ("up",)}, "none of the LoRA targets"),
    ],
)
def test_impossible_adapters_are_refused(wrong: dict[str, object], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        add_lora(small_model(), **{"rank": 4, "alpha": 8.0, **wrong})  # type: ignore[arg-type]


def test_names_are_checked() -> None:
    model = small_model()
    add_lora(model, rank=2, alpha=2, name="policy")
    with pytest.raises(ConfigError, match="already"):
        add_lora(model, rank=2, alpha=2, name="policy")
    with pytest.raises(ConfigError, match="no adapter `value`"), use_adapter(model, "value"):
        pass
    add_lora(model, rank=2, alpha=2, name="value")
    with pytest.raises(ConfigError, match="several adapters"):
        merge_lora(model)
