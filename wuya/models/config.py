"""What a transformer looks like: one frozen description, of BERT and of decoders from GPT-1 to Qwen3. No torch.

Fields are facts; what follows from them (parameter counts, row order of fused matrices) is a property.
"""

import math
from dataclasses import dataclass
from typing import Literal

from wuya.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """How the rotary frequencies of a trained model were stretched for a longer context (`rotary.py` computes it)."""

    kind: Literal["linear", "dynamic", "yarn", "llama3", "longrope"]
    """linear: arXiv:2306.15595. dynamic: NTK-aware. yarn: arXiv:2309.00071. longrope: arXiv:2402.13753."""
    factor: float
    """How many times longer the context became."""
    original_length: int
    """Context before stretching, in tokens."""
    attention_factor: float = 0.0
    """Multiplies cosines and sines (yarn, longrope); 0: what the paper's formula gives for `factor`."""
    beta_fast: float = 32.0
    """yarn: channels that turn more often than this in the original context keep their frequency."""
    beta_slow: float = 1.0
    """yarn: channels that turn less often than this are slowed down by `factor`."""
    mscale: float = 0.0
    """yarn of DeepSeek: numerator of the attention factor."""
    mscale_all_dim: float = 0.0
    """yarn of DeepSeek: denominator of the attention factor."""
    truncate: bool = True
    """yarn: round the borders between the three kinds of channels to whole channels."""
    low_freq_factor: float = 1.0
    """llama3: wavelengths above original_length / this are slowed down by `factor`."""
    high_freq_factor: float = 4.0
    """llama3: wavelengths below original_length / this are kept."""
    short_factor: tuple[float, ...] = ()
    """longrope: divisor of each frequency for sequences within the original context."""
    long_factor: tuple[float, ...] = ()
    """longrope: divisors beyond it; kept for export only, since a sequence that crosses the border would need both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GPTConfig:
    """Architecture of a decoder, or with `attention="full"` of an encoder.

    The defaults are the modern line (Qwen3); `presets.py` has the published ones.
    """

    vocab_size: int
    """Rows of the embedding table; ids are 0 .. vocab_size - 1."""
    context_length: int
    """Tokens the model can attend over; also the number of learned positions."""
    num_layers: int
    """Blocks, each one attention and one MLP."""
    model_dim: int
    """Width of the residual stream."""
    num_heads: int
    """Query heads."""
    num_kv_heads: int
    """Key/value heads; fewer than num_heads is grouped-query attention (arXiv:2305.13245)."""
    head_dim: int
    """Channels a head; need not be model_dim / num_heads."""
    mlp_dim: int
    """Inner width of the MLP."""
    attention: Literal["causal", "full"] = "causal"
    """What a token attends to: itself and the tokens before it (GPT), or its whole sequence (BERT)."""
    token_types: int = 0
    """Rows of a table that is added to the embeddings by the kind of each token (BERT: 2, first and second text)."""
    embedding_norm: bool = False
    """A norm of the sum of all embeddings, before the first block (BERT)."""
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    """LayerNorm with gain and bias, or RMSNorm with gain."""
    norm_position: Literal["pre", "post", "output", "both"] = "pre"
    """pre: norm into each sub-block and a final norm (GPT-2 on). post: norm after each sum, no final norm (GPT-1).
    output: norm of each sub-block's output, before the sum (OLMo 2). both: pre and output (Gemma 3)."""
    norm_offset: float = 0.0
    """Added to the stored gain of every norm: 1 in Gemma, whose gains are stored less 1."""
    positions: Literal["learned", "rope"] = "rope"
    """Learned absolute positions added to the embeddings, or rotary positions on q and k."""
    rope_base: float = 10_000.0
    """Base of the rotary frequencies; without effect with learned positions."""
    rope_scaling: RopeScaling | None = None
    """Rescaled rotary frequencies (Llama 3.x, YaRN, ...); None: as trained."""
    rotary_channels: int = 0
    """Channels of each head that rotary positions turn, the first ones (Phi-4-mini); 0: all of them."""
    window: int = 0
    """Tokens that a local layer attends to, the query's own included; needed where there are `local_layers`."""
    local_layers: tuple[int, ...] = ()
    """Layers with sliding-window attention, counted from 0."""
    local_rope_base: float = 0.0
    """Base of the rotary frequencies in local layers, never rescaled (Gemma 3); 0: as in the others."""
    nope_layers: tuple[int, ...] = ()
    """Layers without rotary positions (SmolLM3), counted from 0."""
    mlp: Literal["gelu", "gelu_exact", "swiglu", "geglu", "relu2"] = "swiglu"
    """gelu is the tanh form of GPT-1/2/3, gelu_exact BERT's with the error function, geglu the tanh form as a gate
    (Gemma); relu2 (squared ReLU) has no Hugging Face class and so no export."""
    qk_norm: bool = True
    """RMSNorm over the channels of each q and k head before the rotation (Qwen3)."""
    qk_norm_width: Literal["head", "all"] = "head"
    """What `qk_norm` normalises together: one head's channels (Qwen3), or those of all heads (OLMo 2)."""
    attention_scale: float = 0.0
    """Attention scores are multiplied by this before the softmax; 0: 1/sqrt(head_dim)."""
    embedding_scale: float = 1.0
    """Token embeddings are multiplied by this: sqrt(model_dim) in Gemma."""
    attention_bias: bool = False
    """Biases on q, k and v."""
    output_bias: bool = False
    """Bias on the attention's output projection."""
    mlp_bias: bool = False
    """Biases in the MLP."""
    tie_embeddings: bool = True
    """The output matrix is the embedding table."""
    norm_eps: float = 1e-6
    """Added to the variance inside every norm."""
    softcap: float = 0.0
    """Logits become softcap * tanh(logits / softcap); 0 is off. Of the classes we export to, Gemma 3's has it."""
    dropout: float = 0.0
    """On embeddings, residuals and attention weights, while training."""
    family: str = ""
    """The Hugging Face family it was read from, where several would fit: export keeps its names."""

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "context_length",
            "num_layers",
            "model_dim",
            "num_heads",
            "num_kv_heads",
            "head_dim",
            "mlp_dim",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` of a model must be at least 1", found=str(getattr(self, name)))
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                "`num_kv_heads` must divide `num_heads`", found=f"{self.num_kv_heads} and {self.num_heads}"
            )
        if self.positions == "rope" and self.head_dim % 2:
            raise ConfigError("`head_dim` must be even with rotary positions", found=str(self.head_dim))
        if self.rotary_channels % 2 or self.rotary_channels > self.head_dim:
            raise ConfigError("`rotary_channels` must be even and fit into a head", found=str(self.rotary_channels))
        if self.local_layers and self.window < 1:
            raise ConfigError("local layers need a `window` of at least 1", found=str(self.window))
        if outside := [i for i in (*self.local_layers, *self.nope_layers) if not 0 <= i < self.num_layers]:
            raise ConfigError(f"there is no layer {outside[0]}", found=f"num_layers {self.num_layers}")
        if self.attention == "full" and self.local_layers:
            raise ConfigError("layers with a window are causal: `attention` must be causal with `local_layers`")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError("`dropout` must be in [0, 1)", found=str(self.dropout))

    @property
    def qkv_rows(self) -> tuple[int, int, int]:
        """Rows of q, k and v in the fused attention matrix, in this order."""
        return self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim, self.num_kv_heads * self.head_dim

    @property
    def gated(self) -> bool:
        """Whether the MLP has a gate beside its up projection, in one matrix."""
        return self.mlp in ("swiglu", "geglu")

    @property
    def turned_channels(self) -> int:
        """Channels of each head that rotary positions turn."""
        return (self.rotary_channels or self.head_dim) if self.positions == "rope" else 0

    @property
    def query_factor(self) -> float:
        """Multiplies the queries, so that attention divided by sqrt(head_dim) has the wanted `attention_scale`."""
        return self.attention_scale * math.sqrt(self.head_dim) if self.attention_scale else 1.0

    def window_of(self, layer: int) -> int:
        """Tokens that this layer attends to; 0 is all."""
        return self.window if layer in self.local_layers else 0

    @property
    def num_block_parameters(self) -> int:
        """Parameters of one block, norms included."""
        norm = self.model_dim * (2 if self.norm == "layernorm" else 1)
        attention = self.model_dim * (sum(self.qkv_rows) + self.qkv_rows[0])
        attention += sum(self.qkv_rows) * self.attention_bias + self.model_dim * self.output_bias
        attention += (2 * self.head_dim if self.qk_norm_width == "head" else sum(self.qkv_rows[:2])) * self.qk_norm
        inner = self.mlp_dim * (2 if self.gated else 1)
        mlp = self.model_dim * (inner + self.mlp_dim) + (inner + self.model_dim) * self.mlp_bias
        return attention + mlp + (4 if self.norm_position == "both" else 2) * norm

    @property
    def num_parameters(self) -> int:
        """Every parameter, exactly; a tied output matrix is counted once."""
        tables = self.vocab_size * self.model_dim * (1 if self.tie_embeddings else 2)
        tables += self.context_length * self.model_dim * (self.positions == "learned")
        tables += self.token_types * self.model_dim
        norms = (self.norm_position != "post") + self.embedding_norm  # the final one, and that of the embeddings
        norms *= self.model_dim * (2 if self.norm == "layernorm" else 1)
        return tables + self.num_layers * self.num_block_parameters + norms

    @property
    def num_matmul_parameters(self) -> int:
        """Parameters a token is multiplied with (blocks and output matrix, not the lookups): the N of 6 N D."""
        return self.num_layers * self.num_block_parameters + self.vocab_size * self.model_dim
