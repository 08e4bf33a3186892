"""The table of model families in docs/guides/model-families.md, made by trying every cell on a random tiny model.

python -m tests.checkpoints.family_table     # write it

A mark means that the thing was done and gave what it must: the logits of transformers within 1e-4 (import, export), a
lower loss with and without LoRA (train), the tokens of a full forward (serve), the model itself from its file (GGUF).
"""

import asyncio
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from tests.inference.backends.helpers import collect, ids, request, running_many
from tests.models.architectures import ARCHITECTURES, IN_LLAMA_CPP, random_ids, random_model
from tests.models.wrapped_zoo import random_wrapped
from wuya.checkpoints.checkpoint import load_model, save_checkpoint
from wuya.checkpoints.gguf_writer import save_gguf
from wuya.errors import ConfigError, UnsupportedModel
from wuya.inference.native_decode import native_decode
from wuya.models.config import GPTConfig
from wuya.models.decoder import Decoder, require_own
from wuya.models.gpt import GPT
from wuya.models.lora import add_lora
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "model-families.md"
BEGIN, END = "<!-- written by tests/checkpoints/family_table.py -->\n", "<!-- end -->\n"


@dataclass(frozen=True)
class Row:
    """A family with examples of published models."""

    family: str
    examples: str
    config: GPTConfig | str
    """Of a random model; a name of the zoo for those that run through transformers."""


ROWS = (
    Row("OpenAIGPT", "GPT-1", ARCHITECTURES["gpt1"]),
    Row("GPT2", "GPT-2, DistilGPT-2", ARCHITECTURES["gpt2"]),
    Row("Llama", "SmolLM2, TinyLlama, Llama 2", ARCHITECTURES["llama"]),
    Row("Llama, rescaled positions", "Llama 3.1, 3.2, 3.3", ARCHITECTURES["llama3"]),
    Row("Mistral", "Mistral 7B v0.2, v0.3", IN_LLAMA_CPP["mistral-full"]),
    Row("Mistral, sliding window", "Mistral 7B v0.1", ARCHITECTURES["mistral"]),
    Row("Qwen2", "Qwen2, Qwen2.5", ARCHITECTURES["qwen2"]),
    Row("Qwen3", "Qwen3 (dense), wuya's own presets", ARCHITECTURES["qwen3"]),
    Row("Gemma3 (text)", "Gemma 3 270M, 1B", IN_LLAMA_CPP["gemma3"]),
    Row("Phi3", "Phi-3.5-mini, Phi-4-mini", IN_LLAMA_CPP["phi3"]),
    Row("Phi3, sliding window", "Phi-3-mini-4k", ARCHITECTURES["phi3"]),
    Row("Olmo2", "OLMo 2 1B to 32B", IN_LLAMA_CPP["olmo2"]),
    Row("SmolLM3", "SmolLM3 3B", IN_LLAMA_CPP["smollm3"]),
    Row("any other, by `transformers`", "Gemma 2, Falcon, Qwen3-MoE, Mixtral, ...", "gemma2"),
)
COLUMNS = ("import", "train", "decode in C++", "export HF", "export GGUF", "serve")


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() < 1e-4)


@torch.no_grad()
def logits(model: Decoder, ids_BT: Tensor) -> Tensor:
    return model.logits(model(ids_BT))


def exports(folder: Path, model: Decoder, ids_BT: Tensor) -> bool:
    """transformers computes the same from our folder."""
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return close(theirs(ids_BT).logits, logits(model, ids_BT))


def imports(folder: Path, model: Decoder, ids_BT: Tensor) -> bool:
    """We compute the same from a folder that transformers wrote."""
    again = folder.with_name(f"{folder.name}-theirs")
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(again)
    return close(logits(load_model(again).eval(), ids_BT), logits(model, ids_BT))


def trains(folder: Path, ids_BT: Tensor) -> bool:
    """Three steps lower the loss, of all weights and of an adapter."""
    for adapted in (False, True):
        model = load_model(folder).train()
        if adapted:
            add_lora(model, rank=2, alpha=4)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
        losses = []
        for _ in range(4):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(
                model.logits(model(ids_BT))[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten()
            )
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        if not losses[-1] < losses[0]:
            return False
    return True


def exports_gguf(file: Path, model: Decoder, tokenizer: Tokenizer, ids_BT: Tensor) -> bool:
    """Refused, or the model itself comes back; tests/checkpoints/test_gguf_writer.py compares with llama.cpp."""
    from wuya.checkpoints.gguf import load_gguf

    try:
        save_gguf(file, require_own(model, "GGUF"), tokenizer, precision="float32")
    except (ConfigError, UnsupportedModel):
        return False
    size = tokenizer.vocab_size  # rows beyond it are not written
    ids_BT = ids_BT % size
    assert close(logits(load_gguf(file)[0].eval(), ids_BT), logits(model, ids_BT)[..., :size])
    return True


@torch.no_grad()
def greedy(model: Decoder, prompt: list[int], count: int, vocabulary: int) -> list[int]:
    """One full forward per token, over the tokens that the tokenizer knows."""
    made = list(prompt)
    for _ in range(count):
        made.append(int(model.logits(model(torch.tensor([made]))[0, -1])[:vocabulary].argmax()))
    return made[len(prompt) :]


def served(folders: dict[str, Path], vocabulary: int) -> dict[str, bool]:
    """One engine hosts them all, and says what a full forward says."""
    prompt = [5, 6, 7, 8, 9]

    async def main() -> dict[str, bool]:
        answers = {}
        async with running_many(folders) as engine:
            for name, folder in folders.items():
                wanted = greedy(load_model(folder).eval(), prompt, 12, vocabulary)
                settings = {"max_tokens": 12, "ignore_eos": True}
                answers[name] = ids(await collect(engine, request(name, prompt, model=name, **settings))) == wanted
        return answers

    return asyncio.run(asyncio.wait_for(main(), 300))


def tried(folder: Path) -> Iterator[tuple[Row, dict[str, bool]]]:
    """Every row with what it can do."""
    tokenizer = train_tokenizer(["the quick brown fox jumps over the lazy dog. " * 3], vocab_size=290)
    folders, rows = {}, []
    for number, row in enumerate(ROWS):
        place = folders[f"m{number}"] = folder / f"m{number}"
        if isinstance(row.config, str):
            random_wrapped(row.config, vocab_size=300).save_pretrained(place)
            tokenizer.save(place)
            model: Decoder = load_model(place).eval()
        else:
            model = random_model(row.config)
            save_checkpoint(place, model, tokenizer)
        ids_BT = random_ids(model.config, 2, 40)
        native = native_decode(model.requires_grad_(False)) is not None if isinstance(model, GPT) else False
        cells = {
            "import": imports(place, model, ids_BT), "train": trains(place, ids_BT), "decode in C++": native,
            "export HF": exports(place, model, ids_BT),
            "export GGUF": exports_gguf(folder / f"{number}.gguf", model, tokenizer, ids_BT),
        }  # fmt: skip
        rows.append((row, cells))
    answers = served(folders, tokenizer.vocab_size)
    for number, (row, cells) in enumerate(rows):
        yield row, cells | {"serve": answers[f"m{number}"]}


def table(folder: Path) -> str:
    """The table in Markdown."""
    head = f"| family | for example | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 2)}\n"
    lines = []
    for row, cells in tried(folder):
        marks = " | ".join("yes" if cells[column] else "no" for column in COLUMNS)
        lines.append(f"| {row.family} | {row.examples} | {marks} |\n")
    return head + "".join(lines)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        made = table(Path(temporary))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + made + END + rest.partition(END)[2], encoding="utf-8")
