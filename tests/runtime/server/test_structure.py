from __future__ import annotations

import json
import re
from typing import Any, Literal

import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.runtime.server.serving import Server
from tests.runtime.server.talking import HOT, TALK

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}},
    "required": ["ok", "kind"],
    "additionalProperties": False,
}


def is_record(text: str) -> bool:
    found = json.loads(text)
    return set(found) == {"ok", "kind"} and isinstance(found["ok"], bool) and found["kind"] in "ab"


def openai_form(schema: Any, **more: Any) -> dict[str, Any]:
    inner = {"name": "r", "schema": schema, **more}
    return {"response_format": {"type": "json_schema", "json_schema": inner}}


FORMS: list[tuple[dict[str, Any], Any]] = [
    (openai_form(SCHEMA, strict=True), is_record),
    (openai_form(SCHEMA), is_record),
    ({"guided_json": SCHEMA}, is_record),
    ({"guided_json": json.dumps(SCHEMA)}, is_record),
    ({"structured_outputs": {"json": SCHEMA}}, is_record),
    ({"guided_regex": "a{2}[0-9]"}, re.compile("a{2}[0-9]").fullmatch),
    ({"structured_outputs": {"regex": "a{2}[0-9]"}}, re.compile("a{2}[0-9]").fullmatch),
    ({"guided_grammar": 'start: "x" ("y" | "z")'}, re.compile("x[yz]").fullmatch),
    ({"structured_outputs": {"grammar": 'start: "x" ("y" | "z")'}}, re.compile("x[yz]").fullmatch),
    ({"json_schema": SCHEMA}, is_record),
    ({"grammar": 'root ::= "x" [yz]'}, re.compile("x[yz]").fullmatch),
    ({"guided_choice": ["left", "right"]}, ["left", "right"].__contains__),
    ({"structured_outputs": {"choice": ["left", "right"]}}, ["left", "right"].__contains__),
]  # fmt: skip


@pytest.mark.parametrize(("form", "fits"), FORMS)
@pytest.mark.parametrize("temperature", [0.0, HOT])
def test_every_dialects_form_holds_the_answer(
    roomy: Server, form: dict[str, Any], fits: Any, temperature: float
) -> None:
    body = {"temperature": temperature, "seed": 3, "max_tokens": 200, **form}
    (choice,) = roomy.post("/v1/completions", prompt="a", **body).json()["choices"]
    assert choice["finish_reason"] == "stop"
    assert fits(choice["text"])
    (choice,) = roomy.post("/v1/chat/completions", messages=TALK, **body).json()["choices"]
    assert fits(choice["message"]["content"])
    events = roomy.events("/v1/chat/completions", messages=TALK, **body)
    deltas = [event["choices"][0] for event in events[:-1]]
    text = "".join(each["delta"].get("content", "") for each in deltas)
    assert text == choice["message"]["content"]
    assert [each["finish_reason"] for each in deltas].count("stop") == 1


OLLAMA = [({"format": SCHEMA}, is_record), ({"format": {"enum": ["left"]}}, '"left"'.__eq__)]
LLAMA: list[tuple[dict[str, Any], Any]] = [
    ({"json_schema": SCHEMA}, is_record),
    ({"grammar": 'root ::= "x" (yz | "q")\nyz ::= [yz]{2}'}, re.compile("x([yz]{2}|q)").fullmatch),
]
DIALECTS = [
    *(("/api/chat", {"messages": TALK}, form, fits) for form, fits in OLLAMA),
    *(("/api/generate", {"prompt": "a"}, form, fits) for form, fits in OLLAMA),
    *(("/api/generate", {"prompt": "a", "raw": True}, form, fits) for form, fits in OLLAMA),
    *(("/api/generate", {"prompt": "a", "suffix": "b"}, form, fits) for form, fits in OLLAMA),
    *(("/completion", {"prompt": "a"}, form, fits) for form, fits in LLAMA),
    *(("/infill", {"input_prefix": "a", "input_suffix": "b"}, form, fits) for form, fits in LLAMA),
    *(("/v1/fim/completions", {"prompt": "a", "suffix": "b"}, form, fits) for form, fits in FORMS),
    *(("/v1/completions", {"prompt": "a", "suffix": "b"}, form, fits) for form, fits in FORMS),
]


def text_of(found: dict[str, Any]) -> str:
    """Return the text of a whole answer, or of a piece, of any dialect."""
    if "choices" in found:
        (choice,) = found["choices"]
        return str(choice["text"] if "text" in choice else _said(choice))
    if "message" in found:
        return str(found["message"]["content"])
    return str(found.get("response", found.get("content")))


def _said(choice: dict[str, Any]) -> Any:
    return choice["message" if "message" in choice else "delta"]["content"]


