"""The demo's stages: each fills in a recipe's config, as a person would on the command line, and runs it.

Every function takes (folder of the demo, budgets, seed) and returns what summary.json needs of it. What one stage hands
to the next lies in files; the constants here are the demo's, each deviation from InstructGPT with its reason.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from wuya.console import say
from wuya.data.chitchat import Use, exchanges, load_chats, split_chats, transcript
from wuya.data.formats import read_prompts, write_demonstrations, write_prompts
from wuya.data.quality import QualityRules
from wuya.feedback.features import Normaliser
from wuya.feedback.simulated import Labelers, calibrate_noise, make_labelers
from wuya.files import make_folder, read_jsonl, write_atomic
from wuya.inference.rollout_files import read_episodes
from wuya.recipes import evaluate as evaluate_recipe
from wuya.recipes import label, ppo, prepare_data, reward_model, sample_completions, sft
from wuya.recipes import pretrain as pretrain_recipe
from wuya.recipes import train_tokenizer as train_tokenizer_recipe
from wuya.recipes.demo_sizes import DemoSize
from wuya.recipes.evaluate import EvaluateConfig
from wuya.recipes.label import LabelConfig
from wuya.recipes.ppo import PPOConfig
from wuya.recipes.prepare_data import PrepareConfig
from wuya.recipes.pretrain import PretrainConfig
from wuya.recipes.reward_model import RewardModelConfig
from wuya.recipes.sample_completions import SampleConfig, read_completions
from wuya.recipes.sft import SFTConfig
from wuya.recipes.train_tokenizer import TokenizerConfig
from wuya.records import Candidate, Demonstration
from wuya.tokenizer.bpe import Tokenizer

PEOPLE_SEED = 2026
"""The labelers are the same people whatever the run's seed."""
BEST_REPLIES = 0.4
"""Share of the human replies that labelers would have been content to write: the demonstrations."""
LONGEST_REPLY_WORDS = 22
"""A demonstration must fit into the longest answer, or the model learns not to end."""
FORM_FEED = "\f"
PTX_COEF = 1.0


# -- data and people ---------------------------------------------------------------------------------------------------


def prepare_people_and_data(folder: Path, size: DemoSize, seed: int) -> dict[str, Any]:
    """Split the chats, let the labelers choose demonstrations, write the files all later stages read."""
    data = make_folder(folder / "data")
    splits = split_chats(load_chats())
    if size.max_chats is not None:
        splits["train"] = splits["train"][: size.max_chats]
    for split, chats in splits.items():
        write_atomic(data / f"{split}.txt", FORM_FEED.join(transcript(chat.turns) for chat in chats))
    uses = exchanges(splits)
    human = [row for row in uses["sft"] if len(row.completion.split()) <= LONGEST_REPLY_WORDS]
    normaliser = Normaliser.fit((row.prompt.messages, row.completion) for row in human)
    labelers = make_labelers(normaliser, seed=PEOPLE_SEED)
    labelers.save(data / "labelers_uncalibrated.json")
    for use in ("sft", "judge"):
        write_demonstrations(data / f"{use}.jsonl", _chosen_by(labelers, uses[use]))
    write_demonstrations(data / "real_turns.jsonl", _short(uses["judge"]))
    prompt_uses: tuple[Use, ...] = ("reward", "ppo", "reward_eval", "tuning", "final")
    for use in prompt_uses:
        write_prompts(data / f"{use}.jsonl", [row.prompt for row in uses[use]])
    counts = {use: len(rows) for use, rows in uses.items()}
    say(f"chats: {', '.join(f'{len(c):,} {s}' for s, c in splits.items())}; prompts: {counts}")
    return {"chats": {split: len(chats) for split, chats in splits.items()}, "prompts": counts}


def _chosen_by(labelers: Labelers, rows: Iterable[Demonstration]) -> list[Demonstration]:
    """The human replies the training labelers like best on average: what they would have written themselves."""
    short = _short(rows)

    def liked(row: Demonstration) -> float:
        candidate = Candidate(row.completion)
        return mean(labeler.utility(row.prompt, candidate) for labeler in labelers.training)

    threshold = sorted(map(liked, short), reverse=True)[int(BEST_REPLIES * len(short))]
    return [row for row in short if liked(row) > threshold]


def _short(rows: Iterable[Demonstration]) -> list[Demonstration]:
    return [row for row in rows if 2 <= len(row.completion.split()) <= LONGEST_REPLY_WORDS]


# -- raw text -> base model --------------------------------------------------------------------------------------------


def train_tokenizer(folder: Path, size: DemoSize, seed: int) -> dict[str, Any]:
    """Byte-level BPE on the training chats."""
    train_tokenizer_recipe.run(
        TokenizerConfig(
            inputs=(str(folder / "data" / "train.txt"),), vocab_size=size.vocab_size, out=folder / "tokenizer"
        )
    )
    return {}


