"""What the release check accepts in a wheel; building and installing one takes minutes: `make release-check`."""

import fnmatch
import tomllib

import yaml

from scripts.release_check import ROOT, expected_files, faults_of
from wuya import __version__

METADATA = "wuya-0.1.0.dist-info/METADATA"


def test_a_wheel_with_every_file_of_the_package_passes() -> None:
    assert faults_of([*expected_files(), METADATA], expected_files()) == []


def test_kernels_pages_and_migrations_are_expected() -> None:
    endings = {name.rpartition(".")[2] for name in expected_files()}
    assert {"py", "typed", "cpp", "h", "html", "js", "css", "svg", "mako"} <= endings


def test_a_missing_file_is_named() -> None:
    names = sorted(expected_files() - {"wuya/py.typed"})
    assert faults_of(names, expected_files()) == ["missing: wuya/py.typed", "no file of the kind `py.typed`"]


def test_tests_and_data_are_refused() -> None:
    names = [*expected_files(), METADATA, "tests/conftest.py", "data/chats.jsonl"]
    assert [fault.rpartition(": ")[2] for fault in faults_of(names, expected_files())] == names[-2:]


def test_package_data_covers_every_file_of_the_package() -> None:
    """An icon was in the clone and missing from the wheel: no pattern named its kind."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        patterns = [*tomllib.load(file)["tool"]["setuptools"]["package-data"]["*"], "*.py"]
    names = [name.rpartition("/")[2] for name in expected_files()]
    assert [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)] == []


def test_the_citation_names_the_current_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
