import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import wuya
from wuya import cli, environment
from wuya.errors import DataError, Interrupted, NotFinite


def wuya_process(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wuya", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environ},
        check=False,
    )


def test_help_lists_every_verb_quickly_and_imports_no_torch() -> None:
    script = (
        "import sys; from wuya.cli import main; code = main(['--help']);"
        "heavy = {'torch', 'numpy', 'jsonargparse'} & set(sys.modules); assert not heavy, heavy; sys.exit(code)"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    seconds = time.perf_counter() - started
    assert done.returncode == 0, done.stderr
    assert all(f"\n  {name} " in done.stdout for name in cli.VERBS)
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert seconds < 5, f"{seconds:.1f} s"  # 0.1 s alone; the bound only catches a torch import


def test_import_wuya_loads_nothing_heavy() -> None:
    script = "import sys, wuya, wuya.records, wuya.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0


def test_version_is_one_line_with_python_and_torch(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"wuya {wuya.__version__}") and "torch" in out and out.count("\n") == 1


def test_env_prints_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["env", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["wuya"] == wuya.__version__ and report["cores"] >= 1 and "torch" in report["packages"]
    assert cli.main(["env"]) == 0
    assert report["cpu"] in capsys.readouterr().out


def test_git_sha_is_empty_outside_a_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wuya, "__file__", str(tmp_path / "wuya" / "__init__.py"))
    assert environment.git_sha() == ""
    (tmp_path / ".git").mkdir()  # broken: not a repository
    assert environment.git_sha() == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrian"], "did you mean `wuya pretrain`?"),
        (["xyzzy"], "list the commands: `wuya --help`"),
        (["env", "--jsn"], "did you mean `--json`?"),
        (["completion"], "missing `--shell`"),
        (["completion", "fish"], "one of 'bash', 'zsh', 'tcsh'"),
    ],
)
def test_the_callers_mistakes_exit_2_with_a_hint(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.startswith("error: ") and captured.out == ""
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("raised", "code", "text"),
    [
        (DataError("empty", hint="add rows"), 2, "error: empty\n\nhint: add rows\n"),
        (NotFinite("loss is NaN"), 3, "error: loss is NaN\n"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 3, "error: cannot write `/x/y`: no space left"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 3, "error: cannot write `/x/y`"),
        (OSError(errno.ENAMETOOLONG, "", "x" * 300), 2, "error: this path leads nowhere: file name too long"),
        (OSError(errno.ELOOP, "", "/x/y"), 2, "error: this path leads nowhere: too many levels of symbolic links"),
        (MemoryError(), 3, "error: `wuya env` ran out of memory"),
        (Interrupted("saved", hint="`--resume`"), 130, "error: saved"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (BrokenPipeError(), 0, ""),
        (ValueError("oops"), 1, "Please report it"),
        (SystemExit(0), 0, ""),
    ],
)
def test_exit_codes(
    raised: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(config: object) -> None:
        raise raised

    monkeypatch.setattr(cli, "load", lambda name, verb: SimpleNamespace(run=run, EnvConfig=environment.EnvConfig))
    monkeypatch.setattr(os, "dup2", lambda *handles: None)
    assert cli.main(["env"]) == code
    captured = capsys.readouterr()
    assert text in captured.err
    assert ("Traceback" in captured.err) == (code == 1)


def test_memory_that_runs_out_while_the_error_is_put_in_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing_left(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(cli, "load", nothing_left)
    monkeypatch.setattr(cli, "as_memory_error", nothing_left)
    assert cli.main(["env"]) == 3
    assert "error: out of memory" in capsys.readouterr().err


def test_a_missing_optional_package_becomes_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError("No module named 'datasets'", name="datasets")

    monkeypatch.setattr(cli.importlib, "import_module", missing)
    assert cli.main(["prepare"]) == 2
    with pytest.raises(Exception, match=r"pip install 'wuya\[hf\]'"):
        cli.load("prepare", cli.VERBS["prepare"])


def test_output_into_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m wuya env --json | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and done.stderr == ""


def test_completion_scripts_know_verbs_flags_and_files() -> None:
    done = wuya_process("completion", "bash")
    assert done.returncode == 0, done.stderr
    assert "pretrain" in done.stdout and "--json" in done.stdout
    check = subprocess.run(["bash", "-n"], input=done.stdout, text=True, capture_output=True, check=False, timeout=60)
    assert check.returncode == 0, check.stderr
