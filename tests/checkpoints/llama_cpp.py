"""llama.cpp as an oracle of GGUF files: `python tests/checkpoints/llama_cpp.py` in a process of its own.

Reads [{"model": path, "letter": id, "prompts": [[ids], ...]}, ...] from stdin; writes for each prompt the
likeliest next tokens by id, or the error. With {"model": path, "chats": [[message, ...], ...]} it answers chats in
the file's own template. Its threads and its C++ logger must not live in the tests' process.
"""

import json
import os
import subprocess
import sys
import urllib.request
from importlib.util import find_spec
from typing import Any

AVAILABLE = find_spec("xllamacpp") is not None
TOP = 20
"""Tokens whose log-probabilities come back."""


def next_tokens(requests: list[dict[str, Any]]) -> list[list[dict[int, float]]]:
    """For each request and prompt the log-probability of the likeliest next tokens, by the file's model in float32."""
    done = subprocess.run(
        [sys.executable, __file__], input=json.dumps(requests), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = json.loads(done.stdout.splitlines()[-1])
    return [[{int(id): value for id, value in prompt.items()} for prompt in answer] for answer in answers]


def chat_answers(model: str, chats: list[Any]) -> list[tuple[str, str, int]]:
    """(text, finish reason, prompt tokens) of each chat's answer at temperature 0, in the file's own template."""
    work = json.dumps([{"model": model, "chats": chats}])
    done = subprocess.run(
        [sys.executable, __file__], input=work, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [tuple(pair) for pair in json.loads(done.stdout.splitlines()[-1])[0]]


def text_ids(model: str, texts: list[str]) -> list[list[int]]:
    """Ids of texts that stand alone; control tokens in them are text."""
    work = json.dumps([{"model": model, "texts": texts}])
    done = subprocess.run(
        [sys.executable, __file__], input=work, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return list(json.loads(done.stdout.splitlines()[-1])[0])


def answer(request: dict[str, Any]) -> list[Any]:
    """One model's answers."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = request["model"], 64, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.fit_params, params.warmup = False, False
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)
    found: list[Any] = []
    for messages in request.get("chats", ()):
        asked = {"messages": messages, "max_tokens": 32, "temperature": 0}
        done = server.handle_chat_completions(asked)
        [choice] = done["choices"]
        found.append((choice["message"]["content"], choice["finish_reason"], done["usage"]["prompt_tokens"]))
    for text in request.get("texts", ()):
        body = json.dumps({"content": text, "add_special": True, "parse_special": False}).encode()
        asked = urllib.request.Request(
            f"{server.listening_address}/tokenize", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=60) as reply:
            found.append(json.load(reply)["tokens"])
    for ids in request.get("prompts", ()):
        # the sampled token is forced to be a letter: half a character has no text, and then no probabilities
        settings = {"prompt": ids, "n_predict": 1, "n_probs": TOP, "logit_bias": [[request["letter"], 1000.0]]}
        done = server.handle_completions(settings)
        best = done["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        found.append({entry["id"]: entry["logprob"] for entry in best})
    return found


if __name__ == "__main__":
    real = os.dup(1)
    os.dup2(2, 1)  # llama.cpp prints what it likes
    answers = [answer(request) for request in json.load(sys.stdin)]
    os.write(real, (json.dumps(answers) + "\n").encode())
    os._exit(0)  # its servers have threads