@pytest.mark.parametrize(("path", "asked", "form", "fits"), DIALECTS)
def test_an_answer_or_a_middle_is_held_in_any_dialect(
    roomy: Server, path: str, asked: dict[str, Any], form: dict[str, Any], fits: Any
) -> None:
    body: dict[str, Any] = {"model": "", **asked, **form}
    body |= (
        {"options": {"temperature": HOT, "seed": 3, "num_predict": 200}}
        if path.startswith("/api")
        else {"temperature": HOT, "seed": 3, "max_tokens": 200}
    )
    whole = text_of(roomy.post(path, **body, stream=False).json())
    assert fits(whole), whole
    with roomy.client.stream("POST", path, json={**body, "stream": True}) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert "".join(text_of(json.loads(each)) for each in lines if each != "[DONE]") == whole


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"messages": TALK, "options": {"num_predict": 6}}),
        ("/api/generate", {"prompt": "a", "options": {"num_predict": 6}}),
    ],
)
def test_ollamas_json_mode_begins_an_object(roomy: Server, path: str, body: dict[str, Any]) -> None:
    for form, begins in (("json", True), ("", False), (None, False)):
        answer = roomy.post(path, model="", stream=False, **body, format=form).json()
        assert text_of(answer).startswith("{") == begins


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/api/chat", {"messages": TALK, "format": "xml"}, "format"),
        ("/api/chat", {"messages": TALK, "format": {"type": "banana"}}, "format"),
        ("/api/generate", {"prompt": "a", "format": ["json"]}, "format"),
        ("/api/generate", {"prompt": "a", "suffix": "b", "format": {"$ref": "#/no"}}, "format"),
        ("/completion", {"prompt": "a", "json_schema": {"type": "banana"}}, "json_schema"),
        ("/completion", {"prompt": "a", "json_schema": "{"}, "json_schema"),
        ("/completion", {"prompt": "a", "grammar": "root"}, "grammar"),
        ("/completion", {"prompt": "a", "grammar": 'root ::= "a', "stream": True}, "grammar"),
        ("/completion", {"prompt": "a", "grammar": 'root ::= "a"', "json_schema": {}}, "grammar"),
        ("/infill", {"input_prefix": "", "input_suffix": "", "grammar": "root ::= no"}, "grammar"),
        ("/v1/fim/completions", {"prompt": "a", "guided_regex": "("}, "guided_regex"),
        ("/v1/fim/completions", {"prompt": "", "guided_json": "{", "stream": True}, "guided_json"),
        (
            "/v1/completions",
            {"prompt": "a", "suffix": "", "guided_choice": ["a"], "trtcoder": {"heal": True}},
            "guided_choice",
        ),
    ],
)  # fmt: skip
def test_a_dialects_form_that_cannot_be_is_a_400_that_names_it(
    roomy: Server, path: str, body: dict[str, Any], name: str
) -> None:
    before = roomy.metric("trtcoder:requests_total")
    response = roomy.post(path, model="", **body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error if isinstance(error, str) else error["message"]).startswith(f"{name}: ")
    assert roomy.metric("trtcoder:requests_total") == before


@pytest.mark.parametrize("type_", ["json_object", "text"])
def test_json_mode_begins_an_object_and_text_is_free(roomy: Server, type_: str) -> None:
    free = roomy.post("/v1/completions", prompt="a", max_tokens=6).json()["choices"][0]["text"]
    for extra in ({}, {"n": 2}):
        answer = roomy.post(
            "/v1/completions", prompt="a", max_tokens=6, response_format={"type": type_}, **extra
        ).json()
        for choice in answer["choices"]:
            if type_ == "text":
                assert choice["text"] == free
            else:
                assert choice["text"].startswith("{")


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {}}, "response_format"),
        ({"response_format": {"type": "structural_tag"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (openai_form([]), "response_format"),
        (openai_form({"not": {}}, strict=True), "response_format"),
        ({"response_format": "json"}, "response_format"),
        ({"guided_json": {"type": "banana"}}, "guided_json"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_regex": "(a"}, "guided_regex"),
        ({"guided_grammar": "start: nothing"}, "guided_grammar"),
        ({"guided_choice": []}, "guided_choice"),
        ({"json_schema": {"type": "banana"}}, "json_schema"),
        ({"grammar": "root"}, "grammar"),
        ({"grammar": 'root ::= "a"', "guided_regex": "a"}, "grammar"),
        ({"guided_choice": ["a"], "guided_regex": "a"}, "guided_choice"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs"),
        ({"structured_outputs": {"regex": 5}}, "structured_outputs"),
        ({"structured_outputs": {"choice": "abc"}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "asked"), [("completions", {"prompt": "a"}), ("chat/completions", {"messages": TALK})]
)
def test_a_form_that_cannot_be_is_a_400_that_names_it(
    roomy: Server, form: Any, param: str, stream: bool, path: str, asked: dict[str, Any]
) -> None:
    before = roomy.metric("trtcoder:requests_total")
    response = roomy.post(f"/v1/{path}", **asked, stream=stream, **form)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert roomy.metric("trtcoder:requests_total") == before


def test_openais_client_parses_a_schema(roomy: Server) -> None:
    class Record(BaseModel):
        ok: bool
        kind: Literal["a", "b"]

    with OpenAI(base_url=f"{roomy.address}/v1", api_key="none", max_retries=0) as client:
        completion = client.chat.completions.parse(
            model="deepseek-toy",
            messages=TALK,
            response_format=Record,
            max_tokens=200,
            temperature=HOT,
            seed=5,
        )
    assert completion.choices[0].message.parsed is not None
