"""PPO through its recipe: starts at KL 0, earns the reward, resumes bit for bit, alone and with adapters."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from tests.recipes.processes import kill_and_resume
from wuya.checkpoints.checkpoint import load_checkpoint, load_model, save_checkpoint
from wuya.checkpoints.checksums import write_checksums
from wuya.errors import CheckpointError, ConfigError, DataError
from wuya.evals.heldout_metrics import HELDOUT_METRICS
from wuya.files import read_jsonl
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.models.reward_model import ScalarModel
from wuya.recipes.ppo import PPOConfig, run
from wuya.rlhf.ppo_metrics import PPO_METRICS
from wuya.rlhf.rollout_files import read_episodes
from wuya.tokenizer.bpe import Tokenizer
from wuya.training.metrics import METRICS

Make = Callable[..., PPOConfig]
FUNCTIONS = """
def fewer_t(prompts, completions):
    assert all(prompt.endswith("assistant\\n") for prompt in prompts)
    return [-float(sum(letter in "thesa" for letter in text)) for text in completions]

def constant(rewards_BT, values_BT, mask_BT, *, gamma, lam):
    return 0.1 * mask_BT, rewards_BT

def no_loss(logprobs_BT, old_BT, advantages_BT, mask_BT, *, clip_range, num_tokens):
    return 0.0 * (logprobs_BT * mask_BT).sum(), {}
"""


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing every curve takes longer than these runs."""
    monkeypatch.setattr("wuya.training.run.write_report", lambda out, metrics: None)


@pytest.fixture
def make(corpus: Path, tiny_model: dict[str, int], tokenizer: Tokenizer) -> Make:
    torch.manual_seed(0)
    base = GPT(preset("tiny", **{**tiny_model, "vocab_size": tokenizer.vocab_size, "context_length": 64}))
    save_checkpoint(corpus / "sft", base, tokenizer, recipe="test")
    model = ScalarModel(load_checkpoint(corpus / "sft")[0])
    model.bias.fill_(0.25)
    save_checkpoint(corpus / "rm", model, tokenizer, recipe="test")
    rows = [{"id": f"p{i}", "prompt": f"the cat {'sat ' * (i % 4)}"} for i in range(20)]
    (corpus / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (corpus / "my.py").write_text(FUNCTIONS)

    def config(out: str = "ppo", **changes: Any) -> PPOConfig:
        fields: dict[str, Any] = {
            "policy": corpus / "sft", "reward": str(corpus / "rm"), "prompts": corpus / "prompts.jsonl",
            "out": corpus / out, "num_updates": 3, "rollout_batch_size": 16, "minibatch_size": 8, "max_tokens": 6,
            "learning_rate": 1e-3, "value_learning_rate": 1e-3, "warmup_updates": 1, "ema_decay": 0.5,
            "final_kl_prompts": 16, "show_samples_every": 0, "device": "cpu", "dtype": "float32", **changes,
        }  # fmt: skip
        return PPOConfig(**fields)

    return config


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(out / "metrics.jsonl")]


def weights(run_folder: Path) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in load_checkpoint(run_folder)[0].parameters()]


def same_bits(a: Path, b: Path) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


def test_a_run_starts_at_kl_zero_and_leaves_documented_metrics_samples_and_rollouts(make: Make) -> None:
    config = make(
        dump_rollouts=True,
        show_samples_every=1,
        ptx_coef=1.0,
        ptx_shards=make().out.parent / "train",
        ptx_context_length=16,
    )
    run(config)
    rows = rows_of(config.out)
    assert len(rows) == 4 and [row["warming_up"] for row in rows] == [True, False, False, False]
    assert abs(rows[0]["objective/kl"]) < 1e-4 and abs(rows[1]["objective/kl"]) < 1e-4
    assert [row["lr"] for row in rows] == pytest.approx([1e-3, 1e-4, 1e-3, 1e-3])  # rates, not multipliers
    assert rows[0]["objective/rlhf_reward"] <= rows[0]["objective/scores"]  # missing end tokens only
    assert {name for row in rows for name in row} - {"step", "time"} <= {*METRICS, *PPO_METRICS}
    assert {*PPO_METRICS} <= {name for row in rows for name in row}
    assert len(list(read_jsonl(config.out / "samples.jsonl"))) == 12
    summary = json.loads((config.out / "summary.json").read_text())
    assert summary["kl"]["per_response"] != 0 and summary["weights"] == "ema" and summary["n"] == 16
    check_rollouts(config)


