"""The last stage: every model on people no stage has met, and the summary that the gates are checked against."""

import json
from typing import Any

from wuya.demo.sizes import Demo
from wuya.recipes import evaluate as evaluate_recipe
from wuya.recipes.evaluate import EvaluateConfig


def evaluate(demo: Demo) -> dict[str, Any]:
    """Every stage on the final prompts and the test chats."""
    data = demo.folder / "data"
    path = evaluate_recipe.run(
        EvaluateConfig(
            out=demo.folder / "evaluation",
            base=demo.folder / "base",
            shots=data / "sft.jsonl",
            sft=demo.folder / "sft",
            policies={"ppo": demo.folder / "ppo", "ppo_ptx": demo.folder / "ppo_ptx"},
            tax_only={"sft_plus_ptx": demo.folder / "sft_plus_ptx"},
            prompts=data / "evaluation.jsonl",
            texts=data / "evaluation.txt",
            labelers=data / "labelers.json",
            reward_model=str(demo.folder / "reward"),
            judge=demo.folder / "judge",
            judge_turns=data / "real_turns.jsonl",
            num_prompts=demo.size.evaluation_prompts,
            num_texts=demo.size.evaluation_texts,
            max_tokens=demo.size.max_answer_tokens,
            seed=demo.seed,
            quiet=True,  # the story ends with the table
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
        "votes_by": evaluation["votes_by"],
        "num_prompts": evaluation["num_prompts"],
        "best_of": evaluation["best_of"],
        "win_rate": evaluation["win_rate"],
        "paired": evaluation["paired"],
        "length": evaluation["length"],
        "reward_model": {
            "accuracy": reliability["accuracy"]["mean"],
            "accuracy_low": reliability["accuracy"]["low"],
            "accuracy_high": reliability["accuracy"]["high"],
            "agreement": reward["agreement"],
            "ceiling": reward["ceiling"],
            "accuracy_less_agreement": reward["accuracy_less_agreement"],
            "accuracy_less_ceiling": reward["accuracy_less_ceiling"],
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
        "variety_beside_sft": evaluation["variety_beside_sft"],
        "finished": evaluation["finished"],
        "scores": evaluation["scores"],
        "outside_judges": evaluation["outside_judges"],
        "gold_and_proxy": {name: results[name]["gold_and_proxy"] for name in ("ppo", "ppo_ptx")},
        "training_agreement": results["label"]["training_agreement"],
        "seconds": {name: result["seconds"] for name, result in results.items()},
    }