def prepare_corpus(folder: Path, size: DemoSize, seed: int) -> dict[str, Any]:
    """Training shards by GPT-3's preparation, without the final prompts' text; validation shards as they are."""
    data = folder / "data"
    prepare_data.run(
        PrepareConfig(
            inputs=(str(data / "train.txt"),),
            tokenizer=folder / "tokenizer",
            out=folder / "shards",
            rules=QualityRules(min_words=20),  # chats are short documents
            decontaminate_against=(data / "final.jsonl",),
            validation_fraction=0.0,
            seed=seed,
        )
    )
    prepare_data.run(
        PrepareConfig(
            inputs=(str(data / "validation.txt"),),
            tokenizer=folder / "tokenizer",
            out=folder / "shards_validation",
            rules=QualityRules(min_words=1),
            exact_dedup=False,
            fuzzy_dedup=False,
            validation_fraction=0.0,
            seed=seed,
        )
    )
    return {"manifest": json.loads((folder / "shards" / "manifest.json").read_text(encoding="utf-8"))["stages"]}


def pretrain(folder: Path, size: DemoSize, seed: int) -> dict[str, Any]:
    """A GPT from random weights."""
    pretrain_recipe.run(_pretrain_config(folder, size, seed))
    return {}


def _pretrain_config(folder: Path, size: DemoSize, seed: int) -> PretrainConfig:
    batch_size = 4_096 // size.pretraining_window
    return PretrainConfig(
        data=folder / "shards" / "train",
        validation_data=folder / "shards_validation" / "train",
        tokenizer=folder / "tokenizer",
        model={**size.model, "context_length": size.context_length},
        num_tokens=size.pretraining_tokens,
        context_length=size.pretraining_window,
        batch_size=batch_size,
        microbatch_size=batch_size,
        learning_rate=0.02,
        adam_learning_rate=0.01,
        out=folder / "base",
        resume=(folder / "base").exists(),
        validate_every=60,
        validation_windows=128,
        save_every=60,
        seed=seed,
        dtype="float32",
    )


# -- step 1: demonstrations --------------------------------------------------------------------------------------------


def finetune(folder: Path, size: DemoSize, seed: int) -> dict[str, Any]:
    """The SFT model: PPO's start, its reference, the reward model's trunk."""
    sft.run(_sft_config(folder, "sft", "sft", size.sft_tokens, seed))
    return {}


def finetune_judge(folder: Path, size: DemoSize, seed: int) -> dict[str, Any]:
    """A model of another seed on demonstrations of other chats: it judges answers and never sees PPO."""
    sft.run(_sft_config(folder, "judge", "real_turns", size.judge_tokens, seed + 1_000))
    return {}


def _sft_config(folder: Path, name: str, demonstrations: str, num_tokens: int, seed: int) -> SFTConfig:
    return SFTConfig(
        base=folder / "base",
        demonstrations=folder / "data" / f"{demonstrations}.jsonl",
        out=folder / name,
        resume=(folder / name).exists(),
        num_tokens=num_tokens,
        batch_size=16,
        optimizer="muon",
        learning_rate=0.004,
        adam_learning_rate=0.002,
        last_only=True,  # earlier answers in a prompt were not chosen by a labeler
        seed=seed,
        dtype="float32",
    )


# -- step 2: answers, rankings, reward model ---------------------------------------------------------------------------


def sample_answers(folder: Path, size: DemoSize, seed: int) -> dict[str, Any]:
    """K answers of the SFT model to the prompts for training, for the reward model's report, and for calibration."""
    budgets = {"reward": size.ranked_prompts, "reward_eval": size.held_out_rankings, "tuning": size.calibration_prompts}
    for number, (use, count) in enumerate(budgets.items()):
        out = folder / "samples" / use
        sample_completions.run(
            SampleConfig(
                checkpoint=folder / "sft",
                prompts=folder / "data" / f"{use}.jsonl",
                max_prompts=count,
                k=size.answers_per_prompt,
                max_tokens=size.max_answer_tokens,
                out=out,
                resume=out.exists(),
                seed=seed * 10 + number,
                dtype="float32",
            )
        )
    return {"samples": json.loads((folder / "samples" / "reward" / "summary.json").read_text(encoding="utf-8"))}


