"""What tokenizer folders of other makers hold: settings and chat templates."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from wuya.errors import DataError
from wuya.files import read_json_object


def read_backend(file: Path) -> Backend:
    """The `tokenizers` object of a tokenizer.json."""
    if not file.is_file():
        folder = file.parent
        found = ", ".join(sorted(item.name for item in folder.iterdir())[:8]) or "nothing" if folder.is_dir() else ""
        raise DataError(
            f"`{file}` does not exist",
            found=found,
            hint="train a tokenizer: `wuya tokenizer --inputs text.txt --vocab_size 4096 --out runs/tokenizer`",
        )
    try:
        return Backend.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # `tokenizers` raises bare Exception for every kind of malformed file
        raise DataError(
            f"`{file}` is not a tokenizer.json", found=str(error)[:200], hint="get the file again, or retrain"
        ) from error


def read_settings(file: Path) -> dict[str, Any]:
    """tokenizer_config.json; empty when there is none."""
    return read_json_object(file) if file.is_file() else {}


def read_template(file: Path, settings: dict[str, Any]) -> tuple[str, Path]:
    """The chat template and the file it is in: its own, or tokenizer_config.json, where it may be one of a list."""
    if file.is_file():
        return file.read_text(encoding="utf-8"), file
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else "", file.with_name("tokenizer_config.json")


def token_content(token: object) -> str | None:
    """A token in tokenizer_config.json is a string or an object with `content`."""
    token = token.get("content") if isinstance(token, dict) else token
    if isinstance(token, str) and any("\ud800" <= letter <= "\udfff" for letter in token):
        raise DataError("a token in tokenizer_config.json is not text", found=repr(token)[:60])
    return token if isinstance(token, str) else None
