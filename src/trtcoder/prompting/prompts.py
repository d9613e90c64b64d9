"""Requests to token ids: completion, fill-in-the-middle and chat, by ids and never by spelling.

User text is always encoded as text. The control tokens around it come from the manifest, and
BOS is added here, once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypeVar

from trtcoder.bundle.manifest import Manifest
from trtcoder.errors import EngineError, RequestError
from trtcoder.prompting.tokenizer import TextTokenizer

T = TypeVar("T")
Capability = Literal["completion", "fim", "chat"]
ROLES = ("system", "user", "assistant")


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


def require(manifest: Manifest, capability: Capability) -> None:
    """Raise RequestError where the engine's model was not trained for ``capability``."""
    name, can = manifest.model.name, manifest.capabilities
    if capability == "completion" and not can.completion:
        raise RequestError(f"{name} does not complete text; use chat")
    if capability == "fim" and not can.fim:
        raise RequestError(
            f"{name} was not trained to fill in the middle; use complete, or an engine of a model "
            "that was, such as DeepSeek-Coder-V2-Lite-Base"
        )
    if capability == "chat" and not can.chat:
        raise RequestError(
            f"{name} was not trained to chat; use complete, or an engine of an Instruct model"
        )


class Prompts:
    """Builds the prompts of one engine."""

    def __init__(self, manifest: Manifest, tokenizer: TextTokenizer) -> None:
        self._manifest = manifest
        self._tokenizer = tokenizer
        tokens = manifest.tokens
        self._bos = [tokens.bos] if tokens.add_bos and tokens.bos is not None else []

    def completion(self, text: str) -> list[int]:
        """Return BOS and ``text``.

        Raises:
            RequestError: the model does not complete text, or there is no token to start from.
        """
        require(self._manifest, "completion")
        return self._not_empty([*self._bos, *self._tokenizer.encode(text)])

    def fim(self, prefix: str, suffix: str) -> list[int]:
        """Return the prompt for what goes between ``prefix`` and ``suffix``.

        The order is prefix, suffix, middle (DeepSeek-Coder-V2, section 3.1; Bavarian et al. 2022,
        https://arxiv.org/abs/2207.14255).

        Raises:
            RequestError: the model was not trained to fill in the middle.
        """
        require(self._manifest, "fim")
        tokens = self._manifest.tokens
        begin, hole, end = _known(tokens.fim_begin), _known(tokens.fim_hole), _known(tokens.fim_end)
        encode = self._tokenizer.encode
        return [*self._bos, begin, *encode(prefix), hole, *encode(suffix), end]

    def chat(self, messages: Sequence[Message | Mapping[str, str]]) -> list[int]:
        """Return the conversation in the model's chat format, ready for the next answer.

        Nothing follows the last "Assistant:": a space there makes the Lite model answer in
        Chinese or repeat itself (deepseek-ai/DeepSeek-Coder-V2, README).

        Raises:
            RequestError: the model was not trained to chat, there is no message, or a role is
                unknown.
        """
        require(self._manifest, "chat")
        chat = _known(self._manifest.chat_format)
        if not messages:
            raise RequestError("messages: a chat needs at least one message")
        around = {"system": chat.system, "user": chat.user, "assistant": chat.assistant}
        prompt = _Pieces(self._tokenizer)
        if chat.bos:
            prompt.add_template(chat.bos)
        else:
            prompt.ids += self._bos
        for number, value in enumerate(messages):
            message = Message.of(value, f"messages[{number}]")
            if message.role not in around:
                raise RequestError(
                    f"messages[{number}]: role {message.role!r} is unknown; "
                    f"use one of {', '.join(ROLES)}"
                )
            before, after = around[message.role]
            prompt.add_template(before)
            prompt.add_text(message.content)
            prompt.add_template(after)
        prompt.add_template(chat.generation_prompt)
        return self._not_empty(prompt.finish())

    def _not_empty(self, ids: list[int]) -> list[int]:
        if not ids:
            name = self._manifest.model.name
            raise RequestError(f"the prompt is empty, and {name} has no BOS to start from")
        return ids


def _known(value: T | None) -> T:
    """Return what a checked manifest cannot lack."""
    if value is None:
        raise EngineError("the manifest contradicts itself; build the engine again")
    return value


class _Pieces:
    """Joins template and user text before encoding, as the rendered template would be.

    Token boundaries ignore where the template ends and the content begins (" hello" is one
    token), so text is encoded in runs between control tokens.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.ids: list[int] = []
        self._tokenizer = tokenizer
        self._text: list[str] = []

    def add_text(self, text: str) -> None:
        self._text.append(text)

    def add_template(self, text: str) -> None:
        for part in self._tokenizer.split_control(text):
            if isinstance(part, str):
                self._text.append(part)
            else:
                self._flush()
                self.ids.append(part)

    def finish(self) -> list[int]:
        self._flush()
        return self.ids

    def _flush(self) -> None:
        if self._text:
            self.ids += self._tokenizer.encode("".join(self._text))
            self._text.clear()
