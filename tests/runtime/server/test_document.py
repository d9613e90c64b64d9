"""The OpenAPI document says what is answered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.server.fuzz import KEY, SHORT, run, serve_with_key
from tests.runtime.server.serving import Server


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def server(work: Path) -> Iterator[Server]:
    with serve_with_key(work) as started:
        started.client.headers["authorization"] = f"Bearer {KEY}"
        yield started


@pytest.fixture(scope="module")
def paths(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.client.get("/openapi.json").json()["paths"]
    return found


def test_requests_made_from_the_document_find_no_failure(server: Server, work: Path) -> None:
    done = run(server, work, SHORT)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def test_every_endpoint_says_how_it_refuses(paths: dict[str, Any]) -> None:
    for path, methods in paths.items():
        for method, operation in methods.items():
            statuses = operation["responses"].keys()
            assert "422" not in statuses
            if method == "post":
                assert {"200", "400", "401", "403", "404", "413", "429", "500", "503"} <= statuses
            is_open = path.startswith("/health")
            assert is_open == ("security" not in operation), path


@pytest.mark.parametrize(
    ("path", "type_"),
    [
        ("/v1/completions", "text/event-stream"),
        ("/v1/chat/completions", "text/event-stream"),
        ("/v1/responses", "text/event-stream"),
        ("/v1/messages", "text/event-stream"),
        ("/v1/fim/completions", "text/event-stream"),
        ("/infill", "text/event-stream"),
        ("/completion", "text/event-stream"),
        ("/api/generate", "application/x-ndjson"),
        ("/api/chat", "application/x-ndjson"),
    ],
)
def test_a_stream_has_the_type_that_the_document_says(
    server: Server, paths: dict[str, Any], path: str, type_: str
) -> None:
    assert paths[path]["post"]["responses"]["200"]["content"].keys() == {"application/json", type_}
    message = {"role": "user", "content": "x"}
    asked: dict[str, Any] = {
        "model": "",
        "input": "a",
        "messages": [message],
        "input_prefix": "a",
        "input_suffix": "b",
        "max_tokens": 2,
        "stream": True,
    }
    if path != "/v1/responses":
        asked["prompt"] = "a"
    response = server.post(path, **asked)
    assert response.status_code == 200
    assert response.headers["content-type"].partition(";")[0] == type_
    whole = server.post(path, **{**asked, "stream": False})
    assert whole.headers["content-type"] == "application/json"
