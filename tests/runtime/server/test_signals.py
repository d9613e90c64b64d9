"""Signals that come at the worst time."""

from __future__ import annotations

import io
import signal
import sys
import threading

import pytest
import structlog
import uvicorn

from trtcoder.runtime.server.engines import Engines
from trtcoder.runtime.server.log import configure_log
from trtcoder.runtime.server.serving import _Server


class SignalledStream(io.StringIO):
    """A standard error in whose first line a signal arrives."""

    def __init__(self, server: _Server) -> None:
        super().__init__()
        self._server = server
        self._is_first = True

    def write(self, text: str) -> int:
        if self._is_first:
            self._is_first = False
            self._server.handle_exit(signal.SIGTERM, None)
        return super().write(text)


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_signal_in_the_middle_of_a_log_line_is_taken(
    style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = Engines()
    server = _Server(uvicorn.Config(lambda: None), engines)
    stream = SignalledStream(server)
    monkeypatch.setattr(sys, "stderr", stream)
    configure_log(style)
    try:
        line = threading.Thread(target=structlog.get_logger().info, args=["a line"], daemon=True)
        line.start()
        line.join(timeout=30)
        assert not line.is_alive()
    finally:
        structlog.reset_defaults()
    assert engines.is_draining
    assert server.should_exit
    assert "a line" in stream.getvalue()
