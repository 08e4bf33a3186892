"""What our interface costs llama-server: streams through `UpstreamEngine` against the same server read directly.

    python -m benchmarks.backend_llama model-q8_0.gguf --streams 8 --tokens 64

Both sides ask one running llama-server for the same greedy chats: ours as streams of events, the peer with the small
asyncio client of `benchmarks/serve.py`, which only decodes JSON. The texts must be equal.
"""

import asyncio
import time
from contextlib import aclosing
from typing import Any

from benchmarks.common import alternate, finish, parser_of, row_of
from benchmarks.llama import LlamaServer
from benchmarks.serve import events
from wuya.inference.backends.protocol import Delta, GenerationParams, GenerationRequest
from wuya.inference.backends.upstream import UpstreamEngine

TEXT = "Tell me how the river finds the sea, what it carries there, and what the sea gives back."


def main() -> None:
    """One server, both readers in turn; writes backend_llama.json."""
    parser = parser_of(__doc__)
    parser.add_argument("model", help="a .gguf file")
    parser.add_argument("--streams", type=int, nargs="+", default=[8])
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    server = LlamaServer(arguments.model, threads=arguments.threads, slots=max(arguments.streams), context_length=512)
    loop = asyncio.new_event_loop()
    call = loop.run_until_complete
    rows = []
    try:
        engine = UpstreamEngine(f"{server.url}/v1", slots=max(arguments.streams))
        call(engine.start())
        model = engine.info().models[0].alias
        for streams in arguments.streams:
            chats = [[{"role": "user", "content": f"{number}. {TEXT}"}] for number in range(streams)]
            prompts = [call(engine.encode_chat(model, chat)) for chat in chats]
            kept: dict[str, list[str]] = {}

            def ours(prompts: Any = prompts, kept: Any = kept) -> dict[str, float]:
                before = server.cpu_seconds() + time.process_time()
                kept["ours"] = call(through(engine, model, prompts, arguments.tokens))
                return {"cpu": server.cpu_seconds() + time.process_time() - before}

            def alone(chats: Any = chats, kept: Any = kept) -> dict[str, float]:
                before = server.cpu_seconds() + time.process_time()
                kept["alone"] = call(directly(server.url, model, chats, arguments.tokens))
                return {"cpu": server.cpu_seconds() + time.process_time() - before}

            rounds = alternate({"ours": ours, "llama-server alone": alone}, pairs=arguments.pairs)
            same = sum(a == b for a, b in zip(kept["ours"], kept["alone"], strict=True)) / streams
            rows.append(row_of(
                f"decode through a backend, llama-server, {streams} streams", rounds, amount=streams * arguments.tokens,
                unit="tokens/s", target=0.95, checks={"equal texts": same},
            ))  # fmt: skip
        call(engine.close())
    finally:
        server.close()
    finish("backend_llama", rows, arguments, versions=server.versions)


async def through(engine: UpstreamEngine, model: str, prompts: list[list[int]], tokens: int) -> list[str]:
    """The texts of all streams, read as events."""
    params = GenerationParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)

    async def one(number: int, prompt: list[int]) -> str:
        request = GenerationRequest(job=str(number), model=model, prompt_ids=tuple(prompt), params=params)
        async with aclosing(engine.submit(request)) as found:
            return "".join([event.text async for event in found if isinstance(event, Delta)])

    return list(await asyncio.gather(*(one(number, prompt) for number, prompt in enumerate(prompts))))


async def directly(url: str, model: str, chats: list[list[dict[str, str]]], tokens: int) -> list[str]:
    """The texts of all streams, by the server's own API."""

    async def one(chat: list[dict[str, str]]) -> str:
        body = {"model": model, "messages": chat, "stream": True, "max_tokens": tokens, "temperature": 0.0,
                "ignore_eos": True}  # fmt: skip
        async with aclosing(events(url, body, "none")) as found:
            chunks = [choice["delta"].get("content") or "" async for event in found for choice in event["choices"]]
        return "".join(chunks)

    return list(await asyncio.gather(*(one(chat) for chat in chats)))


if __name__ == "__main__":
    main()
