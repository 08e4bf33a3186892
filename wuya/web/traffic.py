"""Which version answers a chat: the one that is live under an alias or, for its share of the chats, the canary.

    route = await traffic_of(service).route("ppo", chat_id)    # .engine_alias for the engine, .version_id to keep

A chat stays on its side: the hash of its id and the canary's decides, so a larger share only ever moves chats towards
the canary, and all web processes agree. The engine holds a canary as `ppo@canary`, a name that people never see.
`/v1` always answers with the live version: a program asks for one model, not for a lottery.
"""

import asyncio
import hashlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select

from wuya.database.connection import reading, writing
from wuya.database.labeling_tables import ModelAlias
from wuya.inference.backends.protocol import ModelInfo, ServingEngine, UnknownModel
from wuya.web import versions
from wuya.web.service import Service

CANARY = "@canary"
"""Behind an alias: what the engine calls its canary. No alias that people choose has an `@`."""
RELOAD_SECONDS = 2.0
"""A share that another web process changed is seen after so long."""


@dataclass(frozen=True, slots=True)
class Route:
    """Who answers."""

    alias: str
    """As people know it."""
    engine_alias: str
    """As the engine knows it."""
    version_id: str | None


@dataclass(frozen=True, slots=True)
class Share:
    """A canary and its part of the chats."""

    version_id: str
    percent: int

    def has(self, chat: str) -> bool:
        """Whether a chat is the canary's."""
        digest = hashlib.sha256(f"{self.version_id} {chat}".encode()).digest()
        return int.from_bytes(digest[:4]) % 100 < self.percent


def canary_of(alias: str) -> str:
    """What the engine calls an alias's canary."""
    return alias + CANARY


def without_canary(engine_alias: str) -> str:
    """The alias that people know."""
    return engine_alias.removesuffix(CANARY)


def models_of(engine: ServingEngine) -> list[ModelInfo]:
    """The engine's models without canaries: what one may ask for."""
    return [model for model in engine.info().models if not model.alias.endswith(CANARY)]


class Traffic:
    """The aliases' shares, and which version each loaded model is. Safe to use from several threads."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._shares: Mapping[str, Share] = {}
        self._loaded = -1e9
        self._versions: dict[tuple[str, str], str] = {}

    def reload(self) -> None:
        """Read the shares again at the next question."""
        self._loaded = -1e9

    async def route(self, alias: str, chat: str) -> Route:
        """Who answers this chat. Raises: UnknownModel."""
        return await asyncio.to_thread(self._route, alias, chat)

    def _route(self, alias: str, chat: str) -> Route:
        models = {model.alias: model for model in self._service.engine.info().models}
        if alias not in models or alias != without_canary(alias):
            raise UnknownModel(alias, [name for name in models if name == without_canary(name)])
        share, canary = self.shares().get(alias), models.get(canary_of(alias))
        chosen = canary if canary is not None and share is not None and share.has(chat) else models[alias]
        return Route(alias, chosen.alias, self.version_of(chosen))

    def shares(self) -> Mapping[str, Share]:
        """Canaries that get chats, by alias; a few seconds old at most."""
        if time.monotonic() - self._loaded > RELOAD_SECONDS:
            columns = (ModelAlias.alias, ModelAlias.canary_version_id, ModelAlias.canary_pct)
            with reading(self._service.database) as connection:
                rows = connection.execute(select(*columns).where(ModelAlias.canary_pct > 0)).all()
            self._shares = {alias: Share(id, percent) for alias, id, percent in rows if id}
            self._loaded = time.monotonic()
        return self._shares

    def version_of(self, model: ModelInfo) -> str:
        """The version of a loaded model, registered if it is new."""
        key = without_canary(model.alias), model.path
        with self._lock:
            if key not in self._versions:
                with writing(self._service.database) as connection:
                    id = versions.of_served(connection, *key)
                self._versions[key] = id  # once it is committed: on a full disk it is not
            return self._versions[key]


def traffic_of(service: Service) -> Traffic:
    """The service's traffic."""
    if Traffic not in service.parts:
        service.put(Traffic(service))
    return service.get(Traffic)
