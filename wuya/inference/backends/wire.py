"""What crosses the socket between the service and the engine's process: frames of JSON, and our records in them.

JSON and no pickle: whatever happens in the process that reads model files, it cannot run code in the service.
"""

import asyncio
import base64
import dataclasses
import json
import struct
from collections.abc import Mapping
from typing import Any

from wuya import errors
from wuya.errors import RunError, WuyaError
from wuya.inference.backends import protocol

RECORDS = {
    cls.__name__: cls
    for cls in vars(protocol).values()
    if dataclasses.is_dataclass(cls) and isinstance(cls, type) and cls.__module__ == protocol.__name__
}
ERRORS = {
    cls.__name__: cls
    for module in (errors, protocol)
    for cls in vars(module).values()
    if isinstance(cls, type) and issubclass(cls, WuyaError)
}
KIND = "!"
"""Key that names a record's class; "!bytes" holds base64."""
PRIMITIVES = (int, float, str, bool, type(None))
HEADER = struct.Struct("<I")
MAX_FRAME = 1 << 28


def pack(value: Any) -> bytes:
    """A frame: its length, and the value as JSON."""
    body = json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    return HEADER.pack(len(body)) + body


async def read(reader: asyncio.StreamReader) -> Any:
    """The next frame's value; raises IncompleteReadError at the end."""
    (size,) = HEADER.unpack(await reader.readexactly(HEADER.size))
    if size > MAX_FRAME:
        raise RunError("a frame on the engine's socket is too large", found=f"{size} bytes")
    return _record(json.loads((await reader.readexactly(size)).decode("utf-8", "surrogatepass")))


def _plain(value: Any) -> Any:
    if type(value) in PRIMITIVES:  # first: a long prompt is a quarter of a million of them, and streams wait
        return value
    if isinstance(value, list | tuple) and all(type(item) is int for item in value):
        return list(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {KIND: type(value).__name__, **fields}
    if isinstance(value, bytes):
        return {KIND: "bytes", "data": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):  # as pairs: keys may be numbers, and nobody's key can look like ours
        return {KIND: "map", "items": [[_plain(key), _plain(item)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, BaseException):
        return {KIND: "error", "class": type(value).__name__, "text": str(value), "state": _plain(_state(value))}
    return value


def _state(error: BaseException) -> dict[str, Any]:
    simple = str | int | float | bool | None
    return {key: item for key, item in getattr(error, "__dict__", {}).items() if isinstance(item, simple)}


def _record(value: Any) -> Any:
    if isinstance(value, list):
        return value if all(type(item) is int for item in value) else [_record(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.pop(KIND)
    if kind == "bytes":
        return base64.b64decode(value["data"])
    if kind == "map":
        return {_record(key): _record(item) for key, item in value["items"]}
    if kind == "error":
        return _error(value["class"], value["text"], _record(value["state"]))
    fields = {name: _record(item) for name, item in value.items()}
    return RECORDS[kind](**{name: tuple(item) if isinstance(item, list) else item for name, item in fields.items()})


def _error(name: str, text: str, state: dict[str, Any]) -> Exception:
    cls = ERRORS.get(name)
    if cls is None:
        return RunError("the engine failed", found=f"{name}: {text}"[:500])
    error = cls.__new__(cls)  # each has arguments of its own; what they became is in its state
    WuyaError.__init__(error, str(state.get("what", text)))
    for key, item in state.items():
        setattr(error, key, item)
    return error
