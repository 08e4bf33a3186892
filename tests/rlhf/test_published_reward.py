"""Published reward models score as transformers does with their own template and tokenizer, however they are saved."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import processors

from wuya.errors import CheckpointError, ConfigError, DataError, UnsupportedModel
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.records import Message, Prompt
from wuya.rlhf.ppo_models import starting_value_model
from wuya.rlhf.rewards import load_reward
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer
from wuya.tokenizer.chat_format import encode_prompt

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' and strict %}{{ raise_exception('no system') }}"
    "{% endif %}[{{ m.role }}] {{ m.content | trim }}{{ eos_token }}{% endfor %}"
)
SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 96, "num_labels": 1,
}  # fmt: skip
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # class, changes of config.json, changes of tokenizer_config.json
    "llama-no-pad": ("LlamaConfig", {"pad_token_id": None}, {"pad_token": None}),
    "llama-pad-is-eos": ("LlamaConfig", {"pad_token_id": 2}, {"pad_token": "<|im_end|>", "padding_side": "left"}),
    "llama-pad-in-tokenizer-only": ("LlamaConfig", {"pad_token_id": None}, {"pad_token": "<|endoftext|>"}),
    "qwen2-regression": ("Qwen2Config", {"pad_token_id": 0, "problem_type": "regression"}, {"padding_side": "right"}),
    "gemma2-left": ("Gemma2Config", {"pad_token_id": 0, "head_dim": 8, "sliding_window": 8}, {"padding_side": "left"}),
    "mistral-named": ("MistralConfig", {"pad_token_id": 0, "id2label": {0: "REWARD"}}, {"truncation_side": "left"}),
    "neox": ("GPTNeoXConfig", {"pad_token_id": 0}, {"padding_side": "left", "truncation_side": "left"}),
    "gpt2-absolute-positions": ("GPT2Config", {"pad_token_id": None}, {"padding_side": "left"}),
    "deberta-template": ("DebertaV2Config", {"pad_token_id": 0, "relative_attention": True,
                                             "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]}, {}),
    "roberta-template": ("RobertaConfig", {"pad_token_id": 1, "type_vocab_size": 1}, {"model_max_length": 94}),
}  # fmt: skip
CHATS = (
    (("user", "the cat"), ("assistant", "sat on the mat")),
    (("user", "the dog sat"), ("assistant", "  on the log and sang ")),
    (("system", "be kind"), ("user", "why"), ("assistant", "the sun"), ("user", "and"), ("assistant", "a song")),
    (("user", "the cat"), ("assistant", "")),
)


@pytest.fixture(scope="module")
def policy_tokenizer() -> Tokenizer:
    return train_tokenizer(["the cat sat on the mat"] * 20, vocab_size=280)


@pytest.fixture(scope="module")
def its_tokenizer() -> Tokenizer:
    return train_tokenizer(["a song to the sun and the dog sang a song on the log"] * 20, vocab_size=300)


@pytest.fixture
def publish(tmp_path: Path, its_tokenizer: Tokenizer) -> Callable[..., Path]:
    """A folder as its makers would have uploaded it; its tokenizer and template are not the policy's."""

    def write(name: str, config_changes: dict[str, Any], settings: dict[str, Any], template: str = TEMPLATE) -> Path:
        folder = tmp_path / "rm"
        torch.manual_seed(0)
        config = getattr(transformers, name)(vocab_size=its_tokenizer.vocab_size, **{**SMALL, **config_changes})
        model = transformers.AutoModelForSequenceClassification.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(folder)
        its_tokenizer.save(folder)
        saved = json.loads((folder / "tokenizer_config.json").read_text())
        saved |= {"bos_token": "<|im_start|>", "chat_template": template, **settings}
        for key in [key for key, value in saved.items() if value is None]:
            del saved[key]
        (folder / "tokenizer_config.json").write_text(json.dumps(saved))
        return folder

    return write


def scores(folder: Path, tokenizer: Tokenizer, chats: Any) -> list[float]:
    """As PPO asks: token ids of the policy."""
    score = load_reward(str(folder), tokenizer, microbatch_tokens=64)
    prompts = [encode_prompt(tokenizer, tuple(Message(*message) for message in chat[:-1])) for chat in chats]
    completions = [[*tokenizer.encode(chat[-1][1]), *tokenizer.turn_end.ids[: n % 2]] for n, chat in enumerate(chats)]
    return score(prompts, completions).tolist()


