"""The training commands: tokenizer, prepare, pretrain, sft, reward, ppo."""

import json
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.bad_input.world import BROKEN, RANKING, Refused, World, chat, replaced
from wuya import cli
from wuya.files import FileLock

PRETRAIN = (
    "pretrain --data shards/train --tokenizer tokenizer --out run --num_tokens 512 --context_length 32 --device cpu"
)
PRETRAIN += (
    " --batch_size 4 --microbatch_size 4 --num_samples 0 --model.num_layers 1 --model.model_dim 32 --preset tiny"
)
SFT = "sft --base base --demonstrations demonstrations.jsonl --out run --context_length 32 --batch_size 2"
SFT += " --microbatch_size 2 --num_samples 0 --device cpu"
REWARD = "reward --model base --rankings rankings.jsonl --out run --batch_size 2 --device cpu"
PPO = "ppo --policy base --reward reward --prompts prompts.jsonl --out run --num_updates 1 --rollout_batch_size 4"
PPO += " --minibatch_size 4 --max_tokens 4 --device cpu --final_kl_prompts 4"


@pytest.mark.parametrize("command", [SFT, REWARD, PPO], ids=["sft", "reward", "ppo"])
def test_the_whole_world_works(world: World, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command.split()) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "field"),
    [
        ("tokenizer --out run --inputs nope.txt", "inputs"),
        ("prepare --tokenizer tokenizer --out run --inputs nope.jsonl", "inputs"),
        ("prepare --tokenizer nope.json --out run --inputs corpus.txt", "tokenizer"),
        (PRETRAIN, "data"),
        (SFT, "demonstrations"),
        (SFT, "base"),
        (REWARD, "rankings"),
        (PPO, "prompts"),
        (PPO, "reward"),
    ],
)
def test_missing_file(world: World, refused: Refused, command: str, field: str) -> None:
    message = refused(*(command.split() if "nope" in command else replaced(command, **{field: "nope.jsonl"})))
    assert "nope" in message


@pytest.mark.parametrize("content", ["", "\n\n  \n", "\f\f"])
@pytest.mark.parametrize("verb", ["tokenizer", "prepare"])
def test_empty_corpus(world: World, refused: Refused, content: str, verb: str) -> None:
    (world / "empty.txt").write_text(content)
    tokenizer = ["--tokenizer", "tokenizer"] if verb == "prepare" else []
    assert re.search("empty|no text", refused(verb, "--inputs", "empty.txt", "--out", "run", *tokenizer))


@pytest.mark.parametrize("command", [SFT, REWARD, PPO], ids=["sft", "reward", "ppo"])
def test_empty_rows_file(world: World, refused: Refused, command: str) -> None:
    world.rows("empty.jsonl")
    field = {"sft": "demonstrations", "reward": "rankings", "ppo": "prompts"}[command.split()[0]]
    assert "empty.jsonl" in refused(*replaced(command, **{field: "empty.jsonl"}))


def test_invalid_utf8_text(world: World, refused: Refused) -> None:
    (world / "latin1.txt").write_bytes("na\u00efve caf\u00e9".encode("latin-1"))
    assert "UTF-8" in refused("tokenizer", "--inputs", "latin1.txt", "--out", "run")


def test_bad_rows_are_skipped_counted_and_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    good = [json.dumps(chat(f"Hello {n}", "I am fine.")) for n in range(8)]
    with (world / "some.jsonl").open("wb") as file:
        file.write("\n".join([*good, '{"messages": [', '{"messages": "x"}', ""]).encode())
        file.write(b'{"messages": [{"role": "user", "content": "\xff"}]}\n')
    assert cli.main(replaced(SFT, demonstrations="some.jsonl")) == 0
    err = capsys.readouterr().err
    assert "3 bad rows" in err and "some.jsonl:9: not JSON" in err and "some.jsonl:11: not UTF-8" in err


def test_only_malformed_rows(world: World, refused: Refused) -> None:
    world.rows("bad.jsonl", '{"messages": [', "[]", "hello")
    assert "bad.jsonl" in refused(*replaced(SFT, demonstrations="bad.jsonl"))


