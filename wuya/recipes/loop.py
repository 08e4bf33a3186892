"""Rounds: steps 2 and 3 again and again, on the current policy (InstructGPT, section 3.1: "iterated continuously").

    wuya loop --sft runs/sft --prompts prompts.jsonl --demonstrations demos.jsonl --labelers labelers.json \\
              --rounds 3 --out runs/loop

Reads the SFT model, prompts and demonstrations; writes <out>/{rounds.json, round_01/, ...} and the feedback store.
A round: K answers of the current policy to fresh prompts -> rankings -> a reward model on the rankings of all rounds
so far -> PPO -> evaluation -> registered with its parents. Each arrow is a file or the feedback store, so any of them
can be looked at, and the same command goes on where it stopped. Without simulated labelers the round queues its answers
and waits for people: they rank in the labeling app (`wuya serve`) or in the terminal (`wuya label`); `--wait` stays and
goes on by itself, else run the command again. A policy that is not shown to be better than the SFT model is kept and
registered, but the next round starts from the one before. Without `--judges` a share of the ranked prompts trains
nothing but a judge: the reward model that a policy was trained against can't say that it became better.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from wuya.checkpoints.checkpoint import describe_parent, resolve_checkpoint
from wuya.config import require_positive, with_overrides
from wuya.console import Progress, heading, say, table
from wuya.data.formats import read_demonstrations, read_prompts
from wuya.data.prompt_shares import write_share
from wuya.errors import ConfigError
from wuya.evals.round_gate import gate_round
from wuya.feedback.held_out import hold_out
from wuya.feedback.reading import Selection
from wuya.feedback.simulated import Labelers
from wuya.feedback.store import FeedbackStore
from wuya.files import BadRows, FileLock, default_workspace, make_folder, to_json, write_atomic
from wuya.recipes import evaluate, label, ppo, reward_model, sample_completions
from wuya.recipes.evaluate import EvaluateConfig
from wuya.recipes.label import LabelConfig
from wuya.recipes.ppo import PPOConfig
from wuya.recipes.reward_model import RewardModelConfig
from wuya.recipes.sample_completions import SampleConfig
from wuya.training.inputs import keep_inputs

PROJECT = "loop"
SECONDS_BETWEEN_LOOKS = 2.0
JUDGE_SEED = 1_000
"""Added to a round's seed for its judge, so that it is another model even where its rankings were alike."""
Value = bool | int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """Repeat sampling, ranking, reward model and PPO on the current policy."""

    sft: Path
    """SFT checkpoint: round 1 samples from it, PPO's reference in every round."""
    prompts: Path
    """JSONL of training prompts. Each round takes the next `prompts_per_round` for ranking; PPO uses the rest."""
    demonstrations: Path
    """JSONL of demonstrations; the reward model is shifted so that they score 0 on average."""
    out: Path
    """Folder of the loop: round_01/, round_02/, ... and rounds.json."""
    evaluation_prompts: Path | None = None
    """Held-out prompts on which each round's policy is compared with the SFT model."""
    rounds: int = 3
    """Rounds in all; a larger number later adds rounds, which need new prompts in the file: PPO has used the rest."""
    prompts_per_round: int = 500
    """Prompts whose answers are ranked in a round."""
    k: int = 6
    """Answers a prompt. Paper: 4 to 9."""
    max_tokens: int = 256
    """Longest answer."""
    start_from: Literal["sft", "last"] = "sft"
    """Where each round's PPO starts: the SFT model as in the paper, or the last round's policy."""
    labelers: Path | None = None
    """Simulated labelers (JSON). Without, the round waits until people have ranked its answers."""
    wait: bool = False
    """Stay while people rank and go on when they have, instead of stopping with the line to type later."""
    overlap: int = 1
    """People who rank each prompt. Two or more show how far they agree, and who ranks at random."""
    enough: float = 1.0
    """Share of a round's prompts that people must have ranked before it goes on."""
    judges: Path | None = None
    """Simulated labelers whose held-out people judge each round's policy; default: `labelers`, else a judge trained on
    held-out rankings."""
    judge_share: float = 0.25
    """Share of the ranked prompts that only a judge learns from, where there are no `judges`; 0 gates nothing."""
    gate: float = 0.5
    """The next round starts from this round's policy only if the 95 % interval of its win rate is above this."""
    database: str = field(default_factory=lambda: str(default_workspace() / "wuya.db"))
    """Feedback store: path of an SQLite file, or a database URL."""
    reward_model: dict[str, Value] = field(default_factory=dict)
    """Settings of `wuya reward` for every round, by name."""
    ppo: dict[str, Value] = field(default_factory=dict)
    """Settings of `wuya ppo` for every round, by name."""
    seed: int = 0
    """Round r uses seed + r."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of matrix products; auto is bfloat16 where the hardware has it."""

    def __post_init__(self) -> None:
        if self.k < 2:
            raise ConfigError(
                "`k` must be at least 2: a single answer can't be ranked", found=str(self.k), hint="use `--k 4`"
            )
        require_positive(self, "rounds", "prompts_per_round", "max_tokens", "overlap", "enough")
        if not 0 <= self.judge_share < 1:
            raise ConfigError("`judge_share` must be at least 0 and below 1", found=str(self.judge_share))

    @property
    def holds_out(self) -> bool:
        """Some rankings train a judge: policies are to be judged, and no labelers do it."""
        return self.evaluation_prompts is not None and not (self.judges or self.labelers) and self.judge_share > 0


