"""What is written as GGUF is read back as the same model and tokenizer, here, by llama.cpp and by OpenVINO GenAI."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from torch import Tensor

from tests.checkpoints.llama_cpp import AVAILABLE, next_tokens
from tests.models.architectures import ARCHITECTURES, IN_LLAMA_CPP, random_ids, random_model
from wuya.checkpoints.checkpoint import load_checkpoint
from wuya.checkpoints.gguf_arch import permute, unpermute
from wuya.checkpoints.gguf_writer import save_gguf, without_generation_marks
from wuya.errors import ConfigError
from wuya.inference.engine import Engine
from wuya.inference.sampling import SamplingParams
from wuya.models.config import GPTConfig, RopeScaling
from wuya.models.gpt import GPT
from wuya.records import Message
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer
from wuya.tokenizer.chat_format import encode_prompt
from wuya.tokenizer.templates import CHATML_OF_TEXTS

TEXT = "The river runs to the sea, 1234 times. caf\u00e9 \u68af\u5ea6 \U0001f600"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT * 3], vocab_size=300)


@pytest.mark.parametrize("name", IN_LLAMA_CPP)
def test_float32_files_hold_the_very_model(name: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = random_model(IN_LLAMA_CPP[name])
    save_gguf(tmp_path / "model.gguf", model, tokenizer, precision="float32")
    again, its = load_checkpoint(tmp_path / "model.gguf")
    size = tokenizer.vocab_size  # the model has more rows: no other program is to sample them
    ids_BT = random_ids(model.config, 2, 30) % size
    with torch.no_grad():
        assert torch.equal(again.logits(again.eval()(ids_BT)), model.logits(model(ids_BT))[..., :size])
    assert again.config.vocab_size == its.vocab_size == size < model.config.vocab_size
    assert (its.eos_id, its.pad_id, its.special_ids) == (tokenizer.eos_id, tokenizer.pad_id, tokenizer.special_ids)
    assert its.encode(TEXT) == tokenizer.encode(TEXT)
    chat = [Message("user", "a <|im_end|> b"), Message("assistant", "c"), Message("user", "d")]
    assert encode_prompt(its, chat) == encode_prompt(tokenizer, chat)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


@pytest.mark.skipif(not AVAILABLE, reason="xllamacpp is not installed")
def test_llama_cpp_computes_what_our_model_does(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Log-probabilities of the 20 likeliest tokens after four prompts, for every architecture; see its tanh-GELU."""
    requests: list[dict[str, Any]] = []
    expected: list[list[Tensor]] = []
    for name, config in IN_LLAMA_CPP.items():
        model = random_model(config)
        save_gguf(tmp_path / f"{name}.gguf", model, tokenizer, precision="float32")
        size = tokenizer.vocab_size
        prompts = [(random_ids(config, length) % size).tolist() for length in (1, 5, 11, 30)]
        letter = tokenizer.encode("e")[0]
        requests.append({"model": str(tmp_path / f"{name}.gguf"), "letter": letter, "prompts": prompts})
        with torch.no_grad():
            logits = [model.logits(model(torch.tensor([prompt]))[0, -1])[:size] for prompt in prompts]
        expected.append([logits_V.log_softmax(-1) for logits_V in logits])
    for (name, config), ours, theirs in zip(IN_LLAMA_CPP.items(), expected, next_tokens(requests), strict=True):
        table = config.mlp in ("gelu", "geglu")  # llama.cpp reads GELU from a table in half precision
        for logprobs_V, found in zip(ours, theirs, strict=True):
            off = {id: abs(logprobs_V[id].item() - value) for id, value in found.items()}
            assert max(off.values()) < (5e-3 if table else 2e-5), name


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (ARCHITECTURES["mistral"], "sliding window"),
        (ARCHITECTURES["phi3"], "sliding window"),
        (ARCHITECTURES["qwen2-windows"], "sliding window"),
        (ARCHITECTURES["smollm3"], "4th layer"),
        (ARCHITECTURES["gemma3"], "6th layer"),
        (replace(IN_LLAMA_CPP["gemma3"], attention_scale=0.1), "attention scale"),
        (replace(IN_LLAMA_CPP["gemma3"], tie_embeddings=False), "embedding table"),
        (replace(IN_LLAMA_CPP["olmo2"], tie_embeddings=True), "output matrix"),
        (replace(ARCHITECTURES["qwen3"], attention_bias=True, output_bias=True), "no biases"),
        (replace(ARCHITECTURES["yarn"], rope_scaling=RopeScaling(
            kind="yarn", factor=2.0, original_length=24, attention_factor=1.5)), "attention factor"),
    ],
)  # fmt: skip
def test_what_llama_cpp_computes_otherwise_is_not_exported(
    config: GPTConfig, reason: str, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    with pytest.raises(ConfigError, match=reason):
        save_gguf(tmp_path / "model.gguf", GPT(config), tokenizer)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("precision", "tolerance"), [("float16", 0.01), ("bfloat16", 0.1), ("q8_0", 0.2)])
