from __future__ import annotations

import json
from typing import Any

import pytest
from openai import OpenAI

from tests.runtime.server.serving import Server
from tests.runtime.server.talking import CLOCK, HOT, SPOKEN, WEATHER, fits, flat_tools

PATH = "/v1/responses"
TOOLS = flat_tools(WEATHER, CLOCK)


@pytest.mark.parametrize(
    "body",
    [
        {"instructions": "S", "input": "x"},
        {"instructions": "S", "input": [{"role": "user", "content": "x"}]},
        {
            "input": [
                {
                    "type": "message",
                    "role": "developer",
                    "content": [{"type": "input_text", "text": "S"}],
                },
                {"type": "reasoning", "summary": [], "encrypted_content": "…"},
                {
                    "type": "message",
                    "role": "user",
                    "content": [{"type": "input_text", "text": "x"}],
                },
            ]
        },
    ],
)
def test_an_answer_is_that_of_a_chat(roomy: Server, body: dict[str, Any]) -> None:
    chat = roomy.post(
        "/v1/chat/completions",
        messages=[{"role": "system", "content": "S"}, {"role": "user", "content": "x"}],
        max_tokens=6,
    ).json()
    answer = roomy.post(PATH, **body, max_output_tokens=6, store=False, include=[]).json()
    (item,) = answer["output"]
    assert item["content"][0]["text"] == chat["choices"][0]["message"]["content"]
    assert (answer["status"], answer["completed_at"]) == ("incomplete", None)
    assert answer["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]


def test_a_stream_tells_every_item_from_its_beginning_to_its_end(roomy: Server) -> None:
    events = roomy.events(PATH, input="x", max_output_tokens=5)
    kinds = [event["type"] for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    text = "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
    assert text == events[-1]["response"]["output"][0]["content"][0]["text"]


@pytest.mark.parametrize("name", SPOKEN)
def test_openais_client_reads_text_and_calls(speaking: Server, name: str) -> None:
    with OpenAI(base_url=f"{speaking.address}/v1", api_key="none", max_retries=0) as client:
        asked: Any = {"model": f"deepseek-{name}", "input": "x", "tools": TOOLS}
        whole: Any = client.responses.create(**asked)
        with client.responses.stream(**asked) as stream:
            final: Any = stream.get_final_response()
    for response in (whole, final):
        assert response.status == "completed"
        assert response.completed_at >= response.created_at
        assert response.output_text == SPOKEN[name].text
        assert [
            (item.name, json.loads(item.arguments))
            for item in response.output
            if item.type == "function_call"
        ] == SPOKEN[name].calls


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "weather"}])
def test_a_call_that_is_required_comes(roomy: Server, choice: Any) -> None:
    answer = roomy.post(
        PATH, input="x", tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, temperature=HOT
    ).json()
    (item,) = answer["output"]
    assert item["type"] == "function_call"
    assert fits(item["name"], json.loads(item["arguments"]))


