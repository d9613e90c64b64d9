"""Tools that take text as it is, which OpenAI calls custom ones."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI

from tests.runtime.server.serving import Server
from tests.runtime.server.talking import CLOCK, HOT, TALK, call, flat_tools, openai_tools
from trtcoder.runtime.server.conversation import Said
from trtcoder.runtime.server.tools.reader import CallReader
from trtcoder.runtime.server.tools.spelling import TEXT_CLOSE, as_messages, call_text
from trtcoder.runtime.server.tools.tool import ToolBox, ToolCall
from trtcoder.runtime.server.tools.turn import Turn

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
LETTERS = "[ab]{2,5}"
SUM = 'start: NUMBER ("+" NUMBER)+\nNUMBER: /[0-9]{1,3}/\n'


def flat(name: str, syntax: str | None = None, definition: str = "") -> dict[str, Any]:
    """Return a tool as `/v1/responses` takes it."""
    tool: dict[str, Any] = {"type": "custom", "name": name, "description": f"{name} does"}
    if syntax is not None:
        tool["format"] = {"type": "grammar", "syntax": syntax, "definition": definition}
    return tool


def nested(name: str, syntax: str | None = None, definition: str = "") -> dict[str, Any]:
    """Return a tool as `/v1/chat/completions` takes it."""
    custom = flat(name)
    del custom["type"]
    if syntax is not None:
        grammar = {"syntax": syntax, "definition": definition}
        custom["format"] = {"type": "grammar", "grammar": grammar}
    return {"type": "custom", "custom": custom}


@pytest.mark.parametrize(
    ("syntax", "definition", "pattern"),
    [("regex", LETTERS, LETTERS), ("lark", SUM, r"\d{1,3}(\+\d{1,3})+")],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_text_has_the_form_that_its_tool_asks_for(
    roomy: Server, syntax: str, definition: str, pattern: str, seed: int
) -> None:
    asked: dict[str, Any] = {"temperature": HOT, "seed": seed, "tool_choice": "required"}
    asked["parallel_tool_calls"] = False
    tools = [flat("write", syntax, definition)]
    response = roomy.post(RESPONSES, input="x", tools=tools, max_output_tokens=300, **asked).json()
    assert response["status"] == "completed", "the grammar lets it end"
    (item,) = response["output"]
    assert (item["type"], item["name"]) == ("custom_tool_call", "write")
    assert re.fullmatch(pattern, item["input"])
    tools = [nested("write", syntax, definition)]
    chat = roomy.post(CHAT, messages=TALK, tools=tools, max_tokens=300, **asked).json()
    (choice,) = chat["choices"]
    (found,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert (found["type"], found["custom"]["name"]) == ("custom", "write")
    assert re.fullmatch(pattern, found["custom"]["input"])


def test_openais_client_reads_the_events_of_a_text(roomy: Server) -> None:
    asked: dict[str, Any] = {
        "model": "deepseek-toy",
        "input": "x",
        "tools": [flat("write", "regex", LETTERS)],
        "tool_choice": {"type": "custom", "name": "write"},
        "temperature": HOT,
        "extra_body": {"seed": 3},
    }
    with OpenAI(base_url=f"{roomy.address}/v1", api_key="none", max_retries=0) as client:
        whole: Any = client.responses.create(**asked)
        events: list[Any] = list(client.responses.create(**asked, stream=True))
    (item,) = whole.output
    deltas = [each for each in events if each.type == "response.custom_tool_call_input.delta"]
    (done,) = [each for each in events if each.type == "response.custom_tool_call_input.done"]
    assert "".join(each.delta for each in deltas) == done.input == item.input
    assert events[-1].response.output[0].input == item.input
    assert {each.item_id for each in (*deltas, done)} == {events[-1].response.output[0].id}


def test_a_chats_deltas_add_up_to_the_text(roomy: Server) -> None:
    body: dict[str, Any] = {
        "messages": TALK,
        "tools": [nested("write", "regex", LETTERS)],
        "tool_choice": {"type": "custom", "custom": {"name": "write"}},
        "temperature": HOT,
        "seed": 4,
    }
    (choice,) = roomy.post(CHAT, **body).json()["choices"]
    (found,) = choice["message"]["tool_calls"]
    told = [
        each
        for event in roomy.events(CHAT, **body)[:-1]
        for each in event["choices"][0]["delta"].get("tool_calls", ())
    ]
    assert told[0]["custom"] == {"name": "write", "input": ""}
    assert told[0]["type"] == "custom"
    assert "".join(each["custom"]["input"] for each in told) == found["custom"]["input"]


def test_a_free_text_ends_with_its_mark_and_not_before(roomy: Server) -> None:
    body = {"messages": TALK, "tools": [nested("write")], "tool_choice": "required"}
    answer = roomy.post(CHAT, **body, temperature=HOT, seed=1, max_tokens=80).json()
    (found,) = answer["choices"][0]["message"]["tool_calls"]
    assert found["custom"]["name"] == "write"
    # The toy says anything; the end mark is not among it, and so the answer is cut.
    assert answer["choices"][0]["finish_reason"] == "length"
    assert TEXT_CLOSE not in found["custom"]["input"]


def test_the_model_is_told_of_texts_beside_functions() -> None:
    box = ToolBox.of(
        [*openai_tools(CLOCK), nested("free"), nested("held", "regex", LETTERS)], texts=True
    )
    (system, _) = as_messages([Turn("user", "x")], box.offered)
    for line in (
        json.dumps({"name": "free", "description": "free does"}),
        json.dumps({"name": "held", "description": "held does", "grammar": LETTERS}),
        '"name": "clock"',
    ):
        assert line in system.content
    only = as_messages([Turn("user", "x")], ToolBox.of([nested("free")], texts=True).offered)
    assert "JSON schema" not in only[0].content


def test_texts_and_their_results_are_taken_back(roomy: Server) -> None:
    patch = '*** Begin\n-"a"\n+b'
    items = [
        {"role": "user", "content": "x"},
        {"type": "custom_tool_call", "call_id": "1", "name": "apply_patch", "input": patch},
        {"type": "custom_tool_call_output", "call_id": "1", "output": "done"},
    ]
    called = {"id": "1", "type": "custom", "custom": {"name": "apply_patch", "input": patch}}
    messages = [
        *TALK,
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "1", "content": "done"},
    ]
    prompt = roomy.post("/apply-template", messages=messages).json()["prompt"]
    assert call_text(ToolCall("1", "apply_patch", patch, is_text=True)) in prompt
    assert f"\n{patch}\n" in prompt
    counted = roomy.post("/v1/responses/input_tokens", input=items).json()["input_tokens"]
    assert counted == roomy.post("/tokenize", messages=messages).json()["count"]


texts = st.text('ab"}\n</tool_call>', max_size=20).filter(
    lambda text: TEXT_CLOSE not in f"{text}\n"
)


@given(st.lists(st.one_of(texts, st.just(None)), max_size=3), st.lists(st.integers(0, 9999)))
def test_texts_and_calls_are_read_the_same_however_they_are_cut(
    wanted: list[str | None], cuts: list[int]
) -> None:
    # None is a call of a function.
    spelled = [
        call("clock", {}) if text is None else call_text(ToolCall("", "write", text, is_text=True))
        for text in wanted
    ]
    answer = "\n".join(spelled)
    reader, said = CallReader(reads_calls=True), Said()
    places = sorted({0, len(answer), *(cut % (len(answer) + 1) for cut in cuts)})
    pieces = [piece for a, b in pairwise(places) for piece in reader.push(answer[a:b])]
    for piece in (*pieces, *reader.finish()):
        said.add(piece)
    found = [each.arguments if each.is_text else None for each in said.calls]
    assert found == wanted
    assert said.text == ""


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "custom", "name": "a b"},
        {"type": "custom", "name": "a", "format": {"type": "picture"}},
        {"type": "custom", "name": "a", "format": "text"},
        flat("a", "abnf", "x"),
        flat("a", "regex", "["),
        flat("a", "lark", "start: ("),
        {"type": "custom", "name": "a", "format": {"type": "grammar", "syntax": "lark"}},
        {"type": "custom", "custom": 5},
    ],
)
def test_a_malformed_tool_is_refused(roomy: Server, tool: dict[str, Any]) -> None:
    for path, asked in ((CHAT, {"messages": TALK}), (RESPONSES, {"input": "x"})):
        response = roomy.post(path, **asked, tools=[tool])
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "tools"


def test_dialects_without_such_tools_pass_them_over(roomy: Server) -> None:
    response = roomy.post(
        "/v1/messages", messages=TALK, max_tokens=2, tools=[flat("write"), *flat_tools(CLOCK)]
    )
    assert response.status_code in (200, 400)
    body = {"model": "deepseek-toy", "messages": TALK, "stream": False, "tools": [flat("write")]}
    response = roomy.post("/api/chat", **body, options={"num_predict": 2})
    assert response.status_code == 200, response.text
