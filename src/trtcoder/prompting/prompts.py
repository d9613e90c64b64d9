"""Requests to token ids: completion, fill-in-the-middle and chat, by ids and never by spelling.

User text is always encoded as text. The control tokens around it come from the manifest or from
the chat template, and BOS is added here, once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, Self, TypeVar

from trtcoder.bundle.manifest import Capabilities, ChatFormat, Manifest, TemplateInfo, Tokens
from trtcoder.errors import EngineError, RequestError
from trtcoder.prompting.chat import Chat
from trtcoder.prompting.marks import Marks
from trtcoder.prompting.tokenizer import TextTokenizer
from trtcoder.refusals import reason

T = TypeVar("T")
Capability = Literal["completion", "fim", "chat"]
# The same text must calibrate and judge on any day, also where a template tells the date.
_A_DAY = datetime(2026, 1, 1)


class PromptFormat(Protocol):
    """What a manifest says about prompts, and a checkpoint before there is a manifest."""

    @property
    def model_name(self) -> str:
        """The model's name."""

    @property
    def tokens(self) -> Tokens:
        """Ids of the special tokens."""

    @property
    def capabilities(self) -> Capabilities:
        """What the model was trained for."""

    @property
    def chat_format(self) -> ChatFormat | None:
        """Text around messages."""

    @property
    def chat_template(self) -> TemplateInfo | None:
        """A template that is rendered instead."""

    @property
    def chat_refusal(self) -> str | None:
        """Why the checkpoint's chat template cannot be used."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat; ``role`` is system, user or assistant."""

    role: str
    content: str

    @classmethod
    def of(cls, value: Self | Mapping[str, str], place: str) -> Message:
        """Return a message from a message or a mapping with its two keys.

        Raises:
            RequestError: other keys, or values that are not text; ``place`` says where.
        """
        if isinstance(value, Message):
            return value
        if not isinstance(value, Mapping) or set(value) != {"role", "content"}:
            raise RequestError(f"{place}: expected the keys role and content, found {value!r}")
        if not all(isinstance(item, str) for item in value.values()):
            raise RequestError(f"{place}: role and content must be text")
        return Message(value["role"], value["content"])


def require(format: PromptFormat, capability: Capability) -> None:
    """Raise RequestError where the engine's model was not trained for ``capability``."""
    name, can = format.model_name, format.capabilities
    if capability == "completion" and not can.completion:
        raise RequestError(f"{name} does not complete text; use chat")
    if capability == "fim" and not can.fim:
        raise RequestError(
            f"{name} was not trained to fill in the middle; use complete, or an engine of a model "
            "that was, such as DeepSeek-Coder-V2-Lite-Base"
        )
    if capability == "chat" and not can.chat:
        if format.chat_refusal is not None:
            raise RequestError(
                f"{name} has a chat template that cannot be used ({format.chat_refusal}); use "
                "complete, or correct the checkpoint's template and build the engine again"
            )
        raise RequestError(
            f"{name} was not trained to chat; use complete, or an engine of an Instruct model "
            "(its checkpoint has no chat template)"
        )


