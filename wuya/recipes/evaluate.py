"""How good is each stage? The same prompts to every checkpoint; labelers and outside judges compare the answers.

    wuya evaluate --sft runs/sft --policies '{ppo: runs/ppo}' --prompts final.jsonl --texts test.txt \
                  --labelers labelers.json --reward_model runs/reward --out runs/evaluation

Reads prompts (JSONL), held-out documents (text) and checkpoints; writes evaluation.json, answers.jsonl and report.html.
One answer a prompt at temperature 1, a tie counts half, intervals resample prompts (InstructGPT section 4.1). Without
labelers the reward model votes, and every table says that this is the proxy and not people.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch

from wuya.config import require_positive
from wuya.console import Progress, say
from wuya.data.corpus import CorpusSource, read_documents
from wuya.data.formats import read_demonstrations, read_prompts
from wuya.errors import ConfigError, DataError
from wuya.evals.answers import Answers, chat_answers, transcript_answers, write_answers
from wuya.evals.bootstrap import mean_interval
from wuya.evals.diversity import diversity
from wuya.evals.evaluation_report import evaluation_table, write_evaluation_report
from wuya.evals.helpful import Judge, win_rate
from wuya.evals.likelihood import alignment_tax, bits_per_byte, kl_divergence, score_texts
from wuya.evals.outside_judges import judge_answers
from wuya.evals.proxy import best_of_n, best_of_n_kl, mean_scores, proxy_scores
from wuya.feedback.simulated import Labelers
from wuya.files import BadRows, FileLock, make_folder, to_json, write_atomic
from wuya.inference.rewards import load_reward
from wuya.models.checkpoint import describe_parent, load_checkpoint
from wuya.models.gpt import GPT
from wuya.records import Demonstration, Prompt
from wuya.tokenizer.bpe import Tokenizer
from wuya.training.distributed import resolve_device, resolve_dtype

NUM_SHOTS = 4
NUM_JUDGE_TURNS = 800


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """Compare checkpoints on the same prompts."""

    out: Path
    """Folder for evaluation.json, answers.jsonl and report.html."""
    sft: Path
    """The baseline all others are compared with, and the reference KL is measured against: the SFT checkpoint."""
    prompts: Path
    """Held-out prompts, JSONL; nothing was trained or tuned on them."""
    policies: dict[str, Path] = field(default_factory=dict)
    """Name -> checkpoint of each policy to compare with the SFT model."""
    base: Path | None = None
    """Pre-trained checkpoint, asked in the transcript form it was trained on, alone and with examples."""
    shots: Path | None = None
    """Demonstrations (JSONL) whose first rows are the examples of few-shot base. Needed with `base`."""
    texts: Path | None = None
    """Held-out raw documents for bits per byte and the alignment tax."""
    tax_only: dict[str, Path] = field(default_factory=dict)
    """Name -> checkpoint of which only the tax is measured."""
    labelers: Path | None = None
    """Simulated labelers (JSON); the held-out ones vote. Without, the reward model votes."""
    reward_model: str = ""
    """Reward for best-of-n and proxy scores: a checkpoint or `my.py:fn`."""
    best_of: int = 4
    """n of best-of-n from the SFT model with `reward_model`: the baseline without training."""
    judge: Path | None = None
    """A language model that never saw PPO: its bits per byte of the answers, and its states for a classifier."""
    judge_turns: Path | None = None
    """Real human replies (demonstrations, JSONL) that train the classifier of real turns. Needed with `judge`."""
    num_prompts: int = 600
    """Prompts used, from the top of the file."""
    num_texts: int = 200
    """Documents used, from the top of the file."""
    max_tokens: int = 32
    """Longest answer, its end token included."""
    seed: int = 0
    """Of the sampled answers."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Of weights and arithmetic."""
    json: bool = False
    """Print evaluation.json to stdout instead of a table."""
    quiet: bool = False
    """Print neither: the files alone."""

    def __post_init__(self) -> None:
        require_positive(self, "num_prompts", "num_texts", "max_tokens", "best_of")
        if self.base is not None and self.shots is None:
            raise ConfigError("`base` is also asked few-shot, so it needs `shots`", hint="--shots demonstrations.jsonl")
        if self.judge is not None and self.judge_turns is None:
            raise ConfigError(
                "`judge` needs `judge_turns`, real replies to learn from", hint="--judge_turns turns.jsonl"
            )
        if taken := {"base", "fewshot_base", "sft", "best_of_n"} & {*self.policies, *self.tax_only}:
            raise ConfigError(f"`{taken.pop()}` is the name of another row of the table", hint="rename that policy")
        if self.labelers is None and not self.reward_model:
            raise ConfigError("nobody to vote", hint="give --labelers labelers.json or --reward_model runs/reward")


