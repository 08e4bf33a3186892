"""The policy of the moment on held-out prompts: score, another judge's score, KL, length, distinct bigrams, ends.

The same prompts with the same seeds each time, so that two evaluations of a run differ by their policies alone. Used by
`wuya ppo` and `wuya grpo` during training, and by `wuya sft` to choose an epoch.

Shapes: B answers, one for each prompt.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wuya.console import say, warn
from wuya.errors import DataError
from wuya.evals.bootstrap import mean_interval
from wuya.evals.diversity import distinct_n
from wuya.files import to_json, write_atomic
from wuya.losses.ppo import scores_with_eos_rule
from wuya.rlhf.episodes import EpisodeSource
from wuya.rlhf.ppo_models import NoValues
from wuya.rlhf.prompts import load_prompt_ids
from wuya.rlhf.rewards import load_reward
from wuya.rlhf.rollouts import Score
from wuya.tokenizer.bpe import Tokenizer
from wuya.training import distributed
from wuya.training.early_choice import Choice
from wuya.training.run import Run

Row = dict[str, object]
NUM_SAMPLES = 4
"""Answers of each evaluation that are kept to look at."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Held-out prompts with their judges."""

    source: EpisodeSource
    """Of the held-out prompts, one answer each."""
    num_prompts: int
    judge: Score | None
    """A judge that the policy is not optimised against."""
    missing_eos_penalty: float

    def evaluate(self) -> tuple[dict[str, float], list[Row]]:
        """Metrics over all ranks, and some of this rank's answers."""
        rollouts = self.source.sample(0, self.num_prompts)
        prompts = [rollouts.prompt(row) for row in range(len(rollouts.scores_B))]
        answers = [rollouts.completion(row) for row in range(len(rollouts.scores_B))]
        judged_B = None
        if self.judge is not None:
            with self.source.autocast():
                judged_B = self.judge(prompts, answers)
        return measure(
            self.source.tokenizer,
            prompts,
            answers,
            finished=rollouts.has_eos_B.tolist(),
            scores_B=rollouts.scores_B,
            judged_B=judged_B,
            kl_B=rollouts.kl_B,
            missing_eos_penalty=self.missing_eos_penalty,
        )


def held_out(
    training: EpisodeSource,
    path: Path | None,
    *,
    num_prompts: int,
    reward: str,
    max_prompt_tokens: int,
    missing_eos_penalty: float,
) -> HeldOut | None:
    """A run's held-out prompts; None where it has none.

    Args:
        path: JSONL of prompts, of which at most `num_prompts` are answered each time.
        reward: another judge than the training reward; empty for none.

    Raises: DataError when a held-out prompt is also a training prompt: its score would say what was learned by heart.
    """
    if path is None:
        return None
    judge = None
    if reward:
        judge = load_reward(reward, training.tokenizer, device=training.device,
                            microbatch_tokens=training.microbatch_tokens)  # fmt: skip
    names, prompts = load_prompt_ids(
        path,
        training.tokenizer,
        max_prompt_tokens=max_prompt_tokens,
        max_tokens=training.sampling.max_tokens,
        context_length=training.engine.model.config.context_length,
        read_by=[training.score] if judge is None else [training.score, judge],
    )
    known = {tuple(ids) for ids in training.prompts}
    shared = [name for name, ids in zip(names, prompts, strict=True) if tuple(ids) in known]
    if shared:
        raise DataError(
            f"{len(shared)} of {len(names)} prompts in `{path}` are also training prompts",
            found=", ".join(shared[:3]),
            hint="take them out of one of the two files",
        )
    source = replace(training, prompts=prompts, prompt_names=names, num_samples=1, value_model=NoValues())
    return HeldOut(source=source, num_prompts=min(len(prompts), num_prompts), judge=judge,
                   missing_eos_penalty=missing_eos_penalty)  # fmt: skip


