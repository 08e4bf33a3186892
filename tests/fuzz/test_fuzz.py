"""A short campaign in the unit suite, and every kind of input that a campaign once found, in our own words."""

import json
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fuzz.campaign import MEMORY, campaign, schedule
from tests.fuzz.service import EXPORTS
from tests.fuzz.targets import CHAT, FAMILIES, TARGETS, Target, seeds, tokenizer, use
from wuya.checkpoints.checkpoint import load_any, load_checkpoint
from wuya.checkpoints.gguf import _open, read_tokenizer
from wuya.checkpoints.gguf_metadata import Metadata
from wuya.checkpoints.lora_files import load_adapter
from wuya.config import parse_config
from wuya.data.formats import read_demonstrations
from wuya.data.shards import TokenShards
from wuya.errors import CheckpointError, ConfigError, DataError, NotFinite, WuyaError
from wuya.files import BadRows
from wuya.recipes.sft import SFTConfig
from wuya.tokenizer.chat_format import encode_prompt
from wuya.training.report import write_report
from wuya.web.chat.chat_files import look_through, read_chats


def test_no_input_of_a_short_campaign_is_a_fault() -> None:
    result = campaign(TARGETS, inputs=500, seconds=60)
    assert set(result.tried) == {target.name for target in TARGETS} and sum(result.tried.values()) > 400
    assert not result.faults, result.faults
    assert sum(result.refused.values()) > 100 and result.peak_bytes < MEMORY


def test_a_campaign_finds_what_crashes_hangs_dies_and_eats_memory() -> None:
    import os
    import signal

    def bad(folder: Path, rng: Any) -> None:
        kind = rng.randrange(5)
        if kind == 0:
            raise KeyError("ours")
        if kind == 1:
            raise DataError("in words")
        if kind == 2:
            bytearray(2 * MEMORY)
        if kind == 3:
            os.kill(os.getpid(), signal.SIGSEGV)

    result = campaign([Target("bad", 1, bad)], inputs=40, seconds=30)
    assert result.tried["bad"] == 40 and 0 < result.refused["bad"] < 20
    found = {fault.what.split(":")[0] for fault in result.faults}
    assert found == {"KeyError", "MemoryError", "the process ended"}


def test_every_target_has_its_share_from_the_start() -> None:
    work = schedule(TARGETS, 1_000, 0)
    assert {target.name for target, _ in work[:60]} == {target.name for target in TARGETS}
    assert len(set((target.name, number) for target, number in work)) == len(work) > 980


# -- what campaigns found ----------------------------------------------------------------------------------------------


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "architectures is no list of names": ({"architectures": [{"a": 1}]}, "`architectures` in config.json"),
    "rope_parameters is a list": ({"rope_parameters": [1]}, "`rope_parameters` in config.json is no object"),
    "rope_type is a list": ({"rope_parameters": {"rope_type": ["a"], "rope_theta": 1e4}}, "rope_type|transformers"),
    "a number where a name belongs": ({"model_type": "falcon", "hidden_act": -1}, "transformers|missing|hidden_act"),
    "no model_type beside problem_type": ({"model_type": None, "problem_type": "regression"}, "config.json|model_type"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_json_with_a_wrong_type_is_refused_in_words(name: str, tmp_path: Path) -> None:
    values, words = CONFIGS[name]
    shutil.copytree(seeds() / FAMILIES[0], tmp_path / "model")
    change_json(tmp_path / "model" / "config.json", **values)
    with pytest.raises(WuyaError, match=words):
        load_any(tmp_path / "model")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "wuya.json"])
def test_json_that_is_nested_without_end_is_refused_in_words(file: str, tmp_path: Path) -> None:
    shutil.copytree(seeds() / FAMILIES[0], tmp_path / "model")
    (tmp_path / "model" / file).write_text("[" * 100_000)
    with pytest.raises(WuyaError, match=f"{file}` cannot be read as JSON"):
        load_any(tmp_path / "model")


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "..", "", 3, None])
def test_an_index_names_files_of_its_own_folder_only(name: object, tmp_path: Path) -> None:
    shutil.copytree(seeds() / FAMILIES[0], tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model.safetensors")
    index = {"weight_map": {"model.norm.weight": name}}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="names no file of this folder"):
        load_any(tmp_path / "model")


