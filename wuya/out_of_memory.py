"""Running out of memory, in words: whichever library said so, what to lower and that nothing is lost.

Called once, by the command line, for every command. Torch is not imported for it: its errors are known by their text.
"""

import errno
import re
import shlex
from pathlib import Path

from wuya.errors import RunError

_TEXT = re.compile(
    "can.?t allocate memory|cannot allocate memory|out of memory|not enough memory|bad_alloc|alloc_failed",
    re.IGNORECASE,
)
_SIZE = re.compile(r"tried to allocate (\d+) bytes|tried to allocate ([\d.]+ [KMGT]iB)", re.IGNORECASE)
HALVED = ("microbatch_size", "microbatch_tokens", "max_batch_size")
"""Settings that bound what is held at once and change no result, the first to lower first."""
OTHERS = {"activation_checkpointing": (False, True), "lora_rank": (0, 16), "quantize": ("none", "int8")}
"""Setting -> (the value it has when it can still help, the value to try)."""
_CHOSEN: dict[str, int] = {}


def note_choice(name: str, value: int) -> None:
    """What this process took for a setting left at 0 (automatic), so that the hint halves that and not 0."""
    _CHOSEN[name] = value


def as_memory_error(error: BaseException, verb: str, config: object | None) -> RunError | None:
    """The message for a lack of memory while `wuya VERB` ran with this config; None for any other error.

    Args:
        config: None while the command is still being imported.
    """
    if not _is_memory_error(error):
        return None
    found = _SIZE.search(str(error))
    size = _readable(found[1]) if found and found[1] else found[2] if found else ""
    changes = _changes(config)
    return RunError(
        f"`wuya {verb}` ran out of memory",
        found=f"{size} more were needed at once" if size else "",
        hint=_hint(verb, config, changes),
    )


def _is_memory_error(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if isinstance(error, ImportError) and "failed to map segment" in str(error):  # a library that `ulimit -v` keeps out
        return True
    return isinstance(error, RuntimeError | ImportError) and bool(_TEXT.search(str(error)))  # torch's, of every device


def _readable(num_bytes: str) -> str:
    mib = int(num_bytes) / 2**20
    return f"{mib / 1024:,.1f} GiB" if mib >= 1024 else f"{mib:,.1f} MiB"


def _changes(config: object) -> list[str]:
    """Flags that lower what is held at once, with values."""
    flags = []
    for name in HALVED:
        value = getattr(config, name, None)
        if value == 0:  # automatic; nothing chosen yet: the model itself did not fit
            value = _CHOSEN.get(name)
        if isinstance(value, int) and value > 1:
            flags.append(f"--{name} {value // 2}")
    for name, (now, then) in OTHERS.items():
        if getattr(config, name, None) == now and hasattr(config, name):
            flags.append(f"--{name}" if then is True else f"--{name} {then}")
    return flags


def _hint(verb: str, config: object, changes: list[str]) -> str:
    lower = f"lower what is held at once: {', '.join(f'`{flag}`' for flag in changes)}" if changes else ""
    again = f" {changes[0]}" if changes else ""
    out = getattr(config, "out", None)
    if not hasattr(config, "resume") or not isinstance(out, Path):
        rest = "close other programs, or see what fits first: `wuya plan --help`; what was finished before is intact"
        return f"{lower}; {rest}" if lower else rest
    lower = lower or "close other programs"
    if not list(out.glob("checkpoints/step_*")):
        command = f"the same command with `{again[1:]}`" if again else "the same command"
        return f"{lower}\nnothing had been saved yet; {command} starts over"
    lower += " (another rank needs a new `--out`)" if "lora_rank" in lower else ""
    command = f"wuya {verb} --config {shlex.quote(str(out / 'config.yaml'))} --resume{again}"
    return f"{lower}\nnothing is lost: resume from the last checkpoint with `{command}`"
