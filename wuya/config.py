"""Recipe configs: a frozen dataclass <-> YAML and flags, with the field docstrings as help (by jsonargparse).

    config = parse_config(SFTConfig, ["--config", "sft.yaml", "--learning_rate", "1e-5"], prog="wuya sft")

Flags override the YAML file; unknown keys are refused with the nearest name; `--print_config` prints
what would be used.
A config class may name one field `POSITIONAL: ClassVar[str] = "checkpoint"`: `wuya chat runs/sft` then means
`wuya chat --checkpoint runs/sft`.
"""

import dataclasses
import difflib
import inspect
import re
import typing
from argparse import ArgumentError, HelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import yaml
from docstring_parser import parse_from_object
from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from wuya.errors import ConfigError
from wuya.files import to_json, write_atomic

ConfigT = TypeVar("ConfigT")

set_parsing_settings(docstring_parse_attribute_docstrings=True)  # for dataclasses inside configs


def parse_config(config_class: type[ConfigT], argv: Sequence[str], prog: str) -> ConfigT:
    """Build a config from command-line arguments. `--help` and `--print_config` print and raise SystemExit(0)."""
    parser = build_parser(config_class, prog)
    arguments = friendly_arguments(config_class, argv)
    for flag, path in pairwise(arguments):
        if flag == "--config" and not Path(path).is_file():
            raise ConfigError(f"config file `{path}` does not exist", hint=f"get the fields: `{prog} --print_config`")
        if flag == "--config":
            _require_text(Path(path))
    try:
        values = vars(parser.instantiate(parser.parse_args(arguments)))
    except ArgumentError as error:
        raise _config_error(str(error), config_class, arguments, prog) from error
    return config_class(**{name: values[name] for name in field_names(config_class)})


def _require_text(path: Path) -> None:
    try:
        path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file `{path}` is not a readable text file", found=str(error)) from error


class _Parser(ArgumentParser):
    """jsonargparse's parser with shorter type names in its help."""

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        return _readable(super().format_help(formatter))


