"""`POST /v1/embeddings`: the mean of the last hidden states, as floats or as base64 (the Python client's default)."""

import base64
import math
import struct
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wuya.inference.backends.protocol import ModelInfo
from wuya.web.api import refusals
from wuya.web.api.answering import ignored_header
from wuya.web.api.desk import Caller, Desk, find_model
from wuya.web.api.jobs import Usage, unless_client_leaves
from wuya.web.api.schema import EmbeddingRequest
from wuya.web.service import Service


async def embed(request: Request, service: Service, caller: Caller, body: EmbeddingRequest) -> Response:
    """One vector an input, in their order."""
    model = find_model(service, caller, body.model)
    inputs = await _read_inputs(service, model, body)
    num_tokens = sum(map(len, inputs))
    ticket = await service.get(Desk).admit(caller, model, prompt_tokens=num_tokens, max_tokens=0)
    try:
        vectors = await unless_client_leaves(request, service.engine.embed(model.alias, inputs))
        ticket.usage = Usage(prompt_tokens=num_tokens)
    finally:
        ticket.close()
    if body.dimensions is not None:
        vectors = [_shortened(vector, body.dimensions) for vector in vectors]
    packed = body.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if packed else list(vector)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    answer: dict[str, Any] = {"object": "list", "data": data, "model": model.alias, "usage": usage}
    return JSONResponse(answer, headers=ticket.headers | ignored_header(body))


async def _read_inputs(service: Service, model: ModelInfo, body: EmbeddingRequest) -> list[list[int]]:
    given: list[Any] = [body.input] if isinstance(body.input, str) else list(body.input)
    if isinstance(given[0], int):
        given = [given]
    inputs = [await service.engine.tokenize(model.alias, i) if isinstance(i, str) else list(i) for i in given]
    for number, ids in enumerate(inputs):
        if not ids:
            raise refusals.invalid_value("an input needs at least one token", f"input[{number}]")
        if len(ids) > model.context_length:
            raise refusals.context_too_long(len(ids), 0, model.context_length, param="input")
    return inputs


def _shortened(vector: Sequence[float], dimensions: int) -> list[float]:
    """The first coordinates, at length one again."""
    if dimensions > len(vector):
        raise refusals.invalid_value(f"this model's embeddings have {len(vector)} dimensions", "dimensions")
    norm = math.sqrt(sum(x * x for x in vector[:dimensions])) or 1.0
    return [x / norm for x in vector[:dimensions]]


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
