"""Published sizes have the published parameter counts (golden_checks.py), and the counts are those of real modules."""

import pytest
import torch

from wuya.checkpoints.pretrained import hf_family
from wuya.errors import ConfigError
from wuya.models.config import GPTConfig
from wuya.models.gpt import GPT
from wuya.models.presets import PRESETS, modern, preset

EXACT = {
    "gpt1": 116_534_784,
    "gpt2-124m": 124_439_808,
    "gpt2-355m": 354_823_168,
    "gpt2-774m": 774_030_080,
    "gpt2-1558m": 1_557_611_200,
    "smollm2-135m": 134_515_008,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
}


@pytest.mark.parametrize(("name", "parameters"), EXACT.items())
def test_published_sizes_have_their_exact_parameter_counts(name: str, parameters: int) -> None:
    assert preset(name).num_parameters == parameters


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("gpt3")])
def test_gpt3_follows_the_formula_with_context_2048(name: str) -> None:
    """V d + T d + L (12 d^2 + 13 d) + 2 d."""
    config = preset(name)
    d, layers = config.model_dim, config.num_layers
    assert config.num_parameters == 50257 * d + 2048 * d + layers * (12 * d * d + 13 * d) + 2 * d
    assert config.head_dim * config.num_heads == d


def test_gpt3_175b_has_the_size_in_its_name_and_the_paper_compute() -> None:
    assert preset("gpt3-175b").num_parameters == pytest.approx(1.746e11, rel=1e-3)
    assert 6 * preset("gpt3-175b").num_parameters * 300e9 == pytest.approx(3.143e23, rel=1e-3)


@pytest.mark.parametrize("name", list(PRESETS))
def test_the_count_is_that_of_the_module(name: str) -> None:
    config = preset(name)
    with torch.device("meta"):
        model = GPT(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == config.num_parameters


def test_the_default_modern_preset_is_exactly_qwen3() -> None:
    assert hf_family(modern(vocab_size=512, num_layers=2, model_dim=64, context_length=32)) == "qwen3"
    assert hf_family(preset("demo")) == "qwen3"


def test_the_speedrun_preset_has_no_hugging_face_class_and_says_why() -> None:
    with pytest.raises(ConfigError, match="softcap"):
        hf_family(preset("speedrun"))
    with pytest.raises(ConfigError, match="relu2"):
        hf_family(preset("speedrun", softcap=0.0))


def test_unknown_presets_and_fields_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="gpt2-124m"):
        preset("gpt2-124")
    with pytest.raises(ConfigError, match="num_layers"):
        preset("tiny", num_layer=3)


@pytest.mark.parametrize(
    "change", [{"num_layers": 0}, {"num_kv_heads": 2, "num_heads": 3}, {"head_dim": 31}, {"dropout": 1.0}]
)
def test_impossible_architectures_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        preset("tiny", **change)


def test_config_is_frozen() -> None:
    with pytest.raises(AttributeError):
        preset("tiny").num_layers = 3  # type: ignore[misc]


def test_config_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, wuya.models.presets, wuya.models.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_matmul_parameters_leave_out_lookups_only() -> None:
    config = GPTConfig(
        vocab_size=10, context_length=8, num_layers=1, model_dim=4, num_heads=2, num_kv_heads=1, head_dim=2, mlp_dim=8,
        tie_embeddings=False, qk_norm=False,
    )  # fmt: skip
    blocks = 4 * (4 + 2 + 2) + 4 * 4 + 3 * 4 * 8 + 2 * 4
    assert config.num_parameters == 2 * 10 * 4 + blocks + 4
    assert config.num_matmul_parameters == 10 * 4 + blocks
