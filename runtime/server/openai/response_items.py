"""The input items of `/v1/responses` as a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trtcoder.errors import RequestError
from trtcoder.runtime.server.messages import ROLES, text_of
from trtcoder.runtime.server.tools.tool import ToolCall
from trtcoder.runtime.server.tools.turn import Turn

# What other tools did, and what a model thought before, is none of the conversation.
_PASSED_OVER = ("reasoning", "web_search_call", "additional_tools", "compaction")
_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}


def turns_of(given: str | Sequence[Any], instructions: str | None) -> tuple[Turn, ...]:
    """Return the conversation of ``input`` and ``instructions``.

    Raises:
        RequestError: an item that is not supported.
    """
    turns = [Turn("system", instructions)] if instructions else []
    if isinstance(given, str):
        return (*turns, Turn("user", given))
    before = len(turns)
    for index, item in enumerate(given):
        place = f"input[{index}]"
        if not isinstance(item, dict):
            raise RequestError(f"{place}: expected an object, found {item!r}")
        kind = item.get("type") or "message"
        if kind in _PASSED_OVER:
            continue
        if kind == "message":
            role = str(item.get("role"))
            turns.append(Turn(ROLES.get(role, role), text_of(item.get("content"), place)))
        elif kind in _CALLS:
            is_text = kind == "custom_tool_call"
            call = ToolCall(
                str(item.get("call_id") or ""),
                str(item.get("name") or ""),
                str(item.get(_CALLS[kind]) or ("" if is_text else "{}")),
                is_text,
            )
            last = turns[-1] if len(turns) > before else None
            if last is not None and last.role == "assistant":
                turns[-1] = Turn("assistant", last.text, (*last.calls, call))
            else:
                turns.append(Turn("assistant", "", (call,)))
        elif kind in ("function_call_output", "custom_tool_call_output"):
            output = text_of(item.get("output"), place)
            turns.append(Turn("tool", output, call_id=str(item.get("call_id") or "")))
        else:
            raise RequestError(f"{place}: items of type {kind!r} are not supported")
    # Nothing to answer but instructions.
    return tuple(turns) if len(turns) > before else ()
