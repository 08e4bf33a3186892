"""What is fuzzed: each target writes one damaged input and reads it as a command would.

An input is a target's name and a number, so `python -m tests.fuzz --only gguf:123` repeats it. A target ends quietly or
with a `WuyaError`; anything else is a fault of ours.
"""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch

from tests.fuzz import mutate, service
from tests.models.architectures import IN_LLAMA_CPP, random_model
from wuya.checkpoints.checkpoint import load_any, load_checkpoint, save_checkpoint
from wuya.checkpoints.gguf_writer import save_gguf
from wuya.checkpoints.lora_files import load_adapter, save_adapter
from wuya.data.formats import read_comparisons, read_demonstrations, read_prompts, read_rankings
from wuya.data.ratings import read_ratings
from wuya.data.shards import TokenShards, write_shards
from wuya.errors import WuyaError
from wuya.files import BadRows
from wuya.inference.engine import Engine
from wuya.inference.sampling import SamplingParams
from wuya.models.decoder import Decoder
from wuya.models.lora import add_lora
from wuya.models.reward_model import ScalarModel
from wuya.records import Message
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer
from wuya.tokenizer.chat_format import encode_demonstration, encode_prompt
from wuya.tokenizer.rendering import render
from wuya.training.metrics import METRICS
from wuya.training.report import write_report
from wuya.web.runs.folders import RunFolders

TEXT = "The river runs to the sea, 1234 times. caf\u00e9 \u68af\u5ea6"
CHAT = (Message("system", "Be kind."), Message("user", "hi"), Message("assistant", "hello"), Message("user", "bye"))
FAMILIES = ("qwen3", "llama", "gpt2")


@dataclass(frozen=True)
class Target:
    """One kind of input."""

    name: str
    share: int
    """Its weight among the targets."""
    try_one: Callable[[Path, random.Random], object]
    """(an empty folder, what to draw from) -> writes an input there and reads it."""


def run_one(target: Target, number: int) -> str:
    """Try one input; returns how it was refused, empty when it was read. Raises whatever is a fault."""
    folder = Path(mkdtemp(prefix="wuya-fuzz-"))
    try:
        target.try_one(folder, random.Random(f"{target.name}:{number}"))
    except WuyaError as error:
        return str(error) or "refused without words"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return ""


# -- what is damaged: made once, copied for each input -----------------------------------------------------------------


@cache
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT * 3], vocab_size=300)


@cache
def seeds() -> Path:
    """Whole inputs of every kind, in one folder that the process keeps."""
    root = Path(mkdtemp(prefix="wuya-fuzz-seeds-"))
    torch.manual_seed(0)
    for name in FAMILIES:
        model = random_model(IN_LLAMA_CPP[name])
        save_checkpoint(root / name, model, tokenizer(), recipe="fuzz")
        save_gguf(root / f"{name}.gguf", model, tokenizer(), precision="float32")
    save_checkpoint(root / "scalar", ScalarModel(random_model(IN_LLAMA_CPP["qwen3"])), tokenizer(), recipe="fuzz")
    adapted = random_model(IN_LLAMA_CPP["qwen3"])
    add_lora(adapted, rank=2, alpha=4.0)
    save_adapter(root / "adapter", adapted, "default")
    write_shards(root / "shards", [np.arange(200)], vocab_size=tokenizer().vocab_size)
    for listed in root.rglob("checksums.json"):
        listed.unlink()  # a list of digests would refuse every change before it is read
    _write_run(root / "run")
    return root


