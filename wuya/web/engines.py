"""Which models to serve, and the engine that runs them. torch is imported by the engine, not before."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import select

from wuya.checkpoints.known_models import is_there
from wuya.console import say
from wuya.database.connection import open_engine, reading
from wuya.database.labeling_tables import ModelAlias, ModelVersion
from wuya.errors import ConfigError
from wuya.inference.backends.protocol import ServingEngine
from wuya.web.traffic import canary_of, without_canary

DEMO_STAGES = ("ppo_ptx", "ppo", "sft")
"""What of a demo is worth talking to, the best first."""


def named_models(models: Sequence[str], workspace: Path, database: str | Path) -> dict[str, str]:
    """Alias -> place, of what the command line, the registry or the newest demo names; in this order."""
    named: dict[str, str] = {}
    for text in models:
        alias, equals, place = text.partition("=")
        place, alias = (place, alias) if equals and "/" not in alias else (text, alias_of(text))
        if alias in named:
            raise ConfigError(f"two models are called `{alias}`", hint=f"name them: `wuya serve first={text} ...`")
        named[alias] = place
    return named or promoted(database) or of_demo(workspace)


def alias_of(place: str) -> str:
    """A short name: the folder's or file's own; for a run's inner folders the run's."""
    path = Path(place.removeprefix("package:"))
    while path.name in ("model", "checkpoints") or path.name.startswith("step_"):
        path = path.parent
    return path.name.removesuffix(".gguf") or "model"


def promoted(database: str | Path) -> dict[str, str]:
    """What the registry has promoted and is still there, with canaries."""
    if isinstance(database, Path) and not database.is_file():
        return {}
    engine = open_engine(database)
    try:
        with reading(engine) as connection:
            active = select(ModelAlias.alias, ModelVersion.path)
            active = active.join(ModelVersion, ModelVersion.id == ModelAlias.active_version_id)
            rows = connection.execute(active.order_by(ModelAlias.alias)).all()
            trial = select(ModelAlias.alias, ModelVersion.path)
            trial = trial.join(ModelVersion, ModelVersion.id == ModelAlias.canary_version_id)
            trials = connection.execute(trial.where(ModelAlias.canary_pct > 0).order_by(ModelAlias.alias)).all()
    finally:
        engine.dispose()
    found = {alias: path for alias, path in rows} | {canary_of(alias): path for alias, path in trials}
    there = {name: path for name, path in found.items() if is_there(path)}
    return {name: path for name, path in there.items() if without_canary(name) in there}


def of_demo(workspace: Path) -> dict[str, str]:
    """The policies and the SFT model of the newest demo in a workspace."""
    folders = {path.parent for stage in DEMO_STAGES for path in (workspace / "runs").glob(f"*/{stage}")}
    for folder in sorted(folders, key=lambda folder: folder.stat().st_mtime, reverse=True):
        found = {
            stage.replace("_", "-"): str(folder / stage)
            for stage in DEMO_STAGES
            if (folder / stage / "model" / "config.json").is_file() or (folder / stage / "config.json").is_file()
        }
        if found:
            return found
    return {}


def open_model_engine(
    models: Mapping[str, str],
    *,
    kind: Literal["process", "thread", "openvino", "fake"],
    upstream: str = "",
    quantize: Literal["none", "int8", "int4"] = "none",
    device: str = "auto",
    slots: int = 16,
    context_length: int = 0,
    workspace: Path,
) -> ServingEngine:
    """The engine, not started yet."""
    if upstream:
        from wuya.inference.backends.upstream import UpstreamEngine

        key = os.environ.get("WUYA_UPSTREAM_KEY")
        length = context_length or 8192
        return UpstreamEngine(upstream, api_key=key, models=tuple(models), slots=slots, context_length=length)
    if kind == "fake":
        from wuya.inference.backends.fake import FakeEngine

        return FakeEngine()
    if not models:
        raise ConfigError(
            "there is no model to serve",
            found=f"no demo under {workspace / 'runs'}",
            hint="name a checkpoint: `wuya serve runs/ppo`; or make one: `wuya demo`",
        )
    say(f"models: {', '.join(f'{alias} ({place})' for alias, place in models.items())}")
    from wuya.inference.backends.local import LocalEngine

    options: dict[str, Any] = {
        "slots": slots,
        "device": device,
        "quantize": quantize,
        "max_context": context_length or None,
    }
    if kind == "thread":
        return LocalEngine(models, **options)
    if kind == "openvino":
        options["library"] = "openvino"
    from wuya.inference.backends.worker import WorkerEngine

    return WorkerEngine(models, **options)