def test_calls_and_results_are_taken_back(roomy: Server) -> None:
    call_of = {"type": "function_call", "name": "clock", "arguments": "{}"}
    items = [
        {"role": "user", "content": "x"},
        {**call_of, "call_id": "1"},
        {**call_of, "call_id": "2"},
        {"type": "function_call_output", "call_id": "1", "output": "noon"},
        {
            "type": "function_call_output",
            "call_id": "2",
            "output": [{"type": "input_text", "text": "one"}],
        },
    ]
    calls = [
        {"id": i, "type": "function", "function": {"name": "clock", "arguments": "{}"}}
        for i in "12"
    ]
    chat = roomy.post(
        "/v1/chat/completions",
        messages=[
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "1", "content": "noon"},
            {"role": "tool", "tool_call_id": "2", "content": "one"},
        ],
        max_tokens=4,
    ).json()
    answer = roomy.post(PATH, input=items, max_output_tokens=4).json()
    assert answer["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]
    text = answer["output"][0]["content"][0]["text"]
    assert text == chat["choices"][0]["message"]["content"]


def test_a_form_holds_the_text(roomy: Server) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    form = {"format": {"type": "json_schema", "name": "r", "schema": schema, "strict": True}}
    answer = roomy.post(PATH, input="x", text=form, temperature=HOT).json()
    assert json.loads(answer["output"][0]["content"][0]["text"])["ok"] in (True, False)


def test_log_probabilities_are_told_with_the_text(roomy: Server) -> None:
    asked: dict[str, Any] = {"input": "x", "max_output_tokens": 5, "top_logprobs": 2}
    body = {**asked, "include": ["message.output_text.logprobs"]}
    (item,) = roomy.post(PATH, **body).json()["output"]
    (part,) = item["content"]
    chat = roomy.post(
        "/v1/chat/completions",
        messages=[{"role": "user", "content": "x"}],
        max_tokens=5,
        logprobs=True,
        top_logprobs=2,
    ).json()
    assert part["logprobs"] == chat["choices"][0]["logprobs"]["content"]
    events = roomy.events(PATH, **body)
    deltas = [each for each in events if each["type"] == "response.output_text.delta"]
    assert all(each["logprobs"] for each in deltas)
    (done,) = [each for each in events if each["type"] == "response.output_text.done"]
    assert done["logprobs"][: len(deltas)] == [one for each in deltas for one in each["logprobs"]]
    assert done["logprobs"] == part["logprobs"]
    (unasked,) = roomy.post(PATH, **asked).json()["output"]
    assert unasked["content"][0]["logprobs"] == []


def test_the_sampler_takes_what_a_chat_takes(roomy: Server) -> None:
    fields: dict[str, Any] = {
        "temperature": 900.0,
        "seed": 5,
        "top_k": 40,
        "min_p": 0.0,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.5,
        "logit_bias": {"65": -100.0},
        "ignore_eos": True,
    }
    chat = roomy.post(
        "/v1/chat/completions",
        messages=[{"role": "user", "content": "x"}],
        max_tokens=9,
        **fields,
    ).json()
    (item,) = roomy.post(PATH, input="x", max_output_tokens=9, **fields).json()["output"]
    assert item["content"][0]["text"] == chat["choices"][0]["message"]["content"]


def test_a_form_may_be_asked_for_as_in_a_chat(roomy: Server) -> None:
    choice = {"structured_outputs": {"choice": ["yes", "no"]}}
    (item,) = roomy.post(PATH, input="x", **choice, temperature=HOT).json()["output"]
    assert item["content"][0]["text"] in ("yes", "no")
    both = roomy.post(PATH, input="x", **choice, text={"format": {"type": "json_object"}})
    assert both.json()["error"]["param"] == "structured_outputs"


def test_an_answer_of_nothing_is_an_empty_message(speaking: Server) -> None:
    asked: dict[str, Any] = {"model": "deepseek-text", "input": "x", "tools": TOOLS, "stop": "H"}
    whole = speaking.post(PATH, **asked).json()
    last = speaking.events(PATH, **asked)[-1]["response"]
    for response in (whole, last):
        (item,) = response["output"]
        assert item["content"][0]["text"] == ""
        assert response["status"] == "completed"


def test_tools_that_cannot_be_had_are_passed_over_with_a_note(roomy: Server) -> None:
    tools = [{"type": "web_search"}, {"type": "namespace", "name": "n"}, *TOOLS]
    response = roomy.post(PATH, input="x", tools=tools, max_output_tokens=3)
    assert response.status_code == 200
    assert response.headers["x-trtcoder-ignored-tools"] == "web_search, namespace"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "1"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input"),
        ({"input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "x", "conversation": "conv_1"}, "conversation"),
        ({"input": "x", "background": True}, "background"),
        ({"input": "x", "text": {"format": {"type": "grammar"}}}, "text"),
        (
            {"input": "x", "tools": [{"type": "web_search"}], "tool_choice": "required"},
            "tool_choice",
        ),
        ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "x", "min_p": 2.0}, "min_p"),
        ({"input": "x", "stop": [""]}, "stop"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_is_a_400_that_names_it(
    roomy: Server, body: dict[str, Any], param: str, stream: bool
) -> None:
    response = roomy.post(PATH, **body, stream=stream)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    is_unsupported = param in ("previous_response_id", "conversation", "background")
    assert (error["code"] == "unsupported_parameter") == is_unsupported
