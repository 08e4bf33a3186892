"""Checks a release before it is tagged: builds it, looks inside the wheel, and runs the demo from an empty environment.

    make release-check        # about five minutes on two cores (309 s measured); needs a package index

Builds sdist and wheel from the clone into a temporary folder, checks what the wheel holds, installs it with its `demo`
extra in a new virtual environment, and runs `wuya demo --size tiny` from there, in a folder outside the clone.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = ROOT / "wuya"
NOT_CODE = {"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
NOT_PACKED = {".pyc", ".so", ".md"}
MUST_HOLD = ("py.typed", ".cpp", ".h", "templates/", "static/", "migrations/", ".mako")
"""One file of each kind at least, so that the check does not pass on a tree that has lost a whole kind."""


def expected_files() -> set[str]:
    """Every file of the package in the clone, relative to it: code, kernels, pages, migrations."""
    files = (path for path in CODE.rglob("*") if path.is_file() and path.suffix not in NOT_PACKED)
    return {path.relative_to(ROOT).as_posix() for path in files if not NOT_CODE & set(path.parts)}


def faults_of(names: Sequence[str], expected: set[str]) -> list[str]:
    """What is wrong with a wheel that holds `names`; empty if nothing is."""
    faults = [f"missing: {name}" for name in sorted(expected - set(names))]
    faults += [f"no file of the kind `{kind}`" for kind in MUST_HOLD if not any(kind in name for name in names)]
    for name in names:
        top = name.split("/")[0]
        if top != "wuya" and not top.endswith(".dist-info"):
            faults.append(f"does not belong in the wheel: {name}")
    return faults


def run(*command: str | Path, folder: Path) -> None:
    """Run a command that must succeed, without this clone on its path."""
    environment = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV", "WUYA_WORKSPACE")
    }
    print("$", *command, flush=True)
    subprocess.run([str(part) for part in command], cwd=folder, env=environment, check=True)


def build(folder: Path) -> Path:
    """Build the sdist, and the wheel from the sdist (so the sdist is complete); returns the wheel."""
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, folder=folder)
    [wheel] = folder.glob("*.whl")
    [_] = folder.glob("*.tar.gz")
    return wheel


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if the release may be tagged."""
    parser = argparse.ArgumentParser(description="Build, inspect and try a release of wuya.")
    parser.add_argument("--no-demo", action="store_true", help="only build and look inside the wheel")
    options = parser.parse_args(arguments)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="wuya-release-") as name:
        folder = Path(name)
        wheel = build(folder)
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
        faults = faults_of(names, expected_files())
        if faults:
            print(f"{wheel.name} is not fit for release:", *faults, sep="\n  ", file=sys.stderr)
            return 1
        print(f"{wheel.name}: {len(names)} files, {wheel.stat().st_size / 2**20:.1f} MiB", flush=True)
        if not options.no_demo:
            venv.create(folder / "venv", with_pip=True)
            run(folder / "venv/bin/pip", "install", "--quiet", f"{wheel}[demo]", folder=folder)
            print(f"installed after {time.monotonic() - start:.0f} s", flush=True)
            run(folder / "venv/bin/wuya", "demo", "--size", "tiny", folder=folder)
    print(f"release check passed in {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