def test_fewer_bits_stay_close_and_say_the_same(
    precision: str, tolerance: float, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    model = random_model("llama")
    save_gguf(tmp_path / "model.gguf", model, tokenizer, precision=precision)  # type: ignore[arg-type]
    again, _ = load_checkpoint(tmp_path / "model.gguf")
    size = tokenizer.vocab_size
    ids_BT = random_ids(model.config, 2, 30) % size
    with torch.no_grad():
        ours_BTV, theirs_BTV = model.logits(model(ids_BT))[..., :size], again.logits(again.eval()(ids_BT))
    assert 0 < (ours_BTV - theirs_BTV).abs().max() < tolerance
    kinds = {tensor.name: tensor.tensor_type for tensor in GGUFReader(tmp_path / "model.gguf").tensors}
    assert kinds["blk.0.attn_norm.weight"] == GGMLQuantizationType.F32
    greedy = SamplingParams(max_tokens=4, temperature=0)
    prompt = [tokenizer.encode("The sea")]
    texts = [Engine(m, tokenizer).generate(prompt, greedy)[0][0].token_ids for m in (model, again)]
    assert texts[0] == texts[1]


def test_rows_that_blocks_of_32_do_not_divide_are_float16(tmp_path: Path, tokenizer: Tokenizer) -> None:
    save_gguf(tmp_path / "model.gguf", random_model("qwen3"), tokenizer, precision="q8_0")
    kinds = {tensor.name: tensor.tensor_type for tensor in GGUFReader(tmp_path / "model.gguf").tensors}
    assert kinds["blk.0.attn_output.weight"] == GGMLQuantizationType.F16  # 4 heads of 12
    assert kinds["blk.0.attn_q.weight"] == GGMLQuantizationType.Q8_0


def test_what_gguf_cannot_express_is_refused_and_leaves_nothing(tmp_path: Path, tokenizer: Tokenizer) -> None:
    spec = json.loads(tokenizer.to_json())
    spec["pre_tokenizer"] = {"type": "Whitespace"}
    from tokenizers import Tokenizer as Backend

    odd = Tokenizer(Backend.from_str(json.dumps(spec)), {})
    for name, its, reason in (
        ("gpt1", tokenizer, "openai-gpt"),
        ("speedrun", tokenizer, "capped"),
        ("llama", odd, "BPE"),
    ):
        with pytest.raises(ConfigError, match=reason):
            save_gguf(tmp_path / "model.gguf", random_model(name), its)
    assert not list(tmp_path.iterdir())


def test_permute_is_what_the_converter_does() -> None:
    weight, bias = torch.arange(48.0).view(16, 3), torch.arange(16.0)
    assert permute(weight, 2)[:4, 0].tolist() == [0.0, 12.0, 3.0, 15.0]  # rows 0, 4, 1, 5 of the first head
    assert torch.equal(unpermute(permute(weight, 2), 2), weight) and torch.equal(unpermute(permute(bias, 4), 4), bias)


def test_generation_marks_become_comments_that_trim_alike() -> None:
    marked = "a {%- generation -%} b {% endgeneration %} c"
    assert without_generation_marks(marked) == "a {#- -#} b {# #} c"


@pytest.mark.skipif(not find_spec("openvino_genai"), reason="needs `pip install wuya[openvino]`")
def test_openvino_reads_the_file_and_says_the_same(tmp_path: Path, tokenizer: Tokenizer) -> None:
    import numpy as np
    import openvino
    import openvino_genai

    save_gguf(tmp_path / "model.gguf", random_model("qwen3"), tokenizer, precision="q8_0")
    model, _ = load_checkpoint(tmp_path / "model.gguf")
    prompt = tokenizer.encode("The river runs")
    # this model has rows beyond the vocabulary: they are not in the file, so OpenVINO can't sample them either
    sampling = SamplingParams(max_tokens=16, temperature=0, stop_token_ids=(tokenizer.eos_id,))
    [[ours]] = Engine(model.eval()).generate([prompt], sampling)

    def answer() -> tuple[int, ...]:
        exact = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
        scheduler = openvino_genai.SchedulerConfig()
        pipeline = openvino_genai.ContinuousBatchingPipeline(str(tmp_path / "model.gguf"), scheduler, "CPU", exact, {})
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.stop_token_ids = 16, {tokenizer.eos_id}
        [theirs] = pipeline.generate([openvino.Tensor(np.array([prompt]))], [config])
        return tuple(theirs.m_generation_ids[0])

    # Not in the main thread: a model that OpenVINO 2026.4 frees leaves its thread with an alternate signal stack that
    # is freed, too, and the next signal there kills the process (a worker of pytest-xdist, at another test's SIGINT).
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(answer).result() == ours.token_ids


def test_user_defined_tokens_and_ends_come_back(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """`<think>` and its kin are words of their own in every text, not control tokens; and all ends are kept."""
    names = ("<think>", "<tool_call>")
    vocab, size = json.loads(tokenizer.to_json())["model"], tokenizer.vocab_size
    ours = Tokenizer.from_parts(
        vocab["vocab"], [tuple(merge) for merge in vocab["merges"]], pre_tokenizer="qwen2",
        special_tokens=tokenizer.special_ids, added_tokens={name: size + n for n, name in enumerate(names)},
        eos_token="<|endoftext|>", pad_token="<|endoftext|>", chat_template=CHATML_OF_TEXTS,
    )  # fmt: skip
    assert ours.encode("a<think>") == [*tokenizer.encode("a"), size]
    model = GPT(replace(IN_LLAMA_CPP["qwen3"], vocab_size=ours.vocab_size))
    save_gguf(tmp_path / "model.gguf", model, ours)
    its = load_checkpoint(tmp_path / "model.gguf")[1]
    for text in ("<think>x</think>", "<tool_call>{}", "<|im_end|>"):
        assert its.encode(text) == ours.encode(text)
    assert its.turn_end == ours.turn_end and its.turn_end.ids == (2, 0)
    assert its.special_ids == ours.special_ids
    reader = GGUFReader(tmp_path / "model.gguf")
    kept = [int(reader.fields[f"tokenizer.ggml.{name}_token_id"].parts[-1][0]) for name in ("eos", "eot")]
    assert kept == [0, 2]
