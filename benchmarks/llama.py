"""llama.cpp as a peer: its own server in a venv and a process of its own (PyPI's prebuilt `xllamacpp`), asked by HTTP.

    python -m benchmarks.peers llama                                         # once, 30 MB
    python -m benchmarks.llama q4_0 model-float32.gguf model-q4_0.gguf       # what `wuya export` does not write
    .venv/peers/llama/bin/python -m benchmarks.llama serve model.gguf --port 8080

`serve` is llama-server inside a Python process: the same C++ server, so what is measured is what a user has who starts
`llama-server -m model.gguf --threads 1 --parallel 8`. It runs until its stdin closes. Nothing here imports torch: that
venv has none.
"""

import argparse
import json
import subprocess
import sys
import time
import urllib.request
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.peers import peer_python


class LlamaServer:
    """A llama-server of ours while it is measured."""

    def __init__(self, model: str, *, threads: int, slots: int, context_length: int) -> None:
        """
        Args:
            slots: sequences at once; each has `context_length` tokens of its own.
        """
        import psutil

        command = [str(peer_python("llama")), "-m", "benchmarks.llama", "serve", model, "--threads", str(threads)]
        command += ["--slots", str(slots), "--context_length", str(context_length)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            cwd=Path(__file__).parents[1],
        )  # fmt: skip
        self._watched = psutil.Process(self.process.pid)
        assert self.process.stdout is not None
        line = next((line for line in self.process.stdout if line.startswith("answer ")), "")
        if not line:
            raise SystemExit(f"llama-server did not start, exit code {self.process.wait()}: {' '.join(command)}")
        told = json.loads(line.removeprefix("answer "))
        self.url: str = told["url"]
        self.versions: dict[str, str] = told["versions"]

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        """Greedy tokens of every prompt, all at once; prompts are read anew each time."""
        body = {
            "prompt": prompts, "n_predict": new_tokens, "ignore_eos": True, "return_tokens": True,
            "cache_prompt": False, "samplers": ["top_k"], "top_k": 1,
        }  # fmt: skip
        asked = urllib.request.Request(
            f"{self.url}/completion", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=600) as answer:
            told: Any = json.load(answer)
        results = sorted(told if isinstance(told, list) else [told], key=lambda item: item["index"])
        return [item["tokens"] for item in results]

    def cpu_seconds(self) -> float:
        """What it used so far."""
        return float(sum(self._watched.cpu_times()[:2]))

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    serving, packing = kinds.add_parser("serve"), kinds.add_parser("q4_0")
    serving.add_argument("model", help="a .gguf file")
    serving.add_argument("--port", type=int, default=0)
    serving.add_argument("--threads", type=int, default=1)
    serving.add_argument("--slots", type=int, default=8)
    serving.add_argument("--context_length", type=int, default=1024, help="tokens of each slot")
    packing.add_argument("source", type=Path, help="a .gguf file in float32")
    packing.add_argument("out", type=Path)
    arguments = parser.parse_args()
    if arguments.kind == "serve":
        serve(arguments)
    else:
        pack_q4_0(arguments.source, arguments.out)


def serve(arguments: argparse.Namespace) -> None:
    """The other end of `LlamaServer`, in the peer's venv."""
    import xllamacpp  # type: ignore[import-not-found]  # only there

    params = xllamacpp.CommonParams()
    params.model.path = arguments.model
    params.port, params.n_parallel = arguments.port, arguments.slots
    params.n_ctx = arguments.context_length * arguments.slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = arguments.threads
    params.fit_params = False
    server = xllamacpp.Server(params)
    told = {"url": server.listening_address, "versions": {"xllamacpp": metadata.version("xllamacpp")}}
    sys.stdout.write("answer " + json.dumps(told) + "\n")
    sys.stdout.flush()
    if sys.stdin.isatty():
        while True:
            time.sleep(3600)
    sys.stdin.read()


def pack_q4_0(source: Path, out: Path) -> None:
    """Layers in 4 bits, embedding and output in 8 (llama.cpp's own tool gives these 6), norms as they are."""
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import quantize

    reader = GGUFReader(source)
    writer = GGUFWriter(out, str(reader.fields["general.architecture"].contents()))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        inner = field.types[1] if field.types[0] is GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        kind = GGMLQuantizationType.Q4_0 if tensor.name.startswith("blk.") else GGMLQuantizationType.Q8_0
        if len(tensor.shape) < 2:
            kind = GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, quantize(tensor.data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