@torch.no_grad()
def oracle(folder: Path, chats: Any, **cut: Any) -> list[float]:
    """One chat at a time, as the model card says."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found = []
    for chat in chats:
        rows = [{"role": role, "content": content} for role, content in chat]
        ids = tokenizer.apply_chat_template(rows, return_dict=False, return_tensors="pt", **cut)
        found.append(float(model(ids).logits[0, -1]))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_its_own_template_one_chat_at_a_time(
    kind: str, publish: Callable[..., Path], policy_tokenizer: Tokenizer
) -> None:
    folder = publish(*KINDS[kind])
    expected = oracle(folder, CHATS)
    assert scores(folder, policy_tokenizer, CHATS) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert max(expected) - min(expected) > 1e-3, "or nothing was compared"


def test_a_loss_that_contradicts_the_labels_does_not_matter(
    publish: Callable[..., Path], policy_tokenizer: Tokenizer
) -> None:
    """Trainers have written `single_label_classification` beside one label, which transformers 5 refuses to load."""
    folder = publish(*KINDS["neox"])
    expected = oracle(folder, CHATS)
    config = json.loads((folder / "config.json").read_text())
    config["problem_type"] = "single_label_classification"
    (folder / "config.json").write_text(json.dumps(config))
    assert scores(folder, policy_tokenizer, CHATS) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name,limit", [("LlamaConfig", 96), ("RobertaConfig", 94)])
def test_long_chats_are_cut_where_its_tokenizer_cuts_and_counted(
    name: str, limit: int, side: str, publish: Callable[..., Path], policy_tokenizer: Tokenizer,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """RoBERTa's positions begin behind its padding id, so it reads two tokens fewer than it has positions."""
    folder = publish(name, {"pad_token_id": 1}, {"truncation_side": side})
    chats = [*CHATS, (("user", "x y " * 40), ("assistant", "z w " * 40))]
    expected = oracle(folder, chats, truncation=True, max_length=limit)
    assert scores(folder, policy_tokenizer, chats) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert f"1 of 5 chats are longer than the {limit} tokens" in capsys.readouterr().err


def test_an_encoder_without_a_template_reads_question_and_answer_as_a_pair(
    publish: Callable[..., Path], policy_tokenizer: Tokenizer
) -> None:
    folder = publish("DebertaV2Config", {"pad_token_id": 0, "type_vocab_size": 2}, {"chat_template": None})
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", pair="<|im_start|> $A <|im_end|> $B:1 <|im_end|>:1",
        special_tokens=[("<|im_start|>", 1), ("<|im_end|>", 2)],
    )  # fmt: skip
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        inputs = [tokenizer(chat[0][1], chat[1][1], return_tensors="pt") for chat in CHATS[:2]]
        expected = [float(model(**row).logits[0, 0]) for row in inputs]
    assert scores(folder, policy_tokenizer, CHATS[:2]) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    with pytest.raises(DataError, match="one question and one answer"):
        scores(folder, policy_tokenizer, CHATS)


def test_of_two_labels_that_say_what_they_mean_the_score_is_the_log_odds_of_the_good_one(
    publish: Callable[..., Path], policy_tokenizer: Tokenizer
) -> None:
    labels = {"num_labels": 2, "pad_token_id": 0}
    folder = publish("Qwen2Config", labels | {"id2label": {0: "chosen", 1: "rejected"}}, {})
    first = scores(folder, policy_tokenizer, CHATS)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "bad", "1": "good"}}))
    assert scores(folder, policy_tokenizer, CHATS) == pytest.approx([-score for score in first], abs=1e-6)
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}))
    with pytest.raises(ConfigError, match="does not say what they mean"):
        scores(folder, policy_tokenizer, CHATS)


def test_other_heads_are_refused_not_drawn_at_random(publish: Callable[..., Path], policy_tokenizer: Tokenizer) -> None:
    folder = publish("LlamaConfig", {}, {})
    tensors = load_file(folder / "model.safetensors")
    tensors["v_head.summary.weight"] = tensors.pop("score.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing score\.weight; without a place v_head"):
        load_reward(str(folder), policy_tokenizer)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForRewardModel"]}))
    with pytest.raises(UnsupportedModel, match="a head that neither"):
        load_reward(str(folder), policy_tokenizer)


def test_a_chat_that_its_template_refuses_is_named(publish: Callable[..., Path], policy_tokenizer: Tokenizer) -> None:
    folder = publish("LlamaConfig", {}, {}, TEMPLATE.replace("and strict", ""))
    with pytest.raises(DataError, match="refuses a chat"):
        scores(folder, policy_tokenizer, CHATS)


def test_tools_are_offered_to_its_template_too(publish: Callable[..., Path]) -> None:
    policy_tokenizer = train_tokenizer(["the cat sat on the mat"] * 20, vocab_size=280)
    template = "{% for t in tools or [] %}({{ t.function.name }}){% endfor %}" + TEMPLATE
    folder = publish("LlamaConfig", {"pad_token_id": 0}, {}, template)
    score = load_reward(str(folder), policy_tokenizer)
    tool = '{"type": "function", "function": {"name": "sing", "parameters": {}}}'
    policy_tokenizer.chat_template = (
        "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}" + policy_tokenizer.chat_template
    )
    prompt = Prompt("", (Message("user", "the cat"),), tools=(tool,))
    ids = encode_prompt(policy_tokenizer, prompt)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rows = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]
    with torch.no_grad():
        asked = tokenizer.apply_chat_template(rows, tools=[json.loads(tool)], return_dict=False, return_tensors="pt")
        expected = float(model(asked).logits[0, 0])
    assert float(score([ids], [policy_tokenizer.encode("sat")])[0]) == pytest.approx(expected, rel=1e-4)


def test_the_value_model_starts_from_it_only_if_it_reads_the_same_tokens(
    publish: Callable[..., Path], policy_tokenizer: Tokenizer, its_tokenizer: Tokenizer
) -> None:
    folder = publish("LlamaConfig", {}, {})
    torch.manual_seed(0)
    policy = GPT(preset("tiny", vocab_size=300, model_dim=32, context_length=64))
    assert not starting_value_model(policy, policy_tokenizer, "", str(folder)).head.weight.any()
    same = starting_value_model(policy, its_tokenizer, "", str(folder))
    assert torch.equal(same.head.weight, load_file(folder / "model.safetensors")["score.weight"])
