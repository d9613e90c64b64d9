from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.server.serving import Server, serve
from tests.toy_engine import BOS, EOS, byte_tokenizer, script, write_toy_engine
from trtcoder import LLM
from trtcoder.prompting.tokenizer import TextTokenizer

TOKENIZER = TextTokenizer(byte_tokenizer())


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


def test_models_say_what_they_can_and_how_they_were_certified(server: Server) -> None:
    (model,) = server.client.get("/v1/models").json()["data"]
    assert model["id"] == "deepseek-toy"
    assert model["root"] == model["id"]
    assert model["capabilities"] == {"completion": True, "fim": True, "chat": True}
    assert server.client.get("/v1/models/deepseek-toy").json() == model
    assert server.client.get("/v1/models/other").status_code == 404
    assert server.client.get("/models").json()["data"] == [model]


def test_a_completion_is_the_librarys(server: Server, llm: LLM) -> None:
    answer = server.post("/v1/completions", prompt="hello", max_tokens=9).json()
    (expected,) = llm.generate("hello", max_tokens=9)
    (choice,) = answer["choices"]
    assert choice["text"] == expected.outputs[0].text
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["prompt_tokens"] == 6
    assert answer["usage"]["completion_tokens"] == 9
    assert answer["system_fingerprint"].startswith("trtcoder-")


def test_a_stream_has_the_text_one_finish_the_usage_and_an_end(server: Server, llm: LLM) -> None:
    events = server.events(
        "/v1/completions", prompt="hello", max_tokens=9, stream_options={"include_usage": True}
    )
    assert events[-1] == "[DONE]"
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["completion_tokens"] == 9
    choices = [event["choices"][0] for event in events[:-2]]
    (expected,) = llm.generate("hello", max_tokens=9)
    assert "".join(choice["text"] for choice in choices) == expected.outputs[0].text
    reasons = [choice["finish_reason"] for choice in choices]
    assert reasons == [None] * (len(reasons) - 1) + ["length"]
    assert choices[-1]["text"] == ""


def test_several_prompts_and_choices_have_their_indices(server: Server, llm: LLM) -> None:
    body: dict[str, Any] = {
        "prompt": ["a", "b"],
        "n": 2,
        "max_tokens": 4,
        "temperature": 900.0,
        "seed": 1,
    }
    answer = server.post("/v1/completions", **body).json()
    outputs = llm.generate(["a", "b"], n=2, max_tokens=4, temperature=900.0, seed=1)
    expected = [each.text for output in outputs for each in output.outputs]
    assert [choice["text"] for choice in answer["choices"]] == expected
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    texts = [""] * 4
    for event in server.events("/v1/completions", **body)[:-1]:
        texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert texts == expected


def test_the_best_of_several_is_the_most_likely(server: Server) -> None:
    body: dict[str, Any] = {"prompt": "a", "max_tokens": 4, "temperature": 300.0, "seed": 3}
    all_of_them = server.post("/v1/completions", **body, n=4, logprobs=0).json()["choices"]
    best = max(all_of_them, key=lambda each: sum(each["logprobs"]["token_logprobs"]))
    (found,) = server.post("/v1/completions", **body, best_of=4).json()["choices"]
    assert found["text"] == best["text"]
    assert found["logprobs"] is None


def test_echo_gives_the_prompts_log_probabilities(server: Server) -> None:
    # What lm-eval's local-completions asks for.
    answer = server.post(
        "/v1/completions", prompt=[[BOS, 1, 2, 3]], echo=True, logprobs=1, max_tokens=1
    ).json()
    logprobs = answer["choices"][0]["logprobs"]
    assert len(logprobs["tokens"]) == 5
    assert logprobs["token_logprobs"][0] is None
    assert all(value <= 0 for value in logprobs["token_logprobs"][1:])
    assert [top is None for top in logprobs["top_logprobs"]] == [True] + [False] * 4
    only = server.post("/v1/completions", prompt="abc", echo=True, logprobs=0, max_tokens=0).json()
    assert only["choices"][0]["text"] == "abc"
    assert len(only["choices"][0]["logprobs"]["tokens"]) == 4


@pytest.mark.parametrize("path", ["/v1/completions", "/beta/completions"])
@pytest.mark.parametrize("suffix", ["c", ""])
def test_a_suffix_fills_in_the_middle(server: Server, llm: LLM, path: str, suffix: str) -> None:
    answer = server.post(path, prompt="ab", suffix=suffix, max_tokens=5).json()
    (expected,) = llm.fill(("ab", suffix), max_tokens=5)
    assert answer["choices"][0]["text"] == expected.outputs[0].text


