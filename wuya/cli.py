"""`wuya VERB ...`: a table from verb to recipe. A recipe is imported when its verb is called, so `--help` is instant.

Exit codes: 0 done (skipped rows are counted and named), 2 the caller's mistake, 3 the machine's or the run's (disk
full, diverged), 130 interrupted, 1 a bug of ours.
"""

import difflib
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from wuya.allocator import set_up_allocator
from wuya.errors import ConfigError, RunError, WuyaError
from wuya.files import as_run_error
from wuya.out_of_memory import as_memory_error
from wuya.streams import set_up_streams
from wuya.verbs import VERBS, Verb

EXTRAS = {"datasets": "hf", "transformers": "hf", "chitchat_dataset": "demo", "ray": "cluster", "psycopg": "postgres",
          "bitsandbytes": "quantized"}  # fmt: skip
"""Optional module -> the extra of this package that installs it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; every failure a person can repair prints without a traceback."""
    try:
        dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return 0
    except SystemExit as stop:  # argparse's own: after --help or --print_config
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2
    except WuyaError as error:
        return _fail(error)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        return 130
    except BrokenPipeError:  # the reader of our output has enough: `wuya ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except MemoryError:  # also while the words about it were being found
        return _fail(RunError("out of memory", hint="close other programs, or see what fits first: `wuya plan --help`"))
    except Exception as error:  # noqa: BLE001 - the last resort: it becomes a bug report
        if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            reason, name = os.strerror(error.errno).lower(), str(error.filename)
            shown = name if len(name) <= 60 else f"{name[:60]}... ({len(name)} characters)"
            return _fail(ConfigError(f"this path leads nowhere: {reason}", found=shown))
        if run_error := as_run_error(error, "the output"):
            return _fail(run_error)
        traceback.print_exc()
        sys.stderr.write(
            "\nThis is a bug in wuya. Please report it with the lines above and the output of `wuya env`.\n"
        )
        return 1


def entry_point() -> NoReturn:
    """The installed `wuya` command."""
    set_up_streams()
    set_up_allocator(next(iter(sys.argv[1:]), ""))
    sys.exit(main())


def dispatch(arguments: list[str]) -> None:
    """Find the verb, parse its config, run it."""
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        sys.stdout.write(overview())
        return
    if arguments[0] in {"-V", "--version"}:
        from wuya.environment import version_line

        sys.stdout.write(version_line() + "\n")
        return
    name, *rest = arguments
    verb = VERBS.get(name)
    if verb is None:
        nearest = difflib.get_close_matches(name, VERBS, n=1, cutoff=0.4)
        hint = f"did you mean `wuya {nearest[0]}`?" if nearest else "list the commands: `wuya --help`"
        raise ConfigError(f"`{name}` is not a wuya command", hint=hint)
    from wuya.config import parse_config

    config = None
    try:
        module = load(name, verb)
        config = parse_config(getattr(module, verb.config_class), rest, prog=f"wuya {name}")
        result = module.run(config)
    except (MemoryError, OSError, RuntimeError, ImportError) as error:
        if memory_error := as_memory_error(error, name, config):
            raise memory_error from error
        raise
    from wuya.next_commands import say_next

    say_next(name, config, result)


def load(name: str, verb: Verb):  # type: ignore[no-untyped-def]  # a module's functions are known only at run time
    """Import a verb's module; a missing optional package becomes the command that installs it."""
    try:
        return importlib.import_module(verb.module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if error.name == verb.module or verb.module.startswith(f"{error.name}."):
            raise ConfigError(f"`wuya {name}` is not in this version of wuya yet", hint="see `wuya --help`") from None
        if missing == "wuya":
            raise
        package = f"wuya[{EXTRAS[missing]}]" if missing in EXTRAS else missing
        raise ConfigError(
            f"`wuya {name}` needs the package `{missing}`, which is not installed", hint=f"`pip install '{package}'`"
        ) from error


def overview() -> str:
    """The text of `wuya --help`."""
    lines = [f"  {name:<11} {verb.help}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "usage: wuya COMMAND [--config FILE.yaml] [--FIELD VALUE ...]",
            "",
            "An open ChatGPT you can own end to end; the commands in the order of the story:",
            "",
            *lines,
            "",
            "wuya COMMAND --help          its fields, one flag each",
            "wuya COMMAND --print_config  the same as YAML, to save and edit",
            "wuya --version               versions of wuya, python and torch",
            "",
            "exit codes: 0 done, 2 your mistake, 3 the machine's or the run's, 130 interrupted, 1 our bug",
            "",
        ]
    )


def _fail(error: WuyaError) -> int:
    sys.stderr.write(f"error: {error}\n")
    return error.exit_code