class _HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Keep the paragraphs of the class docstring."""


def build_parser(config_class: type, prog: str) -> ArgumentParser:
    """The jsonargparse parser of one verb: `--config` and a flag per field, in the order of the class."""
    positional = getattr(config_class, "POSITIONAL", "")
    first = f" [{positional.upper()}]" if positional else ""
    parser = _Parser(
        prog=prog,
        usage=f"{prog}{first} [--config FILE.yaml] [--FIELD VALUE ...]",
        description=inspect.cleandoc(config_class.__doc__ or ""),
        formatter_class=_HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the fields below; flags override it.")
    help_texts = field_docs(config_class)
    hints = typing.get_type_hints(config_class)
    for field in _fields(config_class):
        extra: dict[str, Any] = {}
        if field.default is not dataclasses.MISSING:
            extra["default"] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            extra["default"] = field.default_factory()
        else:
            extra["required"] = True
        if dataclasses.is_dataclass(default := extra.get("default")) and not isinstance(default, type):
            extra["default"] = dataclasses.asdict(default)
        if hints[field.name] is bool:
            extra.update(nargs="?", const=True)  # `--resume` alone means true
        parser.add_argument(f"--{field.name}", type=hints[field.name], help=help_texts.get(field.name, ""), **extra)
    return parser


def friendly_arguments(config_class: type, argv: Sequence[str]) -> list[str]:
    """Accept what people type: a first positional, dashes for underscores, `--no_resume`, lists as `--paths a b`."""
    names = set(field_names(config_class))
    hints = typing.get_type_hints(config_class)
    arguments = list(argv)
    positional = getattr(config_class, "POSITIONAL", "")
    if positional and arguments and not arguments[0].startswith("-"):
        arguments[:1] = [f"--{positional}", arguments[0]]
    result: list[str] = []
    while arguments:
        argument = arguments.pop(0)
        flag, equals, value = argument.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--"):
            root = name.partition(".")[0]
            if root in names or root == "print_config":
                flag = f"--{name}"
            elif name.startswith("no_") and hints.get(name.removeprefix("no_")) is bool and not equals:
                flag, equals, value = f"--{name.removeprefix('no_')}", "=", "false"
        if "=" not in argument and hints.get(flag[2:]) is bool and arguments and not arguments[0].startswith("--"):
            if not equals and arguments[0].lower() not in _TRUTHS:
                equals, value = "=", "true"  # `--accounts runs/ppo`: the flag alone, then what usually comes first
            if equals and positional and not _given(positional, [*result, *arguments]):
                arguments.insert(0, f"--{positional}")
        result.append(f"{flag}{equals}{value}" if flag.startswith("--") else argument)
        if name in names and not equals and _is_text_list(hints[name]):
            items = []
            while arguments and not arguments[0].startswith("--"):
                items.append(arguments.pop(0))
            result += items if len(items) == 1 and items[0][:1] in "[{" else [to_json(items)]
    return result


_TRUTHS = frozenset({"true", "false", "yes", "no"})


def _given(name: str, arguments: Sequence[str]) -> bool:
    return any(argument.partition("=")[0].replace("-", "_") == f"__{name}" for argument in arguments)


def _is_text_list(hint: object) -> bool:
    arguments = [item for item in typing.get_args(hint) if item is not Ellipsis]
    return typing.get_origin(hint) in (list, tuple) and arguments in ([str], [Path])


def to_dict(config: object) -> dict[str, Any]:
    """A config as plain values, the way it is written to YAML: paths are text, tuples lists."""
    assert dataclasses.is_dataclass(config) and not isinstance(config, type)
    plain = _plain(dataclasses.asdict(config))
    assert isinstance(plain, dict)
    return plain


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.name
    return str(value) if isinstance(value, Path) else value


def save_config(config: object, path: Path | str) -> None:
    """Write a config as YAML that `--config` reads back to an equal config."""
    write_atomic(path, yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))


def load_config(config_class: type[ConfigT], path: Path | str) -> ConfigT:
    """Read a YAML file written by `save_config` or by hand, with the same checks as the command line."""
    return parse_config(config_class, ["--config", str(path)], prog=str(path))


def with_overrides(config: ConfigT, overrides: Mapping[str, object]) -> ConfigT:
    """The config with some fields replaced by name; an unknown name is refused with the nearest known one."""
    known = field_names(type(config))
    hints = typing.get_type_hints(type(config))
    for name, value in overrides.items():
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"unknown setting `{name}` of {type(config).__name__}",
                hint=f"did you mean `{nearest[0]}`?" if nearest else f"known: {', '.join(known)}",
            )
        if hints[name] in (int, float, str, bool) and not _fits(value, hints[name]):
            raise ConfigError(f"`{name}` of {type(config).__name__} must be {hints[name].__name__}", found=repr(value))
    return dataclasses.replace(config, **overrides)  # type: ignore[type-var]


def _fits(value: object, hint: type) -> bool:
    """Whether a plain value has a field's type; whole numbers are numbers, true and false are not."""
    wanted = (int, float) if hint is float else hint
    return isinstance(value, wanted) and (hint is bool or not isinstance(value, bool))


