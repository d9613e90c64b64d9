"""The way back from a model to one of Triton's clients."""

from __future__ import annotations

import threading
from typing import Any, Protocol

from numpy.typing import NDArray

from trtcoder.errors import BusyError, DependencyError, RequestError
from trtcoder.runtime.triton.tensor import Inputs

Outputs = dict[str, NDArray[Any]]


class CancelledError(Exception):
    """A request was ended by its client, or by a later one with `stop`."""

    def __init__(self) -> None:
        super().__init__("the request was cancelled")


class RelayedError(Exception):
    """What another model answered in place of a response; ``code`` is Triton's."""

    def __init__(self, message: str, code: Any) -> None:
        super().__init__(message)
        self.code = code


class Reply(Protocol):
    """The way back to one client."""

    def send(self, outputs: Outputs, *, last: bool) -> None:
        """Send a response; ``last`` ends the answer."""

    def fail(self, error: Exception) -> None:
        """End the answer with an error."""

    def is_cancelled(self) -> bool:
        """Whether the client does not wait any more."""


class TritonReply:
    """The way back through Triton, whose module is ``backend``. Any thread may use it.

    Triton forgets a request with its last response, and crashes when it is asked about one
    afterwards or at that moment (release 24.10: a segmentation fault of the whole server).
    """

    def __init__(self, backend: Any, sender: Any) -> None:
        self._backend = backend
        self._sender = sender
        self._last = int(backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        self._lock = threading.Lock()
        self._is_over = False

    def send(self, outputs: Outputs, *, last: bool) -> None:
        """Send a response; ``last`` ends the answer."""
        tensors = [self._backend.Tensor(name, array) for name, array in outputs.items()]
        response = self._backend.InferenceResponse(output_tensors=tensors)
        self._send(response, last)

    def end(self) -> None:
        """End an answer of several responses behind the last one."""
        self._send(None, True)

    def fail(self, error: Exception) -> None:
        """End the answer with an error."""
        told = self._backend.TritonError(str(error), self._code(error))
        self._send(self._backend.InferenceResponse(error=told), True)

    def is_cancelled(self) -> bool:
        """Whether the client does not wait any more; not where the answer has ended."""
        with self._lock:
            return not self._is_over and bool(self._sender.is_cancelled())

    def _send(self, response: Any, last: bool) -> None:
        with self._lock:
            self._is_over = self._is_over or last
            if response is None:
                self._sender.send(flags=self._last)
            else:
                self._sender.send(response, self._last if last else 0)

    def _code(self, error: Exception) -> Any:
        codes = self._backend.TritonError
        match error:
            case CancelledError():
                return codes.CANCELLED
            case RelayedError():
                return error.code
            case RequestError():
                return codes.INVALID_ARG
            case BusyError():
                return codes.UNAVAILABLE
            case DependencyError():
                return codes.UNSUPPORTED
        return codes.INTERNAL


def inputs_of(request: Any) -> Inputs:
    """Return the tensors of one of Triton's requests."""
    return Inputs({each.name(): each.as_numpy() for each in request.inputs()})
