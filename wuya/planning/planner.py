"""How much memory a model needs before anything is spent: weights, gradients, optimizer, activations, logits, KV cache.

Plain arithmetic without torch. Two kinds of numbers live here: the published formulas (bytes per
parameter, Korthikanti et al.'s activations, ZeRO), and what *this* decoder allocates, tensor by tensor, as layers.py
and fused.py keep them for the backward pass in float32 on a CPU. The second kind is compared with autograd's own record
byte for byte (tests/planning/test_planner.py) and with measured peaks (experiments/plan_memory.py).

Symbols: N tokens of a microbatch (B rows x T), D model width, F MLP width, H query heads, K key/value heads, C head
channels, V vocabulary.
"""

from dataclasses import dataclass
from typing import Literal

from wuya.models.config import GPTConfig

Precision = Literal["float32", "bfloat16", "int8", "int4"]
OptimizerKind = Literal["adamw", "adamw8bit", "sgd", "muon"]

INT4_GROUP = 32
WEIGHT_BYTES: dict[Precision, float] = {
    "float32": 4,
    "bfloat16": 2,
    "int8": 1,
    "int4": 0.5 + 2 / INT4_GROUP,  # a 16-bit scale for every 32 weights
}
ATTENTION_BLOCK = 64
"""Queries of one block in fused.py."""
LONGEST_BLOCKWISE = 512
"""Contexts up to here attend blockwise and keep their probabilities (fused.LONGEST)."""
ROWS_AT_ONCE, LOGITS_AT_ONCE = 256, 2**19
"""The loss is computed in chunks of so many positions or logits, whichever is more (training/language_model.py)."""
PREFILL_TOKENS = 2048
"""Most prompt tokens of one forward (inference/engine.py)."""
FLOAT = 4
TOKENIZER_BYTES = 610
"""A token of a loaded tokenizer, both encoders with their tables; measured with 49,152 tokens."""


def weight_bytes(num_parameters: int, precision: Precision) -> float:
    """Bytes of the weights alone, as for inference."""
    return num_parameters * WEIGHT_BYTES[precision]


def decoder_bytes(config: GPTConfig, precision: Precision) -> float:
    """Bytes of the weights as the engine holds them; packed ones as models/quantize.py does: the matrices of the blocks
    (4 bits with scale and lowest value for every 32) and the output matrix (8 bits), the input embedding in float32."""
    if precision not in ("int8", "int4"):
        return weight_bytes(config.num_parameters, precision)
    matrices, table = _block_matrices(config), config.vocab_size * config.model_dim
    others = config.num_parameters - matrices - (0 if config.tie_embeddings else table)
    return matrices * (1 if precision == "int8" else 0.5 + 4 / INT4_GROUP) + table + FLOAT * others


def kv_cache_bytes(config: GPTConfig, *, length: int, batch_size: int = 1, precision: Precision = "float32") -> float:
    """Keys and values of every layer for `length` tokens of `batch_size` sequences: 2 L K C T B bytes."""
    per_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim
    return per_token * length * batch_size * WEIGHT_BYTES[precision]


def prefill_bytes(config: GPTConfig, *, tokens: int, precision: Precision = "float32") -> float:
    """What reading a prompt holds for a moment: hidden states and the MLP of one block, for one forward's tokens."""
    at_once = min(tokens, PREFILL_TOKENS)
    mlp = config.mlp_dim * (4 if config.gated else 2)
    return at_once * (3 * config.model_dim + mlp) * WEIGHT_BYTES[precision]


@dataclass(frozen=True, slots=True)
class StateBytes:
    """Bytes per trainable parameter."""

    weights: float
    gradients: float
    optimizer: float
    """Moments, and the float32 master copy of 16-bit weights."""

    @property
    def total(self) -> float:
        """All of them."""
        return self.weights + self.gradients + self.optimizer