def require_positive(config: object, *names: str) -> None:
    """Refuse zero or less in the named fields; for `__post_init__`."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ConfigError(
                f"`{name}` must be greater than 0", found=str(value), hint=f"set it, for example `--{name} 1`"
            )


def require_at_least_zero(config: object, *names: str) -> None:
    """Refuse less than zero in fields whose 0 chooses for the person; for `__post_init__`."""
    for name in names:
        if (value := getattr(config, name)) < 0:
            raise ConfigError(f"`{name}` can't be negative", found=str(value), hint=f"`--{name} 0` chooses for you")


def require_divides(config: object, name: str, *, by: str) -> None:
    """Refuse a field that isn't a whole multiple of another; for `__post_init__`."""
    value, divisor = getattr(config, name), getattr(config, by)
    require_positive(config, by)
    if value % divisor:
        lower = max(divisor, value // divisor * divisor)
        raise ConfigError(
            f"`{name}` must be a multiple of `{by}`",
            found=f"{name}={value}, {by}={divisor}",
            hint=f"try `--{name} {lower}`",
        )


def field_names(config_class: type) -> list[str]:
    """Names of a config's fields, in order."""
    return [field.name for field in _fields(config_class)]


def field_docs(config_class: type) -> dict[str, str]:
    """The docstring under each field (of base classes too), on one line."""
    docs: dict[str, str] = {}
    for base in reversed(config_class.__mro__):
        if dataclasses.is_dataclass(base):
            for parameter in parse_from_object(base).params:
                name = parameter.arg_name.partition(":")[0].strip()
                docs[name] = " ".join((parameter.description or "").split())
    return docs


def _fields(config_class: type) -> tuple[dataclasses.Field[Any], ...]:
    assert dataclasses.is_dataclass(config_class), f"{config_class} is not a dataclass"
    return dataclasses.fields(config_class)


def _config_error(message: str, config_class: type, arguments: Sequence[str], prog: str) -> ConfigError:
    """Say what jsonargparse found in our words, with the nearest name for an unknown one."""
    message = " ".join(message.split())
    file = arguments[arguments.index("--config") + 1] if "--config" in arguments[:-1] else ""
    list_fields = f"list the fields: `{prog} --help`" if prog != file else f"look at the fields in `{file}`"
    unknown = re.search(r"(?:does not accept option|Option) '([^']+)'", message)
    unknown = unknown or re.search(r"[Uu]nrecognized arguments: --([^\s=]+)", message)
    if unknown:
        name = unknown.group(1)
        in_flags = any(argument.partition("=")[0] == f"--{name}" for argument in arguments)
        nearest = difflib.get_close_matches(name.replace("-", "_"), _known_names(config_class), n=1, cutoff=0.5)
        return ConfigError(
            f"unknown setting `{'--' if in_flags else ''}{name}`" + (f" in `{file}`" if file and not in_flags else ""),
            hint=f"did you mean `{'--' if in_flags else ''}{nearest[0]}`?" if nearest else list_fields,
        )
    if missing := re.search(r"arguments? (?:are|is) required: (.+)", message):
        flags = ", ".join(f"`--{name.strip()}`" for name in missing.group(1).split(","))
        return ConfigError(f"missing {flags}", hint=list_fields)
    if extra := re.search(r"[Uu]nrecognized arguments: (.+)", message):
        return ConfigError(
            f"unexpected argument `{extra.group(1)}`",
            hint=_place_of(extra.group(1), config_class, arguments, prog) or list_fields,
        )
    if value := re.match(r"Parser key \"([^\"]+)\": (.+)", message):
        return ConfigError(f"`--{value.group(1)}`: {_readable(value.group(2))}", hint=list_fields)
    about_file = file and re.match("Problems parsing|Unexpected config", message)
    return ConfigError(f"`{file}`: {message}" if about_file else message, hint=list_fields)


def _place_of(extra: str, config_class: type, arguments: Sequence[str], prog: str) -> str:
    """The command in which an argument without a flag stands where it was probably meant; empty where none is known."""
    positional = getattr(config_class, "POSITIONAL", "")
    given = {argument.partition("=")[0].removeprefix("--") for argument in arguments if argument.startswith("--")}
    required = [
        field.name for field in _fields(config_class)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]  # fmt: skip
    if positional and positional not in given:
        return f"`{positional}` comes first: `{prog} {extra} --FIELD VALUE ...`"
    if missing := [name for name in required if name not in given]:
        first = [arguments[arguments.index(f"--{positional}") + 1]] if f"--{positional}" in arguments else []
        flag = "--config" if extra.endswith((".yaml", ".yml")) else f"--{missing[0]}"
        return f"every value but the first has a flag: `{' '.join([prog, *first, flag, extra])}`"
    return ""


def _readable(text: str) -> str:
    """`<class 'pathlib.Path'>` is Path, `typing.Literal['a', 'b']` is one of 'a', 'b'."""
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    return re.sub(r"(?:a )?typing\.Literal\[([^\]]*)\]", r"one of \1", text)


def _known_names(config_class: type) -> list[str]:
    """Every field name, those of nested configs both alone and with their path."""
    names: list[str] = []
    hints = typing.get_type_hints(config_class)
    for name in field_names(config_class):
        names.append(name)
        for nested in (hints[name], *typing.get_args(hints[name])):
            if isinstance(nested, type) and dataclasses.is_dataclass(nested):
                inner = _known_names(nested)
                names += [f"{name}.{item}" for item in inner] + inner
    return names