def test_unknown_role(world: World, refused: Refused) -> None:
    row = {"messages": [{"role": "robot", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    world.rows("roles.jsonl", row)
    message = refused(*replaced(SFT, demonstrations="roles.jsonl"))
    assert "robot" in message and "assistant" in message


def test_message_longer_than_the_context(world: World, refused: Refused) -> None:
    world.rows("long.jsonl", chat("Hello", "stone " * 500))
    message = refused(*replaced(SFT, demonstrations="long.jsonl"))
    assert "context" in message or "long" in message


def test_a_long_message_among_others_is_counted(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.rows("mixed.jsonl", chat("Hello", "stone " * 500), *(chat(f"Hello {n}", "Fine.") for n in range(8)))
    assert cli.main(replaced(SFT, demonstrations="mixed.jsonl")) == 0
    assert re.search(r"\b1\b.*(long|context)", capsys.readouterr().err)


def test_a_prompt_longer_than_the_context(world: World, refused: Refused) -> None:
    world.rows("long.jsonl", {"prompt": "stone " * 5000})
    refused(*replaced(PPO, prompts="long.jsonl"))


def test_fewer_than_two_answers_to_rank(world: World, refused: Refused) -> None:
    world.rows("k1.jsonl", {**RANKING, "candidates": RANKING["candidates"][:1], "ranks": [1]})
    assert re.search(r"\b(2|two)\b", refused(*replaced(REWARD, rankings="k1.jsonl")))


@pytest.mark.parametrize("ranks", [[1, 2], [1, None, 2], [1, 0, 2], [1, 3, 4], [1.5, 2, 3], "1>2>3", [True, 2, 3]])
def test_a_ranking_that_omits_an_answer_or_makes_no_sense(world: World, refused: Refused, ranks: object) -> None:
    world.rows("omits.jsonl", {**RANKING, "ranks": ranks})
    assert "omits.jsonl" in refused(*replaced(REWARD, rankings="omits.jsonl"))


def test_only_ties_teach_nothing(world: World, refused: Refused) -> None:
    world.rows("ties.jsonl", {**RANKING, "ranks": [1, 1, 1]})
    assert "tie" in refused(*replaced(REWARD, rankings="ties.jsonl"))


@pytest.mark.parametrize(("break_it", "says"), BROKEN)
@pytest.mark.parametrize("command", [SFT, PPO], ids=["sft", "ppo"])
def test_broken_checkpoints(
    world: World, refused: Refused, command: str, break_it: Callable[[World, str], None], says: str
) -> None:
    break_it(world, "base")
    assert re.search(says, refused(*command.split()))


def test_policy_and_reward_model_with_other_vocabularies(world: World, refused: Refused) -> None:
    assert "tokenizer" in refused(*replaced(PPO, policy="other")) or "vocabular" in refused(
        *replaced(PPO, policy="other")
    )


def test_a_reward_model_is_no_policy_and_the_other_way_round(world: World, refused: Refused) -> None:
    refused(*replaced(PPO, policy="reward"))
    refused(*replaced(PPO, reward="base"))


def test_shards_of_another_vocabulary(world: World, refused: Refused) -> None:
    message = refused(*replaced(PRETRAIN, tokenizer="other"))
    assert re.search("vocab|tokenizer", message)


@pytest.mark.parametrize("command", [PRETRAIN, SFT, REWARD, PPO], ids=["pretrain", "sft", "reward", "ppo"])
def test_a_second_process_on_one_run(world: World, refused: Refused, command: str) -> None:
    with FileLock(world / "run" / ".lock"):
        message = refused(*command.split())
    assert "in use by another process" in message and f"process {os.getpid()}" in message


@pytest.mark.parametrize("command", [PRETRAIN, SFT, REWARD, PPO], ids=["pretrain", "sft", "reward", "ppo"])
def test_unknown_config_key(world: World, refused: Refused, command: str) -> None:
    (world / "c.yaml").write_text("sed: 1\n")
    message = refused(*command.split(), "--config", "c.yaml")
    assert "unknown setting `sed` in `c.yaml`" in message and "did you mean `seed`" in message


@pytest.mark.parametrize("command", [PRETRAIN, SFT, REWARD, PPO], ids=["pretrain", "sft", "reward", "ppo"])
def test_no_write_permission(world: World, refused: Refused, command: str) -> None:
    message = refused(*replaced(command, out="/proc/wuya/run"), code=3)
    assert "cannot" in message


FULL_DISK = [
    ("tokenizer --inputs corpus.txt --vocab_size 300 --out run", 2_000),
    ("prepare --inputs corpus.txt --tokenizer tokenizer --out run --workers 1", 2_000),
    (PRETRAIN, 60_000),  # the tokenizer fits, the weights do not
    (SFT, 2_000),
    (SFT, 60_000),
    (PPO, 60_000),
    (PPO + " --save_every 1 --num_updates 2", 60_000),
]


@pytest.mark.parametrize(("command", "limit"), FULL_DISK, ids=lambda value: str(value).split()[0])
def test_a_full_disk(
    world: World,
    refused: Refused,
    no_file_beyond: Callable[[int], AbstractContextManager[None]],
    command: str,
    limit: int,
) -> None:
    with no_file_beyond(limit):
        message = refused(*command.split(), code=3)
    assert "cannot write" in message and "free some space" in message