def state_bytes(optimizer: OptimizerKind, precision: Literal["float32", "bfloat16"]) -> StateBytes:
    """Weights, gradients and optimizer state per parameter (ZeRO, arXiv:1910.02054, section 3.1).

    float32: AdamW 4+4+8. bfloat16 is mixed precision as published: 16-bit weights and gradients, a float32 master copy
    and the moments: AdamW 2+2+12 = 16, SGD with momentum and Muon 2+2+8 = 12, 8-bit Adam 2+2+4+2 = 10.
    """
    moments = {"adamw": 8.0, "adamw8bit": 2.0, "sgd": 4.0, "muon": 4.0}[optimizer]
    if precision == "float32":
        return StateBytes(4, 4, moments)
    return StateBytes(2, 2, 4 + moments)


def zero_bytes(num_parameters: float, *, stage: Literal[0, 1, 2, 3], num_ranks: int) -> float:
    """Bytes per rank of mixed-precision Adam under ZeRO: 16N, 4N + 12N/n, 2N + 14N/n, 16N/n (arXiv:1910.02054)."""
    kept = {0: 16.0, 1: 4.0, 2: 2.0, 3: 0.0}[stage]
    return num_parameters * (kept + (16 - kept) / num_ranks)


def published_activation_bytes(
    *, tokens: int, batch_size: int, model_dim: int, num_heads: int, flash: bool = False, dropout: bool = True
) -> float:
    """One layer of a GPT-2/3 block in 16 bits: s b h (34 + 5 a s / h) (Korthikanti et al., arXiv:2205.05198, Eq. 1).

    Args:
        tokens: s, the sequence length.
        flash: score tensors are never stored.
        dropout: False leaves out the masks: 32 and 2 in place of 34 and 5.
    """
    base, scores = (34, 5) if dropout else (32, 2)
    return tokens * batch_size * model_dim * (base + (0 if flash else scores * num_heads * tokens / model_dim))


def block_activation_bytes(config: GPTConfig, *, batch_size: int, tokens: int, read: int | None = None) -> int:
    """Bytes one of our blocks keeps for its backward pass: float32, CPU, dropout off.

    Args:
        read: positions whose output is read, in the last block (`wanted_BT` of GPT); all of them when None. What comes
            after attention is computed for these alone.
    """
    N, D, F = batch_size * tokens, config.model_dim, config.mlp_dim
    W = N if read is None else read
    Q, KV = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    rms = config.norm == "rmsnorm"
    # RMSNorm keeps the unit vector and its scale, LayerNorm its input, mean and 1/std; their outputs feed matrices.
    normed = {"pre": N + W, "post": 2 * W, "output": 2 * W, "both": N + 3 * W}[config.norm_position]
    norms = (D + (1 if rms else 2)) * normed
    matrix_inputs = N * D + W * (D + Q)
    scales = config.num_heads + config.num_kv_heads if config.qk_norm_width == "head" else 2
    head_norms = N * (Q + KV + scales) * config.qk_norm
    if config.norm_offset:  # each norm keeps its gain as it multiplies
        norms += config.model_dim * (4 if config.norm_position == "both" else 2) + 2 * config.head_dim * config.qk_norm
    attention = _attention_floats(config, batch_size=batch_size, tokens=tokens)
    # SwiGLU: gate and up (one tensor), silu(gate), their product. GELU: its input and output. relu^2 the same.
    mlp = W * F * (4 if config.gated else 2)
    return FLOAT * (norms + matrix_inputs + head_norms + attention + mlp)


