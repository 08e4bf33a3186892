"""How good is each stage? The same prompts to every checkpoint; labelers and outside judges compare the answers.

    wuya evaluate --sft runs/sft --policies '{ppo: runs/ppo}' --prompts final.jsonl --texts test.txt \
                  --labelers labelers.json --reward_model runs/reward --out runs/evaluation

Reads prompts (JSONL), held-out documents (text) and checkpoints; writes evaluation.json, answers.jsonl and report.html.
One answer per prompt at temperature 1, a tie counts half, intervals resample prompts (InstructGPT section 4.1); beside
each win rate stands the one at equal length.
Without labelers a reward model votes, and every table says so: `judge_reward_model`, which no policy was trained
against, or the proxy. A prompt that one model or judge cannot read is left out for all: comparisons stay paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from wuya.checkpoints.checkpoint import describe_parent, load_checkpoint
from wuya.config import require_positive
from wuya.console import Progress, say, warn
from wuya.data.corpus import CorpusSource, read_documents
from wuya.data.formats import read_demonstrations, read_prompts
from wuya.errors import ConfigError, DataError
from wuya.evals.answers import Answers, chat_answers, transcript_answers, write_answers
from wuya.evals.bootstrap import mean_interval
from wuya.evals.diversity import diversity, variety_beside
from wuya.evals.evaluation_report import evaluation_table, write_evaluation_report
from wuya.evals.fitting import prompts_that_fit, say_left_out
from wuya.evals.helpful import length_split
from wuya.evals.length_control import length_controlled_rates
from wuya.evals.likelihood import TextScore, alignment_tax, bits_per_byte, kl_divergence, score_texts
from wuya.evals.outside_judges import judge_answers
from wuya.evals.proxy import best_of_n, best_of_n_kl, mean_scores, scores_by_name
from wuya.evals.votes import choose_voter, compared, optimised_against, paired_differences
from wuya.feedback.simulated import Labelers
from wuya.files import BadRows, FileLock, make_folder, to_json, write_atomic
from wuya.models.decoder import Decoder
from wuya.records import Demonstration, Prompt
from wuya.rlhf.rewards import load_reward, max_length_of
from wuya.rlhf.rollouts import Score
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import check_demonstration, check_prompt
from wuya.tokenizer.chat_notes import reads_alike, tell_chat_format
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
    """Simulated labelers (JSON); the held-out ones vote. Without, a reward model votes."""
    reward_model: str = ""
    """Reward for best-of-n and proxy scores: a checkpoint or `my.py:fn`."""
    judge_reward_model: str = ""
    """A reward model that no policy was trained against: it votes where there are no labelers."""
    missing_eos_penalty: float = 1.0
    """An answer that never ended scores min(score, 0) less this, as in `wuya ppo`."""
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
        require_positive(self, "num_prompts", "num_texts", "max_tokens", "best_of", "missing_eos_penalty")
        if self.base is not None and self.shots is None:
            raise ConfigError("`base` is also asked few-shot, so it needs `shots`", hint="--shots demonstrations.jsonl")
        if self.judge is not None and self.judge_turns is None:
            raise ConfigError(
                "`judge` needs `judge_turns`, real replies to learn from", hint="--judge_turns turns.jsonl"
            )
        if taken := {"base", "fewshot_base", "sft", "best_of_n"} & {*self.policies, *self.tax_only}:
            raise ConfigError(f"`{taken.pop()}` is the name of another row of the table", hint="rename that policy")
        if self.labelers is None and not (self.reward_model or self.judge_reward_model):
            raise ConfigError("nobody to vote", hint="give --labelers labelers.json or --reward_model runs/reward")


def run(config: EvaluateConfig) -> Path:
    """Returns the path of evaluation.json."""
    make_folder(config.out)
    with FileLock(config.out / ".lock"):
        return _evaluate(config)


def _evaluate(config: EvaluateConfig) -> Path:
    # 0. Everything is read before anything is computed
    texts = _read_texts(config)
    labelers = Labelers.load(config.labelers) if config.labelers else None
    models, tokenizer = _load_models(config)
    tell_chat_format(tokenizer)
    prompts = _read_prompts(config, tokenizer)
    judge = _load_judge(config, tokenizer)
    load = partial(load_reward, tokenizer=tokenizer, device=models["sft"].device)
    score = load(config.reward_model) if config.reward_model else None
    judge_score = load(config.judge_reward_model) if config.judge_reward_model else None
    rooms = _rooms(config, models, judge, {"reward_model": score, "judge_reward_model": judge_score})
    base_room = models["base"].config.context_length - config.max_tokens if "base" in models else None
    prompts, left_out = prompts_that_fit(prompts, tokenizer, rooms, transcript_room=base_room)
    if message := say_left_out(left_out, config.prompts, len(prompts)):
        warn(message)
    # 1. Everyone answers the same prompts once; the SFT model `best_of` times more for the baseline without training
    answers = _sample_answers(config, models, tokenizer, prompts)
    if score is not None and config.best_of > 1:
        answers["best_of_n"] = best_of_n(
            models["sft"], tokenizer, prompts, score, n=config.best_of, max_tokens=config.max_tokens,
            seed=config.seed + 1, missing_eos_penalty=config.missing_eos_penalty,
        )  # fmt: skip
    proxy, judged = (
        {} if one is None
        else scores_by_name(one, tokenizer, prompts, answers, missing_eos_penalty=config.missing_eos_penalty)
        for one in (score, judge_score)
    )  # fmt: skip
    # 2. Who is preferred, by people who did not train the reward model
    trained_on = optimised_against(config.judge_reward_model or config.reward_model, config.policies)
    voter = choose_voter(prompts, answers, labelers, proxy=proxy, judged=judged, trained_on=trained_on)
    pairs = compared(answers, config.policies, best_of=config.best_of)
    votes = {name: voter.votes(*pair) for name, pair in pairs.items()}
    against_sft = {model: votes[name] for name, (model, other) in pairs.items() if other == "sft"}
    write_answers(config.out / "answers.jsonl", prompts, answers, proxy, votes)
    raw_texts = _score_texts(models, tokenizer, texts)
    report: dict[str, Any] = {
        "seed": config.seed,
        "num_prompts": len(prompts),
        "left_out": [row.to_dict() for row in left_out],
        "best_of": config.best_of if "best_of_n" in answers else None,
        "votes_by": voter.name,
        "checkpoints": {name: describe_parent(path) for name, path in _checkpoints(config).items()},
        "win_rate": {name: mean_interval(shares).to_dict() for name, shares in votes.items()},
        "length_controlled": length_controlled_rates(votes, pairs, answers),
        "paired": paired_differences(against_sft, raw_texts),
        "length": _lengths(answers, against_sft),
        # 3. What it cost: distance from the reference, loss on raw text, variety
        "kl": _kl(config, models, answers),
        **_raw_text_losses(config, raw_texts),
        **_variety(config, answers),
        "finished": {name: sum(c.finished for c in a.candidates) / len(prompts) for name, a in answers.items()},
        "scores": mean_scores(prompts, answers, labelers, proxy),
        # 4. Judges that saw no ranking
        "outside_judges": _outside_judges(config, judge, tokenizer, prompts, answers),
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


def _load_models(config: EvaluateConfig) -> tuple[dict[str, Decoder], Tokenizer]:
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    loaded = {n: load_checkpoint(p, device=device, dtype=dtype) for n, p in _checkpoints(config).items()}
    model, tokenizer = loaded["sft"]
    for name, (_, other) in loaded.items():
        _require_same_tokenizer(tokenizer, other, name)
        if name in config.policies:
            _require_same_chat(tokenizer, other, name)
    if config.max_tokens >= model.config.context_length:
        raise ConfigError(
            "`max_tokens` leaves no room for a prompt",
            found=f"{config.max_tokens}, the context holds {model.config.context_length}",
            hint=f"try `--max_tokens {max(1, model.config.context_length // 2)}`",
        )
    return {name: model.eval() for name, (model, _) in loaded.items()}, tokenizer


def _load_judge(config: EvaluateConfig, tokenizer: Tokenizer) -> Decoder | None:
    if config.judge is None:
        return None
    judge, its_tokenizer = load_checkpoint(config.judge, device=resolve_device(config.device))
    _require_same_tokenizer(tokenizer, its_tokenizer, "judge")
    _require_same_chat(tokenizer, its_tokenizer, "judge")
    return judge


def _rooms(
    config: EvaluateConfig, models: Mapping[str, Decoder], judge: Decoder | None, scores: Mapping[str, Score | None]
) -> dict[str, int]:
    """Tokens of a prompt that each model and judge can read beside an answer."""
    asked = {name: models[name] for name in ("sft", *config.policies)} | ({"judge": judge} if judge else {})
    contexts = {name: model.config.context_length for name, model in asked.items()}
    limits = {name: max_length_of(score) for name, score in scores.items() if score is not None}
    contexts |= {name: limit for name, limit in limits.items() if limit is not None}
    return {name: context - config.max_tokens for name, context in contexts.items()}


def _require_same_tokenizer(tokenizer: Tokenizer, other: Tokenizer, name: str) -> None:
    """All answers are compared token by token: KL, bits per byte, the judge."""
    if other.fingerprint != tokenizer.fingerprint:
        raise ConfigError(
            f"`{name}` and `sft` have different tokenizers, so their answers can't be compared token by token",
            found=f"{other.vocab_size} and {tokenizer.vocab_size} tokens",
            hint=f"leave `{name}` out, or evaluate it against its own SFT checkpoint",
        )


def _require_same_chat(tokenizer: Tokenizer, other: Tokenizer, name: str) -> None:
    """All are asked in the SFT model's chat format; a model trained in another would answer what it never learned."""
    if not reads_alike(tokenizer, other):
        shown = [f"system prompt {one.system_prompt!r}" for one in (other, tokenizer)]
        raise ConfigError(
            f"`{name}` and `sft` have different chat templates, so they can't be asked the same",
            found=f"{other.template_name} ({shown[0]}) and {tokenizer.template_name} ({shown[1]})",
            hint=f"evaluate `{name}` against the SFT checkpoint it was trained from",
        )


