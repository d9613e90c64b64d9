"""A network between a browser and a server, which can hold an answer back in its middle."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

# What the first piece of a chat's text begins with.
_TEXT = b'"delta":{"content":"'


class Link:
    """Passes bytes on; of an answer with text, no more than the first that come.

    Attributes:
        address: of the server, through this link.
    """

    def __init__(self, server: str) -> None:
        self._server = urlsplit(server)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._held: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End the answers that are held back, in their middle."""
        for each in self._held:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Take no more."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                browser, _ = self._listener.accept()
                server = socket.create_connection((self._server.hostname, self._server.port))
                for source, target in ((browser, server), (server, browser)):
                    threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                target.sendall(data)
                if _TEXT in data:
                    self._held.append(target)
                    return
            target.shutdown(socket.SHUT_RDWR)
        for each in (source, target):
            each.close()


@contextmanager
def held_link(server: str) -> Iterator[Link]:
    """Yield a link to the server at an address."""
    link = Link(server)
    try:
        yield link
    finally:
        link.close()
