from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.server.serving import Server, serve
from tests.toy_engine import (
    BOS,
    FIM_BEGIN,
    FIM_END,
    FIM_HOLE,
    byte_tokenizer,
    toy_manifest,
    write_toy_engine,
)
from trtcoder import LLM
from trtcoder.prompting.tokenizer import TextTokenizer

TOKENIZER = TextTokenizer(byte_tokenizer())
MISTRAL = ["/v1/fim/completions", "/fim/completions"]


def fim(prefix: str, suffix: str, begun: str = "") -> list[int]:
    encode = TOKENIZER.encode
    middle = [FIM_HOLE, *encode(suffix), FIM_END, *encode(begun)]
    return [BOS, FIM_BEGIN, *encode(prefix), *middle]


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


@pytest.fixture(scope="module")
def mute(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose engine was not trained to fill in the middle."""
    work = tmp_path_factory.mktemp("mute")
    with serve(write_toy_engine(work / "engine", toy_manifest(fim=False)), work) as started:
        yield started


def expected(llm: LLM, ids: list[int], count: int) -> str:
    (output,) = llm.generate(prompt_token_ids=[ids], max_tokens=count)
    return output.outputs[0].text


@pytest.mark.parametrize("path", MISTRAL)
@pytest.mark.parametrize("suffix", ["c", "", None])
def test_mistrals_answer_is_a_chats(
    server: Server, llm: LLM, path: str, suffix: str | None
) -> None:
    body: dict[str, Any] = {"prompt": "ab", "suffix": suffix, "max_tokens": 5}
    answer = server.post(path, **body).json()
    (choice,) = answer["choices"]
    text = expected(llm, fim("ab", suffix or ""), 5)
    assert choice["message"] == {"role": "assistant", "content": text}
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 5


@pytest.mark.parametrize("asks_usage", [False, True])
def test_every_delta_of_mistrals_stream_has_content(
    server: Server, llm: LLM, asks_usage: bool
) -> None:
    options = {"stream_options": {"include_usage": True}} if asks_usage else {}
    events = server.events("/v1/fim/completions", prompt="ab", suffix="c", max_tokens=5, **options)
    assert events.pop() == "[DONE]"
    if asks_usage:
        assert events.pop()["choices"] == []
    deltas = [each["choices"][0]["delta"] for each in events]
    assert "".join(delta["content"] for delta in deltas) == expected(llm, fim("ab", "c"), 5)
    assert [delta.get("role") for delta in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
    reasons = [each["choices"][0]["finish_reason"] for each in events]
    assert reasons == [None] * (len(reasons) - 1) + ["length"]


def test_infill_answers_as_llama_server_does(server: Server, llm: LLM) -> None:
    body: dict[str, Any] = {
        # What llama.vim sends.
        "id_slot": 0,
        "input_prefix": "ab",
        "input_suffix": "c",
        "input_extra": [],
        "prompt": "d",
        "n_predict": 6,
        "n_cmpl": 1,
        "stop": [],
        "n_indent": 0,
        "top_k": 40,
        "top_p": 0.9,
        "samplers": ["top_k", "top_p", "infill"],
        "t_max_prompt_ms": 500,
        "t_max_predict_ms": 10_000,
        "cache_prompt": True,
        "temperature": 0,
    }
    answer = server.post("/infill", **body).json()
    assert answer["content"] == expected(llm, fim("ab", "c", "d"), 6)
    assert (answer["stop"], answer["stop_type"], answer["truncated"]) == (True, "limit", False)
    assert answer["tokens_predicted"] == 6
    assert answer["tokens_evaluated"] == len(fim("ab", "c", "d"))
    timings = answer["timings"]
    assert timings["cache_n"] + timings["prompt_n"] == answer["tokens_evaluated"]
    fields = ["content", "timings/prompt_n", "no_such"]
    chosen = server.post("/infill", **body, response_fields=fields).json()
    assert chosen.keys() == {"content", "timings/prompt_n"}
    events = server.events("/infill", **body)
    assert [each["stop"] for each in events] == [False] * (len(events) - 1) + [True]
    assert "".join(each["content"] for each in events) == answer["content"]
    assert events[-1]["tokens_predicted"] == 6


def test_infills_extra_files_stand_before_the_prefix(server: Server, llm: LLM) -> None:
    extra = [{"filename": "x.py", "text": "y"}, {"text": "z\n"}]
    answer = server.post(
        "/infill", input_prefix="a", input_suffix="b", input_extra=extra, n_predict=3
    ).json()
    assert answer["content"] == expected(llm, fim("#x.py\ny\n#\nz\na", "b"), 3)


def test_infill_of_no_tokens_warms_the_cache(server: Server) -> None:
    body: dict[str, Any] = {"input_prefix": "warm " * 6, "input_suffix": "c"}
    answer = server.post("/infill", **body, n_predict=0).json()
    assert answer["content"] == ""
    assert answer["tokens_predicted"] == 0
    again = server.post("/infill", **body, n_predict=2).json()
    assert again["timings"]["cache_n"] >= 28
    (event,) = server.events("/infill", **body, n_predict=0)
    assert (event["content"], event["stop"]) == ("", True)


def test_infill_gives_several_answers_as_a_list(server: Server) -> None:
    body: dict[str, Any] = {
        "input_prefix": "ab", "input_suffix": "c", "n_predict": 4, "n_cmpl": 3,
        "temperature": 900.0, "seed": 5,
    }  # fmt: skip
    answers = server.post("/infill", **body).json()
    assert [each["index"] for each in answers] == [0, 1, 2]
    texts = [""] * 3
    for event in server.events("/infill", **body):
        texts[event["index"]] += event["content"]
    assert texts == [each["content"] for each in answers]


def test_completion_is_llama_servers(server: Server, llm: LLM) -> None:
    answer = server.post("/completion", prompt="hello", n_predict=5, n_probs=2).json()
    (output,) = llm.generate("hello", max_tokens=5)
    assert answer["content"] == output.outputs[0].text
    other = server.post("/completions", prompt="hello", n_predict=5).json()
    assert other["content"] == answer["content"]
    assert len(answer["completion_probabilities"]) == 5
    mixed = server.post("/completion", prompt=[BOS, "hel", *TOKENIZER.encode("lo")], n_predict=5)
    assert mixed.json()["content"] == answer["content"]
    events = server.events("/completion", prompt="hello", n_predict=5, n_probs=2)
    streamed = [each for event in events for each in event.get("completion_probabilities", ())]
    assert streamed == answer["completion_probabilities"]
    assert server.client.get("/props").json()["model_alias"] == "deepseek-toy"


def test_completion_takes_several_prompts(server: Server) -> None:
    prompts: list[Any] = ["ab", [BOS, "a", *TOKENIZER.encode("b")], {"prompt_string": "cd"}]
    one = [server.post("/completion", prompt=each, n_predict=4).json() for each in prompts]
    answers = server.post("/completion", prompt=prompts, n_predict=4).json()
    assert [each["index"] for each in answers] == [0, 1, 2]
    assert [each["content"] for each in answers] == [each["content"] for each in one]
    twice = server.post("/completion", prompt=["ab", "cd"], n_predict=4, n_cmpl=2).json()
    assert [each["index"] for each in twice] == [0, 1, 2, 3]
    texts = [""] * 3
    for event in server.events("/completion", prompt=prompts, n_predict=4):
        texts[event["index"]] += event["content"]
    assert texts == [each["content"] for each in one]
    for wrong in (
        [],
        [1, ["a"]],
        [{"prompt_string": 1}],
        {"prompt_string": "a", "x": 1},
        [["a", []]],
    ):
        response = server.post("/completion", prompt=wrong)
        assert response.status_code == 400, wrong
        assert response.json()["error"]["message"].startswith("prompt")


def test_a_prompt_beyond_the_context_has_llama_servers_type_and_numbers(server: Server) -> None:
    response = server.post("/completion", prompt="a" * 5000, n_predict=1)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "exceed_context_size_error"
    assert error["n_prompt_tokens"] == 5001
    settings = server.client.get("/props").json()["default_generation_settings"]
    assert error["n_ctx"] == settings["n_ctx"]
    other = server.post("/completion", prompt="a", n_predict=1, top_p=7).json()["error"]
    assert other["type"] == "invalid_request_error"
    assert "n_ctx" not in other


def test_a_bias_is_a_mapping_or_pairs_of_ids_or_texts(server: Server) -> None:
    def likely(prompt: str) -> list[dict[str, Any]]:
        answer = server.post("/completion", prompt=prompt, n_predict=1, n_probs=2).json()
        found: list[dict[str, Any]] = answer["completion_probabilities"][0]["top_logprobs"]
        return found

    prompts = "abcdefghijklmnopqrstuvwxyz"
    prompt, first, second = next(
        (prompt, first, second)
        for prompt in prompts
        for first, second in [likely(prompt)]
        if first["logprob"] - second["logprob"] < 100 and first["token"].isascii()
    )
    token = first["id"]
    for bias in ([[token, -100]], [[token, False]], {str(token): -100}, [[first["token"], -100.0]]):
        answer = server.post("/completion", prompt=prompt, n_predict=1, logit_bias=bias)
        assert answer.status_code == 200, answer.text
        assert answer.json()["content"] == second["token"]
    for wrong in ([[1]], [[1.5, 1]], [[1, "x"]], [[True, 1]]):
        response = server.post("/completion", prompt="a", logit_bias=wrong)
        assert response.status_code == 400
        assert "logit_bias" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v1/fim/completions", {"suffix": "b"}, "prompt"),
        ("/v1/fim/completions", {"prompt": 3}, "prompt"),
        ("/v1/fim/completions", {"prompt": "a", "suffix": ["b"]}, "suffix"),
        ("/v1/fim/completions", {"prompt": "a", "temperature": -1}, "temperature"),
        ("/v1/fim/completions", {"prompt": "a", "trtcoder": {"heel": True}}, "trtcoder"),
        ("/infill", {"input_suffix": "b"}, "input_prefix"),
        ("/infill", {"input_prefix": "b"}, "input_suffix"),
        ("/infill", {"input_prefix": "a", "input_suffix": "b", "input_extra": {}}, "input_extra"),
        (
            "/infill",
            {"input_prefix": "a", "input_suffix": "b", "input_extra": [{"filename": "x"}]},
            "input_extra",
        ),
        ("/infill", {"input_prefix": "a", "input_suffix": "b", "top_p": 2}, "top_p"),
        ("/infill", {"input_prefix": "a", "input_suffix": "b", "n_cmpl": 0}, "n"),
        ("/completion", {"prompt": {"a": 1}}, "prompt"),
        ("/completion", {}, "prompt"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_in_the_dialects_form(
    server: Server, path: str, body: dict[str, Any], name: str
) -> None:
    for more in ({}, {"stream": True}):
        response = server.post(path, **body, **more)
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert error["message"].startswith(name)
        assert error["type"] == "invalid_request_error"
        assert error["code"] == (None if path.startswith("/v1") else 400)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/fim/completions", {"prompt": "a"}),
        ("/infill", {"input_prefix": "a", "input_suffix": ""}),
        ("/v1/completions", {"prompt": "a", "suffix": ""}),
        ("/beta/completions", {"prompt": "a", "suffix": "b"}),
    ],
)
def test_an_engine_without_fim_says_so(mute: Server, path: str, body: dict[str, Any]) -> None:
    response = mute.post(path, **body)
    assert response.status_code == 400
    assert "was not trained to fill in the middle" in response.json()["error"]["message"]
