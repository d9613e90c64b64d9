"""What is read of a checkpoint's tokenizer files, as other tools write them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.prompting.chat_templates import BOS, EOS, PROGRAMS, TEMPLATES
from trtcoder.bundle.manifest import SamplingDefaults
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import CheckpointError
from trtcoder.prompting.prompts import Message
from trtcoder.prompting.source import Prompting, prompt_files, read_prompting
from trtcoder.testing.random_checkpoint import (
    CHAT_TEMPLATE,
    tiny_config,
    write_random_checkpoint,
)

USER = [Message("user", "hi")]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("pristine") / "model", tiny_config())


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "model"))


def edit(folder: Path, name: str, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    path = folder / name
    values = {**(json.loads(path.read_text()) if path.is_file() else {}), **changes}
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))


def read(folder: Path) -> Prompting:
    return read_prompting(Checkpoint.open(folder))


def chat_text(prompting: Prompting) -> str:
    prompts = prompting.prompts()
    names = {id_: text for text, id_ in prompts.tokenizer.control.items()}
    ids = prompts.chat(USER)
    return "".join(names.get(token) or prompts.tokenizer.decode([token]) for token in ids)


def test_a_template_of_parts_needs_no_file(folder: Path) -> None:
    prompting = read(folder)
    assert prompting.chat_template is None
    assert prompting.chat_format is not None
    assert prompting.capabilities.chat
    assert chat_text(prompting) == f"{BOS}User: hi\n\nAssistant:"


def test_the_jinja_file_wins_over_the_key(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE.replace("User: ", "Human: "))
    assert chat_text(read(folder)) == f"{BOS}Human: hi\n\nAssistant:"


def test_the_jinja_file_is_enough(folder: Path) -> None:
    edit(folder, "tokenizer_config.json", chat_template=None)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    prompting = read(folder)
    assert prompting.capabilities.chat
    assert chat_text(prompting) == f"{BOS}User: hi\n\nAssistant:"


@pytest.mark.parametrize("form", [list, dict])
def test_of_templates_by_name_it_is_the_default(folder: Path, form: type) -> None:
    named = {"tool_use": "{{ messages[0].content }}", "default": CHAT_TEMPLATE}
    value: Any = named
    if form is list:
        value = [{"name": name, "template": text} for name, text in named.items()]
    edit(folder, "tokenizer_config.json", chat_template=value)
    prompting = read(folder)
    assert chat_text(prompting) == f"{BOS}User: hi\n\nAssistant:"
    assert any("tool_use" in note for note in prompting.notes)


def test_templates_beside_the_default_are_named_and_not_used(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("{{ documents }}")
    prompting = read(folder)
    assert chat_text(prompting) == f"{BOS}User: hi\n\nAssistant:"
    assert any("rag" in note for note in prompting.notes)


def test_named_templates_without_a_default_give_no_chat_and_say_so(folder: Path) -> None:
    edit(
        folder,
        "tokenizer_config.json",
        chat_template=[{"name": "tool_use", "template": CHAT_TEMPLATE}],
    )
    prompting = read(folder)
    assert not prompting.capabilities.chat
    assert any("tool_use" in note and "none is the default" in note for note in prompting.notes)


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("place", ["file", "key"])
def test_a_program_goes_into_the_engine_and_chats(folder: Path, name: str, place: str) -> None:
    if place == "file":
        (folder / "chat_template.jinja").write_text(TEMPLATES[name], newline="")
    else:
        edit(folder, "tokenizer_config.json", chat_template=TEMPLATES[name])
    prompting = read(folder)
    assert prompting.chat_format is None
    assert prompting.chat_template is not None
    assert prompting.capabilities.chat
    assert prompt_files(folder)["chat_template.jinja"].decode() == TEMPLATES[name]
    assert prompting.prompts().chat(USER)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}", "Unexpected end of template"),
        ("{{ raise_exception('never') }}", "never"),
        ("", "leaves out what the user says"),
        ("{{ bos_token }}{% if add_generation_prompt %}A:{% endif %}", "leaves out"),
        ("{{ messages[7].content.strip() }}", "no element 7"),
        ("{{ messages[0].content }}{{ '<｜end▁of' ~ '▁sentence｜>' }}", "from pieces"),
        ("{{ messages[0].content }}{{ eos_token | upper }}", "as they are"),
        ("{{ messages[0].content }}{% if eos_token == '<｜end▁of▁sentence｜>' %}!{% endif %}",
         "as they are"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_used_leaves_an_engine_that_says_why(
    folder: Path, template: str, reason: str
) -> None:
    edit(folder, "tokenizer_config.json", chat_template=template)
    prompting = read(folder)
    assert not prompting.capabilities.chat
    assert prompting.chat_refusal is not None
    assert reason in prompting.chat_refusal
    assert any(reason in note for note in prompting.notes)


def test_without_a_template_there_is_no_chat(folder: Path) -> None:
    edit(folder, "tokenizer_config.json", chat_template=None)
    prompting = read(folder)
    assert not prompting.capabilities.chat
    assert prompting.chat_refusal is None
    assert prompting.notes == ("no chat: the checkpoint has no chat template",)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("chat_template.jinja", b"\xff\xfe"),
        ("tokenizer_config.json", b'{"chat_template": 3}'),
        ("tokenizer_config.json", b'{"chat_template": [3]}'),
        ("tokenizer_config.json", b"[]"),
        ("tokenizer_config.json", b"{"),
        ("generation_config.json", b"nonsense"),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}'),
        ("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n"),
        ("generation_config.json", b'{"eos_token_id": "x"}'),
        ("generation_config.json", b'{"eos_token_id": [257, 99999]}'),
    ],
)
def test_a_damaged_side_file_is_named(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        read(folder)


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        (257, 257, (257,)),
        (257, [258, 257], (257, 258)),
        ([259, 257], 258, (259, 257, 258)),
        (None, 258, (258,)),
        (257, None, (257,)),
    ],
)
def test_stop_tokens_are_those_of_both_files(
    folder: Path, config: Any, generation: Any, expected: tuple[int, ...]
) -> None:
    edit(folder, "config.json", eos_token_id=config)
    edit(folder, "generation_config.json", eos_token_id=generation)
    assert read(folder).tokens.eos == expected


def test_a_model_that_never_stops_is_refused(folder: Path) -> None:
    edit(folder, "config.json", eos_token_id=None)
    edit(folder, "generation_config.json", eos_token_id=None)
    with pytest.raises(CheckpointError, match="eos_token_id"):
        read(folder)


def test_defaults_of_sampling_are_read_and_bad_ones_noted(folder: Path) -> None:
    edit(
        folder, "generation_config.json", do_sample=True, temperature=0.3, top_p=0.95, top_k=50.0,
        repetition_penalty=-1, min_p="x",
    )  # fmt: skip
    prompting = read(folder)
    assert prompting.sampling == SamplingDefaults(True, 0.3, 50, 0.95)
    assert [note.split()[1] for note in prompting.notes] == ["min_p", "repetition_penalty"]
    (folder / "generation_config.json").unlink()
    assert read(folder).sampling == SamplingDefaults()


def test_bos_that_config_json_leaves_out_is_the_tokenizers(folder: Path) -> None:
    edit(folder, "config.json", bos_token_id=None)
    tokens = read(folder).tokens
    assert (tokens.bos, tokens.add_bos) == (256, True)


def test_bos_that_nobody_names_is_not_added(folder: Path) -> None:
    edit(folder, "config.json", bos_token_id=None)
    edit(folder, "tokenizer_config.json", bos_token=None, add_bos_token=True)
    prompting = read(folder)
    assert (prompting.tokens.bos, prompting.tokens.add_bos) == (None, False)
    assert any("add_bos_token" in note for note in prompting.notes)


def test_bos_of_the_tokenizer_goes_before_that_of_config_json(folder: Path) -> None:
    edit(folder, "config.json", bos_token_id=3)
    prompting = read(folder)
    assert prompting.tokens.bos == 256
    assert any("bos_token_id is 3" in note for note in prompting.notes)


def test_special_tokens_are_found_in_the_older_file(folder: Path) -> None:
    edit(folder, "tokenizer_config.json", bos_token=None, eos_token=None)
    edit(folder, "special_tokens_map.json", bos_token=BOS, eos_token={"content": EOS})
    assert chat_text(read(folder)) == f"{BOS}User: hi\n\nAssistant:"
