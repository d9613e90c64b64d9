"""Servers that are not ours, and not always well."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from trtcoder.errors import EvaluationError
from trtcoder.evaluation.models.served_model import KEY_VARIABLE, ServedModel
from trtcoder.evaluation.problem import Form, Outcome, Problem

Reply = Callable[[str, dict[str, Any]], tuple[int, Any]]
SLEEP = "trtcoder.evaluation.models.served_model.time.sleep"


@contextmanager
def server(reply: Reply) -> Iterator[str]:
    """Answer each request by ``reply``, which gets its path and body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200, {"data": [{"id": "one"}, {"id": "two"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            body["authorization"] = self.headers.get("authorization")
            self._answer(*reply(self.path, body))

        def _answer(self, status: int, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def problem(form: Form = "complete", name: str = "a", **fields: Any) -> Problem:
    return Problem(
        id=name, form=form, prompt=name, max_tokens=4, judge=lambda answer, box: Outcome(True),
        **fields,
    )  # fmt: skip


def model(address: str, name: str | None = None) -> ServedModel:
    return ServedModel(address, name, at_once=4, timeout=60)


def completion(text: str) -> dict[str, Any]:
    return {"choices": [{"text": text, "finish_reason": "stop"}], "usage": {"completion_tokens": 2}}


def test_answers_come_in_the_order_of_the_problems() -> None:
    def reply(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return 200, completion(f"{body['model']} {body['prompt']} {body['temperature']}")

    with server(reply) as address, model(address, "two") as asked:
        problems = [problem(name=str(number)) for number in range(40)]
        found = [answer.text for answer in asked.answers(problems)]
    assert found == [f"two {number} 0" for number in range(40)]


def test_each_form_has_its_endpoint_and_a_few_stops_are_cut_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    seen: list[tuple[str, dict[str, Any]]] = []

    def reply(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        seen.append((path, body))
        if path.endswith("chat/completions"):
            return 200, {"choices": [{"message": {"content": None}, "finish_reason": "stop"}]}
        return 200, completion("one END two")

    stops = ("1", "2", "3", "4", "END")
    asked_of = [problem(stop=stops), problem("fill", suffix="behind"), problem("chat", system="s")]
    with server(reply) as address, model(address) as asked:
        texts = [answer.text for each in asked_of for answer in asked.answers([each])]
    assert texts == ["one ", "one END two", ""]
    assert [path for path, _ in seen] == [
        "/v1/completions", "/v1/completions", "/v1/chat/completions"
    ]  # fmt: skip
    assert seen[0][1]["stop"] == list(stops[:4])
    assert seen[1][1]["suffix"] == "behind"
    assert [each["role"] for each in seen[2][1]["messages"]] == ["system", "user"]
    assert all(body["authorization"] == "Bearer secret" for _, body in seen)


def test_a_busy_server_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(SLEEP, waits.append)
    left = [429, 503]

    def reply(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return (left.pop(0), {}) if left else (200, completion("yes"))

    with server(reply) as address, model(address) as asked:
        assert [each.text for each in asked.answers([problem()])] == ["yes"]
    assert waits == [1, 2]


def test_a_refused_problem_is_one_and_the_others_go_on() -> None:
    def reply(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if body["prompt"] == "long":
            return 400, {"error": {"message": "beyond the context"}}
        return 200, completion("yes")

    with server(reply) as address, model(address) as asked:
        found = list(asked.answers([problem(name="long"), problem()]))
    assert found[0].refused == "HTTP 400: beyond the context"
    assert found[1].text == "yes"


@pytest.mark.parametrize(
    ("status", "value", "complaint"),
    [
        (200, {"choices": []}, "its answer is not OpenAI's"),
        (200, [], "its answer is not OpenAI's"),
        (401, {}, f"give its key in the variable {KEY_VARIABLE}"),
        (500, {}, "does not answer"),
    ],
)
def test_a_server_that_fails_ends_the_run_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, status: int, value: Any, complaint: str
) -> None:
    monkeypatch.setattr(SLEEP, lambda seconds: None)
    with (
        server(lambda path, body: (status, value)) as address,
        pytest.raises(EvaluationError, match=complaint),
        model(address) as asked,
    ):
        list(asked.answers([problem()]))


def test_a_model_that_it_does_not_have_is_refused() -> None:
    with (
        server(lambda path, body: (200, {})) as address,
        pytest.raises(EvaluationError, match="has no model three; --model takes one, two"),
        model(address, "three"),
    ):
        pass


def test_tokens_are_counted_by_the_server_or_estimated() -> None:
    with server(lambda path, body: (200, {"tokens": [1, 2]})) as address, model(address) as asked:
        assert asked.count_tokens("abcdef" * 10) == 2
    with server(lambda path, body: (404, {})) as address, model(address) as asked:
        assert asked.count_tokens("abcdef" * 10) == 20
