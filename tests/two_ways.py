"""The two ways in which an engine runs, for tests that hold for both."""

from __future__ import annotations

import pytest

from trtcoder.errors import TrtcoderError
from trtcoder.plugins.library import open_library

WAYS = ("kernels", "stock")


def go(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let engines run on our kernels, or on ONNX Runtime's own operators alone."""
    if way == "stock":
        monkeypatch.setenv("TRTCODER_PLUGINS", "0")
        return
    try:
        open_library()
    except TrtcoderError as error:
        pytest.skip(str(error))
