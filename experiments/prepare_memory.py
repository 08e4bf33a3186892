"""Measure the memory of `wuya prepare`: the peak of the resident memory summed over its processes.

    python experiments/prepare_memory.py --megabytes 1000 --workers 2 --folder /tmp/prepare-memory

Writes so much unique text (random words, none of it repeats), prepares it with every stage on, and prints megabytes and
seconds as JSON. Memory that processes share (the interpreter's libraries) is counted once for each of them.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil

VOCABULARY = 50_000
WORDS_PER_DOCUMENT = 150


def write_text(path: Path, megabytes: int, *, seed: int = 0) -> int:
    """Write documents of random words until there are so many megabytes; returns how many documents."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(rng.choice(letters, length)) for length in rng.integers(2, 10, VOCABULARY)], object)
    chances = 1.0 / np.arange(10, VOCABULARY + 10)  # Zipf's law, flattened at the top
    cumulated = np.cumsum(chances / chances.sum())
    num_documents = written = 0
    with path.open("w", encoding="ascii") as file:
        while written < megabytes * 1_000_000:
            places = np.searchsorted(cumulated, rng.random(1000 * WORDS_PER_DOCUMENT))
            for row in words[np.minimum(places, VOCABULARY - 1)].reshape(1000, WORDS_PER_DOCUMENT):
                line = '{"text": "' + " ".join(row) + '"}\n'
                written += file.write(line)
                num_documents += 1
    return num_documents


def peak_memory(command: list[str], *, interval: float = 0.05) -> tuple[int, float, int]:
    """Run a command: (peak of the summed resident memory of it and its children in bytes, seconds, exit code)."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            total = 0
            try:
                parent = psutil.Process(process.pid)
                for member in (parent, *parent.children(recursive=True)):
                    try:
                        total += member.memory_info().rss
                    except psutil.NoSuchProcess:
                        continue
            except psutil.NoSuchProcess:
                return
            peak = max(peak, total)
            time.sleep(interval)

    thread = threading.Thread(target=watch)
    thread.start()
    code = process.wait()
    thread.join()
    return peak, time.monotonic() - started, code


def measure(folder: Path, *, megabytes: int, workers: int) -> dict[str, float | int]:
    """Generate, prepare, measure; the text stays in `folder` for another run."""
    from wuya.tokenizer.bpe import train_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    text, evaluation, out = folder / f"text_{megabytes}.jsonl", folder / "eval.txt", folder / f"out_{time.time_ns()}"
    if not text.exists():
        write_text(text, megabytes)
    with text.open(encoding="ascii") as file:
        sample = [json.loads(next(file))["text"] for _ in range(2000)]
    train_tokenizer(sample, vocab_size=4096).save(folder / "tokenizer")
    evaluation.write_text("\n".join(" ".join(line.split()[20:60]) for line in sample[:200]) + "\n")
    command = [sys.executable, "-m", "wuya", "prepare", "--inputs", str(text), "--tokenizer", str(folder / "tokenizer")]
    command += ["--decontaminate_against", str(evaluation), "--out", str(out), "--workers", str(workers)]
    peak, seconds, code = peak_memory(command)
    if code:
        raise SystemExit(f"`{' '.join(command)}` ended with exit code {code}")
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    return {
        "text_megabytes": round(text.stat().st_size / 1e6),
        "documents": manifest["stages"][0]["entered"][text.stem]["documents"],
        "tokens": manifest["sources"][0]["available"]["tokens"],
        "workers": workers,
        "peak_rss_megabytes": round(peak / 1e6),
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    result = measure(arguments.folder, megabytes=arguments.megabytes, workers=arguments.workers)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
