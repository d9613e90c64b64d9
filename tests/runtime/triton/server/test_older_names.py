"""The names of NVIDIA's older layout, as its clients send them, in a real Triton."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.runtime.triton.server.conftest import Served
from tests.runtime.triton.server.requests import PROMPT, request, texts
from trtcoder.runtime.llm import LLM

MODELS = ["ensemble", "tensorrt_llm_bls"]


@pytest.fixture(scope="module")
def llm(served: Served) -> Iterator[LLM]:
    with LLM(served.engine) as opened:
        yield opened


def older(text: str = PROMPT, *, max_tokens: int = 12, **values: Any) -> dict[str, Any]:
    return request(text, shape=(1, 1), max_tokens=max_tokens, **values)


def greedy(llm: LLM, max_tokens: int = 12) -> str:
    (output,) = llm.generate(PROMPT, temperature=0.0, max_tokens=max_tokens)
    return output.outputs[0].text


@pytest.mark.parametrize("model", MODELS)
def test_a_stream_is_made_of_what_is_new(served: Served, llm: LLM, model: str) -> None:
    # Parts that wait for one another go out together: so many do not.
    asked: dict[str, Any] = {
        "beam_width": 1,
        "temperature": 1.0,
        "bad_words": [""],
        "stop_words": [""],
    }
    sent = older(model=model, max_tokens=600, **asked)
    sent["inputs"]["stream"] = ["BOOL", (1, 1), [True]]
    (outcome,) = served.triton.ask(sent)
    parts = texts(outcome)
    assert "".join(parts) == greedy(llm, 600)
    assert len(parts) > 1
    assert outcome["responses"][0]["sequence_index"] == [[0]]


@pytest.mark.parametrize("model", MODELS)
def test_generate_takes_the_older_names(served: Served, llm: LLM, model: str) -> None:
    response = served.triton.generate(
        model,
        text_input=PROMPT,
        max_tokens=12,
        return_log_probs=True,
        return_num_output_tokens=True,
    )
    assert response.status_code == 200, response.text
    found = response.json()
    assert found["text_output"] == greedy(llm)
    assert found["num_output_tokens"] == 12
    assert len(found["output_log_probs"]) == 12
    assert found["cum_log_probs"] == pytest.approx(sum(found["output_log_probs"]), rel=1e-4)


def test_what_is_not_served_is_an_error_of_its_request(served: Served) -> None:
    (outcome,) = served.triton.ask(older(model="ensemble", beam_width=4))
    assert "beam_width is 4; it must be 1" in outcome["error"]
    response = served.triton.generate(
        "ensemble", text_input="a", max_tokens=3, temperature=-1.0, top_k=2
    )
    assert response.status_code == 400
    assert "temperature is -1.0" in response.json()["error"]


def test_a_stream_that_is_left_ends(served: Served) -> None:
    before = served.triton.metric("trtcoder:generation_tokens_total")
    sent = older(model="ensemble", max_tokens=2000, end_id=-1, cancel_after=2)
    sent["inputs"]["stream"] = ["BOOL", (1, 1), [True]]
    served.triton.ask(sent)
    served.triton.until("trtcoder:requests_running", 0)
    assert served.triton.metric("trtcoder:generation_tokens_total") - before < 2000


def test_text_goes_to_ids_and_back(served: Served, llm: LLM) -> None:
    sent = request(None, model="preprocessing", stream=False, shape=(1, 1), QUERY=PROMPT)
    (outcome,) = served.triton.ask(sent)
    (ids,) = outcome["responses"][0]["INPUT_ID"]
    assert ids == llm.prompts.completion(PROMPT)
    sent = request(None, model="postprocessing", stream=False)
    sent["inputs"] = {
        "TOKENS_BATCH": ["INT32", (1, 1, len(ids)), ids],
        "SEQUENCE_LENGTH": ["INT32", (1, 1), [len(ids)]],
    }
    (outcome,) = served.triton.ask(sent)
    assert outcome["responses"][0]["OUTPUT"] == [PROMPT]
