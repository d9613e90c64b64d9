from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.runtime.constraints.test_constraints import HOT, long_engine
from tests.runtime.server.serving import Server, serve

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}},
    "required": ["ok", "kind"],
    "additionalProperties": False,
}
TALK: Any = [{"role": "user", "content": "x"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = long_engine(tmp_path_factory.mktemp("toy") / "engine")
    with serve(folder, tmp_path_factory.mktemp("server")) as started:
        yield started


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
    ({"guided_choice": ["left", "right"]}, ["left", "right"].__contains__),
    ({"structured_outputs": {"choice": ["left", "right"]}}, ["left", "right"].__contains__),
]  # fmt: skip


@pytest.mark.parametrize(("form", "fits"), FORMS)
@pytest.mark.parametrize("temperature", [0.0, HOT])
def test_every_dialects_form_holds_the_answer(
    server: Server, form: dict[str, Any], fits: Any, temperature: float
) -> None:
    body = {"temperature": temperature, "seed": 3, "max_tokens": 200, **form}
    (choice,) = server.post("/v1/completions", prompt="a", **body).json()["choices"]
    assert choice["finish_reason"] == "stop"
    assert fits(choice["text"])
    (choice,) = server.post("/v1/chat/completions", messages=TALK, **body).json()["choices"]
    assert fits(choice["message"]["content"])
    events = server.events("/v1/chat/completions", messages=TALK, **body)
    deltas = [event["choices"][0] for event in events[:-1]]
    text = "".join(each["delta"].get("content", "") for each in deltas)
    assert text == choice["message"]["content"]
    assert [each["finish_reason"] for each in deltas].count("stop") == 1


@pytest.mark.parametrize("type_", ["json_object", "text"])
def test_json_mode_begins_an_object_and_text_is_free(server: Server, type_: str) -> None:
    free = server.post("/v1/completions", prompt="a", max_tokens=6).json()["choices"][0]["text"]
    for extra in ({}, {"n": 2}):
        answer = server.post(
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
    server: Server, form: Any, param: str, stream: bool, path: str, asked: dict[str, Any]
) -> None:
    before = server.metric("trtcoder:requests_total")
    response = server.post(f"/v1/{path}", **asked, stream=stream, **form)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert server.metric("trtcoder:requests_total") == before


def test_openais_client_parses_a_schema(server: Server) -> None:
    class Record(BaseModel):
        ok: bool
        kind: Literal["a", "b"]

    with OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as client:
        completion = client.chat.completions.parse(
            model="deepseek-toy",
            messages=TALK,
            response_format=Record,
            max_tokens=200,
            temperature=HOT,
            seed=5,
        )
    assert completion.choices[0].message.parsed is not None
