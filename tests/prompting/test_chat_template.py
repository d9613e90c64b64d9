from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment

from trtcoder.errors import BuildError
from trtcoder.prompting.chat_template import assemble, derive_chat_format
from trtcoder.testing.random_checkpoint import CHAT_TEMPLATE

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text()}
    ),
    max_size=6,
)


def test_the_published_template_comes_apart_into_its_parts() -> None:
    chat = derive_chat_format(CHAT_TEMPLATE, BOS, EOS)
    assert chat.bos == BOS
    assert chat.system == ("", "\n\n")
    assert chat.user == ("User: ", "\n\n")
    assert chat.assistant == ("Assistant: ", EOS)
    assert chat.generation_prompt == "Assistant:"  # a space would make Lite answer in Chinese


@given(MESSAGES)
def test_the_parts_give_what_the_template_gives(messages: list[dict[str, str]]) -> None:
    chat = derive_chat_format(CHAT_TEMPLATE, BOS, EOS)
    rendered = Environment().from_string(CHAT_TEMPLATE)
    wanted = rendered.render(
        messages=messages, add_generation_prompt=True, bos_token=BOS, eos_token=EOS
    )
    assert assemble(chat, messages) == wanted


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ loop.index }}{{ m['content'] }}{% endfor %}", "sum of its"),
        ("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", "leaves out"),
        ("{{ messages[-1]['content'] }}", "changes the text before"),
        ("{% for m in messages %}", "cannot be rendered"),
        (
            "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['content'] }}{% endif %}"
            "{% endfor %}",
            "leaves out the content of a system message",
        ),
        ("{{ raise_exception('no system') }}", "no system"),
    ],
)
def test_a_template_that_does_more_is_refused_with_the_reason(template: str, reason: str) -> None:
    with pytest.raises(BuildError, match=reason):
        derive_chat_format(template, BOS, EOS)


def test_whitespace_around_messages_is_kept_or_the_template_is_refused() -> None:
    template = "{% for m in messages %}{{ m['content'] | trim }}\n{% endfor %}"
    with pytest.raises(BuildError):
        derive_chat_format(template, BOS, EOS)


@pytest.mark.parametrize("template", ["{{ 1 // 0 }}", "{{ 1 + 'a' }}"])
def test_a_template_that_fails_while_it_runs_is_refused(template: str) -> None:
    with pytest.raises(BuildError, match="cannot be rendered"):
        derive_chat_format(template, BOS, EOS)
