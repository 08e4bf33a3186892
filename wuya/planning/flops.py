"""How much arithmetic a model needs: FLOPs per token, per training run and per PPO episode, and how long that takes.

Spec section 11: training costs 6 N per token (forward 2, backward 4) for the N parameters a token is multiplied with,
plus 12 L H C T for attention over T tokens (causal attention needs half of it); inference costs a third of that.

Symbols: N matrix parameters, L layers, H query heads, C head channels, T tokens.
"""

from dataclasses import dataclass

from wuya.models.config import GPTConfig

PETAFLOP_DAY = 8.64e19
"""FLOPs of one petaflop/s-day."""


def forward_flops_per_token(config: GPTConfig, context: float, *, causal: bool = True) -> float:
    """2 N + 4 L H C T; with `causal` the mean token sees half of the context."""
    attention = 4 * config.num_layers * config.num_heads * config.head_dim * context
    return 2 * matmul_parameters(config) + (attention / 2 if causal else attention)


def training_flops_per_token(config: GPTConfig, context: float, *, causal: bool = True) -> float:
    """Three times a forward pass: the backward pass takes gradients of inputs and of weights."""
    return 3 * forward_flops_per_token(config, context, causal=causal)


def matmul_parameters(config: GPTConfig) -> int:
    """Parameters of matrices a token is multiplied with: blocks and output matrix; no norms, biases or lookups."""
    inner = config.mlp_dim * (2 if config.gated else 1)
    block = config.model_dim * (sum(config.qkv_rows) + config.qkv_rows[0] + inner + config.mlp_dim)
    return config.num_layers * block + config.vocab_size * config.model_dim


def decode_tokens_per_second(weight_and_cache_bytes: float, bytes_per_second: float) -> float:
    """Upper bound for one sequence: every token reads all weights and its cache once."""
    return bytes_per_second / weight_and_cache_bytes


@dataclass(frozen=True, slots=True)
class EpisodeFlops:
    """One PPO episode of `prompt` and `completion` tokens."""

    generation: float
    scoring: float
    """Forward passes of reference, reward and value model over the whole episode."""
    learning: float
    """Forward and backward passes of policy and value model, for every PPO epoch."""

    @property
    def total(self) -> float:
        """All three."""
        return self.generation + self.scoring + self.learning


def ppo_episode_flops(config: GPTConfig, *, prompt: int, completion: int, ppo_epochs: int = 1) -> EpisodeFlops:
    """About 2 N a generated token, 3 x 2 N and 2 x 6 N x epochs a token of the episode."""
    length = prompt + completion
    forward = length * forward_flops_per_token(config, length)
    return EpisodeFlops(forward, 3 * forward, 2 * ppo_epochs * 3 * forward)
