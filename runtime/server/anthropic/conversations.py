"""Anthropic's messages as a conversation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from trtcoder.errors import RequestError
from trtcoder.runtime.server.conversation import Conversation
from trtcoder.runtime.server.messages import text_of
from trtcoder.runtime.server.structure import of_response_format
from trtcoder.runtime.server.tools.tool import ToolBox, ToolCall
from trtcoder.runtime.server.tools.turn import Turn

# What a model thought before is none of the conversation.
_PASSED_OVER = ("thinking", "redacted_thinking")


class AnthropicMessage(BaseModel):
    """One message: text or blocks."""

    role: str
    content: str | list[dict[str, Any]]


class Asked(BaseModel):
    """What a prompt is made of.

    Keys that change nothing here, such as thinking, metadata and context_management, are passed
    over.
    """

    model_config = ConfigDict(strict=True)

    model: str | None = None
    messages: list[AnthropicMessage]
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None

    def conversation(self) -> Conversation:
        """Return the conversation.

        Raises:
            RequestError: a block, a tool or a form that is not supported.
        """
        turns = [] if self.system is None else [Turn("system", text_of(self.system, "system"))]
        for index, message in enumerate(self.messages):
            turns += _turns(message, f"messages[{index}]")
        form = (self.output_config or {}).get("format")
        last = turns[-1] if turns and self.messages else None
        return Conversation(
            tuple(turns) if self.messages else (),
            ToolBox.of(self.tools, self.tool_choice),
            of_response_format(form, "output_config") if isinstance(form, dict) else None,
            # A last message of the assistant is the beginning of the answer.
            continues=last is not None and last.role == "assistant" and not last.calls,
        )


def _turns(message: AnthropicMessage, place: str) -> Iterator[Turn]:
    if isinstance(message.content, str):
        yield Turn(message.role, message.content)
        return
    text = ""
    calls: list[ToolCall] = []
    results: list[Turn] = []
    for index, block in enumerate(message.content):
        kind = block.get("type")
        where = f"{place}.content[{index}]"
        if kind in _PASSED_OVER:
            continue
        if kind == "tool_use":
            arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
            calls.append(ToolCall(_id(block, "id", where), _id(block, "name", where), arguments))
        elif kind == "tool_result":
            found = text_of(block.get("content"), where)
            result = f"Error: {found}" if block.get("is_error") else found
            results.append(Turn("tool", result, call_id=_id(block, "tool_use_id", where)))
        else:
            text += text_of([block], place)
    yield from results
    if text or calls or not results:
        yield Turn(message.role, text, tuple(calls))


def _id(block: Mapping[str, Any], key: str, place: str) -> str:
    value = block.get(key)
    if not isinstance(value, str):
        raise RequestError(f"{place}: {key} must be text, found {value!r}")
    return value