def run(config: EvaluateConfig) -> Path:
    """Returns the path of evaluation.json."""
    make_folder(config.out)
    with FileLock(config.out / ".lock"):
        return _evaluate(config)


def _evaluate(config: EvaluateConfig) -> Path:
    # 0. Everything is read before anything is computed
    prompts, texts = _read_prompts(config), _read_texts(config)
    labelers = Labelers.load(config.labelers) if config.labelers else None
    models, tokenizer = _load_models(config)
    score = load_reward(config.reward_model, tokenizer) if config.reward_model else None
    # 1. Everyone answers the same prompts once; the SFT model `best_of` times more for the baseline without training
    answers = _sample_answers(config, models, tokenizer, prompts)
    if score is not None and config.best_of > 1:
        answers["best_of_n"] = best_of_n(
            models["sft"], tokenizer, prompts, score,
            n=config.best_of, max_tokens=config.max_tokens, seed=config.seed + 1,
        )  # fmt: skip
    proxy: dict[str, torch.Tensor] = {}
    if score is not None:
        proxy = dict(zip(answers, proxy_scores(score, tokenizer, prompts, list(answers.values())), strict=True))
    write_answers(config.out / "answers.jsonl", prompts, answers, proxy)
    # 2. Who is preferred, by people who did not train the reward model
    report: dict[str, Any] = {
        "seed": config.seed,
        "num_prompts": len(prompts),
        "votes_by": "held-out simulated labelers" if labelers else "the reward model (a proxy, not people)",
        "checkpoints": {name: describe_parent(path) for name, path in _checkpoints(config).items()},
        "win_rate": _win_rates(config, prompts, answers, labelers, proxy),
        # 3. What it cost: distance from the reference, loss on raw text, variety
        "kl": _kl(config, models, answers),
        **_raw_text_losses(config, models, tokenizer, texts),
        "diversity": {name: diversity([c.text for c in a.candidates]).to_dict() for name, a in answers.items()},
        "finished": {name: sum(c.finished for c in a.candidates) / len(prompts) for name, a in answers.items()},
        "scores": mean_scores(prompts, answers, labelers, proxy),
        # 4. Judges that saw no ranking
        "outside_judges": _outside_judges(config, tokenizer, prompts, answers),
    }
    path = config.out / "evaluation.json"
    write_atomic(path, to_json(report, indent=1) + "\n")
    write_evaluation_report(config.out / "report.html", report, config.out / "answers.jsonl")
    if not config.quiet:
        print(to_json(report) if config.json else evaluation_table(report))  # noqa: T201
    return path


# -- 1. answers --------------------------------------------------------------------------------------------------------


def _checkpoints(config: EvaluateConfig) -> dict[str, Path]:
    base = {"base": config.base} if config.base is not None else {}
    return {**base, "sft": config.sft, **config.policies, **config.tax_only}


def _load_models(config: EvaluateConfig) -> tuple[dict[str, GPT], Tokenizer]:
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    loaded = {n: load_checkpoint(p, device=device, dtype=dtype) for n, p in _checkpoints(config).items()}
    model, tokenizer = loaded["sft"]
    for name, (_, other) in loaded.items():
        _require_same_tokenizer(tokenizer, other, name)
    if config.max_tokens >= model.config.context_length:
        raise ConfigError(
            "`max_tokens` leaves no room for a prompt",
            found=f"{config.max_tokens}, the context holds {model.config.context_length}",
            hint=f"try `--max_tokens {max(1, model.config.context_length // 2)}`",
        )
    return {name: model.eval() for name, (model, _) in loaded.items()}, tokenizer


def _require_same_tokenizer(tokenizer: Tokenizer, other: Tokenizer, name: str) -> None:
    """All answers are compared token by token: KL, bits per byte, the judge."""
    if other.fingerprint != tokenizer.fingerprint:
        raise ConfigError(
            f"`{name}` and `sft` have different tokenizers, so their answers can't be compared token by token",
            found=f"{other.vocab_size} and {tokenizer.vocab_size} tokens",
            hint=f"leave `{name}` out, or evaluate it against its own SFT checkpoint",
        )


def _read_prompts(config: EvaluateConfig) -> list[Prompt]:
    bad = BadRows()
    prompts = list(islice(read_prompts(config.prompts, bad), config.num_prompts))
    if bad.count:
        say(bad.summary())
    if len(prompts) < config.num_prompts:
        say(f"only {len(prompts)} prompts in {config.prompts}, {config.num_prompts} wanted")
    return prompts


def _read_texts(config: EvaluateConfig) -> list[str]:
    if config.texts is None:
        return []
    bad = BadRows()
    documents = read_documents(CorpusSource(name="texts", path=str(config.texts)), bad)
    texts = [document.text for document in islice(documents, config.num_texts)]
    if not texts:
        raise DataError(f"`{config.texts}` holds no text", found=bad.summary() or "an empty file")
    if bad.count:
        say(bad.summary())
    return texts


