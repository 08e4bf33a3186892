"""Commands started with closed streams, into pipes that nobody reads, and with a locale of ASCII."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ASCII_ONLY = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def shell(command: str, *, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a bash line in which `$PYTHON` is this interpreter."""
    path = os.environ.get("PYTHONPATH") or os.getcwd()
    env = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": path, **environment}
    return subprocess.run(
        ["bash", "-c", command], cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error_and_lend_their_number_to_no_file(closed: str, tmp_path: Path) -> None:
    done = shell(f"$PYTHON -m wuya env --json {closed}", cwd=tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    program = (
        "import os, sys; from wuya.streams import set_up_streams; set_up_streams(); file = open('kept', 'w');"
        "print('out'); print('err', file=sys.stderr); os.write(1, b'library'); assert file.fileno() > 2"
    )
    assert shell(f'$PYTHON -c "{program}" {closed}', cwd=tmp_path).returncode == 0
    assert (tmp_path / "kept").read_text() == ""


def test_work_goes_on_when_nobody_reads_its_log_any_more(tmp_path: Path) -> None:
    program = (
        "import sys, subprocess, time; from wuya.streams import set_up_streams; set_up_streams();"
        "from wuya.console import say; say('first'); time.sleep(0.5); [say('more') for _ in range(3)];"
        "code = subprocess.run([sys.executable, '-c', 'import os; os.write(2, bytes(9))']).returncode;"
        "open('done', 'w').write(str(code))"
    )
    done = shell(f'$PYTHON -c "{program}" 2>&1 | head -1; exit ${{PIPESTATUS[0]}}', cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "first\n")
    assert (tmp_path / "done").read_text() == "0"


def test_a_log_without_space_ends_nothing_and_goes_on_later(tmp_path: Path) -> None:
    program = (
        "import resource; from wuya.streams import set_up_streams; set_up_streams(); from wuya.console import say;"
        "say('first'); resource.setrlimit(resource.RLIMIT_FSIZE, (6, 1 << 20)); say('lost');"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)); say('later')"
    )
    assert shell(f'$PYTHON -c "{program}" 2> log', cwd=tmp_path).returncode == 0
    assert (tmp_path / "log").read_text() == "first\nlater\n"


def test_names_in_chinese_with_a_locale_of_ascii(tmp_path: Path) -> None:
    (tmp_path / "文 本.txt").write_text("the cat sat on the mat. 猫坐在垫子上。\n" * 50, encoding="utf-8")
    command = "$PYTHON -m wuya tokenizer --inputs '文 本.txt' --out '词 表' --vocab_size 280"
    done = shell(command, cwd=tmp_path, **ASCII_ONLY)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "词 表" / "tokenizer.json").is_file()


def test_text_that_an_encoding_cannot_write_is_escaped() -> None:
    program = "from wuya.streams import set_up_streams; set_up_streams(); print(chr(0x732b))"
    done = shell(f'$PYTHON -c "{program}"', PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, "\\u732b\n")
