"""lm-evaluation-harness reads the same log-likelihoods over `/v1/completions` as wuya computes itself.

It lives in an environment of its own: `python -m venv X && X/bin/pip install 'lm-eval[api]' transformers`, then
WUYA_LM_EVAL=X/bin/lm_eval pytest -m slow tests/web/api/test_lm_eval.py
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.databases import Databases
from tests.inference.naive import sharp_model
from tests.web.api.conftest import Api, serve
from wuya.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from wuya.evals.likelihood import token_logprobs
from wuya.inference.backends.local import LocalEngine
from wuya.tokenizer.bpe import train_tokenizer

pytestmark = pytest.mark.slow
LM_EVAL = os.environ.get("WUYA_LM_EVAL") or shutil.which("lm_eval")

ITEMS = [
    {"question": "The raven flew over the river and", "choices": [" sat down", " sang a song", " died"], "gold": 0},
    {"question": "Question: what is bread?\nAnswer:", "choices": [" flour", " a river", " stone"], "gold": 0},
    {"question": "\u4e4c\u9e26\u5728\u6811\u4e0a", "choices": ["\u5531\u6b4c", " raven", "\u98de"], "gold": 2},
]  # fmt: skip
TASK = """
task: wuya_items
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{gold}}}}"
doc_to_choice: "{{{{choices}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""


def test_the_harness_reads_what_wuya_computes(tmp_path: Path, databases: Databases) -> None:
    if LM_EVAL is None:
        pytest.skip("lm_eval is not installed (or set WUYA_LM_EVAL)")
    text = " ".join(item["question"] + "".join(item["choices"]) for item in ITEMS)  # type: ignore[operator, arg-type]
    tokenizer = train_tokenizer([text * 3], vocab_size=330)
    save_checkpoint(tmp_path / "tiny", sharp_model(vocab_size=tokenizer.vocab_size), tokenizer)
    items = tmp_path / "items.json"
    items.write_text("\n".join(json.dumps(item) for item in ITEMS))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "wuya_items.yaml").write_text(TASK.format(file=items))
    with serve(tmp_path, databases, accounts=False, engine=LocalEngine({"tiny": tmp_path / "tiny"}, slots=4)) as api:
        samples = run_lm_eval(api, tmp_path)

    model, tokenizer = load_checkpoint(tmp_path / "tiny")
    compared = 0
    for sample in samples:
        for arguments, [[loglikelihood, greedy]] in zip(sample["arguments"].values(), sample["resps"], strict=True):
            context, continuation = arguments["arg_0"], arguments["arg_1"]
            ids = tokenizer.encode(context + continuation)
            length = len(tokenizer.encode(context))
            logprobs_T = token_logprobs(model, [ids])[0][length - 1 :]
            assert float(loglikelihood) == pytest.approx(float(logprobs_T.double().sum()), abs=1e-3)
            assert str(greedy) == str(is_greedy(model, ids, length))
            compared += 1
    assert compared == 9


def is_greedy(model: Any, ids: list[int], length: int) -> bool:
    """Whether each token of the continuation is the likeliest."""
    import torch

    with torch.inference_mode():
        best_T = model.logits(model(torch.tensor([ids[:-1]])))[0].argmax(-1)
    return best_T[length - 1 :].tolist() == ids[length:]


def run_lm_eval(api: Api, folder: Path) -> list[dict[str, Any]]:
    """The harness as people start it; what it logged of each item."""
    model = f"model=tiny,base_url={api.url}/v1/completions,tokenizer={folder / 'tiny'},num_concurrent=2,max_retries=1"
    command = [
        str(LM_EVAL), "run", "--model", "local-completions", "--model_args", f"{model},tokenized_requests=True",
        "--tasks", "wuya_items", "--include_path", str(folder / "tasks"), "--log_samples",
        "--output_path", str(folder / "out"), "--batch_size", "3",
    ]  # fmt: skip
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "OPENAI_API_KEY": "none"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    [log] = (folder / "out").rglob("samples_*.jsonl")
    return [json.loads(line) for line in log.read_text().splitlines()]