def _sample_answers(
    config: EvaluateConfig, models: Mapping[str, GPT], tokenizer: Tokenizer, prompts: Sequence[Prompt]
) -> dict[str, Answers]:
    answers: dict[str, Answers] = {}
    forms = (["base", "fewshot_base"] if config.base else []) + ["sft", *config.policies]
    with Progress(len(forms) * len(prompts), "answers", unit="answer") as progress:
        for name in forms:
            if name in ("base", "fewshot_base"):
                answers[name] = transcript_answers(
                    name, models["base"], tokenizer, prompts,
                    max_tokens=config.max_tokens, seed=config.seed,
                    examples=_shots(config) if name == "fewshot_base" else [],
                )  # fmt: skip
            else:
                answers[name] = chat_answers(
                    name, models[name], tokenizer, prompts, max_tokens=config.max_tokens, seed=config.seed
                )
            progress.update(len(prompts))
    return answers


def _shots(config: EvaluateConfig) -> list[Demonstration]:
    """The examples of few-shot base: the first demonstrations, the same for every prompt."""
    assert config.shots is not None
    return list(islice(read_demonstrations(config.shots, BadRows()), NUM_SHOTS))


# -- 2. votes ----------------------------------------------------------------------------------------------------------


def _win_rates(
    config: EvaluateConfig,
    prompts: Sequence[Prompt],
    answers: Mapping[str, Answers],
    labelers: Labelers | None,
    proxy: Mapping[str, torch.Tensor],
) -> dict[str, Any]:
    def rate(name: str, other: str) -> dict[str, float | int]:
        if labelers is not None:
            judges: list[Judge] = [labeler.prefer for labeler in labelers.held_out]
            return win_rate(prompts, answers[name].candidates, answers[other].candidates, judges).to_dict()
        difference_B = proxy[name] - proxy[other]
        return mean_interval(((difference_B.sign() + 1) / 2).tolist()).to_dict()

    rates = {f"sft_vs_{name}": rate("sft", name) for name in ("base", "fewshot_base") if name in answers}
    rates |= {f"{name}_vs_sft": rate(name, "sft") for name in config.policies}
    if "best_of_n" in answers:
        rates[f"best_of_{config.best_of}_vs_sft"] = rate("best_of_n", "sft")
    return rates


# -- 3. costs ----------------------------------------------------------------------------------------------------------


def _kl(config: EvaluateConfig, models: Mapping[str, GPT], answers: Mapping[str, Answers]) -> dict[str, Any]:
    """KL(policy || SFT) in nats of exactly the weights evaluated here, on their own answers."""
    rows: dict[str, Any] = {}
    for name in config.policies:
        completions = [candidate.token_ids for candidate in answers[name].candidates]
        kl = kl_divergence(models[name], models["sft"], answers[name].prompt_ids, completions)
        rows[name] = {
            "per_response": kl.per_response.mean,
            "per_response_low": kl.per_response.low,
            "per_response_high": kl.per_response.high,
            "per_token": kl.per_token.mean,
        }
    if "best_of_n" in answers:
        rows["best_of_n"] = {"per_response": best_of_n_kl(config.best_of), "per_token": None}
    return rows


def _raw_text_losses(
    config: EvaluateConfig, models: Mapping[str, GPT], tokenizer: Tokenizer, texts: Sequence[str]
) -> dict[str, Any]:
    """Bits per byte of every model on the same raw documents, and each policy's excess over SFT, paired by document."""
    if not texts:
        return {"bits_per_byte": {}, "tax": {}}
    context_length = models["sft"].config.context_length
    with Progress(len(models), "bits per byte", unit="model") as progress:
        scores = {}
        for name, model in models.items():
            scores[name] = score_texts(model, tokenizer, texts, context_length=context_length)
            progress.update(1)
    return {
        "bits_per_byte": {name: bits_per_byte(rows).to_dict() for name, rows in scores.items()},
        "tax": {
            name: alignment_tax(scores[name], scores["sft"]).to_dict() for name in (*config.policies, *config.tax_only)
        },
    }


# -- 4. outside judges -------------------------------------------------------------------------------------------------


def _outside_judges(
    config: EvaluateConfig, tokenizer: Tokenizer, prompts: Sequence[Prompt], answers: Mapping[str, Answers]
) -> dict[str, Any]:
    if config.judge is None or config.judge_turns is None:
        return {}
    judge, its_tokenizer = load_checkpoint(config.judge, device=resolve_device(config.device))
    _require_same_tokenizer(tokenizer, its_tokenizer, "judge")
    turns = list(islice(read_demonstrations(config.judge_turns, BadRows()), NUM_JUDGE_TURNS))
    return judge_answers(
        judge, tokenizer, turns, prompts, answers,
        policies=list(config.policies), max_tokens=config.max_tokens, seed=config.seed,
    )  # fmt: skip
