"""One decode step in C++ (models/native.cpp) for the models it knows: GPT-2 to Qwen3, float32 or packed weights, CPU.

Some thirty small torch operations a layer become loops over data that is still in the cache. Anything else, a LoRA
adapter, other orders of norms, sliding windows, CUDA, bfloat16, decodes with `GPT.forward`, which is also the oracle
(tests/inference/test_native_decode.py).
"""

from dataclasses import fields

import torch
from torch import Tensor, nn

from wuya.inference.kv_cache import KVCache
from wuya.models import native
from wuya.models.gpt import GPT
from wuya.models.layers import Block, GatedMLP, RMSNorm
from wuya.models.quantize import PackedLinear


class NativeDecode:
    """The decode step of one model; reads the weights where they are, so they must stay there while this is used."""

    def __init__(self, model: GPT) -> None:
        config = model.config
        self.vocab_size = config.vocab_size
        self._kept = (model, *(parameter.detach() for parameter in model.parameters()))  # as long as C++ has addresses
        self._blocks = (native.Layer * config.num_layers)(*(_layer(block) for block in model.blocks))
        head = _float(model.embedding.weight, None) if model.head is None else _linear(model.head)
        learned = None if model.position_embedding is None else model.position_embedding.weight
        cosine, sine = (None, None) if learned is not None else (model.cos_TC, model.sin_TC)
        self._model = native.Model(
            num_layers=config.num_layers, dim=config.model_dim, heads=config.num_heads, kv_heads=config.num_kv_heads,
            channels=config.head_dim, mlp=config.mlp_dim, eps=config.norm_eps,
            activation=native.ACTIVATIONS[config.mlp], embedding=native.address(model.embedding.weight),
            positions=native.address(learned), cosine=native.address(cosine), sine=native.address(sine),
            final_norm=_norm(model.final_norm), layers=self._blocks, head=head,
        )  # fmt: skip

    def __call__(self, ids_B: Tensor, lengths_B: Tensor, cache: KVCache, *, one_row: bool = False) -> Tensor:
        """Logits [B, V] of one more token for the first B rows, whose keys and values are written at `lengths_B`.

        With `one_row` the tokens follow each other in row 0: `lengths_B` counts up by one.
        """
        library, storage = native.kernels(), cache.storage
        assert library is not None and ids_B.is_contiguous() and lengths_B.is_contiguous() and storage.is_contiguous()
        logits_BV = torch.empty(len(ids_B), self.vocab_size)
        library.wuya_decode(self._model, len(ids_B), ids_B.data_ptr(), lengths_B.data_ptr(), one_row,
                            storage.data_ptr(), storage.shape[2], storage.shape[4], logits_BV.data_ptr(),
                            native.threads())  # fmt: skip
        return logits_BV


def native_decode(model: GPT) -> NativeDecode | None:
    """The fast step of this model as it is now, or None if only torch can do it."""
    return NativeDecode(model) if _knows(model) and native.kernels() is not None else None


COMPUTED = {
    "vocab_size", "context_length", "num_layers", "model_dim", "num_heads", "num_kv_heads", "head_dim", "mlp_dim",
    "norm", "positions", "rope_base", "rope_scaling", "mlp", "qk_norm", "attention_bias", "output_bias", "mlp_bias",
    "tie_embeddings", "norm_eps", "dropout", "family",
}  # fmt: skip
"""Fields of a config that native.cpp computes (scaled rotary positions are a table) or that change no decode step. A
model where any other field is not at its default decodes with torch."""


def _knows(model: GPT) -> bool:
    config = model.config
    plain = all(getattr(config, field.name) == field.default for field in fields(config) if field.name not in COMPUTED)
    plain = plain and config.mlp in native.ACTIVATIONS and model.device.type == "cpu" and model.dtype == torch.float32
    if not plain or torch.is_autocast_enabled("cpu") or type(model).forward is not GPT.forward:
        return False
    matrices: list[nn.Module] = [] if model.head is None else [model.head]
    for block in model.blocks:
        assert isinstance(block, Block)
        matrices += [block.attention.qkv, block.attention.out, *block.mlp.children()]
    known = all(type(matrix) in (nn.Linear, PackedLinear) for matrix in matrices)
    tensors = [*model.parameters(), *model.buffers()]
    return known and all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in tensors)


def _layer(block: nn.Module) -> native.Layer:
    assert isinstance(block, Block)
    attention, mlp = block.attention, block.mlp
    up = mlp.gate_up if isinstance(mlp, GatedMLP) else mlp.up
    matrices = (_linear(module) for module in (attention.qkv, attention.out, up, mlp.down))
    norms = (_norm(block.attention_norm), _norm(block.mlp_norm))
    of_heads = (None if norm is None else native.address(norm.weight) for norm in (attention.q_norm, attention.k_norm))
    return native.Layer(*matrices, *norms, *of_heads)


def _norm(norm: nn.Module | None) -> native.Norm:
    assert isinstance(norm, RMSNorm | nn.LayerNorm)
    shift = norm.bias if isinstance(norm, nn.LayerNorm) else None
    return native.Norm(native.address(norm.weight), native.address(shift))


def _linear(module: nn.Module) -> native.Linear:
    if isinstance(module, PackedLinear):
        return module.description()
    assert isinstance(module, nn.Linear)
    return _float(module.weight, module.bias)


def _float(weight_OI: Tensor, bias_O: Tensor | None) -> native.Linear:
    return native.Linear(native.FLOAT32, *weight_OI.shape, 0, native.address(weight_OI), None, native.address(bias_O))
