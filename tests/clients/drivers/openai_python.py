"""OpenAI's library for Python."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

from openai import OpenAI

from tests.clients.client import Client
from tests.clients.drivers.sdk import (
    PREFIX,
    QUESTION,
    SUFFIX,
    TOKENS,
    WEATHER,
    offline_chat,
    offline_fill,
    same,
)
from tests.clients.session import Session


def run(session: Session) -> None:
    """Ask for a chat whole and streamed, a middle, and a call whose result is answered."""
    with (
        session.demo("--deterministic") as server,
        OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as client,
    ):
        model = client.models.list().data[0].id
        messages: list[Any] = [{"role": "user", "content": QUESTION}]
        asked: dict[str, Any] = {
            "model": model, "messages": messages, "max_tokens": TOKENS, "temperature": 0
        }  # fmt: skip
        whole = client.chat.completions.create(**asked)
        text = whole.choices[0].message.content
        same("the answer", text, offline_chat())
        usage, streamed = None, ""
        stream: Any = client.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        )
        for chunk in stream:
            usage = chunk.usage or usage
            streamed += "".join(choice.delta.content or "" for choice in chunk.choices)
        same("the streamed answer", streamed, text)
        assert usage is not None
        assert whole.usage is not None
        same("its usage", usage.completion_tokens, whole.usage.completion_tokens)
        filled = client.completions.create(
            model=model, prompt=PREFIX, suffix=SUFFIX, max_tokens=TOKENS, temperature=0
        )
        same("the middle", filled.choices[0].text, offline_fill())
        tool: Any = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
        called: Any = client.chat.completions.create(
            **asked, tools=[tool], tool_choice="required", parallel_tool_calls=False
        )
        (call,) = called.choices[0].message.tool_calls
        arguments = json.loads(call.function.arguments)
        assert arguments["city"] in ("Bonn", "Oslo")
        result = {"role": "tool", "tool_call_id": call.id, "content": f"{arguments['city']}: rain"}
        messages += [called.choices[0].message.model_dump(exclude_none=True), result]
        last = client.chat.completions.create(**asked, tools=[tool])
        assert last.choices[0].finish_reason in ("stop", "length", "tool_calls")
        parsed: Any = client.responses.create(
            model=model, input=QUESTION, max_output_tokens=TOKENS, temperature=0
        )
        same("the response", parsed.output_text, text)


CLIENT = Client(
    "openai-python",
    None,
    version("openai"),
    ("/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/responses"),
    "chat whole and streamed as offline, a middle, a call and its result, a response",
    run,
)