def test_a_token_that_only_the_settings_name_is_refused(tmp_path: Path) -> None:
    shutil.copytree(seeds() / FAMILIES[0], tmp_path / "model")
    change_json(tmp_path / "model" / "tokenizer_config.json", bos_token="<none>")
    with pytest.raises(DataError, match="has no token `<none>`"):
        load_any(tmp_path / "model")


def test_a_token_that_is_no_text_and_a_bias_that_is_no_number_are_refused(tmp_path: Path) -> None:
    shutil.copytree(seeds() / "scalar", tmp_path / "model")
    change_json(tmp_path / "model" / "wuya.json", reward_bias="\ud800")
    with pytest.raises(CheckpointError, match=r"`reward_bias`.*is no number"):
        load_any(tmp_path / "model")
    change_json(tmp_path / "model" / "wuya.json", reward_bias=0.5)
    change_json(tmp_path / "model" / "tokenizer_config.json", eos_token="\ud800")
    with pytest.raises(DataError, match="is not text"):
        load_any(tmp_path / "model")


def test_a_gguf_count_past_the_end_of_the_file_ends_at_once(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    data = (seeds() / f"{FAMILIES[0]}.gguf").read_bytes()
    at = data.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens") + 8  # kind of value, kind of element
    path.write_bytes(data[:at] + (2**40).to_bytes(8, "little") + data[at + 8 :])
    with pytest.raises(CheckpointError, match="not a whole GGUF file"):
        load_checkpoint(path)


def test_a_fingerprint_that_is_no_text_is_another_tokenizers(tmp_path: Path) -> None:
    shutil.copytree(seeds() / FAMILIES[0], tmp_path / "model")
    change_json(tmp_path / "model" / "wuya.json", tokenizer_fingerprint=0.5)
    with pytest.raises(CheckpointError, match="vocabulary mismatch"):
        load_any(tmp_path / "model")


def test_weights_that_are_not_finite_never_answer() -> None:
    model, its = load_checkpoint(seeds() / FAMILIES[0])
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(NotFinite, match="logits are not finite"):
        use(model, its)


GGUF: dict[str, tuple[str, object, str]] = {
    "a merge of one piece": ("tokenizer.ggml.merges", ["ab"], "is not two pieces"),
    "a merge of unknown pieces": ("tokenizer.ggml.merges", ["zq qz"], "do not fit its vocabulary"),
    "fewer kinds than tokens": ("tokenizer.ggml.token_type", [1, 1], "what kind each token is"),
    "an end that is no token": ("tokenizer.ggml.eos_token_id", 10**9, "is no token"),
    "a begin that is no token": ("tokenizer.ggml.bos_token_id", 10**6, "is no token"),
    "tokens are numbers": ("tokenizer.ggml.tokens", [1, 2, 3], "no list of texts"),
}


@pytest.mark.parametrize("name", GGUF)
def test_a_gguf_tokenizer_that_is_odd_is_refused(name: str) -> None:
    key, value, words = GGUF[name]

    class Changed(Metadata):
        def get(self, asked: str, default: Any = None) -> Any:
            return value if asked == key else super().get(asked, default)

    path = seeds() / f"{FAMILIES[0]}.gguf"
    with pytest.raises(WuyaError, match=words):
        read_tokenizer(Changed(_open(path), path))


def test_gguf_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    data = (seeds() / f"{FAMILIES[0]}.gguf").read_bytes()
    assert b"<|im_start|>" in data
    path.write_bytes(data.replace(b"<|im_start|>", b"<|im_st\xb0rt|>"))
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path)


