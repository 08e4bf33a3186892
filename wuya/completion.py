"""Shell completion of verbs, flags, choices and file names: `wuya completion bash`. A static script: TAB is instant."""

import argparse
import sys
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import shtab

from wuya.cli import load
from wuya.config import field_docs, field_names
from wuya.errors import ConfigError
from wuya.verbs import VERBS


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionConfig:
    """Print the completion script of a shell, to be sourced: `eval "$(wuya completion bash)"`."""

    POSITIONAL: ClassVar[str] = "shell"

    shell: Literal["bash", "zsh", "tcsh"]
    """The shell to complete in."""


def run(config: CompletionConfig) -> None:
    """Print the script to stdout."""
    sys.stdout.write(shtab.complete(completion_parser(), shell=config.shell) + "\n")


def completion_parser() -> argparse.ArgumentParser:
    """A plain argparse mirror of all verbs and their fields, which shtab understands."""
    parser = argparse.ArgumentParser(prog="wuya")
    parser.add_argument("--version", action="version", version="")
    commands = parser.add_subparsers()
    for name, verb in VERBS.items():
        command = commands.add_parser(name, help=verb.help)
        try:
            config_class = getattr(load(name, verb), verb.config_class)
        except ConfigError:  # not in this version, or an extra is missing: complete the verb only
            continue
        hints, docs = typing.get_type_hints(config_class), field_docs(config_class)
        _complete_files(command.add_argument("--config", metavar="FILE"))
        command.add_argument("--print_config", action="store_true")
        for field in field_names(config_class):
            hint, text = hints[field], docs.get(field, "").replace("%", "%%")
            if hint is bool:
                command.add_argument(f"--{field}", action="store_true", help=text)
            elif typing.get_origin(hint) is Literal:
                command.add_argument(f"--{field}", choices=[str(choice) for choice in typing.get_args(hint)], help=text)
            else:
                action = command.add_argument(f"--{field}", metavar=field.upper(), help=text)
                if Path in (hint, *typing.get_args(hint)):
                    _complete_files(action)
        if positional := getattr(config_class, "POSITIONAL", ""):
            _complete_files(command.add_argument(positional, nargs="?"))
    return parser


def _complete_files(action: argparse.Action) -> None:
    action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's way of marking an argument
