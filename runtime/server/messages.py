"""Messages as clients send them: roles, and content as text or as a list of parts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from trtcoder.errors import RequestError
from trtcoder.prompting.prompts import Message
from trtcoder.runtime.server.tools.tool import ToolCall
from trtcoder.runtime.server.tools.turn import Turn

# What clients call the same thing.
ROLES = {"developer": "system", "model": "assistant"}
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")


class ChatMessage(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="ignore", strict=True)

    role: str
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    # DeepSeek's and Mistral's way to have the last message continued.
    prefix: bool = False

    @property
    def answers(self) -> str | None:
        """The call whose result this is; functions, which were before tools, have only names."""
        return self.tool_call_id or self.name


def text_of(content: str | Sequence[Any] | None, place: str) -> str:
    """Return the text of a message's content; parts are joined.

    Raises:
        RequestError: a part that is not text.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(part, str):
            texts.append(part)
        elif kind in _TEXT_PARTS and isinstance(part.get(kind, part.get("text")), str):
            texts.append(part.get(kind, part.get("text")))
        else:
            raise RequestError(
                f"{place}.content[{index}]: a part of type {kind!r} is not supported; this model "
                "takes text"
            )
    return "".join(texts)


def as_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """Return the conversation as the model's chat format takes it.

    Raises:
        RequestError: content that is not text.
    """
    return [
        Message(
            ROLES.get(message.role, message.role),
            text_of(message.content, f"messages[{index}]"),
        )
        for index, message in enumerate(messages)
    ]


def as_turns(messages: Sequence[ChatMessage]) -> tuple[Turn, ...]:
    """Return the conversation with its calls and their results.

    Raises:
        RequestError: content that is not text, or a malformed call.
    """
    turns = []
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        role = "tool" if message.role == "function" else ROLES.get(message.role, message.role)
        calls = tuple(
            _call(given, f"{place}.tool_calls[{number}]")
            for number, given in enumerate(message.tool_calls or ())
        )
        text = text_of(message.content, place)
        turns.append(Turn(role, text, calls if role == "assistant" else (), message.answers))
    return tuple(turns)


def _call(given: dict[str, Any], place: str) -> ToolCall:
    custom = given.get("custom")
    if given.get("type") == "custom" and isinstance(custom, dict):
        name, text = custom.get("name"), custom.get("input")
        if not isinstance(name, str) or not isinstance(text, str):
            raise RequestError(f"{place}.custom: expected a name and an input")
        return ToolCall(str(given.get("id") or name), name, text, is_text=True)
    function = given.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str):
        raise RequestError(f"{place}: expected a function with its name")
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments or {}, ensure_ascii=False)
    return ToolCall(str(given.get("id") or name), name, arguments)