def _write_run(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.yaml").write_text("num_steps: 3\nlearning_rate: 0.001\npolicy: runs/sft\n")
    rows = [{"step": n, "time": 1000.0 + n, "loss": 1.0 / n, "eval/score": 0.1, "accuracy": 0.5} for n in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = [{"step": n, "prompt": "a", "completion": "b", "score": 0.5} for n in (1, 2)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    (folder / "wuya.json").write_text(json.dumps({"recipe": "sft", "git_sha": "abc"}))


# -- models and tokenizers ---------------------------------------------------------------------------------------------


def checkpoint(folder: Path, rng: random.Random) -> None:
    """A checkpoint folder, ours or a scalar one, with one file damaged."""
    place = folder / "model"
    shutil.copytree(seeds() / rng.choice((*FAMILIES, "scalar")), place)
    names = sorted(file.name for file in place.iterdir() if file.is_file())
    name = rng.choice((*names, "config.json", "config.json", "tokenizer.json"))
    _damage(place / name, rng)
    if rng.random() < 0.1:
        _index(place, rng)
    use(*load_any(place))


def gguf(folder: Path, rng: random.Random) -> None:
    """A GGUF file, mostly with a damaged header."""
    data = (seeds() / f"{rng.choice(FAMILIES)}.gguf").read_bytes()
    header = data.find(b"blk.0.")
    path = folder / "model.gguf"
    path.write_bytes(mutate.some_bytes(data, rng, within=header if rng.random() < 0.85 else None))
    use(*load_checkpoint(path))


def adapter(folder: Path, rng: random.Random) -> None:
    """A LoRA adapter in PEFT's layout."""
    place = folder / "adapter"
    shutil.copytree(seeds() / "adapter", place)
    _damage(rng.choice(sorted(file for file in place.iterdir() if file.is_file())), rng)
    load_adapter(random_model(IN_LLAMA_CPP["qwen3"]), place)


def _damage(file: Path, rng: random.Random) -> None:
    if rng.random() < 0.02:
        file.unlink()
    elif file.suffix == ".json":
        file.write_bytes(mutate.json_text(json.loads(file.read_text(encoding="utf-8")), rng))
    elif file.suffix == ".safetensors" and rng.random() < 0.5:
        data = file.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = mutate.json_text(json.loads(data[8 : 8 + size]), rng)
        file.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
    else:
        file.write_bytes(mutate.some_bytes(file.read_bytes(), rng))


def _index(place: Path, rng: random.Random) -> None:
    """An index of shards that names files elsewhere, or none."""
    names = ("../model.safetensors", "/etc/passwd", "model.safetensors", "gone.safetensors", "..", "", 3, None)
    weights = {"model.embed_tokens.weight": rng.choice(names), "model.norm.weight": rng.choice(names)}
    text = json.dumps({"metadata": {}, "weight_map": weights})
    (place / "model.safetensors.index.json").write_text(text)
    if rng.random() < 0.7:
        (place / "model.safetensors").rename(place.parent / "model.safetensors")


def use(model: Decoder | ScalarModel, its: Tokenizer) -> None:
    """What a command does with a model: render a chat, answer it, learn its layout."""
    ids = encode_prompt(its, CHAT)
    encode_demonstration(its, CHAT[:3])
    its.decode(ids)
    if isinstance(model, ScalarModel):
        with torch.no_grad():
            model.eval()(torch.tensor([ids[:16]]))
        return
    for temperature in (0.0, 1.0):
        Engine(model.eval(), its).generate([ids[:16]], SamplingParams(max_tokens=2, temperature=temperature))


def template(folder: Path, rng: random.Random) -> None:
    """A chat template made of pieces that parse, loop, explode or are undefined."""
    pieces = (
        "{{ bos_token }}", "{% for m in messages %}", "{% endfor %}", "{{ m.content }}", "{{ m['role'] }}",
        "{{ x.y.z }}",
        "{% if add_generation_prompt %}", "{% endif %}", "{{ raise_exception('no') }}", "{{ messages | tojson }}",
        "{{ messages[9].content }}", "{{ messages[0] }}", "{% set ns = namespace(i=0) %}", "{% set ns.i = ns.i + 1 %}",
        "{{ 'a' * 1000 }}", "{{ 'a' * 10**9 }}", "{{ 1 / 0 }}", "{{ messages | map(attribute='content') | join(' ') }}",
        "{{ m.content | trim }}", "{{ m.content.split('x')[-1] }}", "{{ f(1) }}",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}",
        "{{ strftime_now('%d') }}", "{{ ''.__class__ }}", "{{ self }}", "{{ cycler }}", "{{ range(10**9) | list }}",
        "{% include 'a' %}", "{% generation %}", "{% endgeneration %}", "{{ '%s' % m }}", "{{ m.content[::-1] }}",
        "{% for a in range(9) %}", "{{ loop.index0 }}", "{% break %}", "\ud800", "\x00", "{#", "#}", "{{", "%}",
    )  # fmt: skip
    text = "".join(rng.choice(pieces) for _ in range(rng.randint(1, 12)))
    rows = [{"role": message.role, "content": message.content} for message in CHAT]
    rows = mutate.json_value(rows, rng) if rng.random() < 0.2 else rows
    if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
        render(text, rows, add_generation_prompt=rng.random() < 0.5, variables={"bos_token": "<s>"})


# -- rows --------------------------------------------------------------------------------------------------------------

ROWS: tuple[Any, ...] = (
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo", "weight": 1}]},
    {"prompt": "hi", "completion": "yo", "id": "a"},
    {"instruction": "add", "input": "1 2", "output": "3", "history": [["a", "b"]], "system": "s"},
    {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]},
    {"prompt": "hi", "chosen": "yo", "rejected": "no"},
    {"chosen": "\n\nHuman: hi\n\nAssistant: yo", "rejected": "\n\nHuman: hi\n\nAssistant: no"},
    {"prompt": "hi", "candidates": [{"text": "a"}, {"text": "b"}], "ranks": [1, 2], "labeler": "ann"},
    {"prompt": [{"role": "user", "content": "hi"}], "completion": "yo", "label": True},
    {"question": {"full_text": "why", "dataset": "eli5"}, "answer_0": "a", "answer_1": "b", "score_0": 0.5,
     "score_1": -0.5},
    {"instruction": "hi",
     "completions": [{"response": "a", "overall_score": 7.0}, {"response": "b", "overall_score": 3.0}]},
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None, "tool_calls": [
        {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "4"}, {"role": "assistant", "content": "four"}],
     "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]},
)  # fmt: skip
READERS: tuple[Callable[[Path, BadRows], Any], ...] = (
    read_demonstrations, read_prompts, read_comparisons, read_rankings, read_ratings,
)  # fmt: skip


def rows(folder: Path, rng: random.Random) -> None:
    """A JSON-lines file of any form, through every reader; what is read is rendered."""
    lines = [mutate.json_text(rng.choice(ROWS), rng) if rng.random() < 0.6 else json.dumps(rng.choice(ROWS)).encode()
             for _ in range(rng.randint(1, 4))]  # fmt: skip
    path = folder / rng.choice(("rows.jsonl", "rows.json"))
    path.write_bytes(b"\n".join(lines) if path.suffix == ".jsonl" else b"[" + b",".join(lines) + b"]")
    _read_all(path, rng)


def parquet(folder: Path, rng: random.Random) -> None:
    """A parquet file with other columns, types and nulls, or damaged bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = [rng.choice(ROWS) for _ in range(rng.randint(1, 4))]
    made = [mutate.json_value(row, rng) if rng.random() < 0.5 else row for row in made]
    try:
        table = pa.Table.from_pylist([row for row in made if isinstance(row, dict)] or [{"a": 1}])
        pq.write_table(table, folder / "rows.parquet")
    except (pa.ArrowException, ValueError, TypeError, OverflowError, UnicodeError):
        return  # no such table can be written
    if rng.random() < 0.4:
        data = (folder / "rows.parquet").read_bytes()
        (folder / "rows.parquet").write_bytes(mutate.some_bytes(data, rng))
    _read_all(folder / "rows.parquet", rng)


def _read_all(path: Path, rng: random.Random) -> None:
    refused: list[WuyaError] = []
    for read in READERS:
        try:
            for found in read(path, BadRows()):
                if read is read_demonstrations:
                    encode_demonstration(tokenizer(), found)
                elif read is read_prompts:
                    encode_prompt(tokenizer(), found)
        except WuyaError as error:
            refused.append(error)
    if len(refused) == len(READERS):
        raise refused[0]


def shards(folder: Path, rng: random.Random) -> None:
    """Token shards: manifest and ids."""
    place = folder / "shards"
    shutil.copytree(seeds() / "shards", place)
    _damage(rng.choice(sorted(file for file in place.iterdir() if file.is_file())), rng)
    found = TokenShards(place)
    found.check_tokenizer(tokenizer())
    found.window(0, min(len(found), 32))
    found.verify()


def run_folder(folder: Path, rng: random.Random) -> None:
    """A run's files, as its report and the runs pages read them."""
    place = folder / "run"
    shutil.copytree(seeds() / "run", place)
    for _ in range(rng.choice((1, 1, 2))):
        file = rng.choice(sorted(place.iterdir()))
        if file.suffix == ".jsonl":
            lines = file.read_bytes().splitlines()
            at = rng.randrange(len(lines))
            lines[at] = mutate.json_text(json.loads(lines[at]), rng) if lines[at].startswith(b"{") else b"{}"
            file.write_bytes(b"\n".join(lines) + b"\n")
        elif rng.random() < 0.3:
            bomb = b"a: &a [1,2,3,4,5,6,7,8,9]\n" + b"".join(
                b"%c: &%c [%s]\n" % (98 + n, 98 + n, b",".join([b"*%c" % (97 + n)] * 9)) for n in range(8)
            )
            file.write_bytes(bomb)
        else:
            file.write_bytes(mutate.some_bytes(file.read_bytes(), rng))
    found = RunFolders(folder)
    for id in found.ids():
        json.dumps(found.summary(id), allow_nan=False)
        found.rows(id, "samples.jsonl")
        found.checkpoints(id)
    write_report(place, METRICS)


def config(folder: Path, rng: random.Random) -> None:
    """`--config FILE` of a command."""
    from wuya.config import parse_config
    from wuya.recipes.sft import SFTConfig

    values = {"base": "b", "demonstrations": "d.jsonl", "out": "o", "learning_rate": 1e-5, "epochs": 2.0, "seed": 1}
    path = folder / "sft.yaml"
    path.write_bytes(mutate.json_text(values, rng))
    parse_config(SFTConfig, ["--config", str(path)], "wuya sft")


TARGETS = (
    Target("checkpoint", 26, checkpoint), Target("gguf", 18, gguf), Target("adapter", 4, adapter),
    Target("template", 5, template), Target("rows", 25, rows), Target("parquet", 8, parquet),
    Target("shards", 5, shards), Target("run_folder", 6, run_folder), Target("config", 3, config),
    Target("api", 40, service.api), Target("v1", 15, service.v1), Target("imports", 15, service.imports),
)  # fmt: skip