def _attention_floats(config: GPTConfig, *, batch_size: int, tokens: int) -> int:
    """What attention itself keeps: q, k, v for every head, and the probabilities (blockwise) or their sums (SDPA)."""
    N, Q, KV = batch_size * tokens, config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    grouped = config.num_kv_heads != config.num_heads
    if tokens <= LONGEST_BLOCKWISE:
        blocks = [min(ATTENTION_BLOCK, tokens - start) for start in range(0, tokens, ATTENTION_BLOCK)]
        ends = [start + block for start, block in zip(range(0, tokens, ATTENTION_BLOCK), blocks, strict=True)]
        scores = sum(block * end for block, end in zip(blocks, ends, strict=True))
        return 3 * N * Q + batch_size * config.num_heads * scores
    if grouped:  # k and v are repeated for each query head
        own = Q if config.positions == "rope" else Q + 2 * KV
        return N * (own + 2 * Q) + N * config.num_heads
    own = (2 * Q if config.positions == "rope" else 0) + Q + 2 * KV  # v, or all three, are views of the fused product
    return N * own + N * config.num_heads


def lora_parameters(config: GPTConfig, rank: int) -> int:
    """Parameters of one LoRA adapter of this rank on every linear layer of every block: R (inputs + outputs) each."""
    D, F, Q = config.model_dim, config.mlp_dim, config.num_heads * config.head_dim
    inner = 2 * F if config.gated else F
    return config.num_layers * rank * ((D + sum(config.qkv_rows)) + (Q + D) + (D + inner) + (F + D))


def lora_activation_bytes(config: GPTConfig, *, num_tokens: int, rank: int) -> int:
    """What the adapters of one block keep besides: the inner activations of its four linear layers."""
    return FLOAT * 4 * num_tokens * rank


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes of one training step of our decoder in float32 on a CPU; `peak` is the largest moment, not the sum."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """Kept by all blocks for the backward pass."""
    logits: int
    """Logits, log-probabilities and their gradients while the loss is computed."""
    temporary: int
    """What one block's backward pass or the optimizer step holds for a moment."""
    peak: int