def _read_prompts(config: EvaluateConfig, tokenizer: Tokenizer) -> list[Prompt]:
    bad, usable = BadRows(), partial(check_prompt, tokenizer)
    prompts = list(islice(read_prompts(config.prompts, bad, usable), config.num_prompts))
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
    config: EvaluateConfig, models: Mapping[str, Decoder], tokenizer: Tokenizer, prompts: Sequence[Prompt]
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


def _lengths(answers: Mapping[str, Answers], against_sft: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Does a model win because its answers are longer? Its votes, apart for longer answers and for the rest."""
    return {
        name: length_split(shares, answers[name].candidates, answers["sft"].candidates).to_dict()
        for name, shares in against_sft.items()
    }


# -- 3. costs ----------------------------------------------------------------------------------------------------------


def _kl(config: EvaluateConfig, models: Mapping[str, Decoder], answers: Mapping[str, Answers]) -> dict[str, Any]:
    """KL(policy || SFT) in nats of exactly the weights evaluated here, on their own answers."""
    rows: dict[str, Any] = {}
    for name in config.policies:
        completions = [candidate.token_ids for candidate in answers[name].candidates]
        rows[name] = kl_divergence(models[name], models["sft"], answers[name].prompt_ids, completions).to_dict()
    if "best_of_n" in answers:
        rows["best_of_n"] = {"per_response": best_of_n_kl(config.best_of), "per_token": None}
    return rows


def _score_texts(
    models: Mapping[str, Decoder], tokenizer: Tokenizer, texts: Sequence[str]
) -> dict[str, list[TextScore]]:
    """Nats and bytes of the same raw documents under every model; empty without documents."""
    if not texts:
        return {}
    context_length = min(model.config.context_length for model in models.values())  # the same windows for all
    scores = {}
    with Progress(len(models), "bits per byte", unit="model") as progress:
        for name, model in models.items():
            scores[name] = score_texts(model, tokenizer, texts, context_length=context_length)
            progress.update(1)
    return scores


def _raw_text_losses(config: EvaluateConfig, scores: Mapping[str, Sequence[TextScore]]) -> dict[str, Any]:
    """Bits per byte of every model on the same raw documents, and each policy's excess over SFT, paired by document."""
    taxed = [name for name in (*config.policies, *config.tax_only) if name in scores]
    return {
        "bits_per_byte": {name: bits_per_byte(rows).to_dict() for name, rows in scores.items()},
        "tax": {name: alignment_tax(scores[name], scores["sft"]).to_dict() for name in taxed},
    }


def _variety(config: EvaluateConfig, answers: Mapping[str, Answers]) -> dict[str, Any]:
    """Each model's variety, and the policies' beside the SFT model's on the same prompts."""
    texts = {name: [candidate.text for candidate in a.candidates] for name, a in answers.items()}
    beside = {name: variety_beside(texts[name], texts["sft"]).to_dict() for name in config.policies}
    return {
        "diversity": {name: diversity(rows).to_dict() for name, rows in texts.items()},
        "variety_beside_sft": beside,
    }


# -- 4. outside judges -------------------------------------------------------------------------------------------------


def _outside_judges(
    config: EvaluateConfig,
    judge: Decoder | None,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    answers: Mapping[str, Answers],
) -> dict[str, Any]:
    if judge is None or config.judge_turns is None:
        return {}
    usable = partial(check_demonstration, tokenizer, last_only=True)
    turns = list(islice(read_demonstrations(config.judge_turns, BadRows(), usable), NUM_JUDGE_TURNS))
    return judge_answers(
        judge, tokenizer, turns, prompts, answers,
        policies=list(config.policies), max_tokens=config.max_tokens, seed=config.seed,
    )  # fmt: skip
