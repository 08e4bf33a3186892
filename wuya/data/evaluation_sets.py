"""The texts of evaluation sets in whatever file they come: for decontamination their exact fields do not matter."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from wuya.errors import DataError
from wuya.files import open_data, read_jsonl

KINDS = (".jsonl", ".json", ".csv", ".tsv", ".txt")


def evaluation_texts(path: Path | str) -> Iterator[str]:
    """One text per example, all its strings joined: JSONL, JSON (BIG-bench too), CSV, TSV, text, `.gz`, or a folder."""
    path = Path(path)
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.is_file() and _kind(file) in KINDS]
        if not files:
            raise DataError(f"no evaluation set in `{path}`", hint=f"it should hold files ending in {', '.join(KINDS)}")
        for item in files:
            yield from evaluation_texts(item)
        return
    kind = _kind(path)
    if kind == ".jsonl":
        for _, row in read_jsonl(path):
            yield "\n".join(_strings(row))
        return
    if kind not in KINDS:
        raise DataError(f"`{path}` is not a known kind of evaluation set", hint=f"use one of {', '.join(KINDS)}")
    with open_data(path) as file:
        text = file.read().decode("utf-8", "replace")
    if kind == ".json":
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"`{path}` is not JSON: {error}", hint="get the file again") from error
        if isinstance(value, dict) and isinstance(value.get("examples"), list):
            value = value["examples"]
        for example in value if isinstance(value, list) else [value]:
            yield "\n".join(_strings(example))
    elif kind == ".txt":
        yield from (line.rstrip("\r") for line in text.split("\n") if line.strip())  # U+2028 ends no example
    else:
        for cells in csv.reader(io.StringIO(text), delimiter="\t" if kind == ".tsv" else ","):
            yield "\n".join(cells)


def _kind(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix


def _strings(value: object) -> Iterator[str]:
    """All strings inside a JSON value; keys count too where their values are scores (BIG-bench targets)."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, int | float) and " " in key:
                yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
