"""Commit subjects name an area and fit on one line, so that `git log --oneline` reads as a table of contents."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIRST_HELD = "174014e7784399e792f734dbf42e3a11162d9526"
"""The rule is held for the commits after this one; a few older subjects break it, and history is not rewritten."""
MOST = 50
AREA = re.compile(r"[a-zA-Z0-9][\w./,+ -]{0,40}: \S")


def faults(subject: str) -> list[str]:
    found = [] if len(subject) <= 72 else [f"{len(subject)} characters, at most 72: {subject}"]
    return found if AREA.match(subject) else [*found, f"no area (`area: what it does`): {subject}"]


def git(*arguments: str) -> str | None:
    """The output of a git command; None where git or the history it needs is missing."""
    if shutil.which("git") is None:
        return None
    process = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return process.stdout.strip() if process.returncode == 0 else None


def subjects() -> list[str] | None:
    """Subjects since the last release tag, 50 at most, none before `FIRST_HELD`; None without that history."""
    if not (ROOT / ".git").exists() or git("merge-base", "--is-ancestor", FIRST_HELD, "HEAD") is None:
        return None
    tag = git("describe", "--tags", "--abbrev=0", "--match", "v*")
    since = [f"^{FIRST_HELD}"] + ([f"^{tag}"] if tag else [])
    log = git("log", "--no-merges", f"--max-count={MOST}", "--format=%s", "HEAD", *since)
    return None if log is None else log.splitlines()


def test_subjects_since_the_last_release_have_an_area_and_at_most_72_characters() -> None:
    found = subjects()
    if found is None:
        pytest.skip("no git history here (an sdist, or a shallow clone)")
    assert [fault for subject in found for fault in faults(subject)] == []


@pytest.mark.parametrize(
    "subject",
    ["ppo: mask padding in value loss", "web/chat: keep drafts", "CI: cache wheels", "a" * 40 + ": " + "b" * 30],
)
def test_good_subjects_pass(subject: str) -> None:
    assert faults(subject) == []


@pytest.mark.parametrize("subject", ["x", "Fix things", "ppo:mask padding", "ppo: ", "ppo: " + "m" * 68])
def test_bad_subjects_are_named(subject: str) -> None:
    assert len(faults(subject)) == 1
