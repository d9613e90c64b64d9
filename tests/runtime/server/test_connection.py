from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import uvicorn

from trtcoder.runtime.server.connection import MAX_HEAD_BYTES, MAX_HEADERS, Connection


class Quick(Connection):
    """A connection whose patience a test can wait for."""

    seconds = 0.3


class Echo:
    """Answers with the size of the body; `/late` answers later than a client may be slow."""

    def __init__(self) -> None:
        self.left = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left.set()
                return
            size, more = size + len(message["body"]), message["more_body"]
        if scope["path"] == "/late":
            await asyncio.sleep(3 * Quick.seconds)
        length = str(len(str(size))).encode()
        headers = [(b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": str(size).encode()})


@pytest.fixture
def app() -> Echo:
    return Echo()


@pytest.fixture
def port(app: Echo) -> Iterator[int]:
    config = uvicorn.Config(app, http=Quick, ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=lambda: server.run([listener]))
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


def said(port: int, *parts: bytes) -> bytes:
    """Return all that is answered to ``parts`` until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
        answer = b""
        try:
            while part := connection.recv(1 << 16):
                answer += part
        except ConnectionResetError:  # it closed while we were sending
            pass
        return answer


def still_answers(port: int) -> bool:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("POST", "/", b"abc")
        return connection.getresponse().read() == b"3"


def test_a_giant_header_is_refused(port: int) -> None:
    giant = b"x" * (2 * MAX_HEAD_BYTES)
    answer = said(port, b"GET / HTTP/1.1\r\nhost: a\r\nbomb: ", giant)
    assert answer == b"" or b" 431 " in answer
    assert still_answers(port)


def test_a_header_without_end_is_not_kept(port: int) -> None:
    far_beyond_what_the_system_buffers = b"x" * (100 << 20)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nbomb: ")
        with pytest.raises(OSError, match=r"reset|pipe|abort"):
            connection.sendall(far_beyond_what_the_system_buffers)


def test_very_many_headers_are_refused(port: int) -> None:
    many = b"".join(b"h%d: x\r\n" % index for index in range(MAX_HEADERS + 1))
    assert b" 431 " in said(port, b"GET / HTTP/1.1\r\n" + many + b"\r\n")
    assert still_answers(port)


def test_a_head_that_never_ends_is_not_waited_for(port: int) -> None:
    assert b" 408 " in said(port, b"GET / HTTP/1.1\r\nhost: a\r\n")


def test_a_client_that_says_nothing_is_not_waited_for(port: int) -> None:
    assert said(port) == b""


def test_a_body_that_stops_ends_the_request(port: int, app: Echo) -> None:
    said(port, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n", b"abc")
    assert app.left.wait(30)


def test_an_answer_may_take_longer_than_a_request(port: int) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        for _ in range(2):  # the second one on the same connection
            connection.request("POST", "/late", b"abcd")
            assert connection.getresponse().read() == b"4"


def test_a_request_behind_another_waits_for_its_answer(port: int) -> None:
    head = b"POST /late HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n"
    close = b"connection: close\r\n\r\n"
    answer = said(port, head + b"\r\na" + head + close + b"b")
    assert answer.count(b" 200 OK") == 2


def test_what_is_no_http_is_400(port: int) -> None:
    assert b" 400 " in said(port, b"\x16\x03\x01\x02\x00\x01\x00")
    assert still_answers(port)
