"""Local and reporting runs as one: list, details, series, samples, changes."""

from collections.abc import Mapping, Sequence
from typing import Any

from wuya.database.connection import reading
from wuya.web.errors import ApiError
from wuya.web.runs import rollouts, store
from wuya.web.runs.folders import RunFolders, is_number
from wuya.web.runs.thin import thin
from wuya.web.service import Service

MAX_POINTS = 2000
MAX_BINS = 12


def folders_of(service: Service) -> RunFolders:
    """The service's view of <workspace>/runs."""
    if RunFolders not in service.parts:
        service.put(RunFolders(service.settings.workspace / "runs"))
    return service.get(RunFolders)


def all_runs(service: Service) -> list[dict[str, Any]]:
    """Every run, the last changed first."""
    folders = folders_of(service)
    found = [folders.summary(id) for id in folders.ids()]
    with reading(service.database) as connection:
        found += [store.summary(connection, row) for row in store.reporting(connection)]
    return sorted(found, key=lambda run: run["updated_at"] or 0, reverse=True)


def one_run(service: Service, id: str) -> dict[str, Any]:
    """A run with its config, checkpoints and events."""
    folders = folders_of(service)
    if folders.folder(id) is not None:
        made = folders.made(id)
        return folders.summary(id) | {
            "config": folders.config(id),
            "checkpoints": folders.checkpoints(id),
            "parents": made.get("parents", {}),
            "events": alarms(folders.rows(id)),
            "keys": keys_of(folders.rows(id)),
        }
    with reading(service.database) as connection:
        row = store.need(connection, id)
        return store.summary(connection, row) | {
            "config": row["config"],
            "checkpoints": [],
            "parents": {},
            "events": store.events(connection, id),
            "keys": keys_of(store.rows(connection, id)),
        }


def rows_of(service: Service, id: str) -> list[dict[str, Any]]:
    """The figures of a run, wherever they are kept; 404 if there is no such run."""
    folders = folders_of(service)
    if folders.folder(id) is not None:
        return folders.rows(id)
    with reading(service.database) as connection:
        store.need(connection, id)
        return store.rows(connection, id)


def samples_of(service: Service, id: str) -> list[dict[str, Any]]:
    """The answers of a run."""
    folders = folders_of(service)
    if folders.folder(id) is not None:
        return folders.rows(id, "samples.jsonl")
    with reading(service.database) as connection:
        store.need(connection, id)
        return store.samples(connection, id)


def rollouts_of(service: Service, id: str, update: int | None, *, sort: str, limit: int) -> dict[str, Any]:
    """Dumped episodes of a run of this machine."""
    folder = folders_of(service).folder(id)
    if folder is None:
        with reading(service.database) as connection:
            store.need(connection, id)
        return {"updates": [], "update": None, "items": [], "total": 0}
    return rollouts.episodes(folder, update, sort=sort, limit=limit)


def alarms(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the recipe said was wrong, in its words, the latest first."""
    found = [
        {"at": row.get("time"), "level": "alert", "step": row["step"], "text": text}
        for row in rows
        if isinstance(row.get("alarms"), list)
        for text in row["alarms"]
        if isinstance(text, str)
    ]
    return found[::-1][:200]


def keys_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every metric that has a number, in the order of their first appearance."""
    keys: dict[str, None] = {}
    for row in rows:
        for key, value in row.items():
            if key not in keys and key not in ("step", "time") and is_number(value):
                keys[key] = None
    return list(keys)


def series(
    rows: Sequence[Mapping[str, Any]], keys: Sequence[str], *, max_points: int, after: int = -1
) -> dict[str, Any]:
    """Points of some metrics, thinned: {key: {step, value, time, tokens}}. `after`: only later steps."""
    result: dict[str, Any] = {}
    tokens, last_tokens = [], 0.0
    for row in rows:
        last_tokens = row["tokens"] if is_number(row.get("tokens")) else last_tokens
        tokens.append(last_tokens)
    for key in keys:
        points = [
            (row["step"], float(row[key]), row.get("time") or 0.0, seen)
            for row, seen in zip(rows, tokens, strict=True)
            if row["step"] > after and is_number(row.get(key))
        ]
        steps, values = [p[0] for p in points], [p[1] for p in points]
        kept = thin(steps, values, min(max_points, MAX_POINTS))
        names = ("step", "value", "time", "tokens")
        result[key] = {name: [points[i][at] for i in kept] for at, name in enumerate(names)} | {"total": len(points)}
    return result


def last_turn(prompt: str) -> str:
    """What the user said last, without the marks of a chat template: the same prompt in different stages."""
    text = prompt.split("<|im_start|>user\n")[-1].split("<|im_end|>")[0]
    for mark in ("\n\nHuman:", "### Instruction:", "User:"):
        text = text.split(mark)[-1]
    return " ".join(text.split())[:2000]


def same_prompt(service: Service, prompt: str) -> list[dict[str, Any]]:
    """Answers to one prompt in every run of this machine, by run and step."""
    wanted, folders = last_turn(prompt), folders_of(service)
    found = []
    for id in folders.ids():
        for row in folders.rows(id, "samples.jsonl"):
            if wanted and last_turn(str(row.get("prompt", ""))) == wanted:
                found.append({"run": id, "name": id.replace("~", "/")} | row)
    return found[:200]


def page_of_samples(
    rows: Sequence[Mapping[str, Any]], *, step: int | None, sort: str, limit: int, bin: int | None = None
) -> dict[str, Any]:
    """The answers of one step (the last, if none is named), sorted; which steps there are; the histogram.

    The histogram is of what is sorted by (of the score, for the order of the file). `bin`: only the answers of one bar.
    """
    steps = sorted({row["step"] for row in rows})
    step = steps[-1] if step is None and steps else step
    chosen = [dict(row) | {"length": len(str(row.get("completion", "")))} for row in rows if row["step"] == step]
    if sort not in ("order", "score", "-score", "kl", "-kl", "length"):
        raise ApiError(422, "invalid_value", "sort by order, score, -score, kl, -kl or length", param="sort")
    name = "score" if sort == "order" else sort.removeprefix("-")
    if sort != "order":
        chosen.sort(key=lambda row: (not is_number(row.get(name)), row.get(name) or 0.0), reverse=sort.startswith("-"))
    bars = histogram([row[name] for row in chosen if is_number(row.get(name))])
    if bin is not None:
        chosen = [row for row in chosen if is_number(row.get(name)) and bin_of(row[name], bars) == bin]
    items = [{key: value for key, value in row.items() if key != "length"} for row in chosen[:limit]]
    bins = {"key": name, "bins": bars}
    return {"steps": steps, "step": step, "items": items, "total": len(chosen), "histogram": bins}


def histogram(values: Sequence[float]) -> list[dict[str, float]]:
    """Up to twelve bins of equal width from the least to the greatest: {low, high, count}; one if all are equal."""
    if not values:
        return []
    low, high = min(values), max(values)
    count = min(MAX_BINS, max(1, len(set(values))))
    width = (high - low) / count
    bars = [{"low": low + i * width, "high": low + (i + 1) * width, "count": 0} for i in range(count)]
    for value in values:
        bars[bin_of(value, bars)]["count"] += 1
    return bars


def bin_of(value: float, bars: Sequence[Mapping[str, float]]) -> int:
    """Which bin a value is in; the greatest value is in the last."""
    return max((i for i, bar in enumerate(bars) if value >= bar["low"]), default=0)
