"""What is written as GGUF is read back as the same model and tokenizer, here and by OpenVINO GenAI."""

import json
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader

from tests.models.architectures import random_ids, random_model
from wuya.errors import ConfigError
from wuya.inference.engine import Engine
from wuya.inference.sampling import SamplingParams
from wuya.models.checkpoint import load_checkpoint
from wuya.models.gguf_writer import permute, save_gguf, without_generation_marks
from wuya.records import Message
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer
from wuya.tokenizer.chat_format import encode_prompt

TEXT = "The river runs to the sea, 1234 times. caf\u00e9 \u68af\u5ea6 \U0001f600"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT * 3], vocab_size=300)


@pytest.mark.parametrize("name", ["llama", "llama-biases", "qwen2", "qwen3", "qwen3-untied", "gpt2", "gpt2-untied"])
def test_float32_files_hold_the_very_model(name: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = random_model(name)
    save_gguf(tmp_path / "model.gguf", model, tokenizer, precision="float32")
    again, its = load_checkpoint(tmp_path / "model.gguf")
    ids_BT = random_ids(model.config, 2, 30)
    with torch.no_grad():
        assert torch.equal(again.logits(again.eval()(ids_BT)), model.logits(model(ids_BT)))
    assert again.config.vocab_size == model.config.vocab_size and its.vocab_size == tokenizer.vocab_size
    assert (its.eos_id, its.pad_id, its.special_ids) == (tokenizer.eos_id, tokenizer.pad_id, tokenizer.special_ids)
    assert its.encode(TEXT) == tokenizer.encode(TEXT)
    chat = [Message("user", "a <|im_end|> b"), Message("assistant", "c"), Message("user", "d")]
    assert encode_prompt(its, chat) == encode_prompt(tokenizer, chat)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


@pytest.mark.parametrize(("precision", "tolerance"), [("float16", 0.01), ("bfloat16", 0.1), ("q8_0", 0.2)])
def test_fewer_bits_stay_close_and_say_the_same(
    precision: str, tolerance: float, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    model = random_model("llama")
    save_gguf(tmp_path / "model.gguf", model, tokenizer, precision=precision)  # type: ignore[arg-type]
    again, _ = load_checkpoint(tmp_path / "model.gguf")
    ids_BT = random_ids(model.config, 2, 30)
    with torch.no_grad():
        ours_BTV, theirs_BTV = model.logits(model(ids_BT)), again.logits(again.eval()(ids_BT))
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
        ("speedrun", tokenizer, "caps"),
        ("llama", odd, "BPE"),
    ):
        with pytest.raises(ConfigError, match=reason):
            save_gguf(tmp_path / "model.gguf", random_model(name), its)
    assert not list(tmp_path.iterdir())


def test_permute_is_what_the_converter_does() -> None:
    from wuya.models.gguf import unpermute

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
    [[ours]] = Engine(model.eval(), tokenizer).generate([prompt], SamplingParams(max_tokens=16, temperature=0))

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
