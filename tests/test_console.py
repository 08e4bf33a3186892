import io
import sys
import time

import pytest

from wuya import console


def test_table_aligns_numbers_right_and_reads_without_colour() -> None:
    text = console.table(
        [{"stage": "sft", "bits": 1.8234, "n": 1200}, {"stage": "乌鸦", "n": None, "ok": True}], title="Results"
    )
    lines = text.splitlines()
    assert lines[0] == "Results" and lines[1] == ""
    assert lines[2].split() == ["stage", "bits", "n", "ok"]
    assert lines[4] == "sft     1.823   1,200" and lines[5].startswith("乌鸦") and lines[5].endswith("yes")
    assert "\x1b" not in text
    assert console.table([], title="t") == "t\n(no rows)"


def test_table_is_ascii_where_the_output_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert console.table([{"a": 1}]).isascii()


def test_messages_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    console.heading("1. tokenizer")
    console.warn("slow")
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == "\n== 1. tokenizer ==\nwarning: slow\n"


def test_progress_is_silent_for_short_work(capsys: pytest.CaptureFixture[str]) -> None:
    with console.Progress(10, "short") as progress:
        progress.update(10, loss=1.0)
    assert capsys.readouterr().err == ""


def test_progress_without_a_terminal_prints_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "QUIET_SECONDS", 0.05)
    monkeypatch.setattr(console, "PLAIN_INTERVAL_SECONDS", 0.05)
    with console.Progress(30, "train", start=10) as progress:
        for _ in range(20):
            time.sleep(0.01)
            progress.update(1, loss=3.14159)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 8, lines
    assert all("\r" not in line and "train" in line for line in lines)
    assert "loss=3.142" in lines[-1] and "30.0/30.0" in lines[-1] and "tok/s" in lines[-1]
