"""The routes of `/v1`: parse, call, serialise."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse
from starlette.requests import Request
from starlette.responses import Response

from wuya.database.connection import writing
from wuya.inference.backends.protocol import ModelInfo
from wuya.web.accounts.auth import ME
from wuya.web.accounts.store import ensure_single_user
from wuya.web.api import bodies, chat, completions, embeddings, manage, params, screening
from wuya.web.api.answering import ignored_header
from wuya.web.api.desk import Caller, Desk, caller_with, find_model
from wuya.web.api.refusals import V1Route
from wuya.web.api.schema import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    ModerationRequest,
    TokenizeRequest,
)
from wuya.web.service import Service, service_of
from wuya.web.traffic import models_of

v1 = APIRouter(prefix="/v1", tags=["v1"], route_class=V1Route, responses=bodies.REFUSALS)
At = Annotated[Service, Depends(service_of)]
STREAM = {"content": {"text/event-stream": {"example": 'data: {"choices": [...], ...}\n\ndata: [DONE]\n\n'}}}


@asynccontextmanager
async def lifespan(service: Service) -> AsyncIterator[None]:
    """Limits and usage, as long as the service runs."""
    desk = Desk(service)
    if not service.settings.accounts:
        with writing(service.database) as connection:
            desk.single_user_id = ensure_single_user(connection, ME)
    service.put(desk)
    service.on_shutdown.append(desk.say_goodbye)
    yield
    await desk.settle()


@v1.post("/chat/completions", response_model=bodies.ChatCompletion, responses={200: STREAM})
async def chat_completions(
    request: Request, service: At, caller: Annotated[Caller, Depends(caller_with("chat"))], body: ChatRequest
) -> Response:
    """Answer a chat; with `stream: true` as server-sent events, each a `ChatChunk`, then `[DONE]`."""
    return await chat.complete_chat(request, service, caller, body)


@v1.post("/completions", response_model=bodies.Completion, responses={200: STREAM})
async def text_completions(
    request: Request,
    service: At,
    caller: Annotated[Caller, Depends(caller_with("completions"))],
    body: CompletionRequest,
) -> Response:
    """Continue a text."""
    return await completions.complete(request, service, caller, body)


@v1.post("/embeddings", response_model=bodies.EmbeddingList)
async def create_embeddings(
    request: Request, service: At, caller: Annotated[Caller, Depends(caller_with("embeddings"))], body: EmbeddingRequest
) -> Response:
    """Vectors of texts."""
    return await embeddings.embed(request, service, caller, body)


@v1.post("/moderations", response_model=bodies.Moderation)
async def moderations(
    service: At, caller: Annotated[Caller, Depends(caller_with("moderations"))], body: ModerationRequest
) -> Response:
    """What this server's moderation rules say of texts; the rules are the categories."""
    return JSONResponse(await screening.moderate(service, body), headers=ignored_header(body))


@v1.get("/models", response_model=bodies.ModelList)
async def list_models(service: At, caller: Annotated[Caller, Depends(caller_with(""))]) -> Response:
    """Every model that the key may use."""
    models = [model for model in models_of(service.engine) if caller.may_use(model.alias)]
    return JSONResponse({"object": "list", "data": [_model(model) for model in models]})


@v1.get("/models/{model:path}", response_model=bodies.Model)
async def get_model(service: At, caller: Annotated[Caller, Depends(caller_with(""))], model: str) -> Response:
    """One model."""
    return JSONResponse(_model(find_model(service, caller, model)))


@v1.post("/tokenize", response_model=bodies.Tokens)
async def tokenize(service: At, caller: Annotated[Caller, Depends(caller_with(""))], body: TokenizeRequest) -> Response:
    """Ids of a text, or of a chat in the model's template."""
    model = find_model(service, caller, body.model)
    if body.messages is not None:
        tools = params.engine_tools(body.tools or ())
        ids = await service.engine.encode_chat(model.alias, params.engine_messages(body.messages), tools=tools)
    else:
        ids = await service.engine.tokenize(model.alias, body.prompt or "")
    found = {"tokens": ids, "count": len(ids), "max_model_len": model.context_length}
    return JSONResponse(found, headers=ignored_header(body))


@v1.post("/detokenize", response_model=bodies.DetokenizedText)
async def detokenize(
    service: At, caller: Annotated[Caller, Depends(caller_with(""))], body: DetokenizeRequest
) -> Response:
    """Text of ids; special tokens are left out."""
    model = find_model(service, caller, body.model)
    text = await service.engine.decode(model.alias, body.tokens)
    return JSONResponse({"prompt": text}, headers=ignored_header(body))


router = APIRouter()
router.include_router(v1)
router.include_router(manage.router)


def _model(model: ModelInfo) -> dict[str, Any]:
    has = {"chat": model.has_chat, "completions": True, "embeddings": model.has_embeddings, "tools": model.has_tools}
    return {
        "id": model.alias,
        "object": "model",
        "created": model.created,
        "owned_by": "wuya",
        "context_length": model.context_length,
        "capabilities": [name for name, it_has in has.items() if it_has],
    }