def training_memory(
    config: GPTConfig,
    *,
    batch_size: int,
    tokens: int,
    optimizer: Literal["adamw", "muon"] = "adamw",
    activation_checkpointing: bool = False,
    accumulates: bool = False,
    lora_rank: int = 0,
    read: int | None = None,
    loss_tokens: int | None = None,
    chunked: bool = True,
) -> TrainingMemory:
    """Steady state (from the second step on) of forward, backward, optimizer step.

    Args:
        batch_size: rows of a microbatch.
        tokens: T, the length of a row.
        accumulates: gradients of earlier microbatches are already there when a forward pass begins.
        lora_rank: train adapters of this rank on frozen weights; 0 trains everything.
        read: positions whose last hidden state is read; all N when None (completions only: fewer).
        loss_tokens: positions that meet the output matrix; as many as are read when None.
        chunked: logits are made in chunks, as in pre-training and SFT.
    """
    N, D, V = batch_size * tokens, config.model_dim, config.vocab_size
    total = config.num_parameters
    adapter = lora_parameters(config, lora_rank) if lora_rank else 0
    trained = adapter or total
    weights = FLOAT * (total + rotary_table(config) + adapter)
    gradients = FLOAT * trained
    matrices = 0 if lora_rank or optimizer == "adamw" else _block_matrices(config)
    state = FLOAT * (2 * (trained - matrices) + matrices)
    adapters = lora_activation_bytes(config, num_tokens=N, rank=lora_rank) if lora_rank else 0
    block, last = (
        block_activation_bytes(config, batch_size=batch_size, tokens=tokens, read=positions) + adapters
        for positions in (None, read)
    )
    kept = config.num_layers * FLOAT * N * D if activation_checkpointing else (config.num_layers - 1) * block + last
    ends = FLOAT * 2 * (N if read is None else read) * D  # the final norm's and the output matrix's inputs
    at_once = next(count for count in (loss_tokens, read, N) if count is not None)
    logits = FLOAT * 3 * at_once * V
    rows = max(ROWS_AT_ONCE, LOGITS_AT_ONCE // V)
    if chunked and not config.softcap and at_once > rows:  # both gradients are made with the loss
        logits = FLOAT * (2 * rows * V + at_once * D + (0 if lora_rank else V * D))
    backward = FLOAT * _block_backward_floats(config, N)
    table_gradient = 0 if lora_rank else FLOAT * V * D
    resident = weights + state + (gradients if accumulates else 0)
    during_loss = resident + kept + ends + logits
    new_gradients = 0 if accumulates else gradients
    recomputed = block if activation_checkpointing else 0
    first_block = resident + kept + recomputed + backward + min(new_gradients, table_gradient)
    last_block = resident + new_gradients + block + backward
    lookup = resident + new_gradients + table_gradient  # a tied table gets a second gradient, from the lookup
    step = weights + state + gradients + (_muon_temporary(config) if matrices else 0)
    peak = max(during_loss, first_block, last_block, lookup, step)
    temporary = max(backward, _muon_temporary(config) if matrices else 0)
    return TrainingMemory(weights, gradients, state, kept + recomputed, logits, temporary, peak)


def saving_bytes(config: GPTConfig, *, lora_rank: int = 0, num_adapters: int = 1) -> int:
    """What writing a checkpoint takes besides the model: matrices that Hugging Face stores split (or transposed, GPT-2)
    are copied, and adapters are merged into a copy of everything. Tensors are written without a further copy
    (safetensors 0.8; older versions need the weights once more)."""
    if config.positions == "learned":
        copied = _block_matrices(config)
    else:
        fused = sum(config.qkv_rows) + (2 * config.mlp_dim if config.gated else 0)
        copied = config.num_layers * config.model_dim * fused
    if not lora_rank:
        return FLOAT * copied
    whole = config.num_parameters + rotary_table(config) + num_adapters * lora_parameters(config, lora_rank)
    return FLOAT * (copied + whole)


def rotary_table(config: GPTConfig) -> int:
    """Floats of the table of cosines and sines."""
    return 2 * config.context_length * config.turned_channels * (2 if config.local_rope_base else 1)


def tokenizer_bytes(config: GPTConfig) -> int:
    """A loaded tokenizer of the model's vocabulary."""
    return TOKENIZER_BYTES * config.vocab_size


def run_peak(config: GPTConfig, memory: "TrainingMemory", *, lora_rank: int = 0) -> int:
    """Peak of a whole run: its steps, or saving between them; and the tokenizer."""
    saving = memory.weights + memory.optimizer + saving_bytes(config, lora_rank=lora_rank)
    return tokenizer_bytes(config) + max(memory.peak, saving)


def _block_matrices(config: GPTConfig) -> int:
    """Parameters that Muon updates: the matrices inside the blocks."""
    inner = config.mlp_dim * (2 if config.gated else 1)
    attention = sum(config.qkv_rows) + config.num_heads * config.head_dim
    return config.num_layers * config.model_dim * (attention + inner + config.mlp_dim)


def _muon_temporary(config: GPTConfig) -> int:
    """Updates of all matrices, and five copies of the largest group of one shape while it is orthogonalised.

    Five as measured: stacked, scaled, the product, and what batched products copy of transposed operands.
    """
    D = config.model_dim
    q, k, v = config.qkv_rows
    shapes: dict[tuple[int, int], int] = {}
    gated = [(config.mlp_dim, D)] * (2 if config.gated else 1)
    for shape in [(q, D), (k, D), (v, D), (D, q), *gated, (D, config.mlp_dim)]:
        shapes[shape] = shapes.get(shape, 0) + config.num_layers * shape[0] * shape[1]
    return FLOAT * (_block_matrices(config) + 5 * max(shapes.values()))


def _block_backward_floats(config: GPTConfig, num_tokens: int) -> int:
    """The most that a block's backward pass holds besides saved tensors: gradients around the MLP or the attention."""
    mlp = config.mlp_dim * (4 if config.gated else 2)
    attention = 3 * config.num_heads * config.head_dim + sum(config.qkv_rows)
    return num_tokens * (max(mlp, attention) + 2 * config.model_dim)
