"""The stages that judge: the gold reward model on held-out prompts, and the likelihood of held-out demonstrations."""

import json
import math
from itertools import islice
from pathlib import Path
from typing import Any

from wuya.checkpoints.checkpoint import load_checkpoint
from wuya.data.formats import read_demonstrations, read_prompts
from wuya.demo.assistant.sizes import Assistant
from wuya.evals.answers import chat_answers
from wuya.evals.bootstrap import ratio_interval
from wuya.evals.likelihood import completion_nats
from wuya.files import to_json, write_atomic
from wuya.recipes import evaluate as evaluate_recipe
from wuya.recipes.evaluate import EvaluateConfig
from wuya.records import Candidate
from wuya.tokenizer.chat_format import encode_answer, encode_prompt

NUM_TO_READ = 20
CHAT_TEMPERATURE = 0.3
"""What `wuya chat` samples at."""
READ = "answers.jsonl"
"""The answers to read, in the run's folder."""


def evaluate(assistant: Assistant) -> dict[str, Any]:
    """The same held-out prompts to all: who is preferred by the gold reward model, at what distance and length."""
    size = assistant.size
    path = evaluate_recipe.run(
        EvaluateConfig(
            out=assistant.folder / "evaluation",
            sft=assistant.folder / "sft",
            policies={"ppo": assistant.folder / "ppo", "original": Path(assistant.model)},
            prompts=assistant.folder / "data" / "evaluation.jsonl",
            reward_model=str(assistant.folder / "reward"),
            judge_reward_model=str(assistant.folder / "gold"),
            best_of=4,
            num_prompts=size.evaluation_prompts,
            max_tokens=size.max_answer_tokens,
            seed=assistant.seed,
            quiet=True,
        )
    )
    return dict(json.loads(path.read_text(encoding="utf-8")))


def answers_to_read(assistant: Assistant) -> dict[str, Any]:
    """Twenty held-out prompts answered as people chat, at `wuya chat`'s temperature and twice the length: for reading.

    The votes are on answers at temperature 1, the policy itself as PPO optimises it, at which a small model rambles.
    """
    prompts = list(islice(read_prompts(assistant.folder / "data" / "evaluation.jsonl"), NUM_TO_READ))
    answers: dict[str, list[Candidate]] = {}
    for name, place in places(assistant).items():
        model, tokenizer = load_checkpoint(place)
        found = chat_answers(
            name, model, tokenizer, prompts,
            max_tokens=2 * assistant.size.max_answer_tokens, seed=assistant.seed, temperature=CHAT_TEMPERATURE,
        )  # fmt: skip
        answers[name] = found.candidates
    rows = [
        {
            "id": prompt.id,
            "prompt": [{"role": message.role, "content": message.content} for message in prompt.messages],
            "answers": {name: candidates[i].text for name, candidates in answers.items()},
            "finished": {name: candidates[i].finished for name, candidates in answers.items()},
        }
        for i, prompt in enumerate(prompts)
    ]
    write_atomic(assistant.folder / READ, "".join(to_json(row) + "\n" for row in rows))
    shares = {name: sum(c.finished for c in candidates) / len(prompts) for name, candidates in answers.items()}
    return {"finished": shares, "temperature": CHAT_TEMPERATURE}


def places(assistant: Assistant) -> dict[str, Path]:
    """The models that are compared, in the order of the story."""
    return {
        "original": Path(assistant.model), "sft": assistant.folder / "sft", "ppo": assistant.folder / "ppo",
    }  # fmt: skip


def demonstration_likelihood(assistant: Assistant) -> dict[str, Any]:
    """Nats per token of held-out demonstrations under each model, and PPO's and SFT's difference to the original's.

    Paired by demonstration: intervals resample demonstrations.
    """
    demonstrations = list(read_demonstrations(assistant.folder / "data" / "held_out_demonstrations.jsonl"))
    nats: dict[str, list[float]] = {}
    lengths: list[float] = []
    for name, place in places(assistant).items():
        model, tokenizer = load_checkpoint(place)
        prompts = [encode_prompt(tokenizer, row.prompt) for row in demonstrations]
        answers = [encode_answer(tokenizer, row.prompt, row.answer) for row in demonstrations]
        nats[name] = completion_nats(model, prompts, answers)
        lengths = [float(len(answer)) for answer in answers]
    result: dict[str, Any] = {"num_demonstrations": len(demonstrations)}
    for name, values in nats.items():
        result[name] = ratio_interval(values, lengths).to_dict()
        result[name]["perplexity"] = math.exp(result[name]["mean"])
    for name in ("sft", "ppo"):
        differences = [ours - theirs for ours, theirs in zip(nats[name], nats["original"], strict=True)]
        result[f"{name}_less_original"] = ratio_interval(differences, lengths).to_dict()
    return result
