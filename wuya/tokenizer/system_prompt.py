"""The system prompt of a checkpoint: a system message for every chat that begins without one.

It is part of the chat template, so whoever renders the template (we, `transformers`, vLLM, llama.cpp) uses the same.
"""

import json
import re

from wuya.errors import ConfigError
from wuya.tokenizer.bpe import Tokenizer

MARK = "{#- wuya: system prompt -#}"
_SNIPPET = re.compile(re.escape(MARK) + r".*?{%- endif %}\n", re.DOTALL)


def with_system_prompt(tokenizer: Tokenizer, prompt: str) -> Tokenizer:
    """The tokenizer with `prompt` in place of the template's own default, or of one that was set before.

    An empty one changes nothing. Raises ConfigError where the template has no place for a system message.
    """
    if not prompt:
        return tokenizer
    template = _SNIPPET.sub("", tokenizer.chat_template, count=1)
    literal = json.dumps(prompt, ensure_ascii=False)
    snippet = (
        f"{MARK}{{%- if not messages or messages[0]['role'] != 'system' -%}}"
        f"{{%- set messages = [{{'role': 'system', 'content': {literal}}}] + messages -%}}{{%- endif %}}\n"
    )
    changed = tokenizer.with_template(snippet + template)
    if changed.system_prompt.strip() != prompt.strip():
        raise ConfigError(
            f"{tokenizer.template_name} has no place for a system message",
            found=changed.template_facts.refused or "it does not write one",
            hint="leave `--system_prompt` out",
        )
    return changed
