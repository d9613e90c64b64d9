"""Asks a Triton server by NVIDIA's gRPC client: JSON comes in, JSON goes out.

The server's own Python runs it, with the address as argument. Standard input is a list of requests,
which are asked all at a time: ``model``; ``inputs``, by name a list of type, shape and values;
``outputs`` that are asked for, all if left out; ``id``; ``stream`` (a stream of gRPC) or not (a
unary call); ``delay``, the seconds before it is asked; ``cancel_after``, the number of responses
behind which the client leaves (0: at once), and ``stays``, the seconds that it then waits. Of each
the output has the responses, by name of tensor, the error, and when it was asked, when its client
left and when the end came, in seconds of a monotonic clock.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

SECONDS = 500


def tensors(asked: dict[str, Any]) -> list[Any]:
    """Return a request's tensors."""
    found = []
    for name, (kind, shape, values) in asked["inputs"].items():
        coded = [each.encode() for each in values] if kind == "BYTES" else values
        tensor = triton.InferInput(name, shape, kind)
        tensor.set_data_from_numpy(np.array(coded, triton_to_np_dtype(kind)).reshape(shape))
        found.append(tensor)
    return found


def plain(result: Any) -> dict[str, Any]:
    """Return a response's tensors by name."""
    found = {}
    for output in result.get_response().outputs:
        values = result.as_numpy(output.name)
        if values.dtype == np.object_:
            values = np.array([each.decode() for each in values.reshape(-1)]).reshape(values.shape)
        found[output.name] = values.tolist()
    return found


class Outcome:
    """What came of a request."""

    def __init__(self) -> None:
        self.responses: list[dict[str, Any]] = []
        self.error: str | None = None
        self.ended = threading.Event()
        self.came = threading.Semaphore(0)
        self.start = self.left = self.end = 0.0

    def take(self, result: Any, error: Any) -> None:
        """Take a response or an error."""
        self.end = time.monotonic()
        if error is not None:
            self.fail(error)
            return
        if result.get_response().outputs:
            self.responses.append(plain(result))
        last = result.get_response().parameters.get("triton_final_response")
        if last is None or last.bool_param:
            self.ended.set()
        self.came.release()

    def fail(self, error: Any) -> None:
        """Take an error."""
        self.error = f"{error.status()}: {error.message()}"
        self.ended.set()
        self.came.release()


def ask(address: str, asked: dict[str, Any], outcome: Outcome) -> None:
    """Ask a request to its end, or until the client is to leave."""
    after = asked.get("cancel_after")
    options: dict[str, Any] = {"request_id": asked.get("id", "")}
    if "outputs" in asked:
        options["outputs"] = [triton.InferRequestedOutput(name) for name in asked["outputs"]]
    with triton.InferenceServerClient(address) as client:
        call = None
        time.sleep(asked.get("delay", 0.0))
        outcome.start = time.monotonic()
        if asked["stream"]:
            client.start_stream(outcome.take)
            client.async_stream_infer(
                asked["model"], tensors(asked), enable_empty_final_response=True, **options
            )
        else:
            call = client.async_infer(asked["model"], tensors(asked), outcome.take, **options)
        if after is None:
            if not outcome.ended.wait(SECONDS):
                outcome.error = "it did not end"
            return
        for _ in range(after):
            outcome.came.acquire(timeout=SECONDS)
        time.sleep(asked.get("stays", 0.0))
        outcome.left = time.monotonic()
        if call is None:
            client.stop_stream(cancel_requests=True)
        else:
            call.cancel()
            outcome.ended.wait(SECONDS)


def main() -> None:
    """Ask all, each in a thread with a connection of its own."""
    requests = json.load(sys.stdin)
    outcomes = [Outcome() for _ in requests]

    def run(request: dict[str, Any], outcome: Outcome) -> None:
        try:
            ask(sys.argv[1], request, outcome)
        except InferenceServerException as error:
            outcome.fail(error)

    threads = [
        threading.Thread(target=run, args=pair) for pair in zip(requests, outcomes, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shown = ("responses", "error", "start", "left", "end")
    json.dump([{name: getattr(each, name) for name in shown} for each in outcomes], sys.stdout)


if __name__ == "__main__":
    main()