def check_rollouts(config: PPOConfig) -> None:
    """Every number of the dump follows from the others."""
    files = sorted((config.out / "rollouts").iterdir())
    assert len(files) == 4
    table = pq.read_table(files[-1]).to_pydict()
    episodes = list(read_episodes(files[-1]))
    assert len(episodes) == 16 and {episode.prompt_id for episode in episodes} <= {f"p{i}" for i in range(20)}
    for number, episode in enumerate(episodes):
        own = [i for i, other in enumerate(table["episode"]) if other == number]
        rewards, kls = [table["reward"][i] for i in own], [table["kl"][i] for i in own]
        ended = episode.token_ids[-1] in load_checkpoint(config.policy)[1].turn_end.ids
        final = episode.score if ended else min(episode.score, 0.0) - 1.0
        assert sum(rewards) == pytest.approx(final - config.kl_coef * sum(kls), abs=1e-5)
        assert rewards[:-1] == pytest.approx([-config.kl_coef * kl for kl in kls[:-1]], abs=1e-7)
        assert [table["position"][i] for i in own] == list(range(len(own)))
        for i in own:
            assert table["kl"][i] == pytest.approx(table["logprob"][i] - table["ref_logprob"][i], abs=1e-5)


def test_a_function_can_be_the_reward_and_ppo_earns_it(make: Make, corpus: Path) -> None:
    config = make(
        reward=f"{corpus / 'my.py'}:fewer_t", num_updates=8, rollout_batch_size=64, minibatch_size=16, kl_coef=0.0,
        learning_rate=1.5e-2, value_learning_rate=5e-3, value_warmup_updates=0, missing_eos_penalty=1e-3,
    )  # fmt: skip
    run(config)
    scores = [row["objective/scores"] for row in rows_of(config.out)]
    assert scores[0] < -0.6 and scores[-1] > 0.2 * scores[0]


