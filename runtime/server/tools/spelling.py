"""How calls stand in a conversation's text. A model that was trained on none learns it here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from trtcoder.prompting.prompts import Message
from trtcoder.runtime.server.tools.tool import Tool, ToolCall
from trtcoder.runtime.server.tools.turn import Turn

OPEN = "<tool_call>"
NAME, ARGUMENTS = '\n{"name": "', '", "arguments": '
CLOSE = "}\n</tool_call>"
# Of a tool that takes text, which stands there as it is.
TEXT, TEXT_CLOSE = '"}\n', "\n</tool_call>"


def call_text(call: ToolCall) -> str:
    """Return a call as the model writes it."""
    if call.is_text:
        return f"{OPEN}{NAME}{call.name}{TEXT}{call.arguments}{TEXT_CLOSE}"
    return f"{OPEN}{NAME}{call.name}{ARGUMENTS}{call.arguments or '{}'}{CLOSE}"


def instructions(tools: Sequence[Tool]) -> str:
    """Return the part of the system's message that tells the model of its tools."""
    functions = [
        json.dumps(
            {"name": tool.name, "description": tool.description, "parameters": tool.schema},
            ensure_ascii=False,
        )
        for tool in tools
        if not tool.is_text
    ]
    texts = [
        json.dumps(
            {"name": tool.name, "description": tool.description}
            | ({"grammar": tool.grammar} if tool.grammar else {}),
            ensure_ascii=False,
        )
        for tool in tools
        if tool.is_text
    ]
    parts = ["# Tools"]
    if functions:
        example = call_text(ToolCall("", "NAME", "{ARGUMENTS}"))
        parts.append(
            "You can call these functions. Each line has one, with the JSON schema of its "
            f"arguments:\n<tools>\n{_lines(functions)}\n</tools>\n\nTo call a function, write\n"
            f"{example}\nwith its name and a JSON object of arguments, and nothing behind it."
        )
    if texts:
        example = call_text(ToolCall("", "NAME", "TEXT", is_text=True))
        parts.append(
            f"You can call these tools, which take text:\n<tools>\n{_lines(texts)}\n</tools>\n\n"
            f"To call one, write\n{example}\nwith its name and the text, and nothing behind it."
        )
    end = "The result comes in the next message, between <tool_response> and </tool_response>."
    return "\n\n".join(parts) + f" {end}"


def _lines(items: Sequence[str]) -> str:
    return "\n".join(items)


def as_messages(turns: Iterable[Turn], tools: Sequence[Tool]) -> list[Message]:
    """Return turns as messages of the roles that every chat format has."""
    listed: list[Turn] = []
    names: dict[str, str] = {}
    for turn in turns:
        names |= {call.id: call.name for call in turn.calls}
        if turn.role == "tool":
            result = Turn("user", _result(turn, names), is_result=True)
            if listed and listed[-1].is_result:
                result = Turn("user", f"{listed.pop().text}\n{result.text}", is_result=True)
            listed.append(result)
        else:
            listed.append(turn)
    messages = [Message(turn.role, _text(turn)) for turn in listed]
    if tools:
        told = instructions(tools)
        if messages and messages[0].role == "system":
            messages[0] = Message("system", f"{messages[0].content}\n\n{told}".lstrip("\n"))
        else:
            messages.insert(0, Message("system", told))
    return messages


def _result(turn: Turn, names: Mapping[str, str]) -> str:
    name = names.get(turn.call_id or "")
    head = f"<tool_response> {name}" if name else "<tool_response>"
    return f"{head}\n{turn.text}\n</tool_response>"


def _text(turn: Turn) -> str:
    return "\n".join([*([turn.text] if turn.text else []), *map(call_text, turn.calls)])
