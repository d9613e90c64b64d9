"""One client's connection, which may take neither memory nor time without end.

uvicorn's parser bounds neither the headers of a request nor the time that they take.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

# Of the request line and all headers of a request together.
MAX_HEAD_BYTES = 1 << 16
MAX_HEADERS = 128
# From a request's first byte, or the connection's beginning, to the end of its headers; and the
# longest silence while its body is sent.
SECONDS = 20.0
_ONCE_MORE = 0.1


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with bounds: 431 for a head that is too large, 408 for a slow request."""

    seconds = SECONDS

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_bytes = 0
        self._head_complete = False
        self._refused = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin: a client that connects and says nothing is not waited for."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless the request is refused already."""
        if self._refused:
            return
        if self._deadline is None:
            self._wait()
        elif self._head_complete:  # a body that goes on
            self._wait_no_more()
            self._wait()
        if not self._head_complete:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._head_complete and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431)

    def on_message_begin(self) -> None:
        """Begin a request's head."""
        super().on_message_begin()
        self._head_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            self._refuse(431)

    def on_headers_complete(self) -> None:
        """Hand the request on, unless it is refused."""
        self._head_complete = True
        self._head_bytes = 0
        if not self._refused:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that all of a request has come: from here on the answer may take its time."""
        self._wait_no_more()
        self._head_complete = False
        if not self._refused:
            super().on_message_complete()

    def _wait(self) -> None:
        self._deadline = self.loop.call_later(self.seconds, self._look_again)

    def _look_again(self) -> None:
        # Where the machine slept, or the loop was held up, bytes may be there that nobody has read.
        self._deadline = self.loop.call_later(_ONCE_MORE, self._expire)

    def _expire(self) -> None:
        if self._is_our_turn():
            self._wait()
        elif self._head_bytes or self._head_complete:
            self._refuse(408)
        else:  # nobody has asked anything
            self._refused = True
            self.transport.close()

    def _is_our_turn(self) -> bool:
        """Return whether the client waits for us: for an earlier answer, or to be read from."""
        cycle = self.cycle
        answering = cycle is not None and not (cycle.response_complete or cycle.more_body)
        return answering or self.flow.read_paused

    def _wait_no_more(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: int) -> None:
        self._wait_no_more()
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(
                STATUS_LINE[status] + b"content-length: 0\r\nconnection: close\r\n\r\n"
            )
        # Where a handler waits for the rest of a body, it learns that the client has gone.
        self.transport.close()
