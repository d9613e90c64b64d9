"""Chat templates against transformers, which renders them for the models' authors."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.prompting.chat_templates import BOS, EOS, PARTS, PROGRAMS, TEMPLATES, VARIABLES
from trtcoder.errors import BuildError, RequestError
from trtcoder.prompting.chat import Chat
from trtcoder.prompting.chat_parts import derive_chat_format
from trtcoder.prompting.chat_template import ChatTemplate
from trtcoder.prompting.marks import NONCHARACTERS, Marks
from trtcoder.testing.random_checkpoint import CHAT_TEMPLATE

Conversation = list[dict[str, str]]
SPELLED = [BOS, EOS, "<｜User｜>", "<|im_end|>", "<|eot|>", "<start_of_turn>", "</think>"]
ROLES = ["system", "user", "assistant", "tool", "developer"]
CONTENTS = st.text(max_size=8) | st.lists(
    st.sampled_from([*SPELLED, " ", "\n", "a", "{{ bos_token }}", "0", "<｜", "｜>", "\r\n", "é"])
).map("".join)
CONVERSATIONS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": CONTENTS}),
    min_size=1,
    max_size=6,
)


def transformers_text(template: str, messages: Conversation, **options: Any) -> str | None:
    """Return what transformers renders, or None where it refuses."""
    from transformers.utils import chat_template_utils

    render: Any = chat_template_utils.render_jinja_template
    try:
        rendered, _ = render([messages], chat_template=template, **VARIABLES, **options)
    except Exception:
        return None
    text: str = rendered[0]
    return text


def our_text(template: str, messages: Conversation, **options: Any) -> str | None:
    try:
        return ChatTemplate(template, VARIABLES).render(messages, **options)
    except RequestError:
        return None


def conversations() -> list[Conversation]:
    contents = itertools.cycle([" hi\n", "", "a </think> b", "x" * 30, f"{EOS}<|im_end|>", "ß ｜>"])
    chosen = [
        *itertools.product(("system", "user", "assistant", "tool"), repeat=2),
        *itertools.product(("system", "user", "assistant"), repeat=3),
        *(("user",), ("system",), ("tool",), ("system", *("user", "assistant") * 6)),
    ]
    return [[{"role": role, "content": next(contents)} for role in roles] for roles in chosen]


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_give_what_transformers_gives(name: str) -> None:
    template, given = TEMPLATES[name], 0
    for messages in conversations():
        for prompt in (True, False):
            expected = transformers_text(template, messages, add_generation_prompt=prompt)
            assert our_text(template, messages, prompt=prompt) == expected, messages
            given += expected is not None
        if "content" not in template:
            continue  # transformers only continues where the template's text has the word
        expected = transformers_text(template, messages, continue_final_message=True)
        assert our_text(template, messages, prompt=False, open_end=True) == expected, messages
    assert given > 10


@given(name=st.sampled_from(sorted(TEMPLATES)), messages=CONVERSATIONS, prompt=st.booleans())
def test_any_messages_give_what_transformers_gives(
    name: str, messages: Conversation, prompt: bool
) -> None:
    expected = transformers_text(TEMPLATES[name], messages, add_generation_prompt=prompt)
    assert our_text(TEMPLATES[name], messages, prompt=prompt) == expected


@pytest.mark.parametrize("name", PARTS)
def test_text_around_messages_is_reduced_to_parts(name: str) -> None:
    template = ChatTemplate(PARTS[name], VARIABLES)
    chat = Chat(derive_chat_format(template))
    for messages in conversations():
        if all(message["role"] != "tool" for message in messages):
            for prompt in (True, False):
                found = chat.render(messages, Marks(NONCHARACTERS[0], ()), prompt=prompt)
                assert found == template.render(messages, prompt=prompt)
            found = chat.render(messages, Marks(NONCHARACTERS[0], ()), prompt=False, open_end=True)
            assert found == template.render(messages, prompt=False, open_end=True)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_not_reduced_to_parts(name: str) -> None:
    with pytest.raises(BuildError):
        derive_chat_format(ChatTemplate(PROGRAMS[name], VARIABLES))


# Ways to look at a message that change nothing for most contents.
LOOKS = [
    "{% if m.content == 'x' %}!{% endif %}",
    "{% if 'zz' in m['content'] %}!{% endif %}",
    "{% if m.content is eq 'x' %}!{% endif %}",
    "{{ '!' if m.content == 'x' else '' }}",
    "{{ '!' if (m.content and m.content < 'A') }}",
    "{{ '' if m.content is not filter else m.content | first | replace('x', '') }}",
    "{% set c = m.content %}{% if c[5000] is defined %}!{% endif %}",
    "{% set ns = namespace(c=m.content) %}{% if ns.c == 'x' %}!{% endif %}",
    "{% set ns = namespace() %}{% set ns.role = m.content %}{% if ns.role == 'x' %}!{% endif %}",
    "{% set ns = namespace(role=m.content) %}{% if ns.role == 'x' %}!{% endif %}",
    "{% set l = [m.content, 1] %}{% if 'x' in l %}!{% endif %}",
    "{% set a, b = m.content, 1 %}{% if a == 'x' %}!{% endif %}",
    "{% set c = 'a' + m.content %}{% if c == 'ax' %}!{% endif %}",
    "{% set c = 'a' ~ m.content %}{{ c.removeprefix('ax') if false else '' }}",
    "{% set c %}{{ m.content }}{% endset %}{% if c == 'x' %}!{% endif %}",
    "{% for n in messages %}{% if n.content == 'x' %}!{% endif %}{% endfor %}",
    "{% for n in messages if n.content == 'x' %}!{% endfor %}",
    "{% set l = loop %}{% if l.previtem and l.previtem.content == 'x' %}!{% endif %}",
    "{% if messages[0].content == 'x' %}!{% endif %}",
    "{% if messages | selectattr('content', 'equalto', 'x') | list %}!{% endif %}",
    "{% if m.values() | list | length > 5 %}!{% endif %}",
    "{% for k, v in m.items() %}{% if v == 'x' %}!{% endif %}{% endfor %}",
    "{{ {'x': '!'}[m.content] }}",
    "{{ {'x': '!'}.get(m.content, '') }}",
    "{{ ('!' * (m.content | length // 5000)) }}",
    "{% if loop.index > 20 %}!{% endif %}",
    "{% if messages | length == 30 %}!{% endif %}",
    "{% if loop.index is divisibleby(7) %}!{% endif %}",
    "{% if strftime_now('%Y') == '1999' %}!{% endif %}",
]


@pytest.mark.parametrize("look", LOOKS)
def test_a_template_that_looks_at_a_message_is_not_reduced(look: str) -> None:
    written = "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ eos_token }}LOOK{% endfor %}"
    derive_chat_format(ChatTemplate(written.replace("LOOK", ""), VARIABLES))
    with pytest.raises(BuildError):
        derive_chat_format(ChatTemplate(written.replace("LOOK", look), VARIABLES))


# What a template may do beside writing a message; some of it leaves the parts as they are.
EXTRAS = [
    "{% if loop.first %}^{% endif %}",
    "{% if loop.last %}${% endif %}",
    "{{ loop.index0 % 2 }}",
    "{{ loop.length }}",
    "{% if m.role == 'system' %}S{% endif %}",
    "{% if m['role'] != 'user' %}{{ eos_token }}{% endif %}",
    "{% if messages[0].role == 'system' %}!{% endif %}",
    "{% if messages[-1]['role'] == m.role %}~{% endif %}",
    "{% if loop.previtem is defined and loop.previtem.role == m.role %}={% endif %}",
    "{% if messages | length > 2 %}+{% endif %}",
    "{% if m is mapping and m.content is string %}m{% endif %}",
    "{% generation %}{{ m.role }}{% endgeneration %}",
    "{{ raise_exception('no') if m.role == 'assistant' and loop.first }}",
    "{% if add_generation_prompt and loop.last %}>{% endif %}",
    "{% set before = messages[:-1] %}{{ before | length }}",
    "{% set ns = namespace(last='') %}{% set ns.last = m.role %}{{ ns.last }}",
]


@given(
    extras=st.lists(st.sampled_from(EXTRAS + LOOKS), max_size=3),
    messages=st.lists(
        st.fixed_dictionaries(
            {
                "role": st.sampled_from(ROLES[:3]),
                "content": st.sampled_from(["", "x", "zz", " a\n"]),
            }
        ),
        min_size=1,
        max_size=25,
    ),
    prompt=st.booleans(),
)
def test_parts_are_what_the_template_gives_for_any_conversation(
    extras: list[str], messages: Conversation, prompt: bool
) -> None:
    text = f"{{% for m in messages %}}{{{{ m.role ~ m.content }}}}{''.join(extras)}{{% endfor %}}"
    template = ChatTemplate(text, VARIABLES)
    try:
        parts = derive_chat_format(template)
    except BuildError:
        return
    found = Chat(parts).render(messages, Marks(NONCHARACTERS[0], ()), prompt=prompt)
    assert found == template.render(messages, prompt=prompt)


def test_the_published_template_comes_apart_into_its_parts() -> None:
    chat = derive_chat_format(ChatTemplate(CHAT_TEMPLATE, VARIABLES))
    assert chat.bos == BOS
    assert chat.system == ("", "\n\n")
    assert chat.user == ("User: ", "\n\n")
    assert chat.assistant == ("Assistant: ", EOS)
    assert chat.generation_prompt == "Assistant:"  # a space would make Lite answer in Chinese


@given(name=st.sampled_from(sorted(TEMPLATES)), messages=CONVERSATIONS, prompt=st.booleans())
@settings(max_examples=300)
def test_a_control_token_comes_from_the_template_and_from_nothing_else(
    name: str, messages: Conversation, prompt: bool
) -> None:
    """With tokens unlike any template text but its own, all others stay text, or it refuses."""
    template = ChatTemplate(TEMPLATES[name], VARIABLES)
    marks = Chat(template).marks(messages, SPELLED)
    blank = [{**message, "content": "z"} for message in messages]
    try:
        text = template.render(messages, prompt=prompt)
        plain = template.render_marked(blank, marks, prompt=prompt)
        marked = template.render_marked(messages, marks, prompt=prompt)
    except RequestError:
        return
    assert marks.spelled(marked) == text
    if name != "empty messages left out":
        tokens = [token for token, known in marks.split(marked) if known]
        assert tokens == [token for token, known in marks.split(plain) if known]


def test_what_a_template_does_to_spelled_tokens_is_refused_where_they_cannot_be_told_apart() -> (
    None
):
    template = ChatTemplate(
        "{% for m in messages %}{{ m.content | replace(eos_token, '#') }}{{ eos_token }}"
        "{% endfor %}",
        VARIABLES,
    )
    marks = Marks(NONCHARACTERS[0], (BOS, EOS))
    harmless = template.render_marked([{"role": "user", "content": BOS}], marks, prompt=False)
    assert list(marks.split(harmless)) == [(BOS, False), (EOS, True)]
    with pytest.raises(RequestError, match="control tokens"):
        template.render_marked([{"role": "user", "content": EOS}], marks, prompt=False)


def test_marks_differ_from_all_that_a_user_can_write() -> None:
    messages = [{"role": "user", "content": "".join(NONCHARACTERS[:-1]) + "0"}]
    template = ChatTemplate("{{ bos_token }}{{ messages[0].content }}", VARIABLES)
    marks = Chat(template).marks(messages, [BOS])
    assert marks.letter == NONCHARACTERS[-1]
    marked = template.render_marked(messages, marks, prompt=True)
    assert list(marks.split(marked)) == [(BOS, True), (messages[0]["content"], False)]
    messages[0]["content"] += NONCHARACTERS[-1]
    with pytest.raises(RequestError, match="noncharacters"):
        Chat(template).marks(messages, [BOS])


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}", "Unexpected end of template"),
        ("{{ 1 // 0 }}", "division"),
        ("{{ 1 + 'a' }}", "unsupported operand"),
        ("{{ raise_exception('no system') }}", "no system"),
        ("{{ nothing.at_all }}", "is undefined"),
        ("{% include 'other' %}", "no loader"),
        ("{{ messages.__class__.__mro__ }}", "unsafe|undefined"),
        ("{{ messages.append(1) }}", "not safely callable|unsafe"),
        ("{{ namespace(__init__=1) }}", "may not have"),
    ],
)
def test_a_template_that_fails_is_an_error_of_ours(template: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        ChatTemplate(template).render([{"role": "user", "content": "a"}], prompt=True)


def test_a_templates_words_are_one_printable_line() -> None:
    template = "{{ raise_exception('no\n\x1b[31m' ~ 'x' * 1000) }}"
    with pytest.raises(RequestError) as caught:
        ChatTemplate(template).render([{"role": "user", "content": "a"}], prompt=True)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


ENDLESS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(9999) %}{{ 'x' * 99999 }}{% endfor %}",
    "{{ 'x' * 9999999999 }}",
    "{{ [0] * 9999999999 }}",
    "{{ 9999999999 * 'x' }}",
    "{{ 9 ** 9 ** 9 }}",
    "{{ 'x'.center(9999999999) }}",
    "{{ 'x' | center(9999999999) }}",
    "{{ 'x' | indent(9999999999) }}",
    "{{ '%9999999999d' % 1 }}",
    "{{ '%9999999999d' | format(1) }}",
    "{{ '%*d' % (9999999999, 1) }}",
    "{{ [] | tojson(indent=9999999999) }}",
    "{% set ns = namespace(x='xx') %}{% for a in range(99) %}{% set ns.x = ns.x + ns.x %}"
    "{% endfor %}",
    "{% set ns = namespace(x='xx') %}{% for a in range(99) %}{% set ns.x = ns.x ~ ns.x %}"
    "{% endfor %}",
    "{% set ns = namespace(x='xx') %}{% for a in range(99) %}{% set x %}{{ ns.x }}{{ ns.x }}"
    "{% endset %}{% set ns.x = x %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(90) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% for a in range(99999) %}{% for b in range(9) %}" + "x" * 1000 + "{% endfor %}{% endfor %}",
]


@pytest.mark.parametrize("template", ENDLESS)
def test_a_template_without_end_is_stopped(template: str) -> None:
    with pytest.raises(RequestError):
        ChatTemplate(template).render([{"role": "user", "content": "a"}], prompt=True)


def test_a_long_conversation_is_within_the_limits() -> None:
    messages = [{"role": "user", "content": "a" * 100}] * 10_000
    for template in (PARTS["chatml"], PROGRAMS["a default system text"]):
        text = ChatTemplate(template, VARIABLES).render(messages, prompt=True)
        assert len(text) > 1_000_000
