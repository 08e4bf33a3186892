"""What glibc does with memory that is freed, set once when a command starts (Linux; elsewhere nothing happens).

By default glibc returns blocks above a moving limit to the system and takes new ones a moment later, page by page.
`keep` holds on to blocks up to 32 MB: no page faults from the second step on, 2 to 4 % less time (docs/concepts/
memory-and-compute.md). `return` gives every block of 100 kB and more back at once: resident memory is then what lives,
as `wuya plan` predicts, for 8 to 30 % more time: where memory is short. `system` changes nothing, and is the default of
commands that promise a bound on memory or run for weeks. glibc's own variables (MALLOC_MMAP_THRESHOLD_, ...) win.
"""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MODES = {"keep": (32 << 20, (2 << 30) - 1), "return": (100_000, 128 << 10)}
"""Mode -> blocks above this many bytes are the system's own; the heap's free end is cut above this many."""
UNTOUCHED = frozenset({"prepare", "serve"})
"""Commands that keep glibc's behaviour unless asked."""


def set_up_allocator(verb: str = "") -> str:
    """Apply `$WUYA_ALLOCATOR` (keep, return or system; default keep). Returns the mode in force, `system` for none."""
    mode = os.environ.get("WUYA_ALLOCATOR", "system" if verb in UNTOUCHED else "keep")
    if mode not in MODES or sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return "system"
    mmap_threshold, trim_threshold = MODES[mode]
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl, for example
        return "system"
    done = mallopt(M_MMAP_THRESHOLD, mmap_threshold) and mallopt(M_TRIM_THRESHOLD, trim_threshold)
    return mode if done else "system"
