"""Bad input through the command line: a clear message, the right exit code, nothing half-written, no traceback."""

import re
import shutil
from pathlib import Path

import pytest

from tests.bad_input.world import Refused, World, make_world, names
from wuya import cli

HALF_WRITTEN = r"\.tmp|\.old|\.safetensors$|manifest|/completions\.jsonl$|evaluation\.json$|report\.html$|rm_rankings"


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(whole: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A copy to break."""
    shutil.copytree(whole.folder, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return World(tmp_path / "w")


@pytest.fixture
def refused(world: World, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must fail: returns its message; nothing but what was there before may be left."""

    def run(*argv: object, code: int = 2) -> str:
        before = names(world.folder)
        capsys.readouterr()
        found = cli.main([str(word) for word in argv])
        err = capsys.readouterr().err
        assert found == code, err
        assert "Traceback" not in err and "\nerror: " in f"\n{err}", err
        message = err[f"\n{err}".index("\nerror: ") :]
        assert len(message.splitlines()[0]) < 400
        half = {name for name in names(world.folder) - before if re.search(HALF_WRITTEN, name)}
        assert not half, f"left behind: {half}"
        return message

    return run
