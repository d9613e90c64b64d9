"""Anthropic's library for Python."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from anthropic import Anthropic

from tests.clients.client import Client
from tests.clients.drivers.sdk import QUESTION, TOKENS, WEATHER, offline_chat, same
from tests.clients.session import Session


def run(session: Session) -> None:
    """Ask for a message whole and streamed, its count of tokens, and a call and its answer."""
    with (
        session.demo("--deterministic") as server,
        Anthropic(base_url=server.address, api_key="none", max_retries=0) as client,
    ):
        model = server.client.get("/v1/models").json()["data"][0]["id"]
        messages: list[Any] = [{"role": "user", "content": QUESTION}]
        asked: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": TOKENS}
        # It has no parameter for it any more.
        asked["extra_body"] = {"temperature": 0}
        whole: Any = client.messages.create(**asked)
        text = whole.content[0].text
        same("the answer", text, offline_chat())
        with client.messages.stream(**asked) as stream:
            same("the streamed answer", stream.get_final_text(), text)
        counted = client.messages.count_tokens(model=model, messages=messages)
        read = whole.usage.input_tokens + whole.usage.cache_read_input_tokens
        same("the count of tokens", counted.input_tokens, read)
        tools: Any = [{"name": "weather", "input_schema": WEATHER}]
        choice: Any = {"type": "any", "disable_parallel_tool_use": True}
        called: Any = client.messages.create(**asked, tools=tools, tool_choice=choice)
        (block,) = called.content
        assert block.input["city"] in ("Bonn", "Oslo")
        result = {"type": "tool_result", "tool_use_id": block.id, "content": "rain"}
        messages += [
            {"role": "assistant", "content": called.content},
            {"role": "user", "content": [result]},
        ]
        assert client.messages.create(**asked, tools=tools).usage.output_tokens


CLIENT = Client(
    "anthropic-python",
    None,
    version("anthropic"),
    ("/v1/messages", "/v1/messages/count_tokens"),
    "a message whole and streamed as offline, its tokens, a call and its result",
    run,
)
