"""What our interface costs a backend: OpenVINO GenAI through `LocalEngine` against the same pipeline driven directly.

    python -m benchmarks.backend model.gguf --streams 1 8 32 --tokens 64

Both sides ask the one loaded pipeline for the same greedy tokens: ours as streams of events read by an event loop (with
text, stop rules, counts), the peer with `add_request`, `step` and `read` alone. The token ids must be equal.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any

import numpy as np
import openvino
import openvino_genai as genai
import torch

from benchmarks.common import alternate, finish, parser_of, row_of
from wuya.inference.backends.local import LocalEngine
from wuya.inference.backends.protocol import Delta, GenerationParams, GenerationRequest

TEXT = "Tell me how the river finds the sea, what it carries there, and what the sea gives back. "


def main() -> None:
    """Load once, then ours and the library alone in turn at each number of streams."""
    parser = parser_of(__doc__)
    parser.add_argument("model", help="a .gguf file")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    engine = LocalEngine({"model": arguments.model}, library="openvino", slots=max(arguments.streams))
    loop = asyncio.new_event_loop()
    call = loop.run_until_complete
    call(engine.start())
    rows = []
    try:
        for streams in arguments.streams:
            prompts = [call(engine.tokenize("model", f"{number}. {TEXT}"))[:32] for number in range(streams)]
            kept: dict[str, list[list[int]]] = {}

            def ours(prompts: Any = prompts, kept: Any = kept) -> None:
                kept["ours"] = call(through(engine, prompts, arguments.tokens))

            def alone(prompts: Any = prompts, kept: Any = kept) -> None:
                pipeline: Any = engine._models["model"]._pipeline  # type: ignore[attr-defined]
                work = engine._call(lambda: directly(pipeline, prompts, arguments.tokens))  # in the engine's thread
                kept["alone"] = call(work)

            rounds = alternate({"ours": ours, "OpenVINO GenAI alone": alone}, pairs=arguments.pairs)
            assert kept["ours"] == kept["alone"], "both sides must say the same"
            work = f"decode through a backend, {streams} streams"
            row = row_of(work, rounds, amount=streams * arguments.tokens, unit="tokens/s", target=0.95,
                         checks={"equal token ids": True})  # fmt: skip
            rows.append(row)
    finally:
        call(engine.close())
    finish("backend", rows, arguments, packages=("openvino-genai",))


async def through(engine: LocalEngine, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """The ids of all streams, read as events."""
    params = GenerationParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)

    async def one(number: int, prompt: list[int]) -> list[int]:
        request = GenerationRequest(job=str(number), model="model", prompt_ids=tuple(prompt), params=params)
        async with aclosing(engine.submit(request)) as events:
            return [id async for event in events if isinstance(event, Delta) for id in event.token_ids]

    work: list[Coroutine[Any, Any, list[int]]] = [one(number, prompt) for number, prompt in enumerate(prompts)]
    return list(await asyncio.gather(*work))


def directly(pipeline: Any, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """The ids of all streams, by the library's own calls."""
    config = genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos = tokens, True
    tensors = [openvino.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
    handles = [pipeline.add_request(number, tensor, config) for number, tensor in enumerate(tensors)]
    found: list[list[int]] = [[] for _ in handles]
    while pipeline.has_non_finished_requests():
        pipeline.step()
        for ids, handle in zip(found, handles, strict=True):
            if handle.can_read():
                for output in handle.read().values():
                    ids += output.generated_ids
    return found


if __name__ == "__main__":
    main()
