"""Recipes train models of other architectures through `transformers`, and what they save loads there as it is."""

import asyncio
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tests.models.wrapped_zoo import ZOO, random_wrapped
from tests.recipes.recipe_list import RECIPES, TinyRecipe, write_inputs
from wuya.checkpoints.checkpoint import load_any, load_checkpoint, load_scalar_model, resolve_checkpoint
from wuya.checkpoints.pretrained import FAMILIES
from wuya.errors import UnsupportedModel
from wuya.files import read_jsonl
from wuya.inference.engine import Engine
from wuya.inference.sampling import SamplingParams
from wuya.models.lora import TARGETS, adapter_names
from wuya.models.wrapped import TransformersModel
from wuya.recipes import ppo, reward_model, sample_completions, sft
from wuya.recipes.chat import Conversation
from wuya.records import Message
from wuya.rlhf.ppo_models import shared_trunk_models
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import encode_prompt

FAST = ("bloom", "gemma2", "mamba", "mixtral")
"""ALiBi, windows and caps, a recurrence without a classifier class, experts."""
RECIPE_FAMILY, OTHERS = "gemma2", ("bloom", "deepseek_v3", "mamba", "opt")
FAST_RECIPES = ("sft", "reward", "dpo", "ppo-lora", "grpo")
TRAINED = [pytest.param(recipe, id=recipe.id, marks=() if recipe.id in FAST_RECIPES else pytest.mark.slow)
           for recipe in RECIPES if recipe.module != "pretrain"]  # fmt: skip
