"""Seconds of training until ours has the final validation loss of nanoGPT's configuration, same data and tokenizer.

    python -m benchmarks.time_to_loss                       # 800 of nanoGPT's 2,000 iterations; a few minutes a side
    python -m benchmarks.time_to_loss --iterations 2000     # the whole published configuration for CPUs

nanoGPT: its character-Shakespeare configuration for CPUs (4 layers, 4 heads, 128 channels, 12 windows of 64 tokens,
AdamW at 1e-3 with beta2 .99, cosine to 1e-4 after 100 steps of warm-up, no dropout), on the demo's chats with a
vocabulary of 2,048. Ours: the demo's architecture and optimizer (RoPE, QK-norm, SwiGLU; Muon), the same windows.
Validation is nats a token over the same held-out windows; its time is not counted. Ours is looked at every few steps
of a schedule whose length is `--our_steps`; the time is that of the first look at or under nanoGPT's final loss. Rounds
differ in the seed.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import Rounds, busy_seconds, finish, parser_of, row_of
from benchmarks.nanogpt import NanoConfig, NanoGPT, nano_learning_rate, nano_optimizer
from wuya.allocator import set_up_allocator
from wuya.data.chitchat import load_chats, split_chats, transcript
from wuya.models.gpt import GPT, GPTConfig
from wuya.models.presets import preset
from wuya.tokenizer.bpe import train_tokenizer
from wuya.training.language_model import add_gradients, nats_sum
from wuya.training.optimizer import build_optimizer, clip_gradients, set_lr
from wuya.training.schedule import trapezoid

WINDOW, VOCABULARY = 64, 2048


@dataclass
class Stopwatch:
    """Counts only what is inside its `with`."""

    wall: float = 0.0
    cpu: float = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter() - self._began[0]
        self.cpu += time.process_time() - self._began[1]


def main() -> None:
    parser = parser_of(__doc__, pairs=2)
    parser.add_argument("--iterations", type=int, default=800, help="of nanoGPT; its rate falls to the end of them")
    parser.add_argument("--our_steps", type=int, default=140, help="length of our schedule")
    parser.add_argument("--our_batch", type=int, default=32, help="windows a step")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    set_up_allocator("pretrain")
    train_N, held_out_N = tokens()
    windows = held_out_N[: len(held_out_N) // (WINDOW + 1) * (WINDOW + 1)].view(-1, WINDOW + 1)[:512]
    rounds = Rounds({"ours": [], "nanoGPT": []}, {"ours": [], "nanoGPT": []}, {"ours": [], "nanoGPT": []}, 0.0)
    busy, began, own = busy_seconds(), time.perf_counter(), time.process_time()
    sizes = {}
    for seed in range(arguments.pairs):
        torch.manual_seed(seed)
        nano = NanoGPT(NanoConfig(VOCABULARY, WINDOW, 4, 4, 128))
        watch, loss, seen = train_nano(nano, train_N, windows, arguments, seed)
        note(rounds, "nanoGPT", watch, {"loss": loss, "tokens": seen})
        torch.manual_seed(seed)
        ours = GPT(our_config())
        watch, reached, seen = train_ours(ours, train_N, windows, arguments, seed, until=loss)
        if reached > loss:
            print(f"seed {seed}: ours ends at {reached:.4f}, above {loss:.4f}: give it more --our_steps")
        note(rounds, "ours", watch, {"loss": reached, "tokens": seen, "reached": float(reached <= loss)})
        sizes = {"nanoGPT": sum(p.numel() for p in nano.parameters()), "ours": ours.config.num_parameters}
    assert abs(sizes["ours"] / sizes["nanoGPT"] - 1) < 0.05, f"sizes differ: {sizes}"
    others = (busy_seconds() - busy - (time.process_time() - own)) / (time.perf_counter() - began)
    rounds = Rounds(rounds.wall, rounds.cpu, rounds.figures, max(0.0, round(others, 2)))
    row = row_of(
        f"time to nanoGPT's validation loss, chats, {arguments.iterations} iterations", rounds, amount=1, unit="s",
        target=3.0, checks={"parameters": sizes, "held-out windows": len(windows)},
        note="its published configuration for CPUs, float32" + ("" if arguments.iterations >= 2000 else ", cut short"),
    )  # fmt: skip
    finish("time_to_loss", [row], arguments)


def tokens() -> tuple[Tensor, Tensor]:
    """Training and held-out chats as two streams of ids; people are on one side only."""
    splits = split_chats(load_chats())
    texts = {name: [transcript(chat.turns) for chat in splits[name]] for name in ("train", "validation")}
    tokenizer = train_tokenizer(texts["train"], vocab_size=VOCABULARY)
    train, held_out = (
        torch.from_numpy(np.concatenate([[*ids, tokenizer.document_end_id] for ids in tokenizer.encode_batch(part)]))
        for part in texts.values()
    )
    return train.long(), held_out.long()


def our_config() -> GPTConfig:
    """The demo's model, as many parameters as nanoGPT's."""
    return preset(
        "demo", vocab_size=VOCABULARY, context_length=WINDOW, model_dim=128, num_heads=4, num_kv_heads=4, mlp_dim=352
    )


def windows_of(train_N: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random windows, as nanoGPT draws them."""
    starts = torch.randint(0, len(train_N) - WINDOW - 1, (count, 1), generator=generator)
    rows_BT = train_N[starts + torch.arange(WINDOW + 1)]
    return rows_BT[:, :-1].contiguous(), rows_BT[:, 1:].contiguous()


