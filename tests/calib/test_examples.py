"""Text that judges and calibrates has the ids of text that is served."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.prompting.chat_templates import TEMPLATES
from tests.toy_engine import (
    BOS,
    BOS_TEXT,
    EOS,
    EOS_TEXT,
    FIM_BEGIN,
    FIM_END,
    FIM_HOLE,
    byte_tokenizer,
    toy_manifest,
)
from trtcoder.bundle.manifest import TemplateInfo
from trtcoder.calib.text.examples import encode_records
from trtcoder.prompting.prompts import Prompts
from trtcoder.prompting.tokenizer import TextTokenizer

SPELLED = "a<｜fim▁hole｜>b<｜end▁of▁sentence｜>c"


def prompts(template: str | None = None) -> Prompts:
    manifest = toy_manifest()
    if template is not None:
        variables = {"bos_token": BOS_TEXT, "eos_token": EOS_TEXT}
        info = TemplateInfo("chat.jinja", variables)
        manifest = dataclasses.replace(manifest, chat_format=None, chat_template=info)
    return Prompts(manifest, TextTokenizer(byte_tokenizer()), template)


@pytest.mark.parametrize(
    ("record", "control"),
    [
        ({"kind": "plain", "text": SPELLED}, [BOS]),
        ({"kind": "fim", "prefix": SPELLED, "suffix": SPELLED, "middle": SPELLED},
         [BOS, FIM_BEGIN, FIM_HOLE, FIM_END, EOS]),
        ({"kind": "chat", "messages": [{"role": "user", "content": SPELLED},
                                       {"role": "assistant", "content": SPELLED}]}, [BOS, EOS]),
    ],
)  # fmt: skip
def test_a_control_token_that_an_example_spells_is_text(
    record: dict[str, Any], control: list[int]
) -> None:
    encoded = encode_records([record], prompts(), 1000)[0]
    assert [token for token in encoded.ids if token >= 256] == control
    scored = TextTokenizer(byte_tokenizer()).decode(encoded.ids[encoded.scored_from :])
    assert scored.strip() == SPELLED
    assert encoded.scored_bytes == len(scored.encode())


def test_examples_have_the_ids_of_requests() -> None:
    served = prompts()
    question = {"role": "user", "content": "Who?"}
    answer = {"role": "assistant", "content": "I."}
    records: list[dict[str, Any]] = [
        {"kind": "plain", "text": "x = 1"},
        {"kind": "fim", "prefix": "a", "suffix": "b", "middle": "c"},
        {"kind": "chat", "messages": [question, answer]},
    ]
    plain, fim, chat = encode_records(records, served, 1000)
    assert list(plain.ids) == served.completion("x = 1")
    assert list(fim.ids[: fim.scored_from]) == served.fim("a", "b")
    assert list(chat.ids[: chat.scored_from]) == served.chat([question])


def test_conversations_that_a_template_refuses_are_left_out() -> None:
    served = prompts(TEMPLATES["no system, taking turns, trimmed"])
    talk = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}]
    records = [
        {"kind": "chat", "messages": [{"role": "system", "content": "s"}, *talk]},
        {"kind": "chat", "messages": talk},
    ]
    encoded = encode_records(records, served, 1000)
    assert len(encoded) == 1
    assert encoded[0].scored_bytes == len("I.<end_of_turn>\n")
