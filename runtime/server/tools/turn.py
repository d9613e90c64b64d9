"""A message of a conversation, as no dialect in particular writes it."""

from __future__ import annotations

from dataclasses import dataclass

from trtcoder.runtime.server.tools.tool import ToolCall


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said.

    Attributes:
        role: system, user, assistant or tool.
        text: what was said, or what a call gave.
        calls: that the assistant asked for.
        call_id: of the call that a tool's turn answers.
        is_result: a user's turn that holds results of calls.
    """

    role: str
    text: str
    calls: tuple[ToolCall, ...] = ()
    call_id: str | None = None
    is_result: bool = False