def test_prompts_that_the_reward_model_cannot_read_are_left_out(
    make: Make, corpus: Path, tiny_model: dict[str, int], tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its context may be shorter than the policy's: one prompt between the two ended the run, wherever it came."""
    short = GPT(preset("tiny", **{**tiny_model, "vocab_size": tokenizer.vocab_size, "context_length": 28}))
    save_checkpoint(corpus / "short_rm", ScalarModel(short), tokenizer, recipe="test")
    prompts = [{"id": "long", "prompt": "song " * 8}, *({"id": f"p{i}", "prompt": f"the {i}"} for i in range(7))]
    (corpus / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    run(make(reward=str(corpus / "short_rm"), prompts=corpus / "mixed.jsonl", num_updates=1))
    assert "1 of 8 prompts are longer than 22 tokens and left out" in capsys.readouterr().err


def test_stop_and_resume_equals_a_straight_run_bit_for_bit(make: Make, corpus: Path) -> None:
    changes: dict[str, Any] = {
        "target_kl": 0.1, "ptx_coef": 0.5, "ptx_shards": corpus / "train", "ptx_context_length": 16, "num_updates": 3
    }  # fmt: skip
    run(make("straight", **changes))
    run(make("stopped", save_every=2, keep_last_n=0, **changes))
    shutil.rmtree(corpus / "stopped" / "checkpoints" / "step_000004")
    run(make("stopped", save_every=2, keep_last_n=0, resume=True, **changes))
    assert same_bits(corpus / "straight", corpus / "stopped")
    for first, second in zip(rows_of(corpus / "straight"), rows_of(corpus / "stopped"), strict=True):
        timed = {"time", "eps", "time/sampling", "time/training"}
        assert {k: v for k, v in first.items() if k not in timed} == {k: v for k, v in second.items() if k not in timed}


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_resumed_ends_with_the_same_bits(make: Make, corpus: Path, kills: int) -> None:
    changes: dict[str, Any] = {
        "target_kl": 0.1, "ptx_coef": 0.5, "ptx_shards": corpus / "train", "ptx_context_length": 16,
        "num_updates": 2 + 2 * kills,
    }  # fmt: skip
    run(make("straight", **changes))
    kill_and_resume(run, make("killed", save_every=1, **changes), kills=kills, within=0.6)
    assert same_bits(corpus / "straight", corpus / "killed")
    assert scores(corpus / "straight") == scores(corpus / "killed")


def scores(out: Path) -> list[float]:
    return [row["objective/scores"] for row in rows_of(out)]


def test_constant_advantage_with_beta_and_gamma_zero_leaves_the_policy_bit_identical(make: Make, corpus: Path) -> None:
    config = make(kl_coef=0.0, advantage=f"{corpus / 'my.py'}:constant", ema_decay=0.0)
    run(config)
    assert same_bits(config.out, corpus / "sft")


def test_the_policy_loss_can_be_replaced(make: Make, corpus: Path) -> None:
    config = make(policy_loss=f"{corpus / 'my.py'}:no_loss", num_updates=1)
    run(config)
    assert same_bits(config.out, corpus / "sft")


def test_it_stops_early_when_kl_is_above_its_limit(make: Make) -> None:
    config = make(max_kl=1e-3, num_updates=6, learning_rate=1e-2)
    run(config)
    rows = rows_of(config.out)
    assert len(rows) < 7 and rows[-1]["objective/kl"] > 1e-3 and "loss/policy_avg" not in rows[-1]
    run(make(max_kl=1e-3, num_updates=6, learning_rate=1e-2, resume=True))
    assert len(rows_of(config.out)) == len(rows)


def test_adapters_on_one_trunk_are_policy_value_reward_and_reference(make: Make, corpus: Path) -> None:
    from tests.recipes.test_reward_model import write_rankings
    from wuya.recipes.reward_model import RewardModelConfig
    from wuya.recipes.reward_model import run as train_reward_model

    write_rankings(corpus / "rankings.jsonl", 20, start=0)
    train_reward_model(
        RewardModelConfig(
            model=corpus / "sft",
            rankings=corpus / "rankings.jsonl",
            out=corpus / "lora_rm",
            lora_rank=4,
            batch_size=8,
            learning_rate=1e-2,
            device="cpu",
        )
    )
    changes: dict[str, Any] = {"reward": str(corpus / "lora_rm"), "lora_rank": 4, "learning_rate": 1e-2}
    straight = make("straight", **changes)
    run(straight)
    rows = rows_of(straight.out)
    assert abs(rows[0]["objective/kl"]) < 1e-4 < abs(rows[-1]["objective/kl"])
    # the shared reward adapter scores as the merged reward model does
    apart = make("apart", reward=str(corpus / "lora_rm"), num_updates=1)
    run(apart)
    assert rows_of(apart.out)[0]["objective/scores"] == pytest.approx(rows[0]["objective/scores"], abs=1e-4)
    assert rows_of(apart.out)[0]["val/explained_variance"] == pytest.approx(rows[0]["val/explained_variance"], abs=1e-3)
    run(make("stopped", save_every=2, keep_last_n=0, **changes))
    shutil.rmtree(corpus / "stopped" / "checkpoints" / "step_000004")
    run(make("stopped", save_every=2, keep_last_n=0, resume=True, **changes))
    assert same_bits(corpus / "straight", corpus / "stopped")
    assert not same_bits(corpus / "straight", corpus / "sft")


def with_held_out(corpus: Path, **changes: Any) -> dict[str, Any]:
    """Six held-out prompts, a judge that likes what the reward doesn't, a look after every update."""
    rows = [{"id": f"h{i}", "prompt": f"the dog {'sat ' * i}"} for i in range(6)]
    (corpus / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (corpus / "judge.py").write_text(
        "def more_t(prompts, completions):\n"
        "    return [-9.0 + sum(letter in 'thesa' for letter in text) for text in completions]\n"
    )
    return {
        "evaluation_prompts": corpus / "heldout.jsonl", "evaluation_every": 1, "num_evaluation_prompts": 100,
        "evaluation_reward": f"{corpus / 'judge.py'}:more_t", "reward": f"{corpus / 'my.py'}:fewer_t",
        "num_updates": 5, "learning_rate": 1.5e-2, "missing_eos_penalty": 1e-3, "kl_coef": 0.0, **changes,
    }  # fmt: skip


def evaluations(out: Path) -> list[dict[str, Any]]:
    return [row for row in rows_of(out) if "eval/score" in row]


def test_held_out_prompts_are_judged_during_training_and_change_nothing(make: Make, corpus: Path) -> None:
    config = make("watched", **with_held_out(corpus, evaluation_every=2))
    run(config)
    found = evaluations(config.out)
    assert [row["step"] for row in found] == [0, 2, 4, 6]
    assert set(found[0]) - {"step", "time"} == set(HELDOUT_METRICS)
    assert abs(found[0]["eval/kl"]) < 1e-4 < abs(found[-1]["eval/kl"])
    for name in ("score", "judged", "kl", "length", "finished"):
        assert all(row[f"eval/{name}_low"] <= row[f"eval/{name}"] <= row[f"eval/{name}_high"] for row in found)
    samples = [row for _, row in read_jsonl(config.out / "samples.jsonl")]
    assert len(samples) == 16 and len({row["prompt"] for row in samples}) == 4  # the same prompts each time
    assert {"score", "judged", "kl", "completion", "held_out"} <= set(samples[0])
    run(make("unwatched", **with_held_out(corpus, evaluation_prompts=None, evaluation_reward="")))
    assert same_bits(corpus / "watched", corpus / "unwatched")


def test_the_best_on_held_out_prompts_ships_with_its_checkpoint_kept(make: Make, corpus: Path) -> None:
    """The judge dislikes what training brings about, so an early policy must ship though later ones were saved."""
    config = make("best", **with_held_out(corpus, choose="best", save_every=1, keep_last_n=1))
    run(config)
    found = evaluations(config.out)[1:]
    best = max(found, key=lambda row: row["eval/judged"])["step"]
    assert best < 6
    kept = sorted(path.name for path in (config.out / "checkpoints").iterdir())
    assert kept == sorted({f"step_{best:06d}", "step_000006"})
    assert same_bits(config.out / "model", config.out / "checkpoints" / f"step_{best:06d}")
    summary = json.loads((config.out / "summary.json").read_text())
    assert summary["choice"]["chosen"]["step"] == best and "evaluation reward" in summary["choice"]["rule"]
    assert summary["kl"]["per_response"] == found[best - 1]["eval/kl"] and summary["n"] == 6


def test_a_choice_is_resumed_bit_for_bit(make: Make, corpus: Path) -> None:
    changes = with_held_out(corpus, choose="best", save_every=2, ema_decay=0.5)
    run(make("straight", **changes, keep_last_n=1))
    run(make("stopped", **changes, keep_last_n=0))
    for step in (5, 6):
        shutil.rmtree(corpus / "stopped" / "checkpoints" / f"step_{step:06d}", ignore_errors=True)
    run(make("stopped", **changes, keep_last_n=0, resume=True))
    assert same_bits(corpus / "straight" / "model", corpus / "stopped" / "model")
    summaries = [json.loads((corpus / name / "summary.json").read_text()) for name in ("straight", "stopped")]
    assert summaries[0] == summaries[1]


def test_held_out_prompts_that_are_training_prompts_are_refused(make: Make, corpus: Path) -> None:
    changes = with_held_out(corpus)
    with open(corpus / "heldout.jsonl", "a") as file:
        file.write(json.dumps({"id": "another name", "prompt": "the cat sat "}) + "\n")
    with pytest.raises(DataError, match=r"1 of 7 prompts .* are also training prompts"):
        run(make(**changes))
    with pytest.raises(ConfigError, match="held-out prompts"):
        make(choose="best")


def test_bad_input_is_refused_in_words(make: Make, corpus: Path) -> None:
    with pytest.raises(ConfigError, match="no pre-training text"):
        make(ptx_coef=1.0)
    with pytest.raises(DataError, match="no prompt"):
        run(make(max_prompt_tokens=1))
    with pytest.raises(ConfigError, match="has no function `nothing`"):
        run(make(reward=f"{corpus / 'my.py'}:nothing"))
    assert not (corpus / "ppo" / "checkpoints").exists()


def test_a_run_saved_in_an_older_layout_is_refused_in_words(make: Make) -> None:
    config = make(num_updates=1)
    run(config)
    path = config.out / "checkpoints" / "step_000002" / "resume" / "state.pt"
    full = torch.load(path, weights_only=True)
    full["state"] = {"learner": {}, "alarms": {}, "stopped": False}
    torch.save(full, path)
    write_checksums(path.parents[1], changed=("resume/state.pt",))
    with pytest.raises(CheckpointError, match="older wuya"):
        run(make(num_updates=1, resume=True))


def test_the_saved_policy_is_an_ordinary_checkpoint(make: Make) -> None:
    config = make(num_updates=1)
    run(config)
    folder = config.out / "checkpoints" / "step_000002"
    assert load_model(folder).config.vocab_size == load_checkpoint(config.policy)[0].config.vocab_size
    assert json.loads((folder / "wuya.json").read_text())["recipe"] == "ppo"