ADAPTERS: dict[str, dict[str, Any]] = {
    "rank is a path": {"r": "../../etc/passwd"},
    "rank is zero": {"r": 0},
    "alpha is a list": {"lora_alpha": [1]},
    "pattern is text": {"rank_pattern": "a"},
    "pattern is no expression": {"alpha_pattern": {"(": 1}},
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_with_odd_settings_is_refused(name: str, tmp_path: Path) -> None:
    shutil.copytree(seeds() / "adapter", tmp_path / "adapter")
    change_json(tmp_path / "adapter" / "adapter_config.json", **ADAPTERS[name])
    with pytest.raises(CheckpointError, match=r"damaged: `adapter_config.json`"):
        load_adapter(load_checkpoint(seeds() / "qwen3")[0], tmp_path / "adapter")  # type: ignore[arg-type]


MANIFESTS: dict[str, dict[str, Any]] = {
    "no shards": {"shards": None},
    "a shard is text": {"shards": ["a"]},
    "a file elsewhere": {"shards": [{"file": "../a.bin", "num_tokens": 200}]},
    "a name without end": {"shards": [{"file": "a" * 4_000, "num_tokens": 200}]},
    "a file is a list": {"shards": [{"file": [], "num_tokens": 200}]},
    "counts that contradict": {"num_tokens": 10**9},
    "a count is an object": {"vocab_size": {}},
    "a negative count": {"num_tokens": -1},
    "a type of another world": {"dtype": "object"},
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_of_shards_that_is_odd_is_refused(name: str, tmp_path: Path) -> None:
    shutil.copytree(seeds() / "shards", tmp_path / "shards")
    change_json(tmp_path / "shards" / "manifest.json", **MANIFESTS[name])
    with pytest.raises(DataError, match=r"manifest.json` is damaged"):
        TokenShards(tmp_path / "shards")


def test_a_parquet_file_with_damaged_bytes_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([{"prompt": "a", "completion": "b"}]), path)
    data, refused = path.read_bytes(), 0
    for at in range(4, len(data) - 8, 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ 15]) + data[at + 1 :])
        try:
            list(read_demonstrations(path, BadRows()))
        except DataError:
            refused += 1
    assert refused > 20


RUNS: dict[str, Callable[[Path], object]] = {
    "config is no text": lambda run: (run / "config.yaml").write_bytes(b"a: \xb7\xff"),
    "a step is an object": lambda run: (run / "metrics.jsonl").write_text('{"step": {}, "loss": 1.0}\n' * 2),
    "a row without a step": lambda run: (run / "metrics.jsonl").write_text('{"eval/score": 1.0}\n'),
    "a score is text": lambda run: (run / "metrics.jsonl").write_text('{"step": 1, "eval/score": "a"}\n'),
    "half a surrogate": lambda run: (run / "samples.jsonl").write_text('{"step": 1, "completion": "\\ud800"}\n'),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_report_is_drawn_of_odd_files(name: str, tmp_path: Path) -> None:
    shutil.copytree(seeds() / "run", tmp_path / "run")
    RUNS[name](tmp_path / "run")
    assert "<h1>run</h1>" in write_report(tmp_path / "run", {}).read_text(encoding="utf-8")


def test_a_config_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sft.yaml").write_bytes(b"base: \xff\n")
    with pytest.raises(ConfigError, match="is not a readable text file"):
        parse_config(SFTConfig, ["--config", str(tmp_path / "sft.yaml")], "wuya sft")


def test_an_export_whose_kind_is_a_list_is_read_without_it() -> None:
    export = json.loads(json.dumps(EXPORTS[0]))
    export[0]["mapping"]["m"]["message"]["content"]["content_type"] = ["text"]
    file = BytesIO(json.dumps(export).encode())
    [chat] = read_chats(file, look_through(file))
    assert chat.messages[0].content == "hi"


def test_the_seeds_themselves_are_read() -> None:
    for name in (*FAMILIES, "scalar"):
        use(*load_any(seeds() / name))
    for name in FAMILIES:
        use(*load_checkpoint(seeds() / f"{name}.gguf"))
    assert encode_prompt(tokenizer(), CHAT)
