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


class Client(asyncio.Protocol):
    """One connection; a request is sent when the answer to the one before is whole."""

    def __init__(self, path: str, bodies: list[Any], done: asyncio.Future[None]) -> None:
        self._path, self._bodies, self._done = path, [json.dumps(b).encode() for b in bodies], done
        self.streams: list[Stream] = []

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self._transport = transport
        self._next()

    def _next(self) -> None:
        if len(self.streams) == len(self._bodies):
            self._transport.close()
            return
        body = self._bodies[len(self.streams)]
        self._parser = httptools.HttpResponseParser(self)
        self.streams.append(Stream(time.perf_counter()))
        self._transport.write(
            b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (self._path.encode(), len(body), body)
        )

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Take a part of an answer."""
        self.streams[-1].arrivals.append((time.perf_counter(), body))

    def on_message_complete(self) -> None:
        """Ask the next one."""
        asyncio.get_running_loop().call_soon(self._next)

    def connection_lost(self, error: Exception | None) -> None:
        """End."""
        if not self._done.done():
            self._done.set_result(None)


def _same(client: Client) -> Client:
    return client


async def run(plan: dict[str, Any]) -> dict[str, Any]:
    """Return the answers of each client, and the seconds that all took."""
    loop = asyncio.get_running_loop()
    clients, ends = [], []
    started = time.perf_counter()
    for bodies in plan["clients"]:
        end: asyncio.Future[None] = loop.create_future()
        client = Client(plan["path"], bodies, end)
        await loop.create_connection(functools.partial(_same, client), "127.0.0.1", plan["port"])
        clients.append(client)
        ends.append(end)
    await asyncio.gather(*ends)
    seconds = time.perf_counter() - started
    answers = [[stream.read() for stream in client.streams] for client in clients]
    return {"seconds": seconds, "answers": answers}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(json.load(sys.stdin)))))
