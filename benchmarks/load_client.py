"""Clients of one server in a process of their own: each sends its requests one after another.

Reads a plan from standard input and writes what came, and when, to standard output, as JSON. Only
bytes and times are kept while streams run, so that the clients take little of the machine.
"""

from __future__ import annotations

import asyncio
import functools
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import httptools


@dataclass(slots=True)
class Stream:
    """One request's answer.

    Attributes:
        sent: when the request was sent, in seconds of a monotonic clock.
        arrivals: when bytes came, and which.
    """

    sent: float
    arrivals: list[tuple[float, bytes]] = field(default_factory=list)

    def read(self) -> dict[str, Any]:
        """Return the text, and when each part of it came, in seconds after ``sent``."""
        text, times, status = "", [], "it ended before its end"
        held = b""
        usage: dict[str, Any] | None = None
        for when, data in self.arrivals:
            *lines, held = (held + data).split(b"\n")
            for line in lines:
                if line == b"data: [DONE]" and status == "it ended before its end":
                    status = ""
                if not line.startswith(b"data: ") or line == b"data: [DONE]":
                    continue
                found = json.loads(line[6:])
                if "error" in found:
                    status = json.dumps(found["error"])
                part = found.get("content")
                if part is None:
                    part = "".join(each.get("text") or "" for each in found.get("choices", ()))
                usage = found.get("usage") or usage
                if part:
                    text += part
                    times.append(round(when - self.sent, 6))
        return {"text": text, "times": times, "error": status, "usage": usage}


class Connection(asyncio.Protocol):
    """One request on a connection of its own: not every server keeps one behind a stream."""

    def __init__(self, path: str, body: bytes, done: asyncio.Future[None]) -> None:
        self._done = done
        self._parser = httptools.HttpResponseParser(self)
        self._request = (
            b"POST %s HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (path.encode(), len(body), body)
        )
        self.stream = Stream(time.perf_counter())

    def connection_made(self, transport: Any) -> None:
        """Ask."""
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Take a part of the answer."""
        self.stream.arrivals.append((time.perf_counter(), body))

    def connection_lost(self, error: Exception | None) -> None:
        """End."""
        if not self._done.done():
            self._done.set_result(None)


async def client(port: int, path: str, bodies: list[Any]) -> list[Stream]:
    """Send requests one after another; return their answers."""
    loop = asyncio.get_running_loop()
    streams = []
    for body in [json.dumps(each).encode() for each in bodies]:
        done: asyncio.Future[None] = loop.create_future()
        connection = Connection(path, body, done)
        await loop.create_connection(functools.partial(_same, connection), "127.0.0.1", port)
        await done
        streams.append(connection.stream)
    return streams


def _same(connection: Connection) -> Connection:
    return connection


async def run(plan: dict[str, Any]) -> dict[str, Any]:
    """Return the answers of each client, and the seconds that all took."""
    started = time.perf_counter()
    found = await asyncio.gather(
        *(client(plan["port"], plan["path"], bodies) for bodies in plan["clients"])
    )
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "answers": [[each.read() for each in streams] for streams in found]}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(json.load(sys.stdin)))))