@dataclass(frozen=True, slots=True)
class Round:
    """One turn of the loop and the policy it starts with."""

    number: int
    folder: Path
    policy: Path
    """What answers the prompts: the SFT model, then the last round's policy."""


def run(config: LoopConfig) -> Path:
    """Returns the path of rounds.json; stops early, saying how to go on, while a round waits for people."""
    check(config)
    make_folder(config.out)
    path = config.out / "rounds.json"
    rows: list[dict[str, Any]] = []
    policy = config.sft
    with FileLock(config.out / "loop.lock"), FeedbackStore(config.database) as store:
        keep_inputs(config.out, config, free=("prompts",), start_anew="another `--out`")  # prompts may be appended
        for number in range(1, config.rounds + 1):
            heading(f"round {number} of {config.rounds}")
            turn = Round(number, make_folder(config.out / f"round_{number:02d}"), policy)
            sample_answers(turn, config)
            if not ranked(turn, config, store):
                break
            rankings = freeze_rankings(turn, config, store)
            training, judging = divide_rankings(turn, config, rankings)
            train_reward_model(turn, config, training)
            candidate = improve_policy(turn, config)
            judge_accuracy = train_judge(turn, config, training, judging)
            comparison = compare(turn, config, candidate, has_judge=judge_accuracy is not None)
            gate = gate_round(comparison, bound=config.gate, judged_by=judged_by(config), judge_accuracy=judge_accuracy)
            say(f"round {number}: {gate.verdict} ({gate.reason})")
            rows.append({"round": number, "policy": str(candidate), "passed": gate.verdict == "held",
                         "gate": gate.verdict, "reason": gate.reason, **comparison})  # fmt: skip
            register(turn, config, store, training, candidate)
            policy = candidate if gate.opens else policy
            write_atomic(path, to_json(rows, indent=1) + "\n")
    if rows:
        say(table([_shown(row) for row in rows], title="rounds against the SFT model"))
    return path


def check(config: LoopConfig) -> None:
    """Find what a later step would stumble over before an hour is spent on the first: settings and files."""
    turn = Round(1, config.out / "round_01", config.sft)
    reward_settings(turn, config, config.prompts)
    ppo_settings(turn, config)
    next(read_prompts(config.prompts, BadRows()))
    next(read_demonstrations(config.demonstrations, BadRows()))
    if config.evaluation_prompts is not None:
        next(read_prompts(config.evaluation_prompts, BadRows()))
    if config.labelers is not None:
        Labelers.load(config.labelers)


def sample_answers(turn: Round, config: LoopConfig) -> None:
    """Step 2a: K answers of the current policy to this round's prompts."""
    left = config.rounds - turn.number + 1
    write_share(turn.folder, turn.number, config.prompts, rounds_left=left, per_round=config.prompts_per_round)
    out = turn.folder / "samples"
    if (out / "completions.jsonl").exists():
        return
    sample_completions.run(
        SampleConfig(
            checkpoint=turn.policy,
            prompts=turn.folder / "prompts.jsonl",
            out=out,
            k=config.k,
            max_tokens=config.max_tokens,
            round=turn.number,
            resume=out.exists(),
            seed=config.seed + turn.number,
            device=config.device,
            dtype=config.dtype,
        )
    )


