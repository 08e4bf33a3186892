"""Chat templates as Jinja source, which transformers, vLLM and llama.cpp render too."""

CHATML = """\
{%- if tools -%}
{{- '<|im_start|>system\\n' -}}
{%- if messages[0]['role'] == 'system' and messages[0]['content'] -%}
{{- messages[0]['content'] + '\\n\\n' -}}
{%- endif -%}
{{- '# Tools\\n\\nYou may call these functions:\\n<tools>' -}}
{%- for tool in tools -%}{{- '\\n' -}}{{- tool | tojson -}}{%- endfor -%}
{{- '\\n</tools>\\n\\nWrite each call as a JSON object with its name and arguments:\\n<tool_call>\\n' -}}
{{- '{"name": <function-name>, "arguments": <arguments-object>}\\n</tool_call><|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- set content = message['content'] or '' -%}
{%- if message['role'] == 'assistant' -%}
{{- '<|im_start|>assistant\\n' -}}
{%- generation -%}
{%- if message['reasoning_content'] -%}
{{- '<think>\\n' + message['reasoning_content'] + '\\n</think>\\n\\n' -}}
{%- endif -%}
{{- content -}}
{%- for tool_call in message['tool_calls'] or [] -%}
{%- set call = tool_call['function'] or tool_call -%}
{%- if content or not loop.first -%}{{- '\\n' -}}{%- endif -%}
{{- '<tool_call>\\n{"name": ' -}}{{- call['name'] | tojson -}}{{- ', "arguments": ' -}}
{%- if call['arguments'] is string -%}
{{- call['arguments'] -}}
{%- else -%}
{{- call['arguments'] | tojson -}}
{%- endif -%}
{{- '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>' -}}
{%- endgeneration -%}
{{- '\\n' -}}
{%- elif message['role'] == 'tool' -%}
{{- '<|im_start|>tool\\n<tool_response>\\n' + content + '\\n</tool_response><|im_end|>\\n' -}}
{%- elif not (tools and loop.first and message['role'] == 'system') -%}
{{- '<|im_start|>' + message['role'] + '\\n' + content + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
"""ChatML with tools, tool calls and reasoning as Hermes and Qwen write them; plain messages are plain ChatML.

The `generation` block is what the assistant writes, its end token included: transformers' assistant mask. Reasoning of
earlier answers stays in the chat, so that every answer is learned behind what sampling sees."""

CHATML_OF_TEXTS = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}
{%- else -%}
{{- message['content'] + '<|im_end|>' -}}
{%- endif -%}
{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
"""ChatML of checkpoints from before 2026-12: the same for plain messages, nothing else."""

PLAIN = """\
{%- for message in messages -%}
{{- message['role'] | capitalize + ':\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- message['content'] + eos_token -}}{%- endgeneration -%}
{%- else -%}
{{- message['content'] -}}
{%- endif -%}
{{- '\\n\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- 'Assistant:\\n' -}}
{%- endif -%}
"""
"""For models without chat tokens (GPT-1, GPT-2): plain words, and the vocabulary's own end token after each answer."""
