"""Venvs of the peers that must not share ours, each made once, under .venv/peers (or $WUYA_PEERS).

    python -m benchmarks.peers trl trl_ppo           # a few minutes: torch is large

`trl_ppo` is the last TRL with a PPOTrainer, `trl` the current one, `llama` llama.cpp with its server (no torch).
"""

import os
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

PACKAGES = {"trl_ppo": "trl==1.8.0", "trl": "trl==1.16.0", "llama": "xllamacpp==2026.10.11549"}
WITHOUT_TORCH = ("llama",)
MADE = "made"
"""The file in a venv that says all was installed."""


def peer_python(name: str) -> Path:
    """The interpreter of a peer's venv; ends the program with the command that makes it where there is none."""
    folder = Path(os.environ.get("WUYA_PEERS", Path(__file__).parents[1] / ".venv" / "peers"))
    python = folder / name / "bin" / "python"
    if not (folder / name / MADE).exists():
        raise SystemExit(f"there is no peer at {python}: python -m benchmarks.peers {name}")
    return python


def main() -> None:
    for name in sys.argv[1:]:
        if name not in PACKAGES:
            raise SystemExit(__doc__)
        folder = Path(os.environ.get("WUYA_PEERS", Path(__file__).parents[1] / ".venv" / "peers")) / name
        if (folder / MADE).exists():
            continue
        venv.create(folder, with_pip=True, clear=True)
        # the same torch, so that kernels are no difference
        torch = [] if name in WITHOUT_TORCH else [f"torch=={metadata.version('torch')}"]
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", *torch, PACKAGES[name]], check=True)
        (folder / MADE).touch()


if __name__ == "__main__":
    main()
