"""Best-of-n distillation: of n sampled answers keep the one the reward likes best, and fine-tune on those.

    wuya sample runs/sft --prompts prompts.jsonl --k 16 --out runs/samples
    wuya best_of_n --candidates runs/samples/completions.jsonl --model runs/sft --reward runs/rm --out runs/best
    wuya sft --base runs/sft --demonstrations runs/best/demonstrations.jsonl --epochs 1 --out runs/distilled

Also called rejection sampling or expert iteration (Nakano et al. 2021, section 3; Gao et al. 2022, section 3.5). Reads
answers (JSONL of `wuya sample`), the model that wrote them (for its tokenizer) and a reward; writes
<out>/{demonstrations.jsonl, summary.json}.

The best of n has KL log n - (n-1)/n from the sampler, whatever the reward: 0.64 nats for 4, 1.84 for 16. Fine-tuning on
it imitates that policy, so its KL is about that and its score about the best's, less what imitation loses.
"""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean

import torch

from wuya.checkpoints.checkpoint import load_checkpoint
from wuya.config import require_positive
from wuya.console import Progress, say
from wuya.data.formats import write_demonstrations
from wuya.errors import DataError
from wuya.feedback.importers import read_answers
from wuya.files import BadRows, make_folder, to_json, write_atomic
from wuya.losses.ppo import scores_with_eos_rule
from wuya.records import Demonstration, Message
from wuya.rlhf.ranked_prompts import completion_ids
from wuya.rlhf.rewards import load_reward, max_length_of
from wuya.tokenizer.chat_format import check_prompt, encode_prompt
from wuya.training.distributed import resolve_device

CHUNK = 64
"""Prompts scored together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfNConfig:
    """Keep the best of n answers by a reward, as demonstrations."""

    candidates: Path
    """JSONL of prompts with n answers each, as `wuya sample` writes it."""
    model: Path
    """The checkpoint that answered: its tokenizer encodes what is scored."""
    reward: str
    """What scores answers: a reward model's folder, or a Python function `my.py:fn` of (prompts, completions)."""
    out: Path
    """Folder to write."""
    keep_share: float = 1.0
    """Keep only this share of the prompts: those whose best answer scores highest above its prompt's mean."""
    missing_eos_penalty: float = 1.0
    """An answer that never ended scores min(score, 0) less this, as in `wuya ppo`."""
    microbatch_tokens: int = 8192
    """Positions (padding included) of one forward pass. Changes no result."""
    device: str = "auto"
    """auto, cpu, cuda."""

    def __post_init__(self) -> None:
        require_positive(self, "keep_share", "missing_eos_penalty", "microbatch_tokens")


@dataclass(frozen=True, slots=True)
class Best:
    """One prompt's best answer."""

    score: float
    mean: float
    """Mean score of all its answers."""
    demonstration: Demonstration
    finished: bool


def run(config: BestOfNConfig) -> Path:
    """Returns the path of demonstrations.jsonl."""
    # 1. The answers and who judges them
    device = resolve_device(config.device)
    _, tokenizer = load_checkpoint(config.model)
    score = load_reward(config.reward, tokenizer, device=device, microbatch_tokens=config.microbatch_tokens)
    bad = BadRows()
    answers = list(read_answers(config.candidates, bad, partial(check_prompt, tokenizer)))
    if bad.count:
        say(bad.summary())
    # 2. The best of each prompt, and by how much it is better than a random one
    found: list[Best] = []
    limit = max_length_of(score)
    with Progress(len(answers), "best of n", unit="prompt") as progress:
        for start in range(0, len(answers), CHUNK):
            for prompt, candidates in answers[start : start + CHUNK]:
                ids = [completion_ids(candidate, tokenizer, prompt) for candidate in candidates]
                prompt_ids = encode_prompt(tokenizer, prompt)
                if limit is not None and len(prompt_ids) + max(map(len, ids)) > limit:
                    continue
                ended_K = torch.tensor([candidate.finished for candidate in candidates])
                raw_K = score([prompt_ids] * len(ids), ids)
                scores_K = scores_with_eos_rule(raw_K, ended_K, missing_eos_penalty=config.missing_eos_penalty)
                best = int(scores_K.argmax())
                demonstration = Demonstration(
                    prompt, Message("assistant", candidates[best].text), labeler=f"best of {len(ids)}"
                )
                found.append(
                    Best(float(scores_K[best]), float(scores_K.mean()), demonstration, candidates[best].finished)
                )
            progress.update(len(answers[start : start + CHUNK]))
    if len(found) < len(answers):
        say(f"{len(answers) - len(found):,} prompts are left out: too long for the reward's {limit} tokens")
    # 3. What is worth imitating, as demonstrations: SFT learns that they end, so they must have ended
    num_unfinished = sum(not best.finished for best in found)
    if num_unfinished:
        say(f"{num_unfinished:,} of {len(found):,} prompts are left out: their best answer never ended")
    ended = [best for best in found if best.finished and best.demonstration.completion.strip()]
    if not ended:
        raise DataError(
            f"no best answer in `{config.candidates}` ended",
            found=f"{len(found)} prompts, {num_unfinished} with an unfinished best answer",
            hint="sample longer answers: `wuya sample --max_tokens`",
        )
    kept = sorted(ended, key=lambda best: best.mean - best.score)[: max(1, round(config.keep_share * len(ended)))]
    path = make_folder(config.out) / "demonstrations.jsonl"
    write_demonstrations(path, [best.demonstration for best in kept])
    n = round(mean(len(candidates) for _, candidates in answers))
    summary = {
        "n": n,
        "prompts": len(answers),
        "kept": len(kept),
        "best_unfinished": num_unfinished,
        "score_best": mean(best.score for best in found),
        "score_mean": mean(best.mean for best in found),
        "kl_of_best_of_n": math.log(n) - (n - 1) / n,
    }
    write_atomic(config.out / "summary.json", to_json(summary, indent=2) + "\n")
    say(
        f"best of {n}: score {summary['score_best']:+.2f}, a random one {summary['score_mean']:+.2f}; "
        f"{len(kept):,} demonstrations, {summary['kl_of_best_of_n']:.2f} nats from the sampler"
    )
    return path