def rank_answers(folder: Path, size: DemoSize, seed: int) -> dict[str, Any]:
    """Calibrate the labelers' noise once on SFT answers, freeze it, and let them rank through the feedback store."""
    uncalibrated = Labelers.load(folder / "data" / "labelers_uncalibrated.json")
    answers = list(read_completions(folder / "samples" / "tuning" / "completions.jsonl"))
    labelers = calibrate_noise(uncalibrated, answers)
    labelers.save(folder / "data" / "labelers.json")
    say(f"two training labelers agree on {labelers.agreement:.1%} of pairs of SFT answers (simulated)")
    groups: dict[Literal["training", "held_out"], tuple[str, int]] = {
        "training": ("reward", 1),
        "held_out": ("reward_eval", len(labelers.held_out)),
    }
    snapshots = {}
    for group, (use, overlap) in groups.items():
        snapshots[group] = label.run(
            LabelConfig(
                labeler="simulated",
                candidates=folder / "samples" / use / "completions.jsonl",
                database=str(folder / "wuya.db"),
                project=group,
                labelers=folder / "data" / "labelers.json",
                group=group,
                overlap=overlap,
                out=folder / "rankings" / group,
            )
        )
    return {
        "training_agreement": labelers.agreement,
        "snapshots": {name: str(path) for name, path in snapshots.items()},
    }


def train_reward_model(folder: Path, size: DemoSize, seed: int) -> dict[str, Any]:
    """The reward model, judged on other prompts by labelers it never learned from."""
    snapshots = json.loads((folder / "stages" / "label.json").read_text(encoding="utf-8"))["snapshots"]
    held_out = Path(snapshots["held_out"])
    reward_model.run(
        RewardModelConfig(
            model=folder / "sft",
            rankings=Path(snapshots["training"]),
            demonstrations=folder / "data" / "sft.jsonl",
            heldout_rankings=(held_out,),
            out=folder / "reward",
            resume=(folder / "reward").exists(),
            batch_size=16,
            learning_rate=5e-4,
            warmup_steps=5,
            seed=seed,
            dtype="float32",
        )
    )
    report = json.loads((folder / "reward" / "report.json").read_text(encoding="utf-8"))[str(held_out)]
    return {**report, "accuracy_vs_utility": _accuracy_against_utility(folder)}


def _accuracy_against_utility(folder: Path) -> float:
    """Share of the same answer pairs that the reward model orders as the noiseless shared utility does."""
    labelers = Labelers.load(folder / "data" / "labelers.json")
    scores = {
        (row["prompt_id"], row["text"]): row["score"]
        for _, row in read_jsonl(folder / "reward" / "heldout_scores.jsonl")
    }
    right: list[bool] = []
    for prompt, candidates in read_completions(folder / "samples" / "reward_eval" / "completions.jsonl"):
        for a, b in combinations(candidates, 2):
            difference = labelers.shared_utility(prompt, a) - labelers.shared_utility(prompt, b)
            if difference and (prompt.id, a.text) in scores and (prompt.id, b.text) in scores:
                right.append((scores[prompt.id, a.text] > scores[prompt.id, b.text]) == (difference > 0))
    return mean(right)


# -- step 3: PPO -------------------------------------------------------------------------------------------------------


def run_ppo(folder: Path, size: DemoSize, seed: int) -> dict[str, Any]:
    """Plain PPO."""
    ppo.run(ppo_config(folder, size, seed))
    return {"gold_and_proxy": _gold_and_proxy(folder, "ppo")}


def run_ppo_ptx(folder: Path, size: DemoSize, seed: int) -> dict[str, Any]:
    """PPO-ptx: differs from plain PPO in the pre-training mix alone."""
    ppo.run(
        replace(
            ppo_config(folder, size, seed),
            out=folder / "ppo_ptx",
            resume=(folder / "ppo_ptx").exists(),
            ptx_coef=PTX_COEF,
        )
    )
    return {"gold_and_proxy": _gold_and_proxy(folder, "ppo_ptx")}