def ranked(turn: Round, config: LoopConfig, store: FeedbackStore) -> bool:
    """Step 2b: the answers are in the store, and every one of them is ranked; False while people are at it."""
    completions = turn.folder / "samples" / "completions.jsonl"
    if config.labelers is not None:
        label.run(
            LabelConfig(
                labeler="simulated",
                candidates=completions,
                database=config.database,
                project=PROJECT,
                round=turn.number,
                labelers=config.labelers,
                overlap=config.overlap,
                out=turn.folder / "rankings",
            )
        )
        return True
    answers = sample_completions.read_completions(completions)
    store.queue_tasks(answers, project=PROJECT, round=turn.number, overlap=config.overlap)
    return people_have_ranked(turn, config, store)


def people_have_ranked(turn: Round, config: LoopConfig, store: FeedbackStore) -> bool:
    """True once enough of the round's prompts are ranked; with `wait`, it stays until then."""
    total = sum(1 for _ in sample_completions.read_completions(turn.folder / "samples" / "completions.jsonl"))
    may_be_open = int((1 - config.enough) * total)
    waiting = num_open(turn, store)
    if waiting > may_be_open:
        say(
            f"round {turn.number} waits for people: {waiting} prompts to rank. In a browser: `wuya serve`; here:\n\n"
            f"  wuya label --database {config.database} --project {PROJECT} --round {turn.number}\n\n"
            + ("this run goes on when they are done" if config.wait else "then run this command again")
        )
    if not config.wait:
        return waiting <= may_be_open
    with Progress(total - may_be_open, "ranked by people", "prompt", start=total - waiting) as progress:
        while waiting > may_be_open:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            before, waiting = waiting, num_open(turn, store)
            progress.update(before - waiting)
    return True


def num_open(turn: Round, store: FeedbackStore) -> int:
    """Prompts of this round that wait for a ranking."""
    return sum(1 for _ in store.open_answers(project=PROJECT, round=turn.number))


def freeze_rankings(turn: Round, config: LoopConfig, store: FeedbackStore) -> Path:
    """The rankings of this and all earlier rounds as one frozen, hashed file: what the reward model learns from."""
    selection = Selection(project=PROJECT, rounds=tuple(range(1, turn.number + 1)))
    return store.export_snapshot("rm_rankings", turn.folder / "snapshot", selection=selection).path


def divide_rankings(turn: Round, config: LoopConfig, rankings: Path) -> tuple[Path, Path | None]:
    """The rankings that the reward model learns from, and those that only a judge does: None if there is none."""
    if not config.holds_out:
        return rankings, None
    training, judging = turn.folder / "training_rankings.jsonl", turn.folder / "judge_rankings.jsonl"
    num_training, num_judging = hold_out(rankings, training, judging, share=config.judge_share)
    if not num_training or not num_judging:
        return rankings, None
    return training, judging


def train_judge(turn: Round, config: LoopConfig, training: Path, judging: Path | None) -> dict[str, Any] | None:
    """A reward model on held-out rankings that no policy meets; its accuracy on the others, which it never saw."""
    if judging is None:
        return None
    settings = replace(
        reward_settings(turn, config, judging),
        demonstrations=None,
        heldout_rankings=(training,),
        out=turn.folder / "judge",
        resume=(turn.folder / "judge").exists(),
        seed=config.seed + turn.number + JUDGE_SEED,
    )
    _once(settings.out, lambda: reward_model.run(settings))
    report = json.loads((settings.out / "report.json").read_text(encoding="utf-8"))
    return dict(report[str(training)]["accuracy"])


def judged_by(config: LoopConfig) -> Literal["labelers", "held-out rankings", "nobody"]:
    """Who says whether a round's policy became better."""
    if config.judges or config.labelers:
        return "labelers"
    return "held-out rankings" if config.holds_out else "nobody"


