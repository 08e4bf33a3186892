"""Pre-training steps: ours against nanoGPT's model and loop and transformers' GPT-2, same weights, same batches.

    python -m benchmarks.pretrain                                  # 12.2M parameters, 16 x 256 tokens a step
    python -m benchmarks.pretrain --size 124M --batch_size 4 --context_length 512

A step is forward, backward, clipping, AdamW. All three start from the same weights and see the same tokens; that they
do the same work shows in their losses (nanoGPT's GELU is exact, the others' the tanh form: 1e-3 apart at most).
The limit is that of square matrix products in the same dtype and run. Matrix products are bfloat16 under autocast where
the hardware has them, else float32.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.common import Side, alternate, finish, gemm_gflops, parser_of, peak_mb, row_of
from benchmarks.nanogpt import NanoConfig, NanoGPT, nano_optimizer
from wuya.allocator import set_up_allocator
from wuya.models.gpt import GPT
from wuya.models.presets import gpt2
from wuya.planning.flops import training_flops_per_token
from wuya.training import distributed
from wuya.training.language_model import add_gradients
from wuya.training.optimizer import build_optimizer, clip_gradients

SIZES = {"1M": (4, 128, 4, 2048), "12M": (6, 384, 6, 4096), "124M": (12, 768, 12, 50257)}
"""Layers, width, heads, vocabulary."""
LR = 6e-4
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mkldnn_linear"}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--size", choices=SIZES, default="12M")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--context_length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=1, help="a call of each side")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16: of matrix products, for all sides")
    parser.add_argument("--profile", action="store_true", help="then show where a call of each side spends its time")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    set_up_allocator("pretrain")
    dtype = distributed.resolve_dtype(arguments.dtype, torch.device("cpu"))
    num_layers, width, heads, vocab_size = SIZES[arguments.size]
    torch.manual_seed(0)
    nano = NanoGPT(NanoConfig(vocab_size, arguments.context_length, num_layers, heads, width))
    ours = our_twin(nano, num_layers, width, heads, vocab_size, arguments.context_length)
    theirs = transformers_twin(nano, num_layers, width, heads, vocab_size, arguments.context_length)
    limits = [gemm_gflops(dtype)]
    sides: dict[str, Side] = {
        "ours": our_side(ours, arguments, dtype),
        "nanoGPT": peer_side(nano, lambda x, y: nano(x, y), vocab_size, arguments, dtype),
        "transformers GPT-2": peer_side(
            theirs,
            lambda x, y: nn.functional.cross_entropy(theirs(x, use_cache=False).logits.flatten(0, 1), y.flatten()),
            vocab_size, arguments, dtype,
        ),
    }  # fmt: skip
    rounds = alternate(sides, pairs=arguments.pairs)
    limits.append(gemm_gflops(dtype))
    shares = {f"time of {name}": profiled(side) for name, side in sides.items()} if arguments.profile else {}
    tokens = arguments.steps * arguments.batch_size * arguments.context_length
    losses = {name: [f["loss"] for f in figures] for name, figures in rounds.figures.items()}
    apart = max(abs(a - b) for name in losses for a, b in zip(losses["ours"], losses[name], strict=True))
    assert apart < 2e-2, f"the sides do not learn the same: {losses}"
    seconds = sorted(rounds.wall["ours"])[len(rounds.wall["ours"]) // 2]
    flops = training_flops_per_token(ours.config, arguments.context_length) * tokens
    share = flops / seconds / 1e9 / max(limits)
    row = row_of(
        f"train GPT-2 {arguments.size} ({ours.config.num_parameters:,} parameters), "
        f"{arguments.batch_size} x {arguments.context_length} tokens, {str(dtype).removeprefix('torch.')}",
        rounds,
        amount=tokens,
        unit="tokens/s",
        target={"nanoGPT": 1.1 if arguments.size == "124M" else 1.3},
        limit={"name": f"GEMM {dtype}", "gflops": round(max(limits), 1), "share": round(share, 3)},
        checks={"largest difference of losses": round(apart, 5)} | shares,
    )
    finish("pretrain" if arguments.size == "12M" else f"pretrain_{arguments.size}", [row], arguments, ["transformers"])


def profiled(side: Side) -> str:
    """Shares of the time by kind of operation: matrix products, and the five largest of the others."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        side()
    seconds: Counter[str] = Counter()
    for event in profile.key_averages():
        name = event.key.removeprefix("aten::")
        seconds["matrix products" if name in PRODUCTS else name] += event.self_cpu_time_total
    whole = seconds.total()
    return ", ".join(f"{name} {value / whole:.0%}" for name, value in seconds.most_common(7))


