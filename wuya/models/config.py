"""What a decoder looks like: one frozen description that spans GPT-1 (2018) to the Qwen3 line (2025). No torch here.

Fields are facts; what follows from them (parameter counts, row order of fused matrices) is a property.
"""

from dataclasses import dataclass
from typing import Literal

from wuya.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class GPTConfig:
    """Architecture of a decoder. The defaults are the modern line (Qwen3); `presets.py` has the published ones."""

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
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    """LayerNorm with gain and bias, or RMSNorm with gain."""
    norm_position: Literal["pre", "post"] = "pre"
    """pre: norm into each sub-block and a final norm (GPT-2 on). post: norm after each sum, no final norm (GPT-1)."""
    positions: Literal["learned", "rope"] = "rope"
    """Learned absolute positions added to the embeddings, or rotary positions on q and k."""
    rope_base: float = 10_000.0
    """Base of the rotary frequencies; without effect with learned positions."""
    mlp: Literal["gelu", "swiglu", "relu2"] = "swiglu"
    """gelu is the tanh form of GPT-1/2/3; relu2 (squared ReLU) has no Hugging Face class and so no export."""
    qk_norm: bool = True
    """RMSNorm over the channels of each q and k head before the rotation (Qwen3)."""
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
    """Logits become softcap * tanh(logits / softcap); 0 is off. No Hugging Face class we export to has it."""
    dropout: float = 0.0
    """On embeddings, residuals and attention weights, while training."""

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
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError("`dropout` must be in [0, 1)", found=str(self.dropout))

    @property
    def qkv_rows(self) -> tuple[int, int, int]:
        """Rows of q, k and v in the fused attention matrix, in this order."""
        return self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim, self.num_kv_heads * self.head_dim

    @property
    def num_block_parameters(self) -> int:
        """Parameters of one block, norms included."""
        norm = self.model_dim * (2 if self.norm == "layernorm" else 1)
        attention = self.model_dim * (sum(self.qkv_rows) + self.qkv_rows[0])
        attention += sum(self.qkv_rows) * self.attention_bias + self.model_dim * self.output_bias
        attention += 2 * self.head_dim * self.qk_norm
        inner = self.mlp_dim * (2 if self.mlp == "swiglu" else 1)
        mlp = self.model_dim * (inner + self.mlp_dim) + (inner + self.model_dim) * self.mlp_bias
        return attention + mlp + 2 * norm

    @property
    def num_parameters(self) -> int:
        """Every parameter, exactly; a tied output matrix is counted once."""
        tables = self.vocab_size * self.model_dim * (1 if self.tie_embeddings else 2)
        tables += self.context_length * self.model_dim * (self.positions == "learned")
        final_norm = self.model_dim * (2 if self.norm == "layernorm" else 1) * (self.norm_position == "pre")
        return tables + self.num_layers * self.num_block_parameters + final_norm

    @property
    def num_matmul_parameters(self) -> int:
        """Parameters a token is multiplied with (blocks and output matrix, not the lookups): the N of 6 N D."""
        return self.num_layers * self.num_block_parameters + self.vocab_size * self.model_dim
