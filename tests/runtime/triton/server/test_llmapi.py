"""NVIDIA's llmapi names over HTTP and gRPC, in a real Triton."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.runtime.server.talking import HOT
from tests.runtime.triton.server.conftest import Served
from tests.runtime.triton.server.requests import LONG, MODEL, PROMPT, UNARY, request, texts
from trtcoder.runtime.llm import LLM

SAMPLED: dict[str, Any] = {"sampling_param_temperature": HOT, "sampling_param_max_tokens": 24}


@pytest.fixture(scope="module")
def llm(served: Served) -> Iterator[LLM]:
    with LLM(served.engine) as opened:
        yield opened


def offline(llm: LLM, seed: int = 7, prompt: str = PROMPT) -> str:
    (output,) = llm.generate(prompt, temperature=HOT, max_tokens=24, seed=seed)
    return output.outputs[0].text


def test_every_model_is_ready(served: Served) -> None:
    client = served.triton.client
    assert client.get("/v2/health/live").status_code == 200
    for model in (MODEL, UNARY, "ensemble", "tensorrt_llm_bls", "preprocessing", "postprocessing"):
        assert client.get(f"/v2/models/{model}/ready").status_code == 200, model
    config = client.get(f"/v2/models/{MODEL}/config").json()
    # What model.yaml says.
    assert config["model_transaction_policy"] == {"decoupled": True}
    assert config["max_batch_size"] == 0


@pytest.mark.parametrize("model", [MODEL, UNARY])
def test_generate_is_the_offline_text(served: Served, llm: LLM, model: str) -> None:
    asked: dict[str, Any] = {"text_input": PROMPT, "sampling_param_seed": 7, **SAMPLED}
    response = served.triton.generate(model, **asked, return_finish_reason=True)
    assert response.status_code == 200, response.text
    assert response.json()["text_output"] == offline(llm)
    assert response.json()["finish_reason"] == "length"


def test_generate_stream_is_the_offline_text(served: Served, llm: LLM) -> None:
    asked: dict[str, Any] = {
        "text_input": PROMPT,
        "sampling_param_seed": 7,
        "streaming": True,
        **SAMPLED,
    }
    events = served.triton.stream(**asked)
    assert events[-1]["text_output"] == offline(llm)
    deltas = served.triton.stream(**asked, stream_deltas=True)
    assert "".join(event["text_output"] for event in deltas) == offline(llm)
    # Parts that wait for one another go out together: so many do not.
    assert len(served.triton.stream(text_input=PROMPT, streaming=True, **LONG)) > 1


def test_text_of_every_kind_comes_through(served: Served, llm: LLM) -> None:
    prompt = 'π = "\\n\u0000"\U0001f600\n'
    asked = {"text_input": prompt, "sampling_param_seed": 7, **SAMPLED}
    assert served.triton.generate(**asked).json()["text_output"] == offline(llm, prompt=prompt)


def test_a_chat_and_a_hole(served: Served, llm: LLM) -> None:
    talk = [{"role": "user", "content": "Hello"}]
    asked: dict[str, Any] = {"sampling_param_max_tokens": 6, "sampling_param_temperature": 0.0}
    (chat,) = llm.chat(talk, max_tokens=6, temperature=0.0)
    found = served.triton.generate(messages=json.dumps(talk), **asked).json()
    assert found["text_output"] == chat.outputs[0].text
    (hole,) = llm.fill(("a = ", "\n"), max_tokens=6, temperature=0.0)
    found = served.triton.generate(text_input="a = ", suffix="\n", **asked).json()
    assert found["text_output"] == hole.outputs[0].text


def test_kserve_tensors_over_http(served: Served, llm: LLM) -> None:
    tensors = [
        {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": [PROMPT]},
        {"name": "sampling_param_max_tokens", "datatype": "INT32", "shape": [1], "data": [24]},
        {"name": "sampling_param_temperature", "datatype": "FP32", "shape": [1], "data": [HOT]},
        {"name": "sampling_param_seed", "datatype": "UINT64", "shape": [1], "data": [7]},
    ]
    path = f"/v2/models/{UNARY}/infer"
    response = served.triton.client.post(path, json={"inputs": tensors})
    assert response.status_code == 200, response.text
    (output,) = response.json()["outputs"]
    assert output == {
        "name": "text_output",
        "datatype": "BYTES",
        "shape": [1],
        "data": [offline(llm)],
    }


def test_32_grpc_streams_are_the_offline_texts_of_their_seeds(served: Served, llm: LLM) -> None:
    seeds = range(32)
    asked = [request(streaming=True, sampling_param_seed=seed, **SAMPLED) for seed in seeds]
    found = [texts(outcome)[-1] for outcome in served.triton.ask(*asked)]
    assert found == [offline(llm, seed) for seed in seeds]
    assert len(set(found)) > 1


def test_32_unary_calls_are_too(served: Served, llm: LLM) -> None:
    seeds = range(32)
    asked = [
        request(model=UNARY, stream=False, sampling_param_seed=seed, **SAMPLED) for seed in seeds
    ]
    found = [texts(outcome) for outcome in served.triton.ask(*asked)]
    assert found == [[offline(llm, seed)] for seed in seeds]


def test_bad_input_fails_its_request_alone(served: Served, llm: LLM) -> None:
    good = request(streaming=True, sampling_param_seed=7, **SAMPLED)
    bad = {
        "temperature is -1.0": request(sampling_param_temperature=-1.0),
        "text_input: is missing": request(None),
        "lora_id: engines have no adapters": request(lora_id=3),
        "image_url: this model takes text": request(image_url=["http://x"]),
        "sampling_param_best_of is 2": request(sampling_param_best_of=2),
        "the prompt has 5001 tokens": request("x" * 5000),
        # What Triton itself refuses: another type, another shape, a tensor that is not declared.
        "temperature": request(sampling_param_temperature=True),
        "sampling_param_seed": request(sampling_param_seed=[1, 2]),
        "beam_width": request(beam_width=1),
    }
    first, *others, last = served.triton.ask(good, *bad.values(), good)
    assert texts(first)[-1] == texts(last)[-1] == offline(llm)
    for said, outcome in zip(bad, others, strict=True):
        assert not outcome["responses"], said
        assert said in outcome["error"], outcome["error"]
        assert "Traceback" not in outcome["error"]


def test_bad_input_is_a_400_over_http(served: Served) -> None:
    response = served.triton.generate(text_input="a", sampling_param_temperature=-1.0)
    assert response.status_code == 400
    assert "temperature is -1.0" in response.json()["error"]


def test_a_stream_that_is_left_ends(served: Served) -> None:
    before = served.triton.metric("trtcoder:generation_tokens_total")
    (outcome,) = served.triton.ask(request(streaming=True, cancel_after=2, **LONG))
    served.triton.until("trtcoder:requests_running", 0)
    assert len(outcome["responses"]) >= 2
    # It did not go on to its end.
    assert served.triton.metric("trtcoder:generation_tokens_total") - before < 2000


def test_a_unary_call_that_is_left_ends(served: Served) -> None:
    before = served.triton.metric("trtcoder:generation_tokens_total")
    served.triton.ask(request(model=UNARY, stream=False, cancel_after=0, **LONG))
    served.triton.until("trtcoder:requests_running", 0)
    assert served.triton.metric("trtcoder:generation_tokens_total") - before < 2000


@pytest.mark.parametrize("model", [MODEL, UNARY])
def test_stop_ends_the_request_of_its_id(served: Served, model: str) -> None:
    stream = model == MODEL
    running = request(model=model, stream=stream, id="mine", streaming=stream, **LONG)
    stop = request("", model=model, stream=stream, id="mine", stop=True)
    # Until one of them has met it: which comes first is not ours to say.
    for _ in range(20):
        stopped, told = served.triton.ask(running, stop)
        # A stream of gRPC has no codes, and a unary call has.
        assert "the request was cancelled" in told["error"]
        assert stream or "CANCELLED" in told["error"]
        if stopped["error"] is not None:
            break
    assert "the request was cancelled" in stopped["error"]


def test_metrics_tell_what_the_engine_did(served: Served) -> None:
    triton = served.triton
    # They are at most a quarter of a second old: what ran before is in them then.
    triton.until("trtcoder:requests_running", 0)
    time.sleep(0.5)
    tokens = triton.metric("trtcoder:generation_tokens_total")
    hits = triton.metric("trtcoder:prefix_cache_hits_total")
    for _ in range(2):
        text = "a prefix of many tokens " * 4
        asked: dict[str, Any] = {"sampling_param_max_tokens": 4, "sampling_param_ignore_eos": True}
        assert triton.generate(text_input=text, **asked).status_code == 200
    triton.until("trtcoder:generation_tokens_total", tokens + 8)
    assert triton.metric("trtcoder:prefix_cache_hits_total") > hits
    for name in ("requests_running", "requests_waiting", "cache_usage"):
        assert triton.metric(f"trtcoder:{name}", model=MODEL) == 0
    assert triton.metric("nv_inference_request_success", model=MODEL) > 0