class Prompts:
    """Builds the prompts of one engine; ``tokenizer`` encodes them."""

    def __init__(
        self, format: PromptFormat, tokenizer: TextTokenizer, template: str | None = None
    ) -> None:
        """Take a manifest, the engine's tokenizer, and the chat template if the manifest names one.

        Raises:
            EngineError: the manifest names a chat template, and none is given.
        """
        self.format = format
        self._chat: Chat | None = None
        if format.chat_template is not None:
            if template is None:
                raise EngineError(f"{format.chat_template.file} is missing; build the engine again")
            from trtcoder.prompting.chat_template import ChatTemplate

            self._chat = Chat(ChatTemplate(template, format.chat_template.variables))
        elif format.chat_format is not None:
            self._chat = Chat(format.chat_format)
        # A message must not spell what the format writes.
        self.tokenizer = tokenizer.reserving(self._chat.texts() if self._chat else [])
        tokens = format.tokens
        self._bos = [tokens.bos] if tokens.add_bos and tokens.bos is not None else []

    @classmethod
    def load(cls, folder: Path, manifest: Manifest) -> Prompts:
        """Read the tokenizer and the chat template of an engine's folder.

        Raises:
            EngineError: a file is missing or malformed.
        """
        tokenizer = TextTokenizer.load(folder / "tokenizer.json", manifest.tokens.ids())
        if manifest.chat_template is None:
            return cls(manifest, tokenizer)
        path = folder / manifest.chat_template.file
        try:
            return cls(manifest, tokenizer, path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise EngineError(
                f"{path}: cannot be read ({reason(error)}); build it again"
            ) from error

    @property
    def template(self) -> str | None:
        """The chat template that is rendered; None where the format has parts, or no chat."""
        form = None if self._chat is None else self._chat.form
        return None if form is None or isinstance(form, ChatFormat) else form.text

    def start(self) -> list[int]:
        """Return what begins every prompt: BOS, or nothing."""
        return list(self._bos)

    def completion(self, text: str) -> list[int]:
        """Return BOS and ``text``.

        Raises:
            RequestError: the model does not complete text, or there is no token to start from.
        """
        require(self.format, "completion")
        return self._not_empty([*self._bos, *self.tokenizer.encode(text)])

    def fim(self, prefix: str, suffix: str) -> list[int]:
        """Return the prompt for what goes between ``prefix`` and ``suffix``.

        Raises:
            RequestError: the model was not trained to fill in the middle.
        """
        return self.fim_of_ids(self.tokenizer.encode(prefix), self.tokenizer.encode(suffix))

    def fim_of_ids(self, prefix: Sequence[int], suffix: Sequence[int]) -> list[int]:
        """Return `fim` of text that is encoded already, so that it can be cut to a length.

        The order is prefix, suffix, middle (DeepSeek-Coder-V2, section 3.1; Bavarian et al. 2022,
        https://arxiv.org/abs/2207.14255).

        Raises:
            RequestError: the model was not trained to fill in the middle.
        """
        require(self.format, "fim")
        tokens = self.format.tokens
        begin, hole, end = _known(tokens.fim_begin), _known(tokens.fim_hole), _known(tokens.fim_end)
        return [*self._bos, begin, *prefix, hole, *suffix, end]

    def chat(
        self,
        messages: Sequence[Message | Mapping[str, str]],
        *,
        continue_last: bool = False,
        begin_answer: bool = True,
    ) -> list[int]:
        """Return the conversation in the model's chat format, ready for the next answer.

        Nothing follows the last "Assistant:": a space there makes the Lite model answer in
        Chinese or repeat itself (deepseek-ai/DeepSeek-Coder-V2, README).

        Args:
            messages: the conversation.
            continue_last: the last message is the beginning of the answer, and is continued. An
                empty one is as none.
            begin_answer: what the format writes before an answer ends the prompt; nothing does
                where the last message is continued.

        Raises:
            RequestError: the model has no chat, there is no message, a role is unknown, or the
                chat template refuses the messages.
        """
        chat, listed = self._checked(messages)
        if continue_last:
            if listed[-1]["role"] != "assistant":
                raise RequestError(
                    f"messages[{len(listed) - 1}]: only an assistant's message can be continued, "
                    f"this one is of role {listed[-1]['role']!r}"
                )
            if not listed[-1]["content"]:
                listed, continue_last = listed[:-1], False
        marks = chat.marks(listed, self.tokenizer.control)
        begins = begin_answer and not continue_last
        text = chat.render(listed, marks, prompt=begins, open_end=continue_last)
        return self._not_empty(self._with_bos(self._encode(text, marks)))

    def conversation(
        self, messages: Sequence[Message | Mapping[str, str]]
    ) -> tuple[list[int], list[int]]:
        """Return a conversation that ends with an answer: the prompt for it, and the answer.

        Raises:
            RequestError: as `chat`.
        """
        chat, listed = self._checked(messages)
        marks = chat.marks(listed, self.tokenizer.control)
        text = chat.render(listed, marks, prompt=False, now=_A_DAY)
        prompt = chat.render(listed[:-1], marks, prompt=True, now=_A_DAY)
        if not text.startswith(prompt):
            # Such a template prompts for more than it keeps of an answer, as for its reasoning.
            prompt = chat.render(listed, marks, prompt=False, open_end=True, now=_A_DAY)
            prompt = prompt.removesuffix(listed[-1]["content"])
            prompt = prompt if text.startswith(prompt) else ""
        answer = text.removeprefix(prompt)
        return self._with_bos(self._encode(prompt, marks)), self._encode(answer, marks)

    @cached_property
    def spaced_answers(self) -> bool:
        """Whether a space that the format wants begins every answer, and is none of its text."""
        if self._chat is None:
            return False
        talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        marks = self._chat.marks(talk, self.tokenizer.control)
        try:
            prompt = self._chat.render(talk[:1], marks, prompt=True)
            return self._chat.render(talk, marks, prompt=False).startswith(f"{prompt} b")
        except RequestError:  # a template that takes no answers
            return False

    def _checked(
        self, messages: Sequence[Message | Mapping[str, str]]
    ) -> tuple[Chat, list[dict[str, str]]]:
        require(self.format, "chat")
        if not messages:
            raise RequestError("messages: a chat needs at least one message")
        checked = [
            Message.of(value, f"messages[{number}]") for number, value in enumerate(messages)
        ]
        listed = [{"role": message.role, "content": message.content} for message in checked]
        return _known(self._chat), listed

    def _encode(self, text: str, marks: Marks) -> list[int]:
        # In runs between control tokens: the boundaries of other tokens ignore where a template
        # ends and a message begins (" hello" is one token).
        return self.tokenizer.encode_around(marks.split(text))

    def _with_bos(self, ids: list[int]) -> list[int]:
        return ids if ids[:1] == self._bos else [*self._bos, *ids]

    def _not_empty(self, ids: list[int]) -> list[int]:
        if not ids:
            name = self.format.model_name
            raise RequestError(f"the prompt is empty, and {name} has no BOS to start from")
        return ids


def _known(value: T | None) -> T:
    """Return what a checked manifest cannot lack."""
    if value is None:
        raise EngineError("the manifest contradicts itself; build the engine again")
    return value
