"""What the guard refuses has the form of the dialect that was spoken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from anthropic import Anthropic, AuthenticationError
from ollama import Client, ResponseError

from tests.runtime.server.serving import Server, serve
from tests.runtime.server.talking import TALK
from tests.toy_engine import write_toy_engine

ORIGIN = "https://editor.example"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("keys")
    (work / "keys").write_text("secret\n")
    options = ["--api-key-file", str(work / "keys"), "--max-body-mib", "1"]
    folder = write_toy_engine(work / "engine")
    with serve(folder, work, *options, "--cors-origin", ORIGIN) as started:
        yield started


PATHS = {
    "/v1/chat/completions": "openai",
    "/v1/fim/completions": "openai",
    "/tokenize": "openai",
    "/v1/nothing": "openai",
    "/v1/messages?beta=true": "anthropic",
    "/v1/messages/count_tokens": "anthropic",
    "/api/chat": "ollama",
    "/api/nothing": "ollama",
    "/infill": "llama.cpp",
    "/completion": "llama.cpp",
    "/completions": "llama.cpp",
}


def kind(body: dict[str, Any], form: str, status: int) -> str:
    """Return the type of an error that has the form."""
    if form == "ollama":
        assert set(body) == {"error"}
        assert isinstance(body["error"], str)
        return ""
    error = body["error"]
    if form == "anthropic":
        assert body["type"] == "error"
        assert set(error) == {"type", "message"}
    elif form == "llama.cpp":
        assert set(error) == {"code", "message", "type"}
        assert error["code"] == status
    else:
        assert set(error) == {"message", "type", "param", "code"}
    return str(error["type"])


@pytest.mark.parametrize(("path", "form"), PATHS.items())
def test_a_refusal_has_its_dialects_form(server: Server, path: str, form: str) -> None:
    key = {"authorization": "Bearer secret", "content-type": "application/json"}
    big = b" " * (2 << 20)
    for status, headers, content in (
        (401, {}, b"{}"),
        (403, {**key, "host": "evil.example"}, b"{}"),
        (413, key, big),
    ):
        response = server.client.post(path, content=content, headers=headers)
        assert response.status_code == status, response.text
        found = kind(response.json(), form, status)
        if status == 401 and found:
            assert found == "authentication_error"
            assert response.headers["www-authenticate"] == "Bearer"
    missing = server.client.post(path, content=b"[", headers=key)
    assert missing.status_code == (404 if "nothing" in path else 400)
    kind(missing.json(), form, missing.status_code)


def test_clients_raise_their_own_errors(server: Server) -> None:
    with (
        Anthropic(base_url=server.address, api_key="wrong", max_retries=0) as client,
        pytest.raises(AuthenticationError),
    ):
        client.messages.create(model="deepseek-toy", max_tokens=1, messages=TALK)
    with Anthropic(base_url=server.address, api_key="secret", max_retries=0) as client:
        client.messages.create(model="deepseek-toy", max_tokens=1, messages=TALK)
    with Client(host=server.address) as ollama, pytest.raises(ResponseError) as caught:
        ollama.list()
    assert caught.value.status_code == 401
    assert "API key" in caught.value.error
    assert server.client.head("/").status_code == 200


def test_a_browser_is_told_whether_it_may_ask_without_a_key(server: Server) -> None:
    asked = {
        "origin": ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type",
    }
    allowed = server.client.options("/v1/chat/completions", headers=asked)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    other = {**asked, "origin": "https://evil.example"}
    assert server.client.options("/v1/chat/completions", headers=other).status_code == 400
    # A refusal can be read by a page that may ask.
    refused = server.client.get("/v1/models", headers={"origin": ORIGIN})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == ORIGIN