def train_reward_model(turn: Round, config: LoopConfig, rankings: Path) -> None:
    """Step 2c: from the SFT model, on the rankings of all rounds."""
    settings = reward_settings(turn, config, rankings)
    _once(settings.out, lambda: reward_model.run(settings))


def reward_settings(turn: Round, config: LoopConfig, rankings: Path) -> RewardModelConfig:
    """What `wuya reward` is given, with the loop's own overrides."""
    out = turn.folder / "reward"
    settings = RewardModelConfig(
        model=config.sft,
        rankings=rankings,
        demonstrations=config.demonstrations,
        out=out,
        resume=out.exists(),
        seed=config.seed + turn.number,
        device=config.device,
        dtype=config.dtype,
    )
    return with_overrides(settings, config.reward_model)


def improve_policy(turn: Round, config: LoopConfig) -> Path:
    """Step 3: PPO against this round's reward model."""
    settings = ppo_settings(turn, config)
    _once(settings.out, lambda: ppo.run(settings))
    return settings.out


def ppo_settings(turn: Round, config: LoopConfig) -> PPOConfig:
    """What `wuya ppo` is given, with the loop's own overrides."""
    out = turn.folder / "ppo"
    settings = PPOConfig(
        policy=turn.policy if config.start_from == "last" else config.sft,
        reward=str(turn.folder / "reward"),
        prompts=turn.folder / "ppo_prompts.jsonl",
        out=out,
        max_tokens=config.max_tokens,
        resume=out.exists(),
        seed=config.seed + turn.number,
        device=config.device,
        dtype=config.dtype,
    )
    return with_overrides(settings, config.ppo)


def compare(turn: Round, config: LoopConfig, policy: Path, *, has_judge: bool) -> dict[str, Any]:
    """The round's policy against the SFT model on held-out prompts; empty without them."""
    if config.evaluation_prompts is None:
        return {}
    out = turn.folder / "evaluation"
    if not (out / "evaluation.json").exists():
        evaluate.run(
            EvaluateConfig(
                out=out,
                sft=config.sft,
                policies={"policy": policy},
                prompts=config.evaluation_prompts,
                labelers=config.judges or config.labelers,
                reward_model=str(turn.folder / "reward"),
                judge_reward_model=str(turn.folder / "judge") if has_judge else "",
                best_of=1,
                max_tokens=config.max_tokens,
                seed=config.seed + turn.number,
                device=config.device,
            )
        )
    report = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    return {
        "win_rate": report["win_rate"]["policy_vs_sft"],
        "win_rate_at_equal_length": report.get("length_controlled", {}).get("policy_vs_sft"),
        "kl": report["kl"]["policy"]["per_response"],
        "votes_by": report["votes_by"],
    }


def register(turn: Round, config: LoopConfig, store: FeedbackStore, rankings: Path, policy: Path) -> None:
    """Write down where the round's reward model and policy come from."""
    reward = turn.folder / "reward"
    parents: Sequence[tuple[str, Path, str]] = (("rm", reward, str(config.sft)), ("policy", policy, str(turn.policy)))
    for kind, folder, parent in parents:
        store.register_model(
            str(folder),
            kind=kind,
            path=resolve_checkpoint(folder),
            parent=parent,
            reward_model=str(reward) if kind == "policy" else "",
            run=str(rankings),
            round=turn.number,
            sha256=describe_parent(folder)["sha256"],
        )


def _once(out: Path, train: Callable[[], object]) -> None:
    """Train unless `out` is finished; the run resumes by itself when it was cut off."""
    marker = out / "finished"
    if not marker.exists():
        train()
        write_atomic(marker, "")


def _shown(row: Mapping[str, Any]) -> dict[str, object]:
    return {
        "round": row["round"],
        "preferred to sft": _interval(row.get("win_rate")),
        "at equal length": _interval(row.get("win_rate_at_equal_length")),
        "KL/response": f"{row['kl']:.2f}" if "kl" in row else "",
        "votes by": row.get("votes_by", ""),
        "gate": row["gate"],
        "policy": row["policy"],
    }


def _interval(rate: Mapping[str, float] | None) -> str:
    return f"{rate['mean']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]" if rate else ""