def ppo_config(folder: Path, size: DemoSize, seed: int) -> PPOConfig:
    """PPO scaled to a run of a few dozen steps. Deviations from InstructGPT, and why, in docs/guides/demo.md."""
    return PPOConfig(
        policy=folder / "sft",
        reward=str(folder / "reward"),
        prompts=folder / "data" / "ppo.jsonl",
        ptx_shards=folder / "shards" / "train",
        out=folder / "ppo",
        resume=(folder / "ppo").exists(),
        num_updates=size.ppo_updates,
        rollout_batch_size=size.episodes,
        minibatch_size=max(8, size.episodes // 4),
        ppo_epochs=1,
        max_tokens=size.max_answer_tokens,
        max_prompt_tokens=128,
        learning_rate=3e-4,
        value_learning_rate=5e-4,
        warmup_updates=2,
        value_warmup_updates=1,
        kl_coef=0.05,
        ema_decay=0.9,
        ptx_ratio=1.0,
        ptx_context_length=64,
        dump_rollouts=True,
        save_every=4,
        seed=seed,
        dtype="float32",
    )


def _gold_and_proxy(folder: Path, run: str) -> list[dict[str, float]]:
    """Of each update's episodes: KL, the reward model's mean score, and the labelers' mean noiseless utility."""
    labelers = Labelers.load(folder / "data" / "labelers.json")
    tokenizer = Tokenizer.load(folder / "tokenizer")
    prompts = {prompt.id: prompt for prompt in read_prompts(folder / "data" / "ppo.jsonl")}
    rows = []
    for file in sorted((folder / run / "rollouts").glob("*.parquet")):
        episodes = list(read_episodes(file))
        answers = [_answer(tokenizer, episode.token_ids) for episode in episodes]
        gold = [labelers.shared_utility(prompts[e.prompt_id], a) for e, a in zip(episodes, answers, strict=True)]
        rows.append({"kl": mean(e.kl for e in episodes), "proxy": mean(e.score for e in episodes), "gold": mean(gold)})
    return rows


def _answer(tokenizer: Tokenizer, token_ids: tuple[int, ...]) -> Candidate:
    text = tokenizer.decode(token_ids, skip_special=True).strip()
    return Candidate(text, token_ids, finished=token_ids[-1] == tokenizer.eos_id)


def continue_pretraining(folder: Path, size: DemoSize, seed: int) -> dict[str, Any]:
    """What the pre-training mix does alone: the SFT model on as many tokens of it, at PPO's rate, without PPO."""
    settings = ppo_config(folder, size, seed)
    steps = settings.num_updates * settings.steps_per_update
    pretrain_recipe.run(
        PretrainConfig(
            data=folder / "shards" / "train",
            tokenizer=folder / "tokenizer",
            init=folder / "sft",
            num_tokens=steps * settings.ptx_batch_size * settings.ptx_context_length,
            context_length=settings.ptx_context_length,
            batch_size=settings.ptx_batch_size,
            microbatch_size=settings.ptx_batch_size,
            optimizer="adamw",
            learning_rate=settings.learning_rate,
            warmup=0.1,
            warmdown=0.0,
            validate_every=0,
            out=folder / "sft_plus_ptx",
            resume=(folder / "sft_plus_ptx").exists(),
            seed=seed,
            dtype="float32",
        )
    )
    return {}


# -- evaluation --------------------------------------------------------------------------------------------------------


def evaluate(folder: Path, size: DemoSize, seed: int) -> dict[str, Any]:
    """Every stage on the final prompts and the test chats."""
    data = folder / "data"
    path = evaluate_recipe.run(
        EvaluateConfig(
            out=folder / "evaluation",
            base=folder / "base",
            shots=data / "sft.jsonl",
            sft=folder / "sft",
            policies={"ppo": folder / "ppo", "ppo_ptx": folder / "ppo_ptx"},
            tax_only={"sft_plus_ptx": folder / "sft_plus_ptx"},
            prompts=data / "final.jsonl",
            texts=data / "test.txt",
            labelers=data / "labelers.json",
            reward_model=str(folder / "reward"),
            judge=folder / "judge",
            judge_turns=data / "real_turns.jsonl",
            num_prompts=size.evaluation_prompts,
            num_texts=size.evaluation_texts,
            max_tokens=size.max_answer_tokens,
            seed=seed,
        )
    )
    return dict(json.loads(path.read_text(encoding="utf-8")))


def summarize(results: dict[str, dict[str, Any]], seed: int, size: str) -> dict[str, Any]:
    """summary.json: the figures people ask for, under names that do not change (docs/guides/demo.md)."""
    evaluation, reward = results["evaluate"], results["reward"]
    reliability = reward["calibration"] if "calibration" in reward else reward
    return {
        "seed": seed,
        "size": size,
        "labelers": "simulated",
        "win_rate": evaluation["win_rate"],
        "reward_model": {
            "accuracy": reliability["accuracy"]["mean"],
            "accuracy_low": reliability["accuracy"]["low"],
            "accuracy_high": reliability["accuracy"]["high"],
            "agreement": reward["agreement"],
            "ceiling": reward["ceiling"],
            "accuracy_vs_utility": reward["accuracy_vs_utility"],
            "ece": reliability["ece"],
            "brier": reliability["brier"],
            "length_correlation": reward["length_correlation"],
            "reliability": reliability["bins"],
            "votes": reward["num_votes"],
        },
        "kl": evaluation["kl"],
        "bits_per_byte": evaluation["bits_per_byte"],
        "tax": evaluation["tax"],
        "diversity": evaluation["diversity"],
        "scores": evaluation["scores"],
        "outside_judges": evaluation["outside_judges"],
        "gold_and_proxy": {name: results[name]["gold_and_proxy"] for name in ("ppo", "ppo_ptx")},
        "training_agreement": results["label"]["training_agreement"],
        "seconds": {name: result["seconds"] for name, result in results.items()},
    }
