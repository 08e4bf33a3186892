"""Two-way parity with transformers, the oracle: random weights, logits within 1e-4, the same greedy text."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.models.architectures import ARCHITECTURES, random_ids, random_model
from wuya.checkpoints.checkpoint import load_any, load_checkpoint, load_model, load_scalar_model, save_checkpoint
from wuya.checkpoints.pretrained import config_from_hf, config_to_hf, hf_family
from wuya.errors import CheckpointError, ConfigError, UnsupportedModel
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.models.reward_model import ScalarModel
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer

transformers = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of libraries that transformers imports
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

EXPRESSIBLE = [name for name in ARCHITECTURES if name != "speedrun"]
SIZES: dict[str, Any] = {"vocab_size": 320, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
MODERN = SIZES | {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 48,
}  # fmt: skip
CLASSIC = SIZES | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 48}
FOREIGN: dict[str, Any] = {
    "GPT2": lambda: transformers.GPT2Config(**CLASSIC),
    "GPT2-inner": lambda: transformers.GPT2Config(**CLASSIC, n_inner=40, tie_word_embeddings=False),
    "OpenAIGPT": lambda: transformers.OpenAIGPTConfig(**CLASSIC),
    "Llama": lambda: transformers.LlamaConfig(**MODERN, rope_theta=500.0, rms_norm_eps=1e-5),
    "Llama-biases": lambda: transformers.LlamaConfig(
        **MODERN, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
    "Qwen2": lambda: transformers.Qwen2Config(**MODERN, tie_word_embeddings=True),
    "Qwen3": lambda: transformers.Qwen3Config(**MODERN, head_dim=12, tie_word_embeddings=True),
    "Qwen3-untied": lambda: transformers.Qwen3Config(**MODERN, head_dim=8),
    "Llama-llama3": lambda: transformers.LlamaConfig(
        **MODERN,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ),
    "Llama-linear": lambda: transformers.LlamaConfig(
        **MODERN, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}
    ),
    "Llama-dynamic": lambda: transformers.LlamaConfig(
        **MODERN, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 3.0}
    ),
    "Qwen2-yarn": lambda: transformers.Qwen2Config(
        **MODERN,
        rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 12},
    ),
    "Qwen3-yarn-deepseek": lambda: transformers.Qwen3Config(
        **MODERN,
        head_dim=16,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 12,
            "mscale": 0.7,
            "mscale_all_dim": 1.3,
            "beta_fast": 4.0,
            "beta_slow": 0.5,
            "truncate": False,
        },
    ),
    "Qwen2-windows": lambda: transformers.Qwen2Config(
        **MODERN, use_sliding_window=True, sliding_window=11, max_window_layers=1
    ),
    "Mistral": lambda: transformers.MistralConfig(**MODERN, sliding_window=13, head_dim=12),
    "Mistral-full": lambda: transformers.MistralConfig(**MODERN, sliding_window=None),
    "Phi3": lambda: transformers.Phi3Config(**MODERN, original_max_position_embeddings=48, sliding_window=21),
    "Phi3-longrope": lambda: transformers.Phi3Config(
        **MODERN | {"max_position_embeddings": 192},
        original_max_position_embeddings=48,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.75,
            "short_factor": [1.0, 1.3, 1.6],
            "long_factor": [1.0, 2.0, 4.0],
        },
    ),
    "Olmo2": lambda: transformers.Olmo2Config(**MODERN),
    "SmolLM3": lambda: transformers.SmolLM3Config(**MODERN, no_rope_layer_interval=2),
    "Gemma3": lambda: transformers.Gemma3TextConfig(
        **MODERN, head_dim=12, query_pre_attn_scalar=7, sliding_window=10, sliding_window_pattern=2
    ),
    "Gemma3-scaled": lambda: transformers.Gemma3TextConfig(
        **MODERN | {"num_hidden_layers": 3},
        head_dim=8,
        sliding_window=64,
        final_logit_softcapping=5.0,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "rope_theta": 1e5, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 200.0},
        },
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    text = "the quick brown fox jumps over the lazy dog; how are you today? I am fine. "
    return train_tokenizer([text * 3], vocab_size=310)


def theirs_random(config: Any, kind: str) -> Any:
    """A transformers model with every parameter random."""
    torch.manual_seed(0)
    model = getattr(transformers, kind).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def greedy(model: GPT, ids_BT: Tensor, count: int) -> list[int]:
    """The obvious greedy continuation, recomputed for each token."""
    for _ in range(count):
        with torch.no_grad():
            token_B = model.logits(model(ids_BT)[:, -1]).argmax(-1)
        ids_BT = torch.cat((ids_BT, token_B[:, None]), dim=1)
    return ids_BT[0].tolist()


def their_greedy(model: Any, ids_BT: Tensor, count: int) -> list[int]:
    out = model.generate(
        ids_BT, attention_mask=torch.ones_like(ids_BT), max_new_tokens=count, do_sample=False, eos_token_id=None
    )
    return list(out[0].tolist())


@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_what_we_save_computes_the_same_in_transformers(name: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = random_model(name)
    save_checkpoint(tmp_path / "model", model, tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    ids_BT = random_ids(model.config, 2, 40)
    with torch.no_grad():
        torch.testing.assert_close(model.logits(model(ids_BT)), theirs(ids_BT).logits, rtol=0, atol=1e-4)
    assert greedy(model, ids_BT[:1, :8], 30) == their_greedy(theirs, ids_BT[:1, :8], 30)


@pytest.mark.parametrize("name", list(FOREIGN))
def test_what_transformers_saves_computes_the_same_here(name: str, tmp_path: Path) -> None:
    theirs = theirs_random(FOREIGN[name](), "AutoModelForCausalLM")
    theirs.save_pretrained(tmp_path / "theirs")
    model = load_model(tmp_path / "theirs").eval()
    ids_BT = random_ids(model.config, 2, 40)
    with torch.no_grad():
        torch.testing.assert_close(model.logits(model(ids_BT)), theirs(ids_BT).logits, rtol=0, atol=1e-4)
    assert greedy(model, ids_BT[:1, :8], 30) == their_greedy(theirs, ids_BT[:1, :8], 30)


@pytest.mark.parametrize("name", list(FOREIGN))
def test_a_reward_model_of_transformers_scores_the_same_here(name: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    config = FOREIGN[name]()
    config.num_labels = 1
    theirs = theirs_random(config, "AutoModelForSequenceClassification")
    theirs.save_pretrained(tmp_path / "theirs")
    tokenizer.save(tmp_path / "theirs")
    model, _ = load_scalar_model(tmp_path / "theirs")
    model.eval()
    ids_BT = random_ids(model.trunk.config, 3, 20).clamp(min=1)  # 0 is their padding
    last_B = torch.tensor([19, 4, 11])
    padded_BT = torch.where(torch.arange(20) <= last_B[:, None], ids_BT, 0)
    with torch.no_grad():
        expected_B = theirs(padded_BT, attention_mask=(padded_BT != 0).long()).logits[:, 0]
        torch.testing.assert_close(model.scores(padded_BT, last_B), expected_B, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_our_reward_model_scores_the_same_in_transformers(name: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = ScalarModel(random_model(name)).eval()
    model.bias.fill_(0.25)
    save_checkpoint(tmp_path / "reward", model, tokenizer)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    ids_BT = random_ids(model.trunk.config, 2, 20).clamp(min=1)
    with torch.no_grad():
        theirs.score.bias = torch.nn.Parameter(load_file(tmp_path / "reward" / "model.safetensors")["score.bias"])
        expected_B = theirs(ids_BT).logits[:, 0]  # their score layer has no bias of its own
        torch.testing.assert_close(model.scores(ids_BT, torch.tensor([19, 19])), expected_B, rtol=0, atol=1e-4)
    (tmp_path / "reward" / "wuya.json").unlink()
    again, _ = load_any(tmp_path / "reward")
    assert isinstance(again, ScalarModel) and again.bias.item() == 0.25


def test_text_through_both_tokenizers_and_models_is_the_same(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """The demo's own checkpoint: AutoTokenizer and AutoModelForCausalLM continue a chat as we do."""
    torch.manual_seed(0)
    model = GPT(preset("demo", vocab_size=tokenizer.vocab_size, num_layers=2, model_dim=64, context_length=128)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    save_checkpoint(tmp_path / "model", model, tokenizer, recipe="sft")
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    chat = [{"role": "user", "content": "how are you today?"}]
    prompt = their_tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    out = their_greedy(theirs, prompt, 24)
    assert greedy(model, prompt, 24) == out
    assert tokenizer.decode(out) == their_tokenizer.decode(out)
    assert theirs.generation_config.eos_token_id == list(tokenizer.turn_end.ids)
    assert theirs.generation_config.pad_token_id == tokenizer.pad_id


@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_config_survives_the_round_trip(name: str) -> None:
    config = ARCHITECTURES[name]
    assert config_from_hf(config_to_hf(config, scalar=False, eos_id=2, pad_id=0)) == config


def test_each_family_is_recognised() -> None:
    families = {name: hf_family(ARCHITECTURES[name]) for name in EXPRESSIBLE}
    assert families == {
        "gpt1": "openai-gpt", "gpt2": "gpt2", "gpt2-untied": "gpt2", "llama": "llama", "llama-biases": "llama",
        "qwen2": "qwen2", "qwen3": "qwen3", "qwen3-untied": "qwen3", "llama3": "llama", "yarn": "qwen3",
        "linear": "llama", "qwen2-windows": "qwen2", "mistral": "mistral", "phi3": "phi3", "olmo2": "olmo2",
        "smollm3": "smollm3", "gemma3": "gemma3_text", "gemma3-scaled": "gemma3_text",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("qwen3", {"mlp": "gelu"}, "SwiGLU"),
        ("qwen3", {"mlp": "relu2"}, "relu2"),
        ("qwen3", {"softcap": 15.0}, "softcap"),
        ("qwen3", {"mlp_bias": True}, "bias in the MLP"),
        ("qwen3", {"attention_bias": True}, "output_bias"),
        ("qwen3", {"norm_position": "post"}, "pre-norm"),
        ("gpt2", {"num_kv_heads": 2}, "one key/value head"),
        ("gpt2", {"attention_bias": False}, "biases in the attention"),
        ("gpt1", {"tie_embeddings": False}, "tied"),
    ],
)
def test_what_no_class_computes_is_refused_with_the_reason(name: str, change: dict[str, Any], reason: str) -> None:
    from dataclasses import replace

    with pytest.raises(ConfigError, match=reason):
        hf_family(replace(ARCHITECTURES[name], **change))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "llama3"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}, "mrope"),
        ({"use_sliding_window": False, "layer_types": ["sliding_attention"] * 2}, "switches off"),
    ],
)
def test_foreign_architectures_are_refused_with_the_reason(change: dict[str, Any], reason: str) -> None:
    hf = config_to_hf(ARCHITECTURES["qwen3"], scalar=False, eos_id=2, pad_id=0)
    with pytest.raises(CheckpointError, match=reason):
        config_from_hf(hf | change)


