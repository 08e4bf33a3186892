"""BERT folders: both ways with transformers, whatever heads are there; what is not understood is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from wuya.checkpoints.bert_files import load_bert, load_encoder, save_bert
from wuya.checkpoints.checkpoint import load_checkpoint
from wuya.errors import CheckpointError, ConfigError, UnsupportedModel
from wuya.models.bert import Bert
from wuya.models.presets import bert, preset
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer

transformers = pytest.importorskip("transformers")

SIZES = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 48, "max_position_embeddings": 40}  # fmt: skip
IDS = torch.tensor([[5, 9, 200, 31, 7, 0, 0], [3, 3, 77, 12, 90, 41, 8]])
SEEN = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1] * 7])
TYPES = torch.tensor([[0, 0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1, 1]])


def theirs(name: str, folder: Path, **changes: Any) -> Any:
    torch.manual_seed(1)
    model = getattr(transformers, name)(transformers.BertConfig(**SIZES | changes)).eval()
    for parameter in model.parameters():  # biases and gains start as constants, which would hide a swap
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return model


def ours_on(model: Bert) -> torch.Tensor:
    return model(IDS, segments_BT=SEEN - 1, types_BT=TYPES)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["the crow understands, the parrot repeats"], vocab_size=300)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_their_pretraining_model_gives_the_same_numbers_here(tmp_path: Path, activation: str) -> None:
    other = theirs("BertForPreTraining", tmp_path, hidden_act=activation)
    model = load_encoder(tmp_path).eval()
    with torch.no_grad():
        expected = other(IDS, attention_mask=SEEN, token_type_ids=TYPES)
        hidden = ours_on(model)
        kept = SEEN.bool()
        torch.testing.assert_close(model.logits(hidden)[kept], expected.prediction_logits[kept], atol=1e-4, rtol=1e-4)
        label = model.next_sentence(model.pooled(hidden))
        torch.testing.assert_close(label, expected.seq_relationship_logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "absent"), [("BertModel", "masked tokens"), ("BertForMaskedLM", "the pooler")])
def test_models_without_all_heads_say_which_is_missing(tmp_path: Path, name: str, absent: str) -> None:
    other = theirs(name, tmp_path)
    model = load_encoder(tmp_path).eval()
    with torch.no_grad():
        hidden = ours_on(model)
        if name == "BertModel":
            expected = other(IDS, attention_mask=SEEN, token_type_ids=TYPES)
            torch.testing.assert_close(hidden[1], expected.last_hidden_state[1], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(model.pooled(hidden), expected.pooler_output, atol=1e-5, rtol=1e-5)
        else:
            expected = other(IDS, attention_mask=SEEN, token_type_ids=TYPES)
            torch.testing.assert_close(model.logits(hidden)[1], expected.logits[1], atol=1e-4, rtol=1e-4)
        with pytest.raises(CheckpointError, match=absent):
            model.logits(hidden) if name == "BertModel" else model.pooled(hidden)


def test_what_we_write_loads_there_and_here(tmp_path: Path, tokenizer: Tokenizer) -> None:
    torch.manual_seed(2)
    model = Bert(bert(2, 32, 4, vocab_size=320)).eval()
    save_bert(tmp_path / "ours", model, tokenizer, recipe="test")
    other, report = transformers.BertForPreTraining.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    again, _ = load_bert(tmp_path / "ours")
    with torch.no_grad():
        expected = other.eval()(IDS, attention_mask=SEEN, token_type_ids=TYPES).prediction_logits
        kept = SEEN.bool()
        torch.testing.assert_close(model.logits(ours_on(model))[kept], expected[kept], atol=1e-4, rtol=1e-4)
        assert torch.equal(again.eval().logits(ours_on(again)), model.logits(ours_on(model)))


def test_an_encoder_of_the_modern_line_is_kept_in_our_form(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = Bert(preset("tiny", vocab_size=320, context_length=40, num_layers=1, attention="full")).eval()
    save_bert(tmp_path / "modern", model, tokenizer)
    again, _ = load_bert(tmp_path / "modern")
    with torch.no_grad():
        assert torch.equal(again.eval()(IDS), model(IDS))
    with pytest.raises(CheckpointError, match="is an encoder"):
        load_checkpoint(tmp_path / "modern")


def test_first_release_names_are_read(tmp_path: Path) -> None:
    """Converted TensorFlow files call a norm's gain gamma and its bias beta."""
    theirs("BertForPreTraining", tmp_path)
    expected = load_encoder(tmp_path).state_dict()
    tensors = load_file(tmp_path / "model.safetensors")
    old = {k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
           for k, v in tensors.items()}  # fmt: skip
    save_file(old, tmp_path / "model.safetensors")
    found = load_encoder(tmp_path).state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in found)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"position_embedding_type": "relative_key"}, UnsupportedModel),
        ({"is_decoder": True}, UnsupportedModel),
        ({"hidden_act": "relu"}, UnsupportedModel),
        ({"surprise": 3}, CheckpointError),
        ({"model_type": "roberta"}, UnsupportedModel),
        ({"num_hidden_layers": 3}, CheckpointError),
        ({"intermediate_size": 64}, CheckpointError),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, change: dict[str, Any], error: type[Exception]) -> None:
    theirs("BertForPreTraining", tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(error):
        load_encoder(tmp_path)


def test_an_output_matrix_of_its_own_is_refused(tmp_path: Path) -> None:
    theirs("BertForPreTraining", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"] + 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="output matrix of its own"):
        load_encoder(tmp_path)


def test_a_decoder_cannot_be_made_of_an_encoder(tmp_path: Path, tokenizer: Tokenizer) -> None:
    save_bert(tmp_path / "bert", Bert(bert(1, 32, 4, vocab_size=320)), tokenizer)
    with pytest.raises((CheckpointError, ConfigError)):
        load_checkpoint(tmp_path / "bert")
