"""Chat templates as checkpoints have them: published ones, and what fine-tuners make of them."""

from __future__ import annotations

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
VARIABLES = {"bos_token": BOS, "eos_token": EOS}

# Text around messages, whatever they say.
PARTS = {
    # deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct, tokenizer_config.json
    "deepseek-coder-v2": (
        "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}"
        "{% endif %}{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ 'User: ' + message['content'] + '\n\n' }}{% elif message['role'] == 'assistant' %}"
        "{{ 'Assistant: ' + message['content'] + eos_token }}{% elif message['role'] == 'system' %}"
        "{{ message['content'] + '\n\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}"
        "{{ 'Assistant:' }}{% endif %}"
    ),
    "chatml": (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
        "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "chatml, written out": (
        "{{ bos_token }}\n"
        "{%- for m in messages %}\n"
        "<|im_start|>{{ m.role }}\n"
        "{{ m.content }}<|im_end|>\n"
        "{% endfor %}\n"
        "{%- if add_generation_prompt %}\n"
        "<|im_start|>assistant\n"
        "{% endif %}\n"
    ),
    "marks of training": (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}"
        "{% generation %}{{ 'A:' ~ m['content'] ~ eos_token }}{% endgeneration %}"
        "{% else %}{{ 'Q:' ~ m['content'] }}\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}A:{% endif %}"
    ),
    "a variable for the content": (
        "{{ bos_token }}{% for m in messages %}{% set content = m['content'] %}"
        "{% if content is string %}{{ m['role'] + ': ' + content + '\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    ),
}

# Programs.
PROGRAMS = {
    # Qwen/Qwen2.5-Coder-7B-Instruct without its tools
    "a default system text": (
        "{%- if messages[0]['role'] == 'system' %}\n"
        "{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n"
        "{%- else %}\n"
        "{{- '<|im_start|>system\\nYou are a coder.<|im_end|>\\n' }}\n"
        "{%- endif %}\n"
        "{%- for message in messages %}\n"
        '{%- if (message.role == "user") or (message.role == "system" and not loop.first) or '
        '(message.role == "assistant" and not message.tool_calls) %}\n'
        "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n"
        "{%- endif %}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n"
        "{{- '<|im_start|>assistant\\n' }}\n"
        "{%- endif %}\n"
    ),
    # google/gemma-2-9b-it
    "no system, taking turns, trimmed": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for message in messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/...') }}{% endif %}"
        "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
        "{% set role = message['role'] %}{% endif %}"
        "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
    ),
    # mistralai/Mistral-7B-Instruct-v0.2 with a system text in the first question
    "the system text goes into the first question": (
        "{%- if messages[0]['role'] == 'system' %}"
        "{%- set system_message = messages[0]['content'] %}"
        "{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}"
        "{%- endif %}{{- bos_token }}{%- for message in loop_messages %}"
        "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{- raise_exception('roles must alternate') }}{%- endif %}"
        "{%- if message['role'] == 'user' %}{%- if loop.first and system_message is defined %}"
        "{{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}"
        "{%- else %}{{- ' [INST] ' + message['content'] + ' [/INST]' }}{%- endif %}"
        "{%- elif message['role'] == 'assistant' %}{{- ' ' + message['content'] + eos_token}}"
        "{%- endif %}{%- endfor %}"
    ),
    # deepseek-ai/DeepSeek-R1, shortened: all system texts to the front, thoughts left out
    "system texts gathered, thoughts dropped": (
        "{% set ns = namespace(system_prompt='', is_first_sp=true) %}"
        "{%- for message in messages %}{%- if message['role'] == 'system' %}"
        "{%- if ns.is_first_sp %}{% set ns.system_prompt = ns.system_prompt + message['content'] %}"
        "{% set ns.is_first_sp = false %}{%- else %}"
        "{% set ns.system_prompt = ns.system_prompt + '\\n\\n' + message['content'] %}"
        "{%- endif %}{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.system_prompt }}"
        "{%- for message in messages %}{%- if message['role'] == 'user' %}"
        "{{'<｜User｜>' + message['content']}}{%- endif %}"
        "{%- if message['role'] == 'assistant' %}{% set content = message['content'] %}"
        "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
        "{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endfor -%}"
        "{% if add_generation_prompt %}{{'<｜Assistant｜><think>\\n'}}{% endif %}"
    ),
    # meta-llama/Llama-3.1-8B-Instruct, shortened
    "the date, tojson, loop controls": (
        "{{- bos_token }}{%- if not date_string is defined %}"
        '{%- set date_string = strftime_now("%Y") %}{%- endif %}'
        "{%- for m in messages %}{%- if loop.index > 9 %}{%- break %}{%- endif %}"
        "{%- if m.role == 'skip' %}{%- continue %}{%- endif %}"
        "{{- '<|' + m.role + '|>' + date_string + (m | tojson) + '<|eot|>' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
    ),
    "numbered": "{% for m in messages %}{{ loop.index }}. {{ m['content'] }}\n{% endfor %}",
    "upper case": "{% for m in messages %}{{ m['content'] | upper }};{% endfor %}",
    "replaced": "{% for m in messages %}{{ m['content'] | replace('a', 'bb') }}|{% endfor %}",
    "joined": "{{ messages | map(attribute='content') | join(eos_token) }}",
    "stripped by a method": (
        "{% for m in messages %}{{ m.role ~ ':' }}{{ m['content'].strip() }}{{ eos_token }}"
        "{% endfor %}"
    ),
    "empty messages left out": (
        "{% for m in messages %}{% if m['content'] %}<{{ m['content'] }}>{% endif %}{% endfor %}"
    ),
    "a macro": (
        "{% macro turn(role, text) %}[{{ role }}] {{ text }}{{ eos_token }}{% endmacro %}"
        "{% for m in messages %}{{ turn(m.role, m.content) }}\n{% endfor %}"
    ),
    "a block of text": (
        "{% for m in messages %}{% set line %}{{ m.role }}> {{ m.content }}{% endset %}"
        "{{ line | trim }}{{ eos_token }}{% endfor %}"
    ),
    "the last question only": "Q: {{ messages[-1]['content'] }}\nA:",
    "length": "{% for m in messages %}{{ m['content'] | length }}:{{ m['content'] }},{% endfor %}",
    "first letters": "{% for m in messages %}{{ m['content'][:20] }}\n{% endfor %}",
    "letter by letter": "{% for m in messages %}{% for c in m['content'] %}{{ c }}{% endfor %}"
    "{% endfor %}",
    "the message before": (
        "{% for m in messages %}{% if loop.previtem and loop.previtem.content == 'a' %}!{% endif %}"
        "{{ m.content }}{% endfor %}"
    ),
    "long conversations": (
        "{% for m in messages %}{{ m['role'] + m['content'] }}"
        "{% if loop.index > 10 %}…{% endif %}{% endfor %}"
    ),
}
TEMPLATES = {**PARTS, **PROGRAMS}