def test_a_chat_is_the_librarys_and_streams_the_role_first(server: Server, llm: LLM) -> None:
    messages = [
        {"role": "developer", "content": "S"},
        {"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]},
    ]
    (expected,) = llm.chat(
        [{"role": "system", "content": "S"}, {"role": "user", "content": "hi"}], max_tokens=6
    )
    body: dict[str, Any] = {"messages": messages, "max_completion_tokens": 6}
    answer = server.post("/v1/chat/completions", **body).json()
    message = answer["choices"][0]["message"]
    assert message == {"role": "assistant", "content": expected.outputs[0].text}
    events = server.events("/v1/chat/completions", **body)
    deltas = [event["choices"][0]["delta"] for event in events[:-1]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[-1] == {}
    assert "".join(delta.get("content", "") for delta in deltas) == expected.outputs[0].text


def test_the_last_message_can_be_continued(server: Server, llm: LLM) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Yo"}]
    ids = llm.prompts.chat(messages, continue_last=True)
    (expected,) = llm.generate([ids], max_tokens=4)
    for body in (
        {"messages": messages, "continue_final_message": True},
        {"messages": [messages[0], {**messages[1], "prefix": True}]},
    ):
        answer = server.post("/v1/chat/completions", max_tokens=4, **body).json()
        assert answer["choices"][0]["message"]["content"] == expected.outputs[0].text


def test_log_probabilities_of_a_chat_hold_bytes(server: Server) -> None:
    answer = server.post(
        "/v1/chat/completions",
        messages=[{"role": "user", "content": "hi"}],
        max_tokens=3,
        logprobs=True,
        top_logprobs=2,
    ).json()
    content = answer["choices"][0]["logprobs"]["content"]
    assert [len(each["top_logprobs"]) for each in content] == [2, 2, 2]
    assert content[0]["top_logprobs"][0]["bytes"] == content[0]["bytes"]


def test_log_probabilities_are_of_the_tokens_whatever_the_text_drops(tmp_path: Path) -> None:
    # The text of a chat begins behind the blank that follows "Assistant:"; the token has it.
    messages = [{"role": "user", "content": "hi"}]
    with LLM(write_toy_engine(tmp_path / "prompt")) as llm:
        count = len(llm.prompts.chat(messages))
    answer = [*TOKENIZER.encode(" ok"), EOS]
    folder = write_toy_engine(tmp_path / "engine", scripted=script(count, answer))
    with serve(folder, tmp_path) as server:
        body: dict[str, Any] = {"messages": messages, "max_tokens": 9, "logprobs": True}
        (choice,) = server.post("/v1/chat/completions", **body).json()["choices"]
        streamed = server.events("/v1/chat/completions", **body)
    assert choice["message"]["content"] == "ok"
    content = choice["logprobs"]["content"]
    assert [each["token"] for each in content[:3]] == [" ", "o", "k"]
    assert bytes(byte for each in content[:3] for byte in each["bytes"]) == b" ok"
    choices = [event["choices"][0] for event in streamed if event != "[DONE]"]
    parts = [each["logprobs"]["content"] for each in choices if each["logprobs"]]
    assert [each for part in parts for each in part] == content
    assert "".join(each["delta"].get("content", "") for each in choices) == "ok"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("completions", {"prompt": "a", "temperature": -1}, "temperature"),
        ("completions", {"prompt": "a", "temperature": "hot"}, "temperature"),
        ("completions", {"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ("completions", {"prompt": "a", "max_tokens": 1.5}, "max_tokens"),
        ("completions", {"prompt": "a", "top_p": 0}, "top_p"),
        ("completions", {"prompt": "a", "n": 0}, "n"),
        ("completions", {"prompt": "a", "best_of": 1, "n": 2}, "best_of"),
        ("completions", {"prompt": "a", "stop": [""]}, "stop"),
        ("completions", {"prompt": "a", "logprobs": 99}, "logprobs"),
        ("completions", {"prompt": "a", "stream_options": {}}, "stream_options"),
        ("completions", {"prompt": [9999]}, "prompt"),
        ("completions", {"prompt": [-1]}, "prompt"),
        ("completions", {"prompt": [1, 2**70]}, "prompt"),
        ("completions", {"prompt": [1, -(2**40)], "echo": True}, "prompt"),
        ("completions", {"prompt": "a", "stop_token_ids": [2**70]}, "stop_token_ids"),
        ("completions", {"prompt": "a", "logit_bias": {str(2**70): 1}}, "logit_bias"),
        ("completions", {"prompt": []}, "prompt"),
        ("completions", {"prompt": {"a": 1}}, "prompt"),
        ("completions", {"prompt": "a" * 99}, None),
        ("completions", {"prompt": [1, 2], "suffix": "a"}, "prompt"),
        (
            "chat/completions",
            {
                "messages": [{"role": "assistant", "content": "a"}],
                "continue_final_message": True,
                "add_generation_prompt": True,
            },
            "add_generation_prompt",
        ),
        ("chat/completions", {}, "messages"),
        ("chat/completions", {"messages": []}, "messages"),
        ("chat/completions", {"messages": [{"role": "wizard", "content": "a"}]}, "messages"),
        ("chat/completions", {"messages": [{"content": "a"}]}, "messages"),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages",
        ),
    ],
)
def test_a_bad_parameter_is_a_400_that_names_it(
    server: Server, path: str, body: dict[str, Any], param: str | None
) -> None:
    before = server.metric("trtcoder:requests_total")
    response = server.post(f"/v1/{path}", **body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert server.metric("trtcoder:requests_total") == before


def test_a_prompt_beyond_the_context_is_told_in_numbers(server: Server) -> None:
    error = server.post("/v1/completions", prompt="a" * 99).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "100 tokens" in error["message"]
    assert "64" in error["message"]


def test_a_body_that_is_not_json_is_a_400(server: Server) -> None:
    headers = {"content-type": "application/json"}
    for data in (b"{", b"[]", b"\xff\xfe", b""):
        response = server.client.post("/v1/completions", content=data, headers=headers)
        assert response.status_code == 400, data
        assert "message" in response.json()["error"]


def test_a_stop_string_and_an_end_of_sequence_are_told_apart(tmp_path: Path) -> None:
    answer = [*TOKENIZER.encode("abc"), EOS]
    folder = write_toy_engine(tmp_path / "engine", scripted=script(3, answer))
    with serve(folder, tmp_path) as server:
        (ended,) = server.post("/v1/completions", prompt="f(").json()["choices"]
        assert (ended["text"], ended["finish_reason"], ended["stop_reason"]) == (
            "abc",
            "stop",
            None,
        )
        (stopped,) = server.post("/v1/completions", prompt="f(", stop="c").json()["choices"]
        assert (stopped["text"], stopped["stop_reason"]) == ("ab", "c")
