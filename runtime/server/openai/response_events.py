"""The items of a response and the events that tell them as they come."""

from __future__ import annotations

import secrets
from typing import Any

from trtcoder.runtime.requests.events import Chunk
from trtcoder.runtime.server.errors import ApiError
from trtcoder.runtime.server.openai.token_names import TokenNames
from trtcoder.runtime.server.streams import event
from trtcoder.runtime.server.tools.reader import Arguments, CallBegins, Piece, Text
from trtcoder.runtime.server.tools.tool import ToolCall

Logprobs = list[dict[str, Any]]


class ResponseEvents:
    """Numbers the events of a response and keeps the item that is open.

    Attributes:
        head: the response as it began.
        output: the items that are done.
    """

    def __init__(self, head: dict[str, Any], names: TokenNames) -> None:
        """Take the response without its output; ``names`` writes tokens."""
        self.head = head
        self.output: list[dict[str, Any]] = []
        self._names = names
        self._number = 0
        self._open: ToolCall | str | None = None  # a call, or the text of a message
        self._id = ""
        # Of the open message's tokens: those that are told, and those whose text is held back.
        self._told: Logprobs = []
        self._held: Logprobs = []

    def send(self, kind: str, **data: Any) -> bytes:
        """Return an event."""
        self._number += 1
        return event({"type": kind, "sequence_number": self._number - 1, **data}, kind)

    def failed(self, error: ApiError) -> bytes:
        """Return the event of a stream that fails in the middle."""
        told = {"code": error.code or "server_error", "message": error.message}
        return self.send(
            "response.failed", response={**self.head, "status": "failed", "error": told}
        )

    def take(self, chunk: Chunk, pieces: list[Piece]) -> list[bytes]:
        """Return the events of a chunk and of the pieces that became certain with it."""
        if chunk.logprob is not None and chunk.token is not None:
            tokens = [(chunk.token, chunk.logprob, chunk.top_logprobs)]
            # Control tokens are none of the text.
            if self._names.is_text(chunk.token):
                self._held += self._names.chat(tokens)["content"]
        return [frame for piece in pieces for frame in self._piece(piece)]

    def finish(self, status: str) -> list[bytes]:
        """Return the end of the item that is open; an answer of nothing is an empty message."""
        begun = [] if self._open is not None or self.output else self._message()
        return begun + self._close(status)

    def _piece(self, piece: Piece) -> list[bytes]:
        match piece:
            case Text():
                frames = [] if isinstance(self._open, str) else self._message()
                self._open = f"{self._open or ''}{piece.text}"
                logprobs, self._held = self._held, []
                self._told += logprobs
                kind = "response.output_text.delta"
                return [*frames, self._in_part(kind, delta=piece.text, logprobs=logprobs)]
            case CallBegins():
                frames = self._close("completed")
                call = ToolCall(piece.id, piece.name, "", piece.is_text)
                kind = "ctc" if call.is_text else "fc"
                self._open, self._id = call, f"{kind}_{secrets.token_hex(12)}"
                return [*frames, self._added(_call(self._id, call, "in_progress"))]
            case Arguments():
                if not isinstance(self._open, ToolCall):
                    return []
                self._open = self._open.grown(piece.text)
                return [self._in_item(f"{_told_as(self._open)}.delta", delta=piece.text)]

    def _message(self) -> list[bytes]:
        """Return the end of the item that is open and the beginning of a message."""
        held = self._held if self._open is None else []
        frames = self._close("completed")
        self._open, self._id, self._held = "", f"msg_{secrets.token_hex(12)}", held
        frames.append(self._added(_message(self._id, [], "in_progress")))
        frames.append(self._in_part("response.content_part.added", part=_part("", [])))
        return frames

    def _close(self, status: str) -> list[bytes]:
        opened, self._open = self._open, None
        logprobs, self._told, self._held = self._told, [], []
        if opened is None:
            return []
        if isinstance(opened, str):
            part = _part(opened, logprobs)
            item = _message(self._id, [part], status)
            frames = [
                self._in_part("response.output_text.done", text=opened, logprobs=logprobs),
                self._in_part("response.content_part.done", part=part),
            ]
        else:
            item = _call(self._id, opened, status)
            name = {} if opened.is_text else {"name": opened.name}
            told = {_key(opened): opened.arguments}
            frames = [self._in_item(f"{_told_as(opened)}.done", **name, **told)]
        frames.append(
            self.send("response.output_item.done", output_index=len(self.output), item=item)
        )
        self.output.append(item)
        return frames

    def _added(self, item: dict[str, Any]) -> bytes:
        kind = "response.output_item.added"
        return self.send(kind, output_index=len(self.output), item=item)

    def _in_item(self, kind: str, **data: Any) -> bytes:
        return self.send(kind, item_id=self._id, output_index=len(self.output), **data)

    def _in_part(self, kind: str, **data: Any) -> bytes:
        return self._in_item(kind, content_index=0, **data)


def _part(text: str, logprobs: Logprobs) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _message(id_: str, content: list[dict[str, Any]], status: str) -> dict[str, Any]:
    message = {"id": id_, "type": "message", "role": "assistant"}
    return {**message, "status": status, "content": content}


def _call(id_: str, call: ToolCall, status: str) -> dict[str, Any]:
    return {
        "id": id_,
        "type": "custom_tool_call" if call.is_text else "function_call",
        "call_id": call.id,
        "name": call.name,
        _key(call): call.arguments,
        "status": status,
    }


def _key(call: ToolCall) -> str:
    return "input" if call.is_text else "arguments"


def _told_as(call: ToolCall) -> str:
    """Return the kind of events that tell what a call takes."""
    kind = "custom_tool_call_input" if call.is_text else "function_call_arguments"
    return f"response.{kind}"