@torch.no_grad()
def held_out_loss(nats: Callable[[Tensor, Tensor], Tensor], windows: Tensor) -> float:
    """Nats a token."""
    parts = [float(nats(part[:, :-1].contiguous(), part[:, 1:].contiguous())) for part in torch.split(windows, 64)]
    return sum(parts) / windows[:, 1:].numel()


def train_nano(
    model: NanoGPT, train_N: Tensor, windows: Tensor, arguments: argparse.Namespace, seed: int
) -> tuple[Stopwatch, float, float]:
    """nanoGPT's loop to its end."""
    watch, generator = Stopwatch(), torch.Generator().manual_seed(seed)
    optimizer = nano_optimizer(model, lr=1e-3, beta2=0.99)
    with watch:
        for step in range(arguments.iterations):
            rate = nano_learning_rate(step, peak=1e-3, lowest=1e-4, warmup=100, num_steps=arguments.iterations)
            for group in optimizer.param_groups:
                group["lr"] = rate
            model(*windows_of(train_N, 12, generator)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    loss = held_out_loss(lambda x, y: model(x, y) * y.numel(), windows)
    return watch, loss, float(arguments.iterations * 12 * WINDOW)


def train_ours(
    model: GPT, train_N: Tensor, windows: Tensor, arguments: argparse.Namespace, seed: int, *, until: float
) -> tuple[Stopwatch, float, float]:
    """The loop of wuya/recipes/pretrain.py until the loss is reached."""
    watch, generator = Stopwatch(), torch.Generator().manual_seed(seed)
    optimizer = build_optimizer(model, name="muon", lr=0.02, adam_lr=0.01)
    steps, loss = arguments.our_steps, float("inf")
    for step in range(steps):
        with watch:
            set_lr(optimizer, trapezoid(step, steps, round(0.02 * steps), round(0.6 * steps), 0.0))
            inputs_BT, targets_BT = windows_of(train_N, arguments.our_batch, generator)
            add_gradients(model, inputs_BT, targets_BT, microbatch_size=arguments.our_batch)
            clip_gradients(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        done = step + 1
        if done == steps or (done >= steps // 2 and done % max(1, steps // 20) == 0):
            loss = held_out_loss(lambda x, y: nats_sum(model, x, y), windows)
            if loss <= until:
                return watch, loss, float(done * arguments.our_batch * WINDOW)
    return watch, loss, float(steps * arguments.our_batch * WINDOW)


def note(rounds: Rounds, side: str, watch: Stopwatch, figures: dict[str, float]) -> None:
    """Add one run."""
    rounds.wall[side].append(watch.wall)
    rounds.cpu[side].append(watch.cpu)
    rounds.figures[side].append(figures)
    print(f"{side}: {watch.wall:.1f} s, CPU {watch.cpu:.1f} s, {figures}", flush=True)


if __name__ == "__main__":
    main()
