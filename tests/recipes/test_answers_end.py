"""A base whose eos_token is not the end of its chat template (Qwen2.5's): after SFT answers end, whoever generates."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import llama_cpp
from tests.inference.backends.helpers import collect, reasons, request, run, text
from wuya.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from wuya.checkpoints.gguf_writer import save_gguf
from wuya.inference.backends.local import LocalEngine
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.recipes.sample_completions import SampleConfig
from wuya.recipes.sample_completions import run as sample
from wuya.recipes.sft import SFTConfig
from wuya.recipes.sft import run as sft
from wuya.records import Message
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import encode_prompt
from wuya.tokenizer.system_prompt import with_system_prompt

WORDS = {"cat": "the mat", "dog": "the log", "bird": "the song", "sun": "the sky"}
CHATS: list[Any] = [[{"role": "user", "content": f"the {word}"}] for word in WORDS]


def give_folder_another_end(folder: Path, end_ids: list[int]) -> None:
    """As Qwen2.5 is published: the document's end is the tokenizer's eos_token and generation_config.json's."""
    (folder / "wuya.json").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": "<|endoftext|>"}))
    for name in ("config.json", "generation_config.json"):
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(values | {"eos_token_id": end_ids}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("ends")
    torch.manual_seed(0)
    shape = {"num_layers": 2, "model_dim": 64, "mlp_dim": 128, "num_heads": 2, "num_kv_heads": 1, "head_dim": 32}
    base = GPT(preset("tiny", vocab_size=tokenizer.vocab_size, context_length=64, **shape))
    save_checkpoint(folder / "base", base, tokenizer)
    give_folder_another_end(folder / "base", [tokenizer.document_end_id])
    rows = [{"prompt": f"the {word}", "completion": answer} for word, answer in WORDS.items()] * 4
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sft(
        SFTConfig(
            base=folder / "base", demonstrations=folder / "rows.jsonl", out=folder / "sft", epochs=60, batch_size=2,
            microbatch_size=2, learning_rate=5e-3, num_samples=0, save_every=0, device="cpu", dtype="float32",
        )
    )  # fmt: skip
    return folder


def test_sampled_answers_finish(trained: Path) -> None:
    out = trained / "sampled"
    sample(
        SampleConfig(
            checkpoint=trained / "sft", prompts=trained / "rows.jsonl", out=out, k=8, max_tokens=32, device="cpu",
            dtype="float32",
        )
    )  # fmt: skip
    assert json.loads((out / "summary.json").read_text())["finished_share"] >= 0.95


def test_the_checkpoint_says_where_answers_end(trained: Path) -> None:
    model, tokenizer = load_checkpoint(trained / "sft")
    assert (tokenizer.eos_token, tokenizer.decode([tokenizer.turn_end.id])) == ("<|endoftext|>", "<|im_end|>")
    facts = json.loads((trained / "sft" / "model" / "generation_config.json").read_text())
    assert facts["eos_token_id"] == [2, 0]
    assert json.loads((trained / "sft" / "model" / "wuya.json").read_text())["turn_end"] == [2, 0]
    path = trained / "again.gguf"
    save_gguf(path, model, tokenizer)
    assert load_checkpoint(path)[1].turn_end == tokenizer.turn_end


def test_transformers_ends_there(trained: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = trained / "sft" / "model"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for chat, answer in zip(CHATS, WORDS.values(), strict=True):
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
        [found] = model.generate(**ids, max_new_tokens=32, do_sample=False)[:, ids["input_ids"].shape[1] :]
        assert tokenizer.decode(found) == f"{answer}<|im_end|>"


@pytest.mark.parametrize("library", ["wuya", "openvino"])
def test_the_service_ends_there(trained: Path, library: str) -> None:
    place = trained / "sft"
    if library == "openvino":
        pytest.importorskip("openvino_genai", reason="needs `pip install wuya[openvino]`")
        place = trained / "served.gguf"
        save_gguf(place, *load_checkpoint(trained / "sft"))  # type: ignore[arg-type]

    async def main() -> None:
        options: dict[str, Any] = {"library": library} if library == "openvino" else {"device": "cpu"}
        engine = LocalEngine({"tiny": place}, dtype="float32", **options)
        await engine.start()
        try:
            for chat, answer in zip(CHATS, WORDS.values(), strict=True):
                events = await collect(engine, request(answer, await engine.encode_chat("tiny", chat), max_tokens=32))
                assert (text(events), reasons(events)) == (answer, {0: "stop"})
        finally:
            await engine.close()

    run(main)


def test_the_api_says_stop(trained: Path, tmp_path: Path) -> None:
    """Over HTTP, whole and streamed."""
    pytest.importorskip("fastapi", reason="the service's packages are not installed")
    from starlette.testclient import TestClient

    from wuya.web.app import create_app
    from wuya.web.settings import Settings

    engine = LocalEngine({"tiny": trained / "sft"}, dtype="float32", device="cpu")
    app = create_app(Settings(workspace=tmp_path), engine=engine, database=tmp_path / "wuya.db")
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        for chat, answer in zip(CHATS, WORDS.values(), strict=True):
            body = {"model": "tiny", "messages": chat, "max_tokens": 32, "temperature": 0}
            [choice] = client.post("/v1/chat/completions", json=body).json()["choices"]
            assert (choice["message"]["content"], choice["finish_reason"]) == (answer, "stop")
            lines = client.post("/v1/chat/completions", json=body | {"stream": True}).text.splitlines()
            events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
            pieces = [event["choices"][0] for event in events if event["choices"]]
            assert "".join(piece["delta"].get("content") or "" for piece in pieces) == answer
            assert pieces[-1]["finish_reason"] == "stop"


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="xllamacpp is not installed")
def test_llama_cpp_ends_there(trained: Path) -> None:
    path = trained / "exported.gguf"
    save_gguf(path, *load_checkpoint(trained / "sft"), precision="float32")  # type: ignore[arg-type]
    found = llama_cpp.chat_answers(str(path), CHATS)
    assert [(text, reason) for text, reason, _ in found] == [(answer, "stop") for answer in WORDS.values()]


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="xllamacpp is not installed")
def test_llama_cpp_uses_the_system_prompt_of_the_file(trained: Path) -> None:
    model, plain = load_checkpoint(trained / "sft")
    tokenizer = with_system_prompt(plain, 'Be "kind"\nand short.')
    save_gguf(trained / "kind.gguf", model, tokenizer, precision="float32")  # type: ignore[arg-type]
    [(_, _, count)] = llama_cpp.chat_answers(str(trained / "kind.gguf"), CHATS[:1])
    prompt = [Message("user", CHATS[0][0]["content"])]
    assert count == len(encode_prompt(tokenizer, prompt)) > len(encode_prompt(plain, prompt))
