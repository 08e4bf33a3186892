"""Log-probs in chunks are those of the whole table, gradients too, and the table never exists."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.rlhf.ppo_toys import sequence_logprobs
from wuya.data.batches import PretrainingBatches
from wuya.losses.language_model import token_logprobs as full_logprobs
from wuya.models.gpt import GPT
from wuya.models.lora import LanguageView, add_lora
from wuya.models.presets import preset
from wuya.rlhf.answer_rows import answer_rows
from wuya.rlhf.pair_gradients import answer_logprobs
from wuya.rlhf.ppo_update import PPOBatch, policy_gradients, pretraining_gradients
from wuya.training import distributed, token_logprobs
from wuya.training.language_model import nats_sum, validate
from wuya.training.token_logprobs import hidden_logprobs

V, N = 2_000, 600


class LargestTensor(TorchDispatchMode):
    """Notes the most numbers any operation gave back, in backward passes too."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.most = max(self.most, tensor.numel())
        return result


def tiny(**changes: Any) -> GPT:
    torch.manual_seed(0)
    sizes = {"vocab_size": V, "context_length": 64, "num_layers": 1, "model_dim": 16, "mlp_dim": 32, "num_heads": 2,
             "num_kv_heads": 1, "head_dim": 8}  # fmt: skip
    return GPT(preset("tiny", **{**sizes, **changes})).eval()


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_logprobs, "LOGITS_AT_ONCE", 100 * V)


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": False}, {"softcap": 5.0}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_give_the_log_probs_and_gradients_of_the_whole(changes: dict[str, Any], dtype: torch.dtype) -> None:
    model = tiny(**changes)
    head = model.embedding if model.head is None else model.head
    hidden_ND = torch.randn(N, 16, requires_grad=True)
    tokens_N, pull_N = torch.randint(0, V, (N,)), torch.randn(N)
    found = []
    for logprobs in (
        lambda: full_logprobs(model.logits(hidden_ND), tokens_N, temperature=0.7),
        lambda: hidden_logprobs(model, hidden_ND, tokens_N, temperature=0.7),
    ):
        model.zero_grad()
        hidden_ND.grad = None
        with distributed.autocast(torch.device("cpu"), dtype):
            logprobs_N = logprobs()
            (logprobs_N @ pull_N).backward()
        assert hidden_ND.grad is not None and head.weight.grad is not None
        found.append((logprobs_N.detach(), hidden_ND.grad.clone(), head.weight.grad.clone()))
    for whole, chunked in zip(*found, strict=True):
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2 * float(whole.abs().max())
        torch.testing.assert_close(chunked, whole, atol=tolerance, rtol=1e-5)


def ppo(model: GPT, ids_BT: Tensor) -> None:
    ones_BT = torch.ones(ids_BT.shape[0], ids_BT.shape[1] - 1)
    part = PPOBatch(ids_BT, ones_BT, -ones_BT, ones_BT, ones_BT, ones_BT, torch.full((len(ids_BT),), ids_BT.shape[1]))
    policy_gradients(model, [part], num_tokens=ones_BT.sum(), clip_range=0.2, temperature=1.0)


class Stream:
    """Token ids as shards give them."""

    def __init__(self, ids_BT: Tensor) -> None:
        self.ids = ids_BT.flatten().numpy()
        self.num_tokens = len(self.ids)

    def window(self, start: int, length: int) -> Any:
        return self.ids[start : start + length]


def ptx(model: GPT, ids_BT: Tensor) -> None:
    windows = PretrainingBatches(Stream(ids_BT), context_length=ids_BT.shape[1] - 1, batch_size=len(ids_BT), seed=0)
    pretraining_gradients(
        model, windows, step=0, ptx_coef=1.0, microbatch_tokens=10_000
    )  # fmt: skip


def dpo(model: GPT, ids_BT: Tensor) -> None:
    [rows] = answer_rows([row[:1] for row in ids_BT.tolist()], [row[1:] for row in ids_BT.tolist()], max_length=64)
    answer_logprobs(model, rows).sum().backward()  # type: ignore[no-untyped-call]


def reference(model: GPT, ids_BT: Tensor) -> None:
    add_lora(model, rank=2, alpha=2.0)
    with torch.no_grad():
        sequence_logprobs(LanguageView(model, None), ids_BT, torch.ones(ids_BT[:, 1:].shape))


def capped(model: GPT, ids_BT: Tensor) -> None:
    nats_sum(tiny(softcap=5.0), ids_BT[:, :-1], ids_BT[:, 1:]).backward()  # type: ignore[no-untyped-call]


def held_out(model: GPT, ids_BT: Tensor) -> None:
    validate(model, [(ids_BT[:, :-1], ids_BT[:, 1:])], torch.ones(V, dtype=torch.int64))


@pytest.mark.parametrize("use", [ppo, ptx, dpo, reference, capped, held_out])
def test_no_recipe_builds_the_logits_of_a_whole_microbatch(use: Callable[[GPT, Tensor], None]) -> None:
    model, ids_BT = tiny(), torch.randint(0, V, (20, 31))
    with LargestTensor() as largest:
        use(model, ids_BT)
    assert largest.most <= 100 * V + V * 16 < 20 * 30 * V
