"""`wuya prepare`: megabytes a second against bytes, and memory: is time linear in the text, and memory flat?

    python -m benchmarks.prepare                                   # made-up text of 4, 8 and 16 MB
    python -m benchmarks.prepare --text corpus.txt --megabytes 10 20 40

Each size is prepared by a process of its own (one worker, everything on: rules, exact and fuzzy de-duplication), the
sizes in turn. No peer: what is looked at is how the cost grows. Made-up text: words drawn by Zipf's law, documents of
about 2 kB, one in ten a copy with a word changed.
"""

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.common import alternate, finish, parser_of, row_of


def main() -> None:
    parser = parser_of(__doc__, pairs=3)
    parser.add_argument("--text", type=Path, help="UTF-8, blank lines between documents; default: made up")
    parser.add_argument("--megabytes", type=float, nargs="+", default=[4, 8, 16])
    parser.add_argument("--vocab_size", type=int, default=2048)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = arguments.text.read_text() if arguments.text else made_up(int(max(arguments.megabytes) * 1e6))
        files = {}
        for megabytes in arguments.megabytes:
            files[f"{megabytes:g} MB"] = folder / f"{megabytes:g}.jsonl"
            write_documents(files[f"{megabytes:g} MB"], text[: int(megabytes * 1e6)])
        wuya("tokenizer", "--inputs", str(next(iter(files.values()))), "--vocab_size", str(arguments.vocab_size),
             "--out", str(folder / "tokenizer"))  # fmt: skip

        def side(file: Path) -> dict[str, float]:
            out = Path(tempfile.mkdtemp(dir=folder)) / "shards"
            return wuya("prepare", "--inputs", str(file), "--tokenizer", str(folder / "tokenizer"), "--out", str(out))

        rounds = alternate({size: partial(side, file) for size, file in files.items()}, pairs=arguments.pairs)
        rows = []
        for size, file in files.items():
            rows.append(
                row_of(f"prepare {size}", rounds.of([size]), amount=file.stat().st_size / 1e6, unit="MB/s", ours=size)
            )
        seconds = [row["sides"][size]["cpu_seconds"] for row, size in zip(rows, files, strict=True)]
        peaks = [row["sides"][size]["peak_mb"] for row, size in zip(rows, files, strict=True)]
        steps = [
            (b - a) / (t - s)
            for a, b, s, t in zip(arguments.megabytes, arguments.megabytes[1:], seconds, seconds[1:], strict=False)
        ]
        rows[-1]["checks"] = {
            "MB a further CPU second, from size to size": [round(step, 2) for step in steps],
            "peak memory, largest over smallest": round(peaks[-1] / peaks[0], 2),
        }
        finish("prepare", rows, arguments)


def wuya(*command: str) -> dict[str, float]:
    """Run a verb in a process of its own: its seconds and its peak memory."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    script = (
        "import runpy, sys\n"
        f"sys.argv = ['wuya', *{list(command)!r}]\n"
        "try:\n    runpy.run_module('wuya', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "lines = open('/proc/self/status').read().splitlines()\n"  # getrusage would count the parent before exec
        "sys.stderr.write('peak ' + next(line.split()[1] for line in lines if line.startswith('VmHWM')))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    kilobytes = float(done.stderr.rpartition("peak ")[2])
    return {"wall": wall, "cpu": cpu, "cpu_seconds": cpu, "peak_mb": kilobytes * 1024 / 1e6}


def made_up(num_bytes: int) -> str:
    """Documents between blank lines."""
    rng = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(rng.choices(letters, range(26, 0, -1), k=rng.randint(2, 9))) for _ in range(20_000)]
    weights = [1 / (rank + 10) for rank in range(len(words))]
    documents: list[str] = []
    size = 0
    while size < num_bytes:
        if documents and rng.random() < 0.1:
            copied = rng.choice(documents[-100:]).split(" ")
            copied[rng.randrange(len(copied))] = "changed"
            document = " ".join(copied)
        else:
            sentences = (rng.choices(words, weights, k=rng.randint(5, 20)) for _ in range(30))
            document = " ".join(" ".join(sentence).capitalize() + "." for sentence in sentences)
        documents.append(document)
        size += len(document) + 2
    return "\n\n".join(documents)


def write_documents(path: Path, text: str) -> None:
    """JSONL, one document a line."""
    rows = (json.dumps({"text": document}, ensure_ascii=False) for document in text.split("\n\n") if document.strip())
    path.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