def our_twin(nano: NanoGPT, num_layers: int, width: int, heads: int, vocab_size: int, context_length: int) -> GPT:
    """Our GPT-2 with the same weights; its norms have biases, at zero."""
    config = replace(
        gpt2(num_layers, width, heads, context_length=context_length), vocab_size=vocab_size, dropout=0.0,
        attention_bias=False, output_bias=False, mlp_bias=False,
    )  # fmt: skip
    model = GPT(config)
    names = {
        "wte": "embedding", "wpe": "position_embedding", "ln_f": "final_norm", "h.": "blocks.",
        "ln_1": "attention_norm",
        "ln_2": "mlp_norm", "attn.c_attn": "attention.qkv", "attn.c_proj": "attention.out", "mlp.c_fc": "mlp.up",
        "mlp.c_proj": "mlp.down",
    }  # fmt: skip
    with torch.no_grad():
        for path, parameter in nano.named_parameters():
            for theirs, ours in names.items():
                path = path.replace(theirs, ours)
            model.get_parameter(path).copy_(parameter)
    return model


def transformers_twin(
    nano: NanoGPT, num_layers: int, width: int, heads: int, vocab_size: int, context_length: int
) -> GPT2LMHeadModel:
    """transformers' GPT-2 with the same weights; it stores its matrices transposed and has biases, at zero."""
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocab_size, n_positions=context_length, n_embd=width, n_layer=num_layers, n_head=heads,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )
    )  # fmt: skip
    with torch.no_grad():
        for path, parameter in nano.named_parameters():
            transposed = ".c_" in path
            model.transformer.get_parameter(path).copy_(parameter.T if transposed else parameter)
    model.train()
    return model


def next_batch(generator: torch.Generator, vocab_size: int, arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    shape = (arguments.batch_size, arguments.context_length + 1)
    ids_BT = torch.randint(0, vocab_size, shape, generator=generator)
    return ids_BT[:, :-1].contiguous(), ids_BT[:, 1:].contiguous()


def our_side(model: GPT, arguments: argparse.Namespace, dtype: torch.dtype) -> Side:
    """The loop of wuya/recipes/pretrain.py."""
    model.train()
    optimizer = build_optimizer(model, name="adamw", lr=LR, weight_decay=0.1)
    stream = torch.Generator().manual_seed(1)

    def side() -> dict[str, float]:
        loss = 0.0
        for _ in range(arguments.steps):
            inputs_BT, targets_BT = next_batch(stream, model.config.vocab_size, arguments)
            loss = add_gradients(model, inputs_BT, targets_BT, microbatch_size=arguments.batch_size, dtype=dtype)
            clip_gradients(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return {"loss": loss, "process_peak_mb": peak_mb()}

    return side


def peer_side(
    model: nn.Module,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    vocab_size: int,
    arguments: argparse.Namespace,
    dtype: torch.dtype,
) -> Side:
    """nanoGPT's loop around a model."""
    optimizer = nano_optimizer(model, lr=LR)
    stream = torch.Generator().manual_seed(1)

    def side() -> dict[str, float]:
        loss = torch.zeros(())
        for _ in range(arguments.steps):
            inputs_BT, targets_BT = next_batch(stream, vocab_size, arguments)
            with distributed.autocast(torch.device("cpu"), dtype):
                loss = loss_of(inputs_BT, targets_BT)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return {"loss": float(loss.detach())}

    return side


if __name__ == "__main__":
    main()
