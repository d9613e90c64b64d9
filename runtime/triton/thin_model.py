"""Models without an engine: they hand requests on to `tensorrt_llm`.

Each has a process of its own, which needs no more than NumPy and Triton's module. A request is a
call of Triton's business logic scripting, in a thread that waits for its responses.
"""

from __future__ import annotations

import json
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trtcoder.errors import RequestError
from trtcoder.runtime.triton.orphan import end_with_server
from trtcoder.runtime.triton.reply import (
    CancelledError,
    Outputs,
    RelayedError,
    TritonReply,
    inputs_of,
)
from trtcoder.runtime.triton.tensor import Inputs

ENGINE_MODEL = "tensorrt_llm"
# Triton's own default for such calls at a time is half of it; the rest wait there.
_CALLS = 64
_PERIOD = 0.05


@dataclass(frozen=True, slots=True)
class _Call:
    """A call under way; ``request_id`` is its client's, the engine knows another."""

    id: str
    request_id: str
    reply: TritonReply


class ThinModel(ABC):
    """Hands requests on; what is handed on, and what of the responses, is for who derives."""

    backend: ClassVar[Any]
    engine_outputs: ClassVar[Sequence[str]]

    def initialize(self, args: dict[str, str]) -> None:
        """Take the configuration."""
        end_with_server()
        config = json.loads(args["model_config"])
        self._parts = bool(config.get("model_transaction_policy", {}).get("decoupled"))
        said = config.get("parameters", {}).get("engine_decoupled", {})
        self._engine_parts = said.get("string_value", "true") == "true"
        self._pool = ThreadPoolExecutor(_CALLS, "trtcoder-triton-call")
        self._lock = threading.Lock()
        self._calls: dict[str, _Call] = {}
        self._closing = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    @abstractmethod
    def to_engine(self, inputs: Inputs) -> Mapping[str, NDArray[Any]]:
        """Return the tensors for the engine.

        Raises:
            RequestError: a tensor has a value that cannot be served.
        """

    def from_engine(self, outputs: Outputs) -> Outputs:
        """Return the tensors for the client."""
        return outputs

    def execute(self, requests: Sequence[Any]) -> None:
        """Hand requests on."""
        for request in requests:
            reply = TritonReply(self.backend, request.get_response_sender())
            try:
                inputs = inputs_of(request)
                if inputs.flag("stop"):
                    self._stop_all(request.request_id())
                    raise CancelledError
                tensors = self.to_engine(inputs)
                parts = inputs.flag("streaming") or inputs.flag("stream")
                if parts and not self._parts:
                    raise RequestError(
                        "this model answers in one response; stream from tensorrt_llm"
                    )
            except Exception as error:
                reply.fail(error)
                continue
            call = _Call(uuid.uuid4().hex, request.request_id(), reply)
            with self._lock:
                self._calls[call.id] = call
            self._pool.submit(self._hand_on, call, tensors, parts)

    def finalize(self) -> None:
        """Wait for what is under way."""
        self._pool.shutdown()
        self._closing.set()
        self._watcher.join()

    def _hand_on(self, call: _Call, tensors: Mapping[str, NDArray[Any]], parts: bool) -> None:
        reply = call.reply
        try:
            responses = map(self.from_engine, self._ask(call.id, tensors))
            if parts:
                for outputs in responses:
                    reply.send(outputs, last=False)
                reply.end()
            else:
                (outputs,) = responses
                reply.send(outputs, last=True)
        except Exception as error:
            reply.fail(error)
        finally:
            with self._lock:
                del self._calls[call.id]

    def _ask(self, call: str, tensors: Mapping[str, NDArray[Any]]) -> Iterator[Outputs]:
        """Yield the responses of the engine's model."""
        request = self.backend.InferenceRequest(
            model_name=ENGINE_MODEL,
            request_id=call,
            requested_output_names=list(self.engine_outputs),
            inputs=[self.backend.Tensor(name, array) for name, array in tensors.items()],
        )
        found = request.exec(decoupled=self._engine_parts)
        for response in found if self._engine_parts else [found]:
            if response.has_error():
                error = response.error()
                raise RelayedError(error.message(), error.code())
            outputs = {each.name(): each.as_numpy() for each in response.output_tensors()}
            if outputs:
                yield outputs

    def _watch(self) -> None:
        """End what clients do not wait for any more."""
        told: set[str] = set()
        while not self._closing.wait(_PERIOD):
            with self._lock:
                calls = list(self._calls.values())
            told &= {call.id for call in calls}
            for call in calls:
                if call.id not in told and call.reply.is_cancelled():
                    told.add(call.id)
                    self._pool.submit(self._stop, call.id)

    def _stop_all(self, request_id: str) -> None:
        if not request_id:
            raise RequestError("stop: give the request id of what is to be stopped")
        with self._lock:
            calls = [call.id for call in self._calls.values() if call.request_id == request_id]
        for call in calls:
            self._pool.submit(self._stop, call)

    def _stop(self, call: str) -> None:
        tensors = {"stop": np.array([True])}
        try:
            list(self._ask(call, tensors))
        except RelayedError:
            return  # which is how the engine's model answers it