def look(
    run: Run, held_out: HeldOut, choice: Choice, step: int, *, choose: bool, weights: AbstractContextManager[None]
) -> bool:
    """Evaluate after `step` updates and log it; whether its checkpoint is to be saved, being the best so far.

    Args:
        choose: whether the best ships; the choice is kept up to date anyway.
        weights: inside the block the policy has the weights that would ship.
    """
    with weights:
        metrics, rows = held_out.evaluate()
    run.require_finite(step, **metrics)
    run.log(step, metrics)
    run.sample(step, rows)
    low, high = metrics["eval/score_low"], metrics["eval/score_high"]
    judged = f", judged {metrics['eval/judged']:+.2f}" if "eval/judged" in metrics else ""
    say(f"held-out, step {step}: score {metrics['eval/score']:+.2f} [{low:+.2f}, {high:+.2f}]{judged}, "
        f"{metrics['eval/kl']:.2f} nats of KL")  # fmt: skip
    best = choice.consider(step, metrics)
    if best and choose:
        run.chosen_step = step
    return best and choose


def restore_choice(run: Run, choice: Choice, state: Mapping[str, Any], *, choose: bool) -> None:
    """The choice as a checkpoint remembers it; checkpoints from before there was one remember none."""
    if "choice" in state:
        choice.load_state_dict(state["choice"])
    if choose and choice.best:
        run.chosen_step = int(choice.best["step"])


def report_choice(out: Path, choice: Choice, *, num_prompts: int) -> None:
    """Say which policy ships and why, and write its held-out figures to summary.json, in the form of a last policy's.

    They are those of exactly the weights that ship: the checkpoint was evaluated when it was saved.
    """
    best = choice.best
    summary = {
        "kl": {"per_response": best["eval/kl"], "per_token": best["eval/kl"] / best["eval/length"]},
        "score": best["eval/score"],
        "eos_share": best["eval/finished"],
        "length": best["eval/length"],
        "n": num_prompts,
        "choice": choice.summary(),
    }
    if distributed.is_main():
        write_atomic(out / "summary.json", to_json(summary, indent=2) + "\n")
        say(choice.verdict())
        for text in choice.warnings():
            warn(text)


def measure(
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    finished: Sequence[bool],
    scores_B: Tensor,
    judged_B: Tensor | None = None,
    kl_B: Tensor | None = None,
    missing_eos_penalty: float,
) -> tuple[dict[str, float], list[Row]]:
    """Means over the answers of all ranks with their 95 % intervals, and some of this rank's answers as rows.

    Every rank must call it. Scores follow PPO's rule for answers that never end. Distinct bigrams have no interval:
    drawing answers with replacement repeats bigrams.
    """
    finished_B = torch.tensor(finished, dtype=torch.bool)
    columns: dict[str, list[float]] = {
        "eval/score": _ended(scores_B, finished_B, missing_eos_penalty),
        "eval/length": [float(len(ids)) for ids in answers],
        "eval/finished": finished_B.double().tolist(),
    }
    if judged_B is not None:
        columns["eval/judged"] = _ended(judged_B, finished_B, missing_eos_penalty)
    if kl_B is not None:
        columns["eval/kl"] = kl_B.double().cpu().tolist()
    texts = [tokenizer.decode(list(ids), skip_special=True) for ids in answers]
    shared: list[Any] = distributed.gather({"columns": columns, "texts": texts})
    metrics: dict[str, float] = {}
    for name in columns:
        interval = mean_interval([value for rank in shared for value in rank["columns"][name]])
        metrics |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    words = [text.lower().split() for rank in shared for text in rank["texts"]]
    metrics["eval/distinct_2"] = distinct_n(words, 2)
    rows: list[Row] = []
    for row in range(min(NUM_SAMPLES, len(answers))):
        text = {"prompt": tokenizer.decode(list(prompts[row])), "completion": tokenizer.decode(list(answers[row]))}
        figures = {name.removeprefix("eval/"): round(values[row], 3) for name, values in columns.items()}
        rows.append({"held_out": True, **text, **figures})
    return metrics, rows


def _ended(scores_B: Tensor, finished_B: Tensor, missing_eos_penalty: float) -> list[float]:
    wide_B = scores_B.double().cpu()
    values: list[float] = scores_with_eos_rule(wide_B, finished_B, missing_eos_penalty=missing_eos_penalty).tolist()
    return values
