"""A tokenizer trained in a blink on text with many scripts."""

import pytest

from wuya.tokenizer.bpe import Tokenizer, train_tokenizer

TEXT = (
    "The crow sat on the wall and said: it's 2024, isn't it? They've got 1,234.5 reasons; we'll see.\n"
    "    def caw(times):\n\treturn 'caw ' * times  # no   more\n\n\n"
    "\u4e4c\u9e26\u559d\u6c34\uff0c\u767d\u65e5\u4f9d\u5c71\u5c3d\u3002 \u041a\u0430\u0440! "
    "caf\u00e9 cafe\u0301 \U0001f426\u200d\u2b1b "
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 na\u00efve \u00bd\u00b2 user assistant system\r\n"
)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT * 3, "The crow said caw caw. " * 5], vocab_size=400)
