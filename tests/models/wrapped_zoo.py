"""Random tiny models of many causal architectures of `transformers` that our own decoder does not know."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
HEADS = SMALL | {"head_dim": 8}
WINDOW = {"sliding_window": 8}
GPT_LIKE = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 1, "eos_token_id": 2}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_experts": 4, "moe_intermediate_size": 16}
DEEPSEEK = SMALL | {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 12,
    "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "moe_intermediate_size": 16, "first_k_dense_replace": 1, "num_key_value_heads": 4,
}  # fmt: skip

ZOO: dict[str, dict[str, Any]] = {
    "arcee": SMALL,
    "biogpt": SMALL,
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "seq_length": 128},
    "codegen": GPT_LIKE | {"rotary_dim": 4},
    "cohere": SMALL | {"logit_scale": 0.25},
    "cohere2": SMALL | WINDOW | {"logit_scale": 0.25},
    "deepseek_v2": DEEPSEEK,
    "deepseek_v3": DEEPSEEK,
    "ernie4_5": HEADS,
    "exaone4": SMALL | WINDOW,
    "falcon": SMALL | {"alibi": False},
    "gemma": HEADS,
    "gemma2": HEADS | WINDOW | {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0},
    "glm": HEADS,
    "gpt_bigcode": GPT_LIKE,
    "gpt_neo": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
                "window_size": 8, "max_position_embeddings": 128},
    "gpt_neox": SMALL,
    "gpt_oss": HEADS | EXPERTS | WINDOW,
    "gptj": GPT_LIKE | {"rotary_dim": 4},
    "granite": SMALL | {"logits_scaling": 3.0, "embedding_multiplier": 2.0},
    "helium": HEADS,
    "jamba": SMALL | {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4,
                      "expert_layer_period": 2, "expert_layer_offset": 1, "use_mamba_kernels": False},
    "lfm2": SMALL | {"full_attn_idxs": [1]},
    "llama4_text": HEADS | EXPERTS | {"attention_chunk_size": 8, "intermediate_size_mlp": 64},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "mamba2": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "num_heads": 4, "head_dim": 16,
               "n_groups": 1, "chunk_size": 8},
    "mixtral": SMALL | EXPERTS,
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128},
    "nemotron": SMALL,
    "olmo": SMALL,
    "olmoe": SMALL | EXPERTS,
    "opt": SMALL | {"ffn_dim": 64, "word_embed_proj_dim": 16, "dropout": 0.1},
    "persimmon": SMALL,
    "phi": SMALL,
    "qwen2_moe": SMALL | EXPERTS | {"shared_expert_intermediate_size": 16},
    "qwen3_next": HEADS | EXPERTS | {"full_attention_interval": 2,
        "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        "shared_expert_intermediate_size": 16},
    "recurrent_gemma": HEADS | {"lru_width": 32, "num_hidden_layers": 3, "attention_window_size": 8},
    "rwkv": {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32, "context_length": 128},
    "stablelm": SMALL,
    "starcoder2": SMALL | WINDOW,
    "xglm": {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 64, "max_position_embeddings": 128},
}  # fmt: skip

RECURRENT = {"jamba", "lfm2", "mamba", "mamba2", "qwen3_next", "recurrent_gemma", "rwkv"}
"""Their state is no list of keys and values."""
STATELESS = {"recurrent_gemma", "rwkv"}
"""They hand out no state, so every step reads all tokens."""
OWN_POSITIONS = {"bloom", "gpt_neo", "mpt"}
"""They take no mask or position for each token: ALiBi, or a mask of their own."""


def random_wrapped(name: str, *, vocab_size: int = 300, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A model whose every parameter is random, and large enough for attention to matter."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(name, **{"vocab_size": vocab_size, **ZOO[name], **changes})
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if not any(word in key for word in ("A_log", "dt_", "time_decay", "router", "bias")):
                parameter.add_(torch.randn_like(parameter) * (0.15 if parameter.ndim > 1 else 0.05))
    return model.eval()
