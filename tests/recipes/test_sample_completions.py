"""sample_completions.py: K completions a prompt, saved, resumed, queued."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wuya.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from wuya.cli import main
from wuya.errors import ConfigError, DataError, Interrupted
from wuya.feedback.store import FeedbackStore
from wuya.inference.engine import Engine
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.recipes import sample_completions
from wuya.recipes.sample_completions import SampleConfig, read_completions, run
from wuya.tokenizer.bpe import train_tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["hello there, how are you? fine, thank you."] * 3, vocab_size=270)
    model = GPT(preset("tiny", vocab_size=tokenizer.vocab_size, model_dim=32, num_heads=2, num_kv_heads=1, head_dim=16,
                       mlp_dim=32, context_length=64))  # fmt: skip
    folder = tmp_path_factory.mktemp("model") / "sft"
    save_checkpoint(folder, model, tokenizer, recipe="sft")
    return folder


def write_prompts(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps({"prompt": f"hello {number}?"}) + "\n" for number in range(count)))
    return path


def make_config(checkpoint: Path, tmp_path: Path, **changes: object) -> SampleConfig:
    prompts = tmp_path / "prompts.jsonl"
    if not prompts.exists():
        write_prompts(prompts, 5)
    settings = {"checkpoint": checkpoint, "prompts": prompts, "out": tmp_path / "samples", "k": 3, "max_tokens": 8}
    return SampleConfig(**{**settings, **changes})  # type: ignore[arg-type]


def test_every_prompt_gets_k_completions_with_their_ids_and_origin(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run(make_config(checkpoint, tmp_path, temperature=0.9))
    assert capsys.readouterr().out.strip() == str(path)
    rows = list(read_completions(path))
    assert [prompt.messages[0].content for prompt, _ in rows] == [f"hello {number}?" for number in range(5)]
    _, tokenizer = load_checkpoint(checkpoint)
    for _, candidates in rows:
        assert len(candidates) == 3
        for candidate in candidates:
            assert candidate.model == str(checkpoint) and candidate.temperature == 0.9
            assert 1 <= len(candidate.token_ids) <= 8
            assert candidate.finished == (candidate.token_ids[-1] in tokenizer.turn_end.ids)
            assert candidate.text == tokenizer.decode(candidate.token_ids, skip_special=True)
    summary = json.loads((path.parent / "summary.json").read_text())
    assert summary["completions"] == 15 and 0 <= summary["reencodes_differently"] <= 1


def test_a_resumed_run_writes_what_an_uninterrupted_one_writes(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_completions, "CHUNK", 2)
    straight = run(make_config(checkpoint, tmp_path, out=tmp_path / "straight"))
    config = make_config(checkpoint, tmp_path)
    generate, calls = Engine.generate, []

    def interrupted_in_the_third_chunk(self: Engine, *args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "generate", interrupted_in_the_third_chunk)
    with pytest.raises(Interrupted, match="stopped after 4 of 5") as caught:
        run(config)
    assert "--resume" in caught.value.hint
    assert not (config.out / "completions.jsonl").exists()
    with (config.out / "completions.unfinished.jsonl").open("a") as file:
        file.write('{"id": "cut by a power fai')
    resumed = run(replace(config, resume=True, batch_size=2))
    assert resumed.read_bytes() == straight.read_bytes()
    assert len(calls) == 4  # only the third chunk was sampled again


def test_another_run_does_not_overwrite_and_settings_may_not_change_on_resume(checkpoint: Path, tmp_path: Path) -> None:
    config = make_config(checkpoint, tmp_path)
    path = run(config)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="already holds completions"):
        run(config)
    with pytest.raises(ConfigError, match="another `seed`"):
        run(replace(config, resume=True, seed=1))
    run(replace(config, resume=True))
    assert path.read_bytes() == before


def test_completions_are_queued_once(checkpoint: Path, tmp_path: Path) -> None:
    config = make_config(checkpoint, tmp_path, database=str(tmp_path / "wuya.db"), round=2)
    run(config)
    run(replace(config, resume=True))
    with FeedbackStore(tmp_path / "wuya.db") as store:
        open_answers = list(store.open_answers(project="default", round=2))
    assert len(open_answers) == 5
    assert {len(candidates) for _, candidates in open_answers} == {3}
    assert all(candidate.token_ids for _, candidates in open_answers for candidate in candidates)


@pytest.mark.parametrize(
    "changes,what",
    [
        ({"k": 1}, "at least 2"),
        ({"k": 1, "ranking": False, "database": "x.db"}, "at least 2"),
        ({"temperature": 0}, "the same"),
        ({"max_tokens": 64}, "no room"),
    ],
)
def test_what_cannot_be_ranked_or_sampled_is_refused(
    checkpoint: Path, tmp_path: Path, changes: dict[str, object], what: str
) -> None:
    with pytest.raises(ConfigError, match=what):
        run(make_config(checkpoint, tmp_path, **changes))
    assert not (tmp_path / "samples" / "completions.jsonl").exists()


def test_one_answer_a_prompt_is_allowed_where_no_ranking_is_meant(checkpoint: Path, tmp_path: Path) -> None:
    rows = list(read_completions(run(make_config(checkpoint, tmp_path, k=1, ranking=False, temperature=0))))
    assert {len(candidates) for _, candidates in rows} == {1}


def test_prompts_that_do_not_fit_are_named_and_left_out(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "z" * 400}) + "\n" + json.dumps({"prompt": "hello"}) + "\n")
    rows = list(read_completions(run(make_config(checkpoint, tmp_path))))
    assert [prompt.messages[0].content for prompt, _ in rows] == ["hello"]
    assert "longer than the context" in capsys.readouterr().err
    prompts.write_text(json.dumps({"prompt": "z" * 400}) + "\n")
    with pytest.raises(DataError, match="fits into the context"):
        run(make_config(checkpoint, tmp_path, out=tmp_path / "other"))


def test_the_command_line_reaches_it(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", 2)
    arguments = [
        "sample",
        str(checkpoint),
        "--prompts",
        str(prompts),
        "--out",
        str(tmp_path / "out"),
        "--max_tokens",
        "4",
    ]
    assert main([*arguments, "--k", "1"]) == 2
    assert "can't be ranked" in capsys.readouterr().err
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["completions"] == 8
    missing = ["sample", str(tmp_path / "nowhere"), "--prompts", str(prompts), "--out", str(tmp_path / "out2")]
    assert main(missing) == 2
    assert "no checkpoint" in capsys.readouterr().err


def test_no_prompt_is_dropped_for_the_id_it_shares(checkpoint: Path, tmp_path: Path) -> None:
    rows = [
        {"id": 0, "prompt": "hello"},
        {"id": 0, "prompt": "how are you?"},
        {"id": "0", "prompt": "thank you"},
        {"id": True, "prompt": "there"},
        {"id": True, "prompt": "fine"},
        {"id": 9, "prompt": "hello"},
        {"id": 9, "prompt": "hello"},  # the one row that is there twice
    ]
    prompts = tmp_path / "ids.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = run(make_config(checkpoint, tmp_path, prompts=prompts, database=str(tmp_path / "wuya.db")))
    found = [prompt.messages[0].content for prompt, _ in read_completions(path)]
    assert found == ["hello", "how are you?", "thank you", "there", "fine", "hello"]
    with FeedbackStore(tmp_path / "wuya.db") as store:
        assert sorted(prompt.messages[0].content for prompt, _ in store.open_answers()) == sorted(found)


def test_resuming_on_other_prompts_or_another_model_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    config = make_config(checkpoint, tmp_path)
    run(config)
    write_prompts(config.prompts, 6)
    with pytest.raises(ConfigError, match=r"has changed since it was started: prompts `.*prompts\.jsonl`"):
        run(replace(config, resume=True))
    write_prompts(config.prompts, 5)
    assert run(replace(config, resume=True)).exists()
