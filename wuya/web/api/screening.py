"""Moderation of `/v1`: inputs before anything is generated, outputs while they grow, and `/v1/moderations`."""

import json
import secrets
from collections.abc import Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool

from wuya.web.api import refusals
from wuya.web.api.desk import Caller
from wuya.web.api.schema import ChatRequest, Content, Message, ModerationRequest, TextPart
from wuya.web.errors import ApiError
from wuya.web.moderation.moderator import Moderator, moderator_of
from wuya.web.service import Service


async def screen_chat(service: Service, caller: Caller, body: ChatRequest) -> None:
    """Refuse a chat whose texts a rule blocks. What is new since the last answer may also be flagged."""
    last = max((number for number, m in enumerate(body.messages) if m.role == "assistant"), default=-1)
    old = [message.text for message in body.messages[: last + 1]]  # the caller may have made "answers" up, too
    old += [text for message in body.messages for text in _around(message)]
    old += [text for tool in body.tools or () for text in _strings(tool.model_dump())]
    await screen_texts(service, caller, [message.text for message in body.messages[last + 1 :]], known=old)


async def screen_texts(service: Service, caller: Caller, texts: Sequence[str], *, known: Sequence[str] = ()) -> None:
    """Refuse texts that a rule blocks.

    Args:
        known: texts that came with earlier requests too; they are not flagged again.
    """

    def screen() -> None:
        moderator = moderator_of(service)
        if not moderator.rules():
            return
        for text in known:
            verdict = moderator.word_rules().check(text, "input")
            if verdict is not None and verdict.rule.action == "block":
                raise refusals.blocked()
        for text in texts:
            moderator.check_input(text, user_id=caller.user_id, subject="user", message_id=caller.user_id)

    await run_in_threadpool(screen)


class Watch:
    """What moderation sees of one answer's choices as they grow."""

    def __init__(self, moderator: Moderator, caller: Caller, *, every: int = 200) -> None:
        self._moderator, self._caller, self._every = moderator, caller, every
        self._texts: dict[int, str] = {}
        self._looked: dict[int, int] = {}

    def stops(self, index: int, text: str) -> bool:
        """Note more text of a choice; whether the choice must end before it is shown. Looks now and then only."""
        so_far = self._texts[index] = self._texts.get(index, "") + text
        if len(so_far) - self._looked.get(index, 0) < self._every:
            return False
        self._looked[index] = len(so_far)
        return self._moderator.blocks_output(so_far)

    async def ends(self, index: int) -> bool:
        """A choice is whole (or was stopped): note what its text fires; whether its last piece must not be shown."""
        text = self._texts.get(index, "")
        verdict = await run_in_threadpool(
            self._moderator.note_output,
            text,
            user_id=self._caller.user_id,
            subject="user",
            message_id=self._caller.user_id,
        )
        return verdict is not None and verdict.rule.action == "block"


async def watch_of(service: Service, caller: Caller) -> Watch | None:
    """A watch, if there is any rule for outputs."""
    moderator = moderator_of(service)
    rules = await run_in_threadpool(moderator.rules)
    return Watch(moderator, caller) if any("output" in rule.stages for rule in rules) else None


async def moderate(service: Service, body: ModerationRequest) -> dict[str, Any]:
    """What this server's rules say of texts; its rules are the categories."""
    moderator = moderator_of(service)
    rules = await run_in_threadpool(moderator.rules)
    if not rules:
        raise ApiError(404, "model_not_found", "this server has no moderation rules", param="model")
    results = []
    for text in _texts(body.input):
        verdict = await run_in_threadpool(moderator.look, text)
        fired = verdict.rule.id if verdict else ""
        score = (verdict.score if verdict.score is not None else 1.0) if verdict else 0.0
        results.append(
            {
                "flagged": verdict is not None,
                "categories": {rule.name: rule.id == fired for rule in rules},
                "category_scores": {rule.name: score if rule.id == fired else 0.0 for rule in rules},
                "category_applied_input_types": {rule.name: ["text"] for rule in rules},
            }
        )
    return {"id": f"modr-{secrets.token_hex(16)}", "model": "rules", "results": results}


def _around(message: Message) -> list[str]:
    """What a message makes the model read besides its text."""
    calls = [call.function for call in message.tool_calls or ()]
    return [message.name or "", *(text for call in calls for text in (call.name, *_arguments(call.arguments)))]


def _arguments(text: str) -> list[str]:
    """Strings of a call's arguments as the template prints them, without JSON's escapes."""
    try:
        return [text, *_strings(json.loads(text))]
    except (ValueError, RecursionError):
        return [text]


def _strings(value: object) -> list[str]:
    """All strings inside a value, keys included."""
    found, waiting = [], [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, dict):
            waiting += [*item, *item.values()]
        elif isinstance(item, list | tuple):
            waiting += item
    return found


def _texts(given: Content | list[str]) -> list[str]:
    if isinstance(given, str):
        return [given]
    return [part.text if isinstance(part, TextPart) else part for part in given]
