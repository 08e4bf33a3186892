"""What this machine and installation are: for bug reports, for reports beside measured numbers, for `wuya env`."""

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import wuya
from wuya.console import table
from wuya.files import default_workspace, to_json

PACKAGES = ("torch", "numpy", "tokenizers", "tiktoken", "safetensors", "sqlalchemy", "jsonargparse", "transformers")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvConfig:
    """Report versions, processor, memory, disk and accelerators of this machine."""

    json: bool = False
    """Print one JSON object instead of a table."""


def run(config: EnvConfig) -> None:
    """Print the report to stdout."""
    report = environment_report()
    if config.json:
        sys.stdout.write(to_json(report, indent=2) + "\n")
        return
    rows = []
    for name, value in report.items():
        text = ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else value
        rows.append({"what": name, "found": "none" if text in (None, "", []) else text})
    sys.stdout.write(table(rows) + "\n")


def environment_report() -> dict[str, object]:
    """Versions, processor, memory (GiB), free disk (GiB), threads and accelerators."""
    import psutil
    import torch

    workspace = default_workspace().absolute()
    on_disk = next(folder for folder in (workspace, *workspace.parents) if folder.exists())
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "wuya": wuya.__version__,
        "git": git_sha(),
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "cpu": cpu_name(),
        "cores": available_cores(),
        "cpu_features": [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in cpu_flags()],
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "workspace": str(workspace),
        "disk_free_gib": round(shutil.disk_usage(on_disk).free / 2**30, 1),
        "accelerators": gpus,
        "packages": {name: version for name in PACKAGES if (version := package_version(name))},
    }


def version_line() -> str:
    """One line for `wuya --version`, without loading torch."""
    sha = git_sha()
    torch_version = package_version("torch") or "not installed"
    ours = f"{wuya.__version__} ({sha})" if sha else wuya.__version__
    return f"wuya {ours}, python {platform.python_version()}, torch {torch_version}"


def package_version(name: str) -> str:
    """Version of an installed distribution, or the empty string."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def git_sha() -> str:
    """Short commit of the clone this runs from, with `+` when tracked files differ from it; empty outside a clone."""
    root = Path(wuya.__file__).parents[1]
    if not (root / ".git").exists():
        return ""
    try:
        sha = _git(root, "rev-parse", "--short=10", "HEAD")
        return sha + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def cpu_name() -> str:
    """The processor's own name, or the architecture where it has none."""
    for line in _cpu_info():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def available_cores() -> int:
    """Cores this process may use (fewer than the machine's in a container)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_flags() -> set[str]:
    """What the processor can do, by the names Linux uses; empty elsewhere."""
    return next((set(line.partition(":")[2].split()) for line in _cpu_info() if line.startswith("flags")), set())


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
