"""What tokenizer folders of other makers hold: settings, chat templates, tokens that are not spelled in bytes."""

import json
import re
from pathlib import Path
from typing import Any

from wuya.errors import DataError


def read_settings(file: Path) -> dict[str, Any]:
    """tokenizer_config.json; empty when there is none."""
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"`{file}` is not JSON", found=str(error)) from error
    return settings if isinstance(settings, dict) else {}


def read_template(file: Path, settings: dict[str, Any]) -> str:
    """The chat template: in its own file, or in tokenizer_config.json, where it may be one of a list; else empty."""
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else ""


def token_content(token: object) -> str | None:
    """A token in tokenizer_config.json is a string or an object with `content`."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def foreign_bytes(token: str, *, literal: bool) -> bytes:
    """Bytes of a token that is not spelled in byte characters: a special, or SentencePiece's and GPT-1's spelling."""
    if not literal:
        if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
            return bytes([int(token[3:5], 16)])
        token = token.replace("\u2581", " ").replace("</w>", " ")
    return token.encode("utf-8", "replace")
