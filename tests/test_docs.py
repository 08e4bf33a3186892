"""The docs say what the code does: every verb and field has a docstring, the reference is current, commands parse."""

import dataclasses
import importlib
import importlib.util
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from wuya import cli
from wuya.config import field_docs, parse_config

ROOT = Path(__file__).parents[1]
DOCS = [
    ROOT / "README.md",
    ROOT / "README.zh-CN.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def config_class(name: str) -> Any:
    verb = cli.VERBS[name]
    return getattr(importlib.import_module(verb.module), verb.config_class)


def nested(kind: type) -> Iterator[type]:
    yield kind
    for hint in kind.__annotations__.values():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from nested(hint)


def make_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_docs"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", cli.VERBS)
def test_each_verb_says_what_to_type_what_it_reads_and_writes(name: str) -> None:
    module = importlib.import_module(cli.VERBS[name].module)
    assert module.__doc__ and callable(module.run)
    if cli.VERBS[name].module.startswith("wuya.recipes."):
        assert f"wuya {name}" in module.__doc__, "the docstring shows the command"
        assert re.search(r"\b([Rr]eads|[Ww]rites|[Pp]rints)\b", module.__doc__), (
            "the docstring says what is read and written"
        )


@pytest.mark.parametrize("name", cli.VERBS)
def test_each_config_field_has_a_docstring(name: str) -> None:
    for kind in nested(config_class(name)):
        assert kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}("), f"{kind.__name__} lacks a docstring"
        docs = field_docs(kind)
        missing = [field.name for field in dataclasses.fields(kind) if len(docs.get(field.name, "")) < 5]
        assert not missing, f"{kind.__name__}: document {missing}"


@pytest.mark.parametrize("name", cli.VERBS)
def test_the_shared_fields_have_one_name_and_kind_everywhere(name: str) -> None:
    shared = {"out": Path, "resume": bool, "seed": int, "json": bool}
    for field in dataclasses.fields(config_class(name)):
        if field.name in shared:
            assert field.type in (shared[field.name], f"{shared[field.name].__name__}"), field
        assert field.name == field.name.lower() and not field.name.startswith("n_")


@pytest.mark.parametrize("page", ["cli.md", "config.md", "metrics.md", "schema.md"])
def test_reference_pages_are_current(page: str) -> None:
    text = (ROOT / "docs" / "reference" / page).read_text(encoding="utf-8")
    assert text == make_docs().PAGES[page](), "run `make docs`"


def test_every_logged_metric_is_documented() -> None:
    """Names such as `objective/kl` and `validation/loss` in the code stand in a table of metrics."""
    from wuya.evals.heldout_metrics import HELDOUT_METRICS
    from wuya.rlhf.ppo_metrics import GROUP_METRICS, PPO_METRICS
    from wuya.rlhf.preference_metrics import DIRECT_METRICS, PAIR_METRICS
    from wuya.training.metrics import METRICS

    known = {**METRICS, **PPO_METRICS, **GROUP_METRICS, **PAIR_METRICS, **DIRECT_METRICS, **HELDOUT_METRICS}
    name = re.compile(
        r'"((?:objective|policy|val|loss|validation|eval|rollout|ptx|value|time|reward|train)/[a-z0-9_]+)"'
    )
    used = {match for path in (ROOT / "wuya").rglob("*.py") for match in name.findall(path.read_text(encoding="utf-8"))}
    assert used <= set(known), sorted(used - set(known))
    for metric in known.values():
        assert metric.meaning and metric.unit and metric.healthy and metric.trouble


def commands() -> Iterator[tuple[str, str]]:
    """(where, command) for each `wuya VERB ...` in a shell block of the docs and in the docstrings of the recipes."""
    for path in DOCS:
        text = path.read_text(encoding="utf-8")
        for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, flags=re.S):
            for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                yield str(path.relative_to(ROOT)), line
    for verb in cli.VERBS.values():
        docstring = importlib.import_module(verb.module).__doc__ or ""
        for line in re.sub(r"\\?\n\s{6,}", " ", docstring).splitlines():
            if line.startswith("    "):
                yield verb.module, line.strip()


def wuya_commands() -> list[tuple[str, list[str]]]:
    found = []
    for where, line in commands():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]
        if words[:1] == ["wuya"] and "..." not in words and "|" not in words:
            found.append((where, words[1 : words.index(">")] if ">" in words else words[1:]))
    return found


def test_every_command_in_the_docs_parses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checked, wrong = 0, []
    for where, words in wuya_commands():
        if not words or words[0].startswith("-") or any(word.endswith((".yaml", ".yml")) for word in words):
            continue  # configs of a reader's own; those of ours are tested in test_configs.py
        try:
            parse_config(config_class(words[0]), words[1:], f"wuya {words[0]}")
        except SystemExit as stop:  # --help, --print_config
            assert stop.code == 0
        except Exception as error:  # noqa: BLE001 - collect them all
            wrong.append(f"{where}: wuya {shlex.join(words)}\n    {error}")
        checked += 1
    assert not wrong, "\n".join(wrong)
    assert checked > 20


def test_every_make_target_in_the_docs_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    for path in DOCS:
        for target in re.findall(
            r"`?make ([a-z-]+)", "\n".join(re.findall(r"`[^`]*`|```.*?```", path.read_text(), re.S))
        ):
            assert target in targets, f"{path.name}: make {target}"


def test_every_relative_link_in_the_docs_leads_somewhere() -> None:
    for path in DOCS:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            if "://" not in link:
                assert (path.parent / link).exists(), f"{path.relative_to(ROOT)} -> {link}"


def test_install_guide_lists_the_extras_there_are() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    guide = (ROOT / "docs" / "guides" / "install.md").read_text(encoding="utf-8")
    table = guide.partition("| extra |")[2].partition("\n\n")[0]
    listed = [name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])]
    assert listed and sorted(listed) == sorted(project["optional-dependencies"])


def test_every_extra_that_a_page_or_a_message_names_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(project["optional-dependencies"])
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "wuya").rglob("*.py")]
    for path in files:
        for names in re.findall(r"wuya\[([\w,]+)\]", path.read_text(encoding="utf-8")):
            assert set(names.split(",")) <= extras, f"{path.relative_to(ROOT)}: wuya[{names}]"
