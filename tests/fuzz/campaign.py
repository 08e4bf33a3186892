"""Runs many inputs in a process of their own, with limits; one that hangs, dies or takes memory is a fault like any."""

import faulthandler
import os
import pickle
import resource
import select
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO

from tqdm import tqdm

from tests.fuzz.targets import Target, run_one, seeds

SECONDS_AN_INPUT = 10.0
"""CPU seconds after which an input hangs; a template may take half a second of its own process."""
MEMORY = 3 * 2**30
"""Bytes that one input may take beside what the process has."""


@dataclass(frozen=True)
class Fault:
    """An input that neither was read nor refused in words."""

    target: str
    number: int
    what: str


@dataclass
class Result:
    """What a campaign found."""

    tried: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    seconds: float = 0.0
    peak_bytes: int = 0

    def table(self) -> str:
        """Markdown: inputs, refusals and faults of each target."""
        faults = Counter(fault.target for fault in self.faults)
        lines = ["| target | inputs | read | refused in words | faults |", "| --- | --- | --- | --- | --- |"]
        for name, count in self.tried.items():
            read = count - self.refused[name] - faults[name]
            lines.append(f"| {name} | {count:,} | {read:,} | {self.refused[name]:,} | {faults[name]} |")
        total, refused = sum(self.tried.values()), sum(self.refused.values())
        lines.append(f"| all | {total:,} | {total - refused - len(self.faults):,} | {refused:,} | {len(self.faults)} |")
        return "\n".join(lines) + f"\n{self.seconds:.0f} CPU seconds, at most {self.peak_bytes / 2**30:.1f} GiB\n"


def schedule(targets: Sequence[Target], inputs: int, first: int) -> list[tuple[Target, int]]:
    """Every target's share of the inputs, interleaved so that a campaign cut short has tried all of them."""
    weight = sum(target.share for target in targets)
    counts = [(target, max(1, inputs * target.share // weight)) for target in targets]
    rows = [((n + 0.5) / count, index, n) for index, (_, count) in enumerate(counts) for n in range(count)]
    return [(targets[index], first + n) for _, index, n in sorted(rows)]


def campaign(targets: Sequence[Target], *, inputs: int, seconds: float, first: int = 0) -> Result:
    """Try the inputs one after another until they or the CPU seconds are used up."""
    work, result = schedule(targets, inputs, first), Result()
    seeds()  # made once, before the first process
    while work and result.seconds < seconds:
        work = work[_one_process(work, result, seconds - result.seconds) :]
    return result


def _one_process(work: Sequence[tuple[Target, int]], result: Result, seconds: float) -> int:
    """Try inputs in a forked process until one of them ends it; returns how many were tried, all when time is up."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            _try_all(work, os.fdopen(writing, "wb"), seconds)
        finally:
            os._exit(1)
    os.close(writing)
    done, over = 0, False
    with os.fdopen(reading, "rb") as replies:
        while done < len(work) and (reply := _reply(replies, pid)):
            kind, text = reply
            if over := kind == "end":
                break
            _record(result, *work[done], text if kind == "fault" else "", refused=kind == "refused")
            done += 1
    _, status = os.waitpid(pid, 0)
    if done < len(work) and not over:
        how = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
        _record(result, *work[done], f"the process ended: {how}")
        done += 1
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    result.seconds += used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    result.peak_bytes = max(result.peak_bytes, used.ru_maxrss * 1024)
    return len(work) if over else done


def _reply(replies: IO[bytes], pid: int) -> tuple[str, str] | None:
    """The next reply; None when the process is gone. One that is silent for long is killed: no signal reached it."""
    if not select.select([replies], [], [], 6 * SECONDS_AN_INPUT)[0]:
        os.kill(pid, signal.SIGKILL)
    try:
        kind, text = pickle.load(replies)
    except (EOFError, pickle.UnpicklingError):
        return None
    return str(kind), str(text)


def _record(result: Result, target: Target, number: int, fault: str, *, refused: bool = False) -> None:
    result.tried[target.name] += 1
    result.refused[target.name] += refused
    if fault:
        result.faults.append(Fault(target.name, number, fault))
        sys.stderr.write(f"{target.name}:{number} {fault}\n")


class _TooLong(BaseException):
    """No `except Exception` of ours catches it."""


def _try_all(work: Sequence[tuple[Target, int]], replies: IO[bytes], seconds: float) -> None:
    """In the forked process: one reply per input, ("read" | "refused" | "fault" | "end", words)."""
    tqdm.set_lock(threading.RLock())  # tqdm's own is shared by forks: one that is killed would keep it for ever
    faulthandler.disable()  # the parent says what it died of
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    os.dup2(devnull, 1)
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))

    def too_long(signum: int, frame: object) -> None:
        raise _TooLong

    signal.signal(signal.SIGPROF, too_long)
    start = time.process_time()
    for target, number in work:
        if time.process_time() - start > seconds:
            break
        signal.setitimer(signal.ITIMER_PROF, SECONDS_AN_INPUT)
        try:
            words = run_one(target, number)
            reply = ("refused" if words else "read", words)
        except BaseException as error:  # noqa: BLE001 - every other end of an input is what we look for
            reply = ("fault", _described(error))
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        pickle.dump(reply, replies)
        replies.flush()
    pickle.dump(("end", ""), replies)
    replies.flush()


def _described(error: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/wuya/" in f.filename]
    place = f" at {frames[-1].filename.split('/wuya/')[-1]}:{frames[-1].lineno}" if frames else ""
    if isinstance(error, _TooLong):
        return f"hangs: over {SECONDS_AN_INPUT:g} CPU seconds{place}"
    return f"{type(error).__name__}: {str(error)[:150]!r}{place}"
