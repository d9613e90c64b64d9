from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from anthropic import Anthropic, APIStatusError

from tests.runtime.server.serving import Server, serve, wait_for
from tests.runtime.server.talking import (
    CLOCK,
    HOT,
    SPOKEN,
    TALK,
    WEATHER,
    anthropic_tools,
    fits,
    roomy_engine,
)

PATH = "/v1/messages?beta=true"
TOOLS = anthropic_tools(WEATHER, CLOCK)
# What agents send beside their messages.
BESIDE: dict[str, Any] = {
    "thinking": {"type": "adaptive"},
    "metadata": {"user_id": "u"},
    "context_management": {"edits": []},
    "service_tier": "auto",
}


@pytest.fixture(scope="module")
def client(roomy: Server) -> Iterator[Any]:
    with Anthropic(base_url=roomy.address, api_key="none", max_retries=0) as opened:
        yield opened


def test_an_answer_is_that_of_a_chat(roomy: Server, client: Any) -> None:
    chat = roomy.post(
        "/v1/chat/completions",
        messages=[{"role": "system", "content": "S"}, *TALK],
        max_tokens=6,
    ).json()
    for system in ("S", [{"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}}]):
        answer = client.messages.create(
            model="deepseek-toy", max_tokens=6, messages=TALK, system=system, extra_body=BESIDE
        )
        assert answer.content[0].type == "text"
        assert answer.content[0].text == chat["choices"][0]["message"]["content"]
        assert answer.stop_reason == "max_tokens"
        assert answer.usage.output_tokens == 6
        read = answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)
        assert read == chat["usage"]["prompt_tokens"]
    counted = client.messages.count_tokens(model="deepseek-toy", messages=TALK, system="S")
    assert counted.input_tokens == chat["usage"]["prompt_tokens"]


def test_a_stream_has_the_six_events_in_order(roomy: Server) -> None:
    body = {"messages": TALK, "max_tokens": 6}
    whole = roomy.post(PATH, **body).json()
    events = roomy.events(PATH, **body)
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    text = "".join(event["delta"]["text"] for event in events[2:-3])
    assert text == whole["content"][0]["text"]
    assert events[-2]["delta"]["stop_reason"] == "max_tokens"
    assert events[-2]["usage"]["output_tokens"] == 6


@pytest.mark.parametrize("name", SPOKEN)
def test_text_and_calls_are_blocks_one_after_the_other(speaking: Server, name: str) -> None:
    text, calls = SPOKEN[name].text, SPOKEN[name].calls
    asked: Any = {
        "model": f"deepseek-{name}", "messages": TALK, "tools": TOOLS, "max_tokens": 500
    }  # fmt: skip
    with Anthropic(base_url=speaking.address, api_key="none", max_retries=0) as client:
        whole: Any = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            final: Any = stream.get_final_message()
    for message in (whole, final):
        said = "".join(block.text for block in message.content if block.type == "text")
        found = [(block.name, block.input) for block in message.content if block.type == "tool_use"]
        assert (said, found) == (text, calls)
        assert message.stop_reason == ("tool_use" if calls else "end_turn")
    kinds = [(event["type"], event.get("index")) for event in speaking.events(PATH, **asked)]
    opened = [index for kind, index in kinds if kind == "content_block_start"]
    closed = [index for kind, index in kinds if kind == "content_block_stop"]
    assert opened == closed == list(range(len(calls) + bool(text)))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
def test_a_call_that_is_required_comes(client: Any, seed: int, choice: Any) -> None:
    answer = client.messages.create(
        model="deepseek-toy",
        max_tokens=500,
        messages=TALK,
        tools=TOOLS,
        tool_choice={**choice, "disable_parallel_tool_use": True},
        extra_body={"temperature": HOT, "top_k": 50 + seed},
    )
    (block,) = answer.content
    assert block.type == "tool_use"
    assert fits(block.name, block.input)
    assert choice.get("name", block.name) == block.name


def test_calls_results_and_thoughts_are_taken_back(client: Any) -> None:
    messages: Any = [
        *TALK,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "clock", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t1",
                    "content": [{"type": "text", "text": "noon"}],
                },
                {"type": "text", "text": "so?"},
            ],
        },
        {"role": "system", "content": "Be brief."},
    ]
    answer = client.messages.create(
        model="deepseek-toy", max_tokens=3, messages=messages, tools=TOOLS
    )
    assert answer.usage.output_tokens == 3


def test_a_last_message_of_the_assistant_is_continued(roomy: Server) -> None:
    messages = [*TALK, {"role": "assistant", "content": "Yo"}]
    chat = roomy.post(
        "/v1/chat/completions", messages=messages, continue_final_message=True, max_tokens=4
    ).json()
    answer = roomy.post(PATH, messages=messages, max_tokens=4).json()
    assert answer["content"][0]["text"] == chat["choices"][0]["message"]["content"]


