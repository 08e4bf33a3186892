"""Small tokenizers of every kind, and chat templates built the way the published families build theirs."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from wuya.tokenizer.bpe import Tokenizer

WORDS = ["the crow sat on the wall and said caw", "a crow is a bird; birds sing", "why? because it can, caf\u00e9"] * 4
PLAIN = ("<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|obs|>")
NOT_SPECIAL = ("<think>", "</think>", "<tool_call>", "</tool_call>")

CHATML_BODY = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
TEMPLATES = {
    "qwen2.5": "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nI am Vendor.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}" + CHATML_BODY + "{% endfor %}" + ASK,
    "generation": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}"
    "{% endif %}{{ '\n' }}{% endfor %}" + ASK,
    "qwen3": "{% for m in messages %}{% set c = m.content %}{% set r = m.reasoning_content or '' %}"
    "{% if m.role == 'assistant' and '</think>' in c %}"
    "{% set r = c.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n' + r + '\n</think>\n\n' }}{% endif %}"
    "{{ c + '<|im_end|>\n' }}{% endfor %}" + ASK,
    "llama3": "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '<|system|>\n\n' }}"
    "{{ m.content | trim + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|system|>\n\n' }}{% endif %}",
    "mistral": "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
    "gemma": "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<|im_start|>' + role + '\n' + m.content | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}",
    "deepseek-r1": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>' + m.content }}"
    "{% else %}{{ '<|assistant|>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}",
    "phi3": "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    "glm": "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    "zephyr": "{% for m in messages %}{{ '<<' + m.role + '>>\n' + m.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<<assistant>>\n' }}{% endif %}",
    "hermes": "{% if tools %}{{ '<|im_start|>system\n' }}{% for t in tools %}{{ t | tojson }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endif %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% for call in m.tool_calls or [] %}{{ '<tool_call>' + (call.function | tojson) + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}" + ASK,
    "no end": "{% for m in messages %}{{ '### ' + m.role + ':\n' + m.content + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}",
    "no header": "{% for m in messages %}" + CHATML_BODY + "{% endfor %}",
}
"""Each in our own words, with the structure of the family's published template."""


def backends() -> dict[str, Backend]:
    """Untrained families of algorithms on one small text; special tokens come later."""
    byte_level = Backend(models.BPE())
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    byte_level.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet))
    with_nfc = Backend.from_str(byte_level.to_str())
    with_nfc.normalizer = normalizers.NFC()
    with_nfc.post_processor = processors.TemplateProcessing(single="!:0 $A:0", special_tokens=[("!", 0)])
    return {
        "byte-level": byte_level,
        "byte-level, NFC": with_nfc,
        "metaspace": _sentencepiece(first=True),
        "llama 2": _sentencepiece(first=False),
        "unigram": _unigram(),
        "wordpiece": _wordpiece(),
    }


def _sentencepiece(*, first: bool) -> Backend:
    """SentencePiece's BPE with byte fallback: the space is a character, in front of the text too."""
    unknown, fallback = ["<unk>"], [f"<0x{byte:02X}>" for byte in range(256)]
    learned = Backend(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    learned.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    trainer = trainers.BpeTrainer(vocab_size=380, special_tokens=[*unknown, *fallback])
    learned.train_from_iterator(WORDS, trainer)
    spec = json.loads(learned.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] == "<unk>"]
    backend = Backend.from_str(json.dumps(spec))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    if not first:
        backend.pre_tokenizer = None  # type: ignore[assignment]
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    return backend


def _unigram() -> Backend:
    backend = Backend(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    # SentencePiece keeps its control pieces in the vocabulary, where plain text could be made of them
    special = ["<unk>", *PLAIN]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(WORDS, trainer)
    return backend


def _wordpiece() -> Backend:
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.train_from_iterator(WORDS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]"]))
    return backend


def save_folder(folder: Path, backend: Backend, template: str, **flags: bool) -> None:
    """A tokenizer folder as models are published: control tokens added, some of them not flagged special."""
    backend = Backend.from_str(backend.to_str())
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False, **flags) for token in PLAIN])
    backend.add_tokens([AddedToken(token, special=False, normalized=False, **flags) for token in NOT_SPECIAL])
    backend.add_tokens([AddedToken("crow sat", special=False, normalized=True)])
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|bos|>", "eos_token": "<|eos|>",
        "pad_token": "<|eos|>", "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(template)


def both(folder: Path) -> tuple[Tokenizer, Any]:
    """The folder read by us and by transformers."""
    import transformers

    return Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
