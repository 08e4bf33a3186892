"""Tool calls through a model's own template: a tiny checkpoint that learned one call and one answer by heart."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.databases import Databases
from tests.web.api.conftest import Api, serve
from wuya.checkpoints.checkpoint import save_checkpoint
from wuya.inference.backends.chat import encode_messages
from wuya.inference.backends.local import LocalEngine
from wuya.models.gpt import GPT, GPTConfig
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer

TEMPLATE = """\
{%- if tools %}<|im_start|>system
<tools>{% for tool in tools %}{{ tool.function | tojson }}{% endfor %}</tools><|im_end|>
{% endif -%}
{%- for message in messages -%}
{%- if message.role == "tool" %}<|im_start|>user
<tool_response>{{ message.content }}</tool_response><|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content }}{% for call in message.tool_calls or [] -%}
<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>
{%- endfor %}<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}"""
"""In the way of Qwen's and Hermes's templates."""
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Graz"}}</tool_call>'
ANSWER = "It rains in Graz."
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "now",
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["Graz", "Linz"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
]
ASKED: list[Any] = [{"role": "user", "content": "Graz?"}]
TOLD: list[Any] = [
    *ASKED,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Graz"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "c", "content": "rain"},
]


def learned(tokenizer: Tokenizer) -> GPT:
    """A model that calls the tool when asked, and answers when told."""
    pairs = [
        (encode_messages(tokenizer, chat, tools=TOOLS), [*tokenizer.encode(text), tokenizer.eos_id])
        for chat, text in ((ASKED, CALL), (TOLD, ANSWER))
    ]
    torch.manual_seed(0)
    shape = {"num_layers": 2, "model_dim": 48, "num_heads": 4, "num_kv_heads": 4, "head_dim": 12, "mlp_dim": 96}
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, context_length=256, **shape))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        losses = []
        for prompt, completion in pairs:
            ids = torch.tensor([prompt + completion])
            logits = model.logits(model(ids[:, :-1]))[0, len(prompt) - 1 :]
            losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(completion)))
        loss = torch.stack(losses).sum()
        if loss.item() < 0.02:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, databases: Databases) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("tools")
    text = [CALL, ANSWER, TEMPLATE, json.dumps(TOOLS)]
    trained = train_tokenizer(text * 4, vocab_size=420)
    tokenizer = Tokenizer(trained._backend, trained._settings, chat_template=TEMPLATE)
    save_checkpoint(folder / "tiny", learned(tokenizer), tokenizer)
    engine = LocalEngine({"tiny": folder / "tiny"}, slots=2, device="cpu", dtype="float32")
    with serve(folder, databases, accounts=False, engine=engine) as found:
        yield found
        for client in found.clients:
            client.close()


def test_a_model_calls_a_tool_and_uses_its_result(api: Api) -> None:
    chat = api.client().chat.completions
    assert "tools" in api.send("/v1/models").json()["data"][0]["capabilities"]
    first = chat.create(model="tiny", messages=ASKED, tools=TOOLS, temperature=0, max_tokens=80).choices[0]
    [call] = first.message.tool_calls or []
    assert (first.finish_reason, first.message.content) == ("tool_calls", None)
    assert call.type == "function" and call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"city": "Graz"}
    result: list[Any] = [
        *ASKED,
        first.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "rain"},
    ]
    second = chat.create(model="tiny", messages=result, tools=TOOLS, temperature=0, max_tokens=80).choices[0]
    assert (second.finish_reason, second.message.content) == ("stop", ANSWER)


def test_a_call_in_a_stream(api: Api) -> None:
    stream = api.client().chat.completions.create(
        model="tiny", messages=ASKED, tools=TOOLS, temperature=0, max_tokens=80, stream=True
    )
    chunks = [chunk.choices[0] for chunk in stream]
    calls = [call for chunk in chunks for call in chunk.delta.tool_calls or []]
    assert [call.function.name for call in calls if call.function] == ["weather"]
    assert chunks[-1].finish_reason == "tool_calls"
    assert not "".join(chunk.delta.content or "" for chunk in chunks), "the marks are no text"


def test_a_tool_that_must_be_called_is_called_by_any_model(api: Api) -> None:
    required = api.client().chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "zzz"}], tools=TOOLS, tool_choice="required",
        max_tokens=120, temperature=0,
    ).choices[0]  # fmt: skip
    assert required.message.tool_calls, required
    [call] = required.message.tool_calls
    assert call.type == "function" and call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Graz", "Linz")
