"""How tokens a second of the engine grow: with batch, history, answers a prompt, model size and processes.

    python -m benchmarks.scaling                        # four minutes on one slow core; --processes 1 2 wants two
    python -m benchmarks.scaling --curves batch size    # some of the curves

Random weights of the modern architecture in float32, greedy, one thread a process. Beside each curve what the machine
could do: the planner's figure (weights and keys and values once through memory a step, `planner.decoder_bytes`), or
that of matrix products where those are slower. No peer. Draws docs/scaling.svg.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.common import Rounds, Row, finish, gemm_gflops, memory_gb_per_second, parser_of, row_of
from benchmarks.generate import random_prompts
from wuya.inference.engine import Engine
from wuya.inference.sampling import SamplingParams
from wuya.models.config import GPTConfig
from wuya.models.gpt import GPT
from wuya.models.presets import modern, preset
from wuya.planning.planner import decoder_bytes, kv_cache_bytes
from wuya.training.svg import HEIGHT, WIDTH, line_plot

PICTURE = Path(__file__).parents[1] / "docs" / "scaling.svg"
SIZES = {1: (4, 128, 2048), 4: (4, 256, 4096), 12: (6, 384, 4096), 30: (8, 512, 8192)}
"""Millions of parameters, about: layers, width, vocabulary; the largest is SmolLM2-135M's shape."""
Points = dict[float, tuple[float, float]]
"""x -> tokens a second: ours, and the limit."""


def main() -> None:
    """Measure the curves, write scaling.json, draw."""
    parser = parser_of(__doc__, pairs=3)
    parser.add_argument("--curves", nargs="+", choices=tuple(CURVES), default=[*CURVES])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--new_tokens", type=int, default=24)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.gemm, arguments.memory = gemm_gflops() * 1e9, memory_gb_per_second() * 1e9
    rows, plots = [], []
    for name in arguments.curves:
        title, xlabel, measure = CURVES[name]
        points = measure(arguments)
        rows.append(_row(title, xlabel, points))
        xs = list(points)
        curves = {label: (xs, [points[x][i] for x in xs]) for i, label in enumerate(("ours", "limit"))}
        plots.append(line_plot(f"{title}, tokens/s", curves, xlabel))
    finish("scaling", rows, arguments)
    arguments.picture.write_text(_side_by_side(plots))


def batch(arguments: argparse.Namespace) -> Points:
    """The demo's model, 32 tokens of prompt."""
    engine = _engine(preset("demo"))
    return {size: _measured(engine, size, 32, arguments) for size in (1, 2, 4, 8, 16, 32, 64)}


def history(arguments: argparse.Namespace) -> Points:
    """8 sequences, each with so many tokens before the first that is counted."""
    engine = _engine(preset("demo", context_length=2048))
    return {length: _measured(engine, 8, length, arguments) for length in (32, 128, 512, 1024, 1536)}


def answers(arguments: argparse.Namespace) -> Points:
    """4 prompts of 128 tokens, read once for all their answers; reading them is counted here."""
    engine = _engine(preset("demo"))
    return {k: _measured(engine, 4, 128, arguments, answers=k, read=True) for k in (1, 2, 4, 8, 16)}


def size(arguments: argparse.Namespace) -> Points:
    """8 sequences."""
    configs = {millions: modern(vocab_size=vocabulary, num_layers=layers, model_dim=width, context_length=256)
               for millions, (layers, width, vocabulary) in SIZES.items()}  # fmt: skip
    configs[135] = preset("smollm2-135m")
    return {config.num_parameters / 1e6: _measured(_engine(config), 8, 32, arguments) for config in configs.values()}


def processes(arguments: argparse.Namespace) -> Points:
    """As many engines at once, each with 32 sequences; the limit is that of one times their number."""
    points: Points = {}
    for count in arguments.processes:
        with get_context("spawn").Pool(count) as pool:
            found = pool.map(_one_process, [arguments] * count, chunksize=1)
        points[count] = sum(ours for ours, _ in found), sum(limit for _, limit in found)
    return points


CURVES: dict[str, tuple[str, str, Callable[[argparse.Namespace], Points]]] = {
    "batch": ("Decoding against batch", "sequences", batch),
    "history": ("Decoding against history", "tokens before", history),
    "answers": ("Sampling K answers, prompts read once", "K", answers),
    "size": ("Decoding against size", "millions of parameters", size),
    "processes": ("Decoding in several processes", "processes", processes),
}


def _one_process(arguments: argparse.Namespace) -> tuple[float, float]:
    torch.set_num_threads(1)
    return _measured(_engine(preset("demo")), 32, 32, arguments)


def _engine(config: GPTConfig) -> Engine:
    torch.manual_seed(0)
    return Engine(GPT(config).eval(), max_batch_size=512, max_cache_bytes=4 << 30)


def _measured(
    engine: Engine, count: int, prompt: int, arguments: argparse.Namespace, *, answers: int = 1, read: bool = False
) -> tuple[float, float]:
    """Tokens a second (median of some tries after one) and the limit; with `read` the prompts' time counts too."""
    config, new = engine.model.config, arguments.new_tokens
    prompts = random_prompts(count, prompt, config.vocab_size)
    sampling = SamplingParams(max_tokens=new + 1, seed=0)
    rates = []
    for _ in range(arguments.pairs + 1):
        times, tokens_then = [time.perf_counter()], [0]

        def seen(tokens: int, _: int, times: list[float] = times, tokens_then: list[int] = tokens_then) -> None:
            if read or len(times) > 1 or tokens == count * answers:  # from the step on in which all rows take part
                times.append(time.perf_counter())
                tokens_then.append(tokens)

        engine.generate(prompts, sampling, num_samples=answers, on_progress=seen)
        first = 0 if read else 1
        rates.append(sum(tokens_then[first + 1 :]) / (times[-1] - times[first]))
    rows, tokens = count * answers, new + (prompt / answers if read else 0)
    cache = kv_cache_bytes(config, length=prompt + new // 2, batch_size=rows)
    step = (decoder_bytes(config, "float32") + cache) / arguments.memory
    products = 2 * config.num_matmul_parameters * rows * tokens / new / arguments.gemm
    return statistics.median(rates[1:]), rows / max(step, products)


def _row(title: str, xlabel: str, points: Points) -> Row:
    text = "; ".join(f"{x:.3g}: {ours:,.0f} of {limit:,.0f}" for x, (ours, limit) in points.items())
    last, limit = list(points.values())[-1]
    rounds = Rounds({"ours": [1 / last]}, {"ours": [1 / last]}, {"ours": [{}]}, 0.0)
    return row_of(f"{title}, by {xlabel}: {text}", rounds, amount=1, unit="tokens/s",
                  limit={"share of the last limit": round(last / limit, 2)})  # fmt: skip


def _side_by_side(plots: list[str]) -> str:
    """One picture, two plots a line."""
    lines = -(-len(plots) // 2)
    placed = "".join(
        plot.replace("<svg ", f'<svg x="{index % 2 * WIDTH}" y="{index // 2 * HEIGHT}" ', 1)
        for index, plot in enumerate(plots)
    )
    size = f'width="{2 * WIDTH}" height="{lines * HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} color="#444">{placed}</svg>\n'


if __name__ == "__main__":
    main()
