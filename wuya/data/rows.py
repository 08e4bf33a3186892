"""Rows of data files: JSON lines, JSON arrays, parquet and data sets of the Hugging Face hub, as a stream of dicts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wuya.data.frozen import frozen_manifest
from wuya.errors import ConfigError, DataError
from wuya.files import BadRows, open_data, read_jsonl

ROW_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
"""Files of rows; all but parquet may be packed (`.gz`)."""

Rows = Iterator[tuple[int, dict[str, Any]]]


class RaiseOnBadRow(BadRows):
    """A list of bad rows that takes none: the first is an error."""

    def add(self, file: Path | str, line: int, reason: str) -> None:
        """Raise DataError with file:line."""
        raise DataError(f"{file}:{line}: {reason}")


def read_rows(path: Path | str, bad: BadRows, *, columns: Sequence[str] | None = None) -> Rows:
    """Yield (line or row number from 1, row); a frozen file that was changed is refused.

    Args:
        path: a `.jsonl`, `.ndjson`, `.json` (an array) or `.parquet` file, or `hf:org/name[/config][:split]`.
        columns: read only these of a parquet file.
    """
    if str(path).startswith("hf:"):
        return _read_hub(HubName.parse(str(path)))
    path = Path(path)
    frozen_manifest(path)
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        return _read_parquet(path, columns)
    return _read_json(path, bad) if name.endswith(".json") else read_jsonl(path, bad)


def _read_json(path: Path, bad: BadRows) -> Rows:
    """A JSON array of objects, read whole: the form alpaca and sharegpt files come in."""
    with open_data(path) as file:
        try:
            data = json.loads(file.read())
        except json.JSONDecodeError as error:
            if error.msg == "Extra data":  # rows one to a line, as much of the hub's .json is
                yield from read_jsonl(path, bad)
                return
            raise _not_json(path, error) from error
        except (ValueError, EOFError, OSError, RecursionError) as error:
            raise _not_json(path, error) from error
    if not isinstance(data, list):
        raise DataError(f"`{path}` holds no JSON array of objects", found=type(data).__name__)
    for number, row in enumerate(data, start=1):
        if isinstance(row, dict):
            yield number, row
        else:
            bad.add(path, number, f"expected a JSON object {{...}}, found {type(row).__name__}")


def _not_json(path: Path, error: Exception) -> DataError:
    hint = "one JSON array of objects; rows go in .jsonl files"
    return DataError(f"`{path}` is not JSON", found=str(error)[:200], hint=hint)


def _read_parquet(path: Path, columns: Sequence[str] | None) -> Rows:
    """Batch by batch; of a large file one batch is in memory."""
    import pyarrow
    import pyarrow.parquet

    open_data(path).close()  # says what is wrong with the path
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if missing := [column for column in columns or () if column not in names]:
                raise DataError(f"`{path}` has no column `{missing[0]}`", found=", ".join(names))
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, _without_nulls(row)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:  # OSError: what its Thrift reader raises
        raise DataError(f"`{path}` is not a readable parquet file", found=str(error)[:200]) from error


def _without_nulls(value: Any) -> Any:
    """A row of Arrow's without the fields that are null: all rows have the fields of all others there."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


class HubName(NamedTuple):
    """`hf:org/name[/config][:split[:field]]` taken apart."""

    name: str
    config: str | None
    split: str
    field: str | None

    @classmethod
    def parse(cls, path: str) -> "HubName":
        """Split default is `train`."""
        name, _, rest = path.removeprefix("hf:").partition(":")
        split, _, field = rest.partition(":")
        parts = name.split("/")
        if not all(parts) or len(parts) > 3:
            raise ConfigError(
                f"`{path}` names no data set",
                hint="write `hf:org/name`, `hf:org/name:split` or `hf:org/name/config:split`",
            )
        return cls("/".join(parts[:2]), parts[2] if len(parts) == 3 else None, split or "train", field or None)


def _read_hub(hub: HubName) -> Rows:
    """Streamed through `datasets`."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"`hf:{hub.name}` needs the package `datasets`", hint="install it: `pip install 'wuya[hf]'`"
        ) from error
    number = 0
    try:
        for row in datasets.load_dataset(hub.name, hub.config, split=hub.split, streaming=True):
            number += 1
            yield number, _without_nulls(row)
    except GeneratorExit:
        raise
    except Exception as error:  # network, unknown name or split, gated, broken file: `datasets` raises dozens of kinds
        raise DataError(
            f"the data set `{hub.name}` (split `{hub.split}`) can't be loaded"
            + (f" after row {number}" if number else ""),
            found=f"{type(error).__name__}: {str(error)[:200]}",
            hint="check the name and the network; or download the data set and give the path of its files",
        ) from error