NAMES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in ZOO if name not in FAMILIES]


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing every curve takes longer than these runs."""
    monkeypatch.setattr("wuya.training.run.write_report", lambda out, metrics: None)


def write_base(folder: Path, name: str, tokenizer: Tokenizer, **changes: Any) -> Path:
    """A published base model: what `save_pretrained` writes, and a tokenizer."""
    random_wrapped(name, vocab_size=tokenizer.vocab_size, **changes).save_pretrained(folder)
    tokenizer.save(folder)
    return folder


def write_rows(folder: Path) -> None:
    answers = [{"text": "the mat"}, {"text": "the log"}, {"text": "a song to the sun", "finished": False}]
    rows = [{"id": f"p{i}", "prompt": f"the cat {'sat ' * (i % 3)}{i}"} for i in range(8)]
    ranked = [{**row, "candidates": answers, "ranks": [1, 2, 3], "labeler": "ann"} for row in rows]
    for name, lines in (("prompts", rows), ("rankings", ranked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))


def metrics(out: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(out / "metrics.jsonl")]


def run_all(folder: Path, base: Path) -> None:
    """sft (2 steps), sample, reward (2 steps), ppo (1 update)."""
    common: dict[str, Any] = {"device": "cpu", "dtype": "float32"}
    write_rows(folder)
    sft.run(sft.SFTConfig(base=base, demonstrations=folder / "demonstrations.jsonl", out=folder / "sft", batch_size=1,
                          microbatch_size=1, epochs=2, context_length=100, learning_rate=1e-3, log_every=1,
                          num_samples=1, sample_tokens=4, **common))  # fmt: skip
    sample_completions.run(sample_completions.SampleConfig(
        checkpoint=folder / "sft", prompts=folder / "prompts.jsonl", out=folder / "samples", k=3, max_tokens=5,
        max_prompts=2, **common))  # fmt: skip
    reward_model.run(reward_model.RewardModelConfig(
        model=folder / "sft", rankings=folder / "rankings.jsonl", out=folder / "rm", batch_size=4, learning_rate=1e-3,
        demonstrations=folder / "demonstrations.jsonl", **common))  # fmt: skip
    ppo.run(ppo.PPOConfig(
        policy=folder / "sft", reward=str(folder / "rm"), prompts=folder / "prompts.jsonl", out=folder / "ppo",
        num_updates=1, rollout_batch_size=4, minibatch_size=2, max_tokens=5, learning_rate=1e-3, warmup_updates=0,
        value_learning_rate=1e-3, ema_decay=0.0, final_kl_prompts=4, show_samples_every=0, **common))  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_whole_loop_and_its_models_load_in_transformers(name: str, corpus: Path, tokenizer: Tokenizer) -> None:
    base = write_base(corpus / "base", name, tokenizer)
    run_all(corpus, base)
    assert len([row for row in metrics(corpus / "sft") if "loss" in row]) >= 2
    assert len([row for row in metrics(corpus / "rm") if "loss" in row]) == 2
    [update] = [row for row in metrics(corpus / "ppo") if "objective/kl" in row][:1]
    assert abs(update["objective/kl"]) < 1e-3, "the policy starts as its reference"

    model, ours = load_checkpoint(corpus / "ppo")
    assert isinstance(model, TransformersModel)
    trained, untrained = model.state_dict(), TransformersModel(AutoModelForCausalLM.from_pretrained(base)).state_dict()
    assert any(not torch.equal(trained[key], untrained[key]) for key in trained)
    folder = resolve_checkpoint(corpus / "ppo")
    theirs, their_tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": "the dog"}]
    prompt = encode_prompt(ours, (Message("user", "the dog"),))
    assert their_tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) == prompt
    [[answer]] = Engine(model, ours).generate([prompt], SamplingParams(max_tokens=8, temperature=0))
    expected = theirs.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False, use_cache=name != "rwkv",
                              eos_token_id=list(ours.turn_end.ids))  # fmt: skip
    assert list(answer.token_ids) == expected[0, len(prompt) :].tolist()
    require_same_scores(corpus / "rm", ours)


def require_same_scores(run: Path, tokenizer: Tokenizer) -> None:
    """Our reward model against the classifier class it was saved as, where the architecture has one."""
    model, _ = load_scalar_model(run)
    folder = resolve_checkpoint(run)
    architectures = json.loads((folder / "config.json").read_text())["architectures"]
    if architectures == ["WuyaForSequenceClassification"]:
        assert (folder / "score.safetensors").is_file()
        return
    ids = [
        *encode_prompt(tokenizer, (Message("user", "the dog"),)),
        *tokenizer.encode("the log"),
        tokenizer.turn_end.id,
    ]
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0, 0]
        score = model.scores(torch.tensor([ids]), torch.tensor([len(ids) - 1]))[0] + model.bias
    torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-5)


# -- every recipe, with one model


@pytest.fixture(scope="module", params=[RECIPE_FAMILY, *(pytest.param(n, marks=pytest.mark.slow) for n in OTHERS)])
def inputs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(tokenizer: Tokenizer) -> TransformersModel:
        return TransformersModel(random_wrapped(request.param, vocab_size=tokenizer.vocab_size))

    return write_inputs(tmp_path_factory.mktemp("inputs"), make)


@pytest.mark.parametrize("recipe", TRAINED)
def test_every_recipe_runs_in_bf16_resumes_and_saves_what_transformers_loads(
    recipe: TinyRecipe, inputs: Path, tmp_path: Path
) -> None:
    if recipe.fields(inputs).get("base_dtype", "float32") != "float32" and _family(inputs) == "mamba":
        with pytest.raises(UnsupportedModel, match="its code reads them directly"):
            recipe.run(inputs, tmp_path / "straight")
        return
    straight = recipe.run(inputs, tmp_path / "straight", dtype="bfloat16", activation_checkpointing=True)
    assert all(math.isfinite(value) for row in straight for value in row.values() if isinstance(value, float))
    recipe.run(inputs, tmp_path / "stopped", dtype="bfloat16", save_every=1, keep_last_n=0)
    checkpoints = sorted((tmp_path / "stopped" / "checkpoints").iterdir())
    assert len(checkpoints) == recipe.steps
    shutil.rmtree(checkpoints.pop())
    recipe.run(inputs, tmp_path / "stopped", dtype="bfloat16", save_every=1, keep_last_n=0, resume=True)
    first, second = (load_any(tmp_path / name)[0].state_dict() for name in ("straight", "stopped"))
    assert all(torch.allclose(first[name], second[name], atol=2e-3) for name in first)
    folder = resolve_checkpoint(tmp_path / "straight")
    if recipe.module != "reward_model" and "chosen" not in recipe.id:  # which may be the policy it began with
        before = load_any(inputs / "sft")[0].state_dict()
        assert any(not torch.equal(first[name], before[name]) for name in first)
        _, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"]


def _family(inputs: Path) -> str:
    return str(json.loads((inputs / "sft" / "config.json").read_text())["model_type"])


def test_adapters_of_policy_value_and_reward_share_one_trunk(inputs: Path, tmp_path: Path) -> None:
    """The reward model was trained with adapters on the SFT model: its scores are those of the merged checkpoint."""
    models = shared_trunk_models(
        inputs / "sft", str(inputs / "lora_rm"), rank=2, alpha=32.0, targets=TARGETS, seed=0,
        device=torch.device("cpu"), microbatch_tokens=64,
    )  # fmt: skip
    ids = models.tokenizer.encode("the cat")
    merged, _ = load_scalar_model(inputs / "lora_rm")
    with torch.no_grad():
        expected = merged.scores(torch.tensor([ids]), torch.tensor([len(ids) - 1]))
    torch.testing.assert_close(models.score([ids[:1]], [ids[1:]]), expected, rtol=1e-3, atol=1e-4)
    assert set(adapter_names(models.engine_model)) == {"reward", "value", "policy"}


def test_it_is_evaluated_chatted_with_imported_and_served(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.inference.backends.helpers import collect, request, running, text
    from tests.inference.backends.helpers import run as run_async
    from wuya.recipes import evaluate, import_model

    folder = import_model.run(import_model.ImportConfig(source=inputs / "sft", out=tmp_path / "imported"))
    model, tokenizer = load_checkpoint(folder)
    prompt = encode_prompt(tokenizer, (Message("user", "the cat"),))
    sampling = SamplingParams(max_tokens=8, temperature=0)
    [[answer]] = Engine(model, tokenizer).generate([prompt], sampling)
    expected = tokenizer.decode(answer.token_ids, skip_special=True)

    conversation = Conversation(Engine(model, tokenizer), tokenizer, sampling)
    assert "".join(conversation.ask("the cat")) == expected

    async def serve() -> None:
        async with running(folder, slots=2) as engine:
            both = await asyncio.gather(*(collect(engine, request(str(n), prompt, max_tokens=8)) for n in range(2)))
            assert [text(events) for events in both] == [expected] * 2

    run_async(serve)
    out = evaluate.run(evaluate.EvaluateConfig(
        out=tmp_path / "evaluation", sft=folder, policies={"same": folder}, prompts=inputs / "prompts.jsonl",
        reward_model=str(inputs / "rm"), num_prompts=4, max_tokens=6, device="cpu", dtype="float32",
    ))  # fmt: skip
    report = json.loads(out.read_text())
    assert abs(report["kl"]["same"]["per_response"]) < 1e-4
