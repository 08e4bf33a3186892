"""Two-way parity with transformers, the oracle: random weights, logits within 1e-4, the same greedy text."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.models.architectures import ARCHITECTURES, random_ids, random_model
from wuya.errors import CheckpointError, ConfigError
from wuya.models.checkpoint import load_any, load_checkpoint, load_model, load_scalar_model, save_checkpoint
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.models.pretrained import config_from_hf, config_to_hf, hf_family
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


@pytest.mark.parametrize("name", ["gpt1", "gpt2", "llama", "qwen2", "qwen3", "qwen3-untied"])
def test_our_reward_model_scores_the_same_in_transformers(name: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = ScalarModel(random_model(name)).eval()
    model.bias.fill_(0.25)
    save_checkpoint(tmp_path / "reward", model, tokenizer)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    ids_BT = random_ids(model.trunk.config, 2, 20).clamp(min=1)
    with torch.no_grad():
        expected_B = theirs(ids_BT).logits[:, 0] - 0.25  # their score layer has no bias; ours is in wuya.json
        torch.testing.assert_close(model.scores(ids_BT, torch.tensor([19, 19])), expected_B, rtol=0, atol=1e-4)
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
    assert theirs.generation_config.eos_token_id == tokenizer.eos_id
    assert theirs.generation_config.pad_token_id == tokenizer.pad_id


@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_config_survives_the_round_trip(name: str) -> None:
    config = ARCHITECTURES[name]
    assert config_from_hf(config_to_hf(config, scalar=False, eos_id=2, pad_id=0)) == config


def test_each_family_is_recognised() -> None:
    families = {name: hf_family(ARCHITECTURES[name]) for name in EXPRESSIBLE}
    assert families == {
        "gpt1": "openai-gpt", "gpt2": "gpt2", "gpt2-untied": "gpt2", "llama": "llama", "llama-biases": "llama",
        "qwen2": "qwen2", "qwen3": "qwen3", "qwen3-untied": "qwen3",
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
        ("gpt2", {"attention_bias": False}, "biases everywhere"),
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
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
        ({"use_sliding_window": True, "sliding_window": 16}, "sliding"),
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
    from safetensors.torch import load_file

    file = tmp_path / "model" / "model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor.clone() for name, tensor in load_file(file).items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 48, 48)
    save_file(tensors, file)
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


def test_nothing_of_ours_imports_transformers() -> None:
    root = Path(__file__).parents[2] / "wuya"
    users = [path.name for path in root.rglob("*.py") if "import transformers" in path.read_text(encoding="utf-8")]
    assert users == []


def test_config_json_names_its_class(tmp_path: Path, tokenizer: Tokenizer) -> None:
    save_checkpoint(tmp_path / "model", random_model("qwen3"), tokenizer)
    hf = json.loads((tmp_path / "model" / "config.json").read_text())
    assert hf["architectures"] == ["Qwen3ForCausalLM"] and hf["dtype"] == "float32"