def test_a_stop_sequence_is_named(speaking: Server) -> None:
    body = {
        "model": "deepseek-text",
        "messages": TALK,
        "tools": TOOLS,
        "max_tokens": 50,
        "stop_sequences": ["lo"],
    }
    answer = speaking.post(PATH, **body).json()
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "lo")
    assert answer["content"][0]["text"] == "Hel"
    delta = speaking.events(PATH, **body)[-2]["delta"]
    assert delta == {"stop_reason": "stop_sequence", "stop_sequence": "lo"}


@pytest.mark.parametrize(
    ("body", "status", "kind", "word"),
    [
        ({"messages": TALK}, 400, "invalid_request_error", "max_tokens"),
        ({"messages": [], "max_tokens": 1}, 400, "invalid_request_error", "messages"),
        ({"messages": TALK, "max_tokens": 0}, 400, "invalid_request_error", "max_tokens"),
        (
            {"messages": TALK, "max_tokens": 1, "temperature": -1},
            400,
            "invalid_request_error",
            "temperature",
        ),
        ({"messages": TALK, "max_tokens": 1, "model": "other"}, 404, "not_found_error", "other"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}], "max_tokens": 1},
            400,
            "invalid_request_error",
            "image",
        ),
        (
            {"messages": [{"role": "user", "content": "x" * 3000}], "max_tokens": 1},
            400,
            "invalid_request_error",
            "2048",
        ),
        (
            {"messages": TALK, "max_tokens": 1, "tools": [{"name": "a b", "input_schema": {}}]},
            400,
            "invalid_request_error",
            "tools",
        ),
        (
            {
                "messages": TALK,
                "max_tokens": 1,
                "tools": [{"type": "bash_20250124", "name": "bash"}],
                "tool_choice": {"type": "any"},
            },
            400,
            "invalid_request_error",
            "bash_20250124",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_anthropics_form(
    roomy: Server, body: dict[str, Any], status: int, kind: str, word: str, stream: bool
) -> None:
    response = roomy.post(PATH, **body, stream=stream)
    assert response.status_code == status, response.text
    answer = response.json()
    assert answer["type"] == "error"
    assert answer["error"]["type"] == kind
    assert word in answer["error"]["message"]


def test_the_client_raises_its_own_errors(client: Any) -> None:
    with pytest.raises(APIStatusError) as caught:
        client.messages.create(model="other", max_tokens=1, messages=TALK)
    assert caught.value.status_code == 404
    assert "other" in str(caught.value)


def test_an_engine_without_chat_says_so_in_every_dialect(tmp_path: Path) -> None:
    with serve(roomy_engine(tmp_path / "engine", chat=False), tmp_path) as server:
        for path, body in (
            ("/v1/chat/completions", {"messages": TALK}),
            ("/v1/messages", {"messages": TALK, "max_tokens": 1}),
            ("/v1/messages/count_tokens", {"messages": TALK}),
            ("/v1/responses", {"input": "x"}),
        ):
            response = server.post(path, **body)
            assert response.status_code == 400, path
            assert "was not trained to chat" in response.json()["error"]["message"]
        assert server.client.head("/").status_code == 200


def test_a_reader_who_leaves_ends_the_request(roomy: Server) -> None:
    def left(before: float = 0) -> float:
        return roomy.metric("trtcoder:requests_finished_total", "cancelled") - before

    for path in (PATH, "/v1/responses", "/v1/chat/completions"):
        before = left()
        body = {"messages": TALK, "input": "x", "max_tokens": 1900, "max_output_tokens": 1900}
        with (
            httpx.Client(base_url=roomy.address) as reader,
            reader.stream("POST", path, json={**body, "stream": True}) as response,
        ):
            next(line for line in response.iter_lines() if "delta" in line)
        # What came may have come before the engine began.
        wait_for(partial(left, before))
    assert roomy.metric("trtcoder:requests_running") == 0
    assert roomy.metric("vllm:request_success_total", "abort") == left()


def test_silence_is_filled_with_pings(tmp_path: Path) -> None:
    folder = roomy_engine(tmp_path / "engine")
    # Shorter than any step of any machine: whenever the loop looks, silence was long enough.
    with serve(folder, tmp_path, "--keep-alive", "0.000001") as server:
        kinds = [event["type"] for event in server.events(PATH, messages=TALK, max_tokens=300)]
    assert kinds.count("message_stop") == 1
    assert kinds[-1] == "message_stop"
    assert "ping" in kinds
