"""Finds a checkpoint's chat template and chooses how an engine is to use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trtcoder.bundle.manifest import ChatFormat, TemplateInfo
from trtcoder.checkpoint.side_files import read_text
from trtcoder.errors import BuildError, CheckpointError, RequestError
from trtcoder.prompting.chat import Chat
from trtcoder.prompting.chat_parts import conversations, derive_chat_format, messages_of
from trtcoder.prompting.chat_template import ChatTemplate
from trtcoder.prompting.tokenizer import TextTokenizer

TEMPLATE_FILE = "chat_template.jinja"
_NAMED_FOLDER = "additional_chat_templates"


@dataclass(frozen=True, slots=True)
class FoundChat:
    """What a manifest says about chat, and what a build should tell the user."""

    parts: ChatFormat | None = None
    template: TemplateInfo | None = None
    refusal: str | None = None
    notes: tuple[str, ...] = ()


def find_template(folder: Path, settings: Mapping[str, object]) -> tuple[str | None, list[str]]:
    """Return the template that transformers takes by default, and notes.

    The file chat_template.jinja wins over the key in tokenizer_config.json (``settings``). Of
    several templates by name it is the one called default.

    Raises:
        CheckpointError: the file cannot be read, or the key is no template.
    """
    path, key = folder / TEMPLATE_FILE, settings.get("chat_template")
    named = sorted(file.stem for file in (folder / _NAMED_FOLDER).glob("*.jinja"))
    if isinstance(key, list):
        key = _by_name(key, folder)
    if isinstance(key, dict):
        if not path.is_file():
            named += sorted(name for name in map(str, key) if name != "default")
        key = key.get("default")
    if key is not None and not isinstance(key, str):
        raise CheckpointError(
            f"{folder / 'tokenizer_config.json'}: chat_template is {key!r:.60}, not a template"
        )
    text = read_text(path) if path.is_file() else key
    if not named:
        return text, []
    names = ", ".join(named)
    if text is None:
        return None, [f"no chat: of the checkpoint's chat templates ({names}) none is the default"]
    return text, [f"the default chat template is used, not the others: {names}"]


def read_chat(
    folder: Path,
    settings: Mapping[str, object],
    variables: Mapping[str, str],
    tokenizer: TextTokenizer,
) -> FoundChat:
    """Return how an engine is to chat: by parts, by the template, or not at all and why.

    ``variables`` are what the template may use; ``tokenizer`` says which are control tokens.

    Raises:
        CheckpointError: as `find_template`.
    """
    text, notes = find_template(folder, settings)
    if text is None:
        missing = "no chat: the checkpoint has no chat template"
        return FoundChat(notes=tuple(notes or [missing]))
    template = ChatTemplate(text, variables)
    try:
        return FoundChat(parts=derive_chat_format(template), notes=tuple(notes))
    except BuildError as error:
        more = str(error)
    try:
        _check(template, tokenizer)
    except RequestError as error:
        notes.append(f"no chat: the checkpoint's chat template cannot be used: {error}")
        return FoundChat(refusal=str(error), notes=tuple(notes))
    notes.append(f"the chat template is rendered for each prompt: {more}")
    return FoundChat(template=TemplateInfo(TEMPLATE_FILE, dict(variables)), notes=tuple(notes))


def _by_name(templates: list[object], folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for entry in templates:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise CheckpointError(
                f"{folder / 'tokenizer_config.json'}: chat_template holds {entry!r:.60}, not a "
                "name with a template"
            )
        found[entry["name"]] = entry.get("template")
    return found


def _check(template: ChatTemplate, tokenizer: TextTokenizer) -> None:
    """Raise RequestError unless the template takes a question and its control tokens are found."""
    said = [template.render([{"role": "user", "content": x}], prompt=True) for x in "ab"]
    if said[0] == said[1]:
        raise RequestError("it leaves out what the user says")
    chat = Chat(template)
    tokens = tuple(tokenizer.reserving(chat.texts()).control)
    for roles in conversations(3):
        messages = messages_of(roles)
        marks = chat.marks(messages, tokens)
        for prompt in (True, False):
            try:
                template.render(messages, prompt=prompt)
            except RequestError:
                if roles == ("user",):
                    raise
                continue  # not a conversation that it takes
            try:
                marked = template.render_marked(messages, marks, prompt=prompt)
            except RequestError as error:
                raise RequestError("it does not write its control tokens as they are") from error
            pieces = [piece for piece, is_control in marks.split(marked) if not is_control]
            if any(marks.put(piece) != piece for piece in pieces):
                raise RequestError("it puts control tokens together from pieces")
