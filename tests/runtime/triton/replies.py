"""A client's side of a request, and tensors to send."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from trtcoder.runtime.triton import llmapi
from trtcoder.runtime.triton.reply import Outputs
from trtcoder.runtime.triton.tensor import Inputs

_KINDS = {each.name: each for each in llmapi.INPUTS}


def inputs(**values: Any) -> Inputs:
    """Return a request's tensors; ``p_`` stands for ``sampling_param_``."""
    tensors = {}
    for short, value in values.items():
        name = f"sampling_param_{short[2:]}" if short.startswith("p_") else short
        tensors[name] = _KINDS[name].array(value if isinstance(value, list) else [value])
    return Inputs(tensors)


class Collected:
    """A reply that keeps what comes; ``is_gone`` makes its client one that left."""

    def __init__(self) -> None:
        self.responses: list[Outputs] = []
        self.error: Exception | None = None
        self.is_gone = False
        self.begun = threading.Event()
        self.ended = threading.Event()

    def send(self, outputs: Outputs, *, last: bool) -> None:
        assert not self.ended.is_set()
        self.responses.append(outputs)
        self.begun.set()
        if last:
            self.ended.set()

    def fail(self, error: Exception) -> None:
        assert not self.ended.is_set()
        self.error = error
        self.ended.set()

    def is_cancelled(self) -> bool:
        return self.is_gone

    def wait(self) -> Collected:
        """Return when the answer has ended."""
        assert self.ended.wait(60)
        return self

    def texts(self, answer: int = 0) -> list[str]:
        """Return the text of each response."""
        assert self.error is None, self.error
        return [each["text_output"][answer].decode() for each in self.responses]

    def one(self, name: str) -> Any:
        """Return the one value of a tensor of the last response."""
        (value,) = np.ravel(self.responses[-1][name]).tolist()
        return value
