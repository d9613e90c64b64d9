"""Ports that nobody listens on."""

from __future__ import annotations

from contextlib import ExitStack
from socket import socket


def free_ports(count: int) -> list[int]:
    """Return so many ports of loopback, of which no two are alike."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