def test_files_saved_from_a_bare_trunk_load_too(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """The first release of GPT-2 names its tensors without `transformer.`, and stores its causal mask."""
    model = random_model("gpt2")
    save_checkpoint(tmp_path / "model", model, tokenizer)
    file = tmp_path / "model" / "model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor.clone() for name, tensor in load_file(file).items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 48, 48)
    save_file(tensors, file)
    (tmp_path / "model" / "checksums.json").unlink()
    again, _ = load_checkpoint(tmp_path / "model")
    ids_BT = random_ids(model.config, 1, 20)
    assert torch.equal(again.eval()(ids_BT), model(ids_BT))


def test_sharded_files_load(tmp_path: Path, tokenizer: Tokenizer) -> None:
    theirs = theirs_random(FOREIGN["Qwen3"](), "AutoModelForCausalLM")
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    model = load_model(tmp_path / "theirs").eval()
    ids_BT = random_ids(model.config, 1, 20)
    with torch.no_grad():
        torch.testing.assert_close(model.logits(model(ids_BT)), theirs(ids_BT).logits, rtol=0, atol=1e-4)
    shard = next((tmp_path / "theirs").glob("*.safetensors"))
    shard.unlink()
    with pytest.raises(CheckpointError, match=shard.name):
        load_model(tmp_path / "theirs")


def test_only_the_wrapper_imports_transformers() -> None:
    """Our own decoder and its files need none of it."""
    root = Path(__file__).parents[2] / "wuya"
    files = [path for room in ("models", "checkpoints") for path in (root / room).rglob("*.py")]
    users = {path.name for path in files if "import transformers" in path.read_text(encoding="utf-8")}
    assert users <= {"wrapped_files.py"}


def test_config_json_names_its_class(tmp_path: Path, tokenizer: Tokenizer) -> None:
    save_checkpoint(tmp_path / "model", random_model("qwen3"), tokenizer)
    hf = json.loads((tmp_path / "model" / "config.json").read_text())
    assert hf["architectures"] == ["Qwen3ForCausalLM"] and hf["dtype"] == "float32"


def test_an_output_matrix_beside_tied_embeddings_is_refused_unless_it_is_the_same(tmp_path: Path) -> None:
    theirs = theirs_random(FOREIGN["Qwen2"](), "AutoModelForCausalLM")  # tied
    theirs.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, file)
    load_model(tmp_path / "model")
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] * 1.001}, file)
    with pytest.raises(CheckpointError, match=r"another `lm_head.weight`"):
        load_model(tmp_path / "model")


def test_quantised_weights_and_plain_weights_that_claim_to_be_are_refused() -> None:
    hf = config_to_hf(ARCHITECTURES["qwen3"], scalar=False, eos_id=2, pad_id=0)
    with pytest.raises(UnsupportedModel, match="quantization_config"):
        config_from_hf(hf | {"quantization_config": {"quant_method": "fp8"}})
