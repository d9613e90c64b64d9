from __future__ import annotations

import json
from typing import Any

import pytest
from openai import OpenAI

from tests.runtime.server.serving import Server
from tests.runtime.server.talking import (
    CLOCK,
    HOT,
    SPOKEN,
    TALK,
    WEATHER,
    call,
    fits,
    openai_tools,
)
from trtcoder.prompting.prompts import Message
from trtcoder.runtime.server.tools.spelling import as_messages
from trtcoder.runtime.server.tools.tool import ToolBox, ToolCall
from trtcoder.runtime.server.tools.turn import Turn

PATH = "/v1/chat/completions"
TOOLS = openai_tools(WEATHER, CLOCK)


def streamed(events: list[Any]) -> tuple[str, list[tuple[str, str]], list[str]]:
    """Return text, calls and finish reasons as a client adds the deltas up."""
    text, calls, reasons = "", dict[int, list[str]](), []
    for event in events[:-1]:
        (choice,) = event["choices"]
        text += choice["delta"].get("content") or ""
        for each in choice["delta"].get("tool_calls", ()):
            if "id" in each:
                calls[each["index"]] = [each["function"]["name"], ""]
            calls[each["index"]][1] += each["function"]["arguments"]
        if choice["finish_reason"] is not None:
            reasons.append(choice["finish_reason"])
    return text, [(name, arguments) for name, arguments in calls.values()], reasons


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"weather", "clock"}),
        ({"type": "function", "function": {"name": "clock"}}, {"clock"}),
        ({"type": "function", "function": {"name": "weather"}}, {"weather"}),
    ],
)
def test_a_call_that_is_required_comes_and_fits_its_schema(
    roomy: Server, seed: int, choice: Any, names: set[str]
) -> None:
    body: dict[str, Any] = {
        "messages": TALK,
        "tools": TOOLS,
        "tool_choice": choice,
        "temperature": HOT,
        "seed": seed,
        "max_tokens": 400,
        "parallel_tool_calls": False,
    }
    (answer,) = roomy.post(PATH, **body).json()["choices"]
    (found,) = answer["message"]["tool_calls"]
    assert answer["finish_reason"] == "tool_calls"
    assert answer["message"]["content"] is None
    function = found["function"]
    assert function["name"] in names
    assert fits(function["name"], json.loads(function["arguments"]))
    text, calls, reasons = streamed(roomy.events(PATH, **body))
    assert (text, calls, reasons) == (
        "",
        [(function["name"], function["arguments"])],
        ["tool_calls"],
    )


@pytest.mark.parametrize("name", SPOKEN)
def test_an_answer_may_be_text_calls_or_both(speaking: Server, name: str) -> None:
    spoken = SPOKEN[name]
    body: dict[str, Any] = {"model": f"deepseek-{name}", "messages": TALK, "tools": TOOLS}
    (choice,) = speaking.post(PATH, **body).json()["choices"]
    message = choice["message"]
    found = [
        (each["function"]["name"], json.loads(each["function"]["arguments"]))
        for each in message.get("tool_calls", ())
    ]
    assert (message["content"] or "", found) == (spoken.text, spoken.calls)
    assert choice["finish_reason"] == ("tool_calls" if spoken.calls else "stop")
    text, calls, _ = streamed(speaking.events(PATH, **body))
    assert text == spoken.text
    assert [(each, json.loads(given)) for each, given in calls] == spoken.calls
    with (
        OpenAI(base_url=f"{speaking.address}/v1", api_key="none", max_retries=0) as client,
        client.chat.completions.stream(**body) as stream,
    ):
        final: Any = stream.get_final_completion().choices[0].message
    assert (final.content or "") == spoken.text
    assert [
        (each.function.name, json.loads(each.function.arguments)) for each in final.tool_calls or ()
    ] == spoken.calls


def test_free_text_cannot_leave_a_call_that_it_began(roomy: Server) -> None:
    for seed in range(3):
        body = {"messages": TALK, "tools": TOOLS, "temperature": HOT, "seed": seed}
        forms = {"response_format": {"type": "json_object"}, "max_tokens": 90}
        (choice,) = roomy.post(PATH, **body, **forms).json()["choices"]
        message = choice["message"]
        assert message.get("tool_calls") or message["content"].startswith("{")


def test_calls_and_results_are_rendered_in_order() -> None:
    calls = (ToolCall("1", "clock", "{}"), ToolCall("2", "weather", '{"city": "Bonn"}'))
    turns = [
        Turn("user", "x"),
        Turn("assistant", "I look.", calls),
        Turn("tool", "noon", call_id="1"),
        Turn("tool", "rain", call_id="2"),
        Turn("user", "thanks"),
    ]
    tools = ToolBox.of(TOOLS).tools
    system, *rest = as_messages(turns, tools)
    assert system.role == "system"
    assert '"name": "weather"' in system.content
    assert rest == [
        Message("user", "x"),
        Message("assistant", f"I look.\n{call('clock', {})}\n{call('weather', {'city': 'Bonn'})}"),
        Message(
            "user",
            "<tool_response> clock\nnoon\n</tool_response>\n"
            "<tool_response> weather\nrain\n</tool_response>",
        ),
        Message("user", "thanks"),
    ]
    told = as_messages([Turn("system", "Be brief."), *turns], tools)
    assert told[0].content.startswith("Be brief.\n\n# Tools")
    assert as_messages([Turn("user", "x")], ()) == [Message("user", "x")]


def test_a_conversation_with_calls_goes_on(roomy: Server) -> None:
    messages = [
        *TALK,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "noon"}]},
    ]
    answer = roomy.post(PATH, messages=messages, tools=TOOLS, max_tokens=3).json()
    assert answer["usage"]["completion_tokens"] == 3


def test_tools_that_cannot_be_had_are_passed_over_with_a_note(roomy: Server) -> None:
    others = [{"type": "web_search"}, {"type": "namespace", "name": "n", "tools": TOOLS}]
    plain = roomy.post(PATH, messages=TALK, max_tokens=3)
    response = roomy.post(PATH, messages=TALK, tools=others, max_tokens=3)
    assert response.headers["x-trtcoder-ignored-tools"] == "web_search, namespace"
    assert response.json()["choices"] == plain.json()["choices"]
    assert "x-trtcoder-ignored-tools" not in plain.headers
    none = roomy.post(PATH, messages=TALK, tools=TOOLS, tool_choice="none", max_tokens=3)
    assert none.json()["choices"] == plain.json()["choices"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice",
        ),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": 5}}]}, "tools"),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "a", "parameters": {"type": "banana"}},
                    }
                ]
            },
            "tools",
        ),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "a", "strict": True, "parameters": {"not": {}}},
                    }
                ]
            },
            "tools",
        ),
        ({"tools": "all"}, "tools"),
        ({"functions": [{"name": "a"}]}, "functions"),
        ({"messages": [*TALK, {"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_that_cannot_be_is_a_400_that_names_it(
    roomy: Server, body: dict[str, Any], param: str, stream: bool
) -> None:
    before = roomy.metric("trtcoder:requests_total")
    response = roomy.post(PATH, **{"messages": TALK, "stream": stream, **body})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert roomy.metric("trtcoder:requests_total") == before
