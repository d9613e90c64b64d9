from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.runtime.server.serving import Server, serve
from tests.runtime.server.talking import CLOCK, SPOKEN, TALK, WEATHER, openai_tools
from tests.toy_engine import byte_tokenizer, toy_manifest, write_toy_engine
from trtcoder import LLM
from trtcoder.prompting.tokenizer import TextTokenizer

TOKENIZER = TextTokenizer(byte_tokenizer())
MODEL = "deepseek-toy"
TOOLS = openai_tools(WEATHER, CLOCK)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_engine(tmp_path_factory.mktemp("toy") / "engine")


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(folder, tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(folder)


@pytest.fixture
def client(server: Server) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.address) as found:
        yield found


def text_of(llm: LLM, ids: list[int], count: int) -> str:
    (output,) = llm.generate(prompt_token_ids=[ids], max_tokens=count)
    return output.outputs[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_a_suffix_fills_in_the_middle(client: ollama.Client, llm: LLM, stream: bool) -> None:
    asked: dict[str, Any] = {
        "model": MODEL, "prompt": "ab", "suffix": "c", "options": {"num_predict": 5}
    }  # fmt: skip
    pieces = list(client.generate(**asked, stream=True)) if stream else [client.generate(**asked)]
    assert "".join(each.response or "" for each in pieces) == text_of(
        llm, llm.prompts.fim("ab", "c"), 5
    )
    assert [each.done for each in pieces] == [False] * (len(pieces) - 1) + [True]
    last = pieces[-1]
    assert (last.done_reason, last.eval_count) == ("length", 5)
    assert last.prompt_eval_count == len(llm.prompts.fim("ab", "c"))
    # Nanoseconds: an answer takes more than a thousand and less than a minute.
    assert 1_000 < (last.prompt_eval_duration or 0) <= (last.total_duration or 0) < 6e10


def test_a_raw_prompt_is_text_and_another_one_a_chats_message(
    client: ollama.Client, llm: LLM
) -> None:
    options = {"num_predict": 4}
    raw = client.generate(MODEL, "hello", raw=True, options=options)
    assert raw.response == text_of(llm, llm.prompts.completion("hello"), 4)
    said = client.generate(MODEL, "hello", system="S", options=options)
    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": "hello"}]
    assert said.response == text_of(llm, llm.prompts.chat(chat), 4)


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_answers_in_a_message(client: ollama.Client, llm: LLM, stream: bool) -> None:
    messages = [{"role": "user", "content": "hi"}]
    asked: dict[str, Any] = {
        "model": MODEL, "messages": messages, "options": {"num_predict": 6}
    }  # fmt: skip
    pieces = list(client.chat(**asked, stream=True)) if stream else [client.chat(**asked)]
    expected = text_of(llm, llm.prompts.chat(messages), 6)
    assert "".join(each.message.content or "" for each in pieces) == expected
    assert pieces[-1].done_reason == "length"


@pytest.mark.parametrize("name", SPOKEN)
def test_a_chat_calls_tools(speaking: Server, name: str) -> None:
    # Ollama's client writes schemas anew, and the engines are scripted for these.
    asked = {"model": f"deepseek-{name}", "messages": TALK, "tools": TOOLS}
    whole = [ollama.ChatResponse(**speaking.post("/api/chat", **asked, stream=False).json())]
    lines = speaking.post("/api/chat", **asked).text.splitlines()
    streamed = [ollama.ChatResponse(**json.loads(each)) for each in lines]
    for pieces in (whole, streamed):
        assert "".join(each.message.content or "" for each in pieces) == SPOKEN[name].text
        calls = [call for each in pieces for call in each.message.tool_calls or ()]
        assert [(call.function.name, call.function.arguments) for call in calls] == SPOKEN[
            name
        ].calls
        assert [each.done for each in pieces] == [False] * (len(pieces) - 1) + [True]
        assert pieces[-1].done_reason == "stop"


def test_ollamas_client_sends_tools(roomy: Server) -> None:
    with ollama.Client(host=roomy.address) as client:
        answer = client.chat(MODEL, TALK, tools=TOOLS, options={"num_predict": 3})
    assert answer.eval_count == 3


def test_calls_and_results_of_a_chat_are_taken_back(roomy: Server) -> None:
    told = [
        {"id": "1", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
        {"function": {"name": "clock", "arguments": {}}},
    ]
    tokens = []
    for path, call, result in (
        ("/v1/chat/completions", told[0], {"tool_call_id": "1"}),
        ("/api/chat", told[1], {"tool_name": "clock"}),
    ):
        messages = [
            *TALK,
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "noon", **result},
        ]
        body = {"model": MODEL, "messages": messages, "tools": TOOLS, "stream": False}
        limits = {"max_tokens": 2, "options": {"num_predict": 2}}
        answer = roomy.post(path, **body, **limits).json()
        tokens.append(answer.get("prompt_eval_count") or answer["usage"]["prompt_tokens"])
    assert tokens[0] == tokens[1]


def test_models_are_listed_and_described(client: ollama.Client, server: Server) -> None:
    (model,) = client.list().models
    assert model.model == f"{MODEL}:latest"
    (running,) = client.ps().models
    assert running.context_length == 64
    shown = client.show(f"{MODEL}:latest")
    assert shown.capabilities == ["completion", "insert", "tools"]
    assert server.client.get("/api/version").json()["version"]
    assert server.client.head("/").status_code == 200


def test_a_request_without_a_prompt_loads(client: ollama.Client) -> None:
    assert client.generate(MODEL).done_reason == "load"
    assert client.generate(MODEL, keep_alive=0).done_reason == "unload"
    (piece,) = client.chat(MODEL, stream=True)
    assert (piece.done, piece.done_reason) == (True, "load")


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/api/generate", {"model": "other", "prompt": "a"}, 404, "other"),
        ("/api/generate", {"prompt": "a"}, 400, "model"),
        ("/api/generate", {"model": MODEL, "prompt": 3}, 400, "prompt"),
        ("/api/generate", {"model": MODEL, "prompt": "a", "template": "x"}, 400, "template"),
        ("/api/generate", {"model": MODEL, "prompt": "a", "images": ["x"]}, 400, "images"),
        ("/api/generate", {"model": MODEL, "prompt": "a", "raw": True, "system": "s"}, 400, "raw"),
        ("/api/generate", {"model": MODEL, "prompt": "a", "options": {"top_p": 3}}, 400, "top_p"),
        ("/api/chat", {"model": MODEL, "messages": [{"role": "x"}]}, 400, "role"),
        ("/api/chat", {"model": MODEL, "messages": "x"}, 400, "messages"),
        ("/api/chat", {"model": MODEL, "messages": TALK, "tools": [{}]}, 400, "tools"),
        ("/api/chat", {"model": MODEL, "messages": TALK, "tools": "x"}, 400, "tools"),
        ("/api/show", {"model": "other"}, 404, "other"),
    ],
)
def test_an_error_is_a_text(
    server: Server, path: str, body: dict[str, Any], status: int, text: str
) -> None:
    response = server.post(path, **body)
    assert response.status_code == status, response.text
    assert text in response.json()["error"]


def test_an_engine_without_fim_says_so(tmp_path: Path) -> None:
    engine = write_toy_engine(tmp_path / "engine", toy_manifest(fim=False))
    with serve(engine, tmp_path) as mute, ollama.Client(host=mute.address) as client:
        with pytest.raises(ollama.ResponseError, match="was not trained to fill in the middle"):
            client.generate(MODEL, "a", suffix="b")
        assert client.show(MODEL).capabilities == ["completion", "tools"]
