"""What llama-server's clients read beside the text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.server.serving import Server, serve
from tests.runtime.server.talking import CLOCK, TALK, openai_tools
from tests.toy_engine import BOS_TEXT, EOS_TEXT, SPECIAL, write_toy_engine

BEGIN, HOLE, END = (f"<｜{name}｜>" for name in SPECIAL[2:])


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that computes two answers at once."""
    work = tmp_path_factory.mktemp("double")
    with serve(write_toy_engine(work / "engine"), work, "--max-batch", "2") as started:
        yield started


def test_an_answer_tells_its_prompt_and_how_tokens_were_chosen(roomy: Server) -> None:
    asked: dict[str, Any] = {
        "n_predict": 3,
        "temperature": 0.5,
        "top_k": 7,
        "seed": 11,
        "stop": ["zzz"],
        "logit_bias": [[5, -1.0]],
    }
    found = roomy.post("/completion", prompt="hi", **asked).json()
    assert found["prompt"] == f"{BOS_TEXT}hi"
    settings = found["generation_settings"]
    for name in ("n_predict", "temperature", "top_k", "seed", "stop"):
        assert settings[name] == asked[name], name
    assert settings["logit_bias"] == [{"token": 5, "bias": -1.0}]
    assert settings["top_p"] == 1.0
    # The row of the last token was not computed.
    assert found["tokens_cached"] == 3 + 3 - 1


def test_a_middle_tells_its_prompt_with_the_markers_spelled(roomy: Server) -> None:
    asked: dict[str, Any] = {"input_prefix": "a", "input_suffix": "b", "n_predict": 1}
    found = roomy.post("/infill", **asked).json()
    assert found["prompt"] == f"{BOS_TEXT}{BEGIN}a{HOLE}b{END}"
    chosen = roomy.post("/infill", **asked, response_fields=["content", "prompt"]).json()
    assert set(chosen) == {"content", "prompt"}
    assert chosen["prompt"] == found["prompt"]


def test_progress_tells_how_much_of_a_prompt_is_computed(roomy: Server) -> None:
    # A step takes 512 tokens at most.
    asked: dict[str, Any] = {"prompt": "p" * 1500, "n_predict": 2, "return_progress": True}
    events = roomy.events("/completion", **asked)
    told = [each["prompt_progress"] for each in events if "prompt_progress" in each]
    # Another request may have left the row of BOS.
    cached = told[0]["cache"]
    assert cached < 5
    assert [each["processed"] for each in told] == [cached + 512, cached + 1024, 1501]
    assert {(each["total"], each["cache"]) for each in told} == {(1501, cached)}
    kinds = ["prompt_progress" in each for each in events]
    assert kinds == sorted(kinds, reverse=True)
    again = roomy.events("/completion", **asked)
    assert again[0]["prompt_progress"]["cache"] > 1024
    unasked = roomy.events("/completion", **{**asked, "return_progress": False})
    assert not any("prompt_progress" in each for each in unasked)


def test_progress_of_a_middle_is_told_too(roomy: Server) -> None:
    asked: dict[str, Any] = {"input_prefix": "q" * 900, "input_suffix": "b", "n_predict": 2}
    events = roomy.events("/infill", **asked, return_progress=True)
    assert 512 <= events[0]["prompt_progress"]["processed"] < 900
    assert events[-1]["stop"] is True


def test_slots_are_as_many_as_answers_are_computed_at_once(double: Server) -> None:
    found = double.client.get("/slots").json()
    assert [each["id"] for each in found] == [0, 1]
    assert [each["is_processing"] for each in found] == [False, False]
    assert (
        found[0]["n_ctx"]
        == double.client.get("/props").json()["default_generation_settings"]["n_ctx"]
    )
    assert double.client.get("/slots?fail_on_no_slot=1").status_code == 200


def test_a_slot_is_busy_while_an_answer_is_computed(roomy: Server) -> None:
    body = {"prompt": "a", "n_predict": 1900, "ignore_eos": True, "stream": True}
    seen = []
    for _ in range(50):  # an answer may end before the slots are asked for
        with roomy.client.stream("POST", "/completion", json=body) as response:
            next(response.iter_lines())
            seen.append([each["is_processing"] for each in roomy.client.get("/slots").json()])
        if any(seen[-1]):
            break
    assert seen[-1] == [True] + [False] * (len(seen[-1]) - 1)


def test_props_tell_the_tokens_and_the_defaults(roomy: Server) -> None:
    found = roomy.client.get("/props").json()
    assert (found["bos_token"], found["eos_token"]) == (BOS_TEXT, EOS_TEXT)
    settings = found["default_generation_settings"]["params"]
    assert (settings["temperature"], settings["top_p"], settings["n_predict"]) == (0.0, 1.0, -1)
    assert found["total_slots"] == len(roomy.client.get("/slots").json())


def test_a_chat_is_told_as_its_prompt(roomy: Server) -> None:
    plain = roomy.post("/apply-template", messages=TALK).json()["prompt"]
    assert plain == f"{BOS_TEXT}User: x\n\nAssistant:"
    bare = roomy.post("/apply-template", messages=TALK, add_generation_prompt=False).json()
    assert bare["prompt"] == f"{BOS_TEXT}User: x\n\n"
    tools = roomy.post("/apply-template", messages=TALK, tools=openai_tools(CLOCK)).json()
    assert '"name": "clock"' in tools["prompt"]
    assert roomy.post("/apply-template", messages=[]).status_code == 400


def test_prompts_are_counted_without_an_answer(roomy: Server) -> None:
    for body in ({"messages": TALK}, {"messages": TALK, "tools": openai_tools(CLOCK)}):
        counted = roomy.post("/v1/chat/completions/input_tokens", **body).json()
        ids = roomy.post("/tokenize", **body).json()
        assert counted == {"object": "response.input_tokens", "input_tokens": ids["count"]}
    found = roomy.post("/v1/responses/input_tokens", input="x").json()
    assert found["input_tokens"] == roomy.post("/tokenize", messages=TALK).json()["count"]


@pytest.mark.parametrize(
    ("more", "is_off"),
    [
        ({"mirostat": 2}, {"mirostat": 0}),
        ({"dry_multiplier": 0.8}, {"dry_multiplier": 0.0}),
        ({"dynatemp_range": 0.5}, {"dynatemp_range": 0}),
        ({"xtc_probability": 0.1}, {"xtc_probability": 0.0}),
        ({"typical_p": 0.9}, {"typical_p": 1.0}),
        ({"top_n_sigma": 1.0}, {"top_n_sigma": -1}),
        ({"post_sampling_probs": True}, {"post_sampling_probs": False}),
    ],
)
def test_samplers_that_are_not_there_are_refused_unless_they_are_off(
    roomy: Server, more: dict[str, Any], is_off: dict[str, Any]
) -> None:
    response = roomy.post("/completion", prompt="a", n_predict=1, **more)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["type"]) == (400, "invalid_request_error")
    assert next(iter(more)) in error["message"]
    assert roomy.post("/completion", prompt="a", n_predict=1, **is_off).status_code == 200


def test_health_is_told_under_v1_without_a_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    folder = write_toy_engine(tmp_path / "engine")
    with serve(folder, tmp_path, "--api-key-file", str(keys)) as server:
        assert server.client.get("/v1/health").json() == {"status": "ok"}
        response = server.client.get("/slots")
        assert response.status_code == 401
        assert response.json()["error"]["type"] == "authentication_error"
