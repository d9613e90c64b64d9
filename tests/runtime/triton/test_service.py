"""The engine's requests inside Triton, with a real engine and clients of this process."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.server.talking import HOT, roomy_engine
from tests.runtime.triton.replies import Collected, inputs
from trtcoder.errors import BusyError, RequestError
from trtcoder.runtime.llm import LLM
from trtcoder.runtime.triton.reply import CancelledError
from trtcoder.runtime.triton.service import TritonService
from trtcoder.runtime.triton.settings import ModelSettings, TritonConfig

PROMPT = "def f(x):"
# More tokens than any test waits for.
LONG: dict[str, Any] = {"p_ignore_eos": True, "p_max_tokens": 2000}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return roomy_engine(tmp_path_factory.mktemp("toy") / "engine")


def start(folder: Path, **config: Any) -> TritonService:
    settings = ModelSettings(
        max_batch=4, triton_config=TritonConfig(cancellation_check_period_ms=5, **config)
    )
    return TritonService(LLM(folder, settings=settings.engine_settings()), settings)


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[TritonService]:
    started = start(folder)
    yield started
    started.close()


def ask(service: TritonService, request_id: str = "", **values: Any) -> Collected:
    reply = Collected()
    service.ask(inputs(**{"text_input": PROMPT, **values}), request_id, reply)
    return reply


def offline(service: TritonService, **sampling: Any) -> str:
    (output,) = service.llm.generate(PROMPT, **sampling)
    return output.outputs[0].text


HOT_PARAMS: dict[str, Any] = {"temperature": HOT, "seed": 7, "max_tokens": 24}
HOT_TENSORS: dict[str, Any] = {f"p_{name}": value for name, value in HOT_PARAMS.items()}


def test_an_answer_is_one_response_with_the_offline_text(service: TritonService) -> None:
    reply = ask(service, **HOT_TENSORS).wait()
    assert reply.texts() == [offline(service, **HOT_PARAMS)]
    assert set(reply.responses[0]) == {"text_output"}


def test_a_stream_is_the_text_so_far_or_what_is_new(service: TritonService) -> None:
    expected = offline(service, **HOT_PARAMS)
    whole = ask(service, streaming=True, **HOT_TENSORS).wait().texts()
    assert whole[-1] == expected
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(whole))
    deltas = ask(service, streaming=True, stream_deltas=True, **HOT_TENSORS).wait().texts()
    assert "".join(deltas) == expected
    # Only the last one may have nothing to say.
    assert all(deltas[:-1])


def test_the_prompt_goes_before_once(service: TritonService) -> None:
    expected = PROMPT + offline(service, **HOT_PARAMS)
    asked = {"p_exclude_input_from_output": False, **HOT_TENSORS}
    assert ask(service, **asked).wait().texts() == [expected]
    deltas = ask(service, streaming=True, stream_deltas=True, **asked).wait().texts()
    assert "".join(deltas) == expected


def test_many_streams_with_their_own_seeds_are_the_offline_texts(service: TritonService) -> None:
    seeds = range(32)
    expected = [offline(service, **{**HOT_PARAMS, "seed": seed}) for seed in seeds]
    replies = [ask(service, streaming=True, **{**HOT_TENSORS, "p_seed": s}) for s in seeds]
    assert [reply.wait().texts()[-1] for reply in replies] == expected
    assert len(set(expected)) > 1


def test_several_answers_come_in_one_tensor(service: TritonService) -> None:
    reply = ask(service, p_n=2, return_finish_reason=True, **HOT_TENSORS).wait()
    texts = [offline(service, **{**HOT_PARAMS, "seed": seed}) for seed in (7, 8)]
    assert [value.decode() for value in reply.responses[-1]["text_output"]] == texts
    assert reply.responses[-1]["finish_reason"].tolist() == [b"length"] * 2


def test_what_is_asked_for_goes_out_beside_the_text(service: TritonService) -> None:
    reply = ask(
        service,
        p_max_tokens=3,
        p_temperature=0.0,
        return_finish_reason=True,
        return_stop_reason=True,
        return_cumulative_logprob=True,
        return_log_probs=True,
        return_num_input_tokens=True,
        return_num_output_tokens=True,
        p_return_perf_metrics=True,
    ).wait()
    (output,) = service.llm.generate(PROMPT, max_tokens=3, temperature=0.0, logprobs=0)
    expected = output.outputs[0]
    assert reply.one("finish_reason") == b"length"
    assert reply.one("stop_reason") == b"None"
    assert reply.one("num_input_tokens") == len(output.prompt_token_ids)
    assert reply.one("num_output_tokens") == 3
    assert reply.one("cumulative_logprob") == pytest.approx(expected.cumulative_logprob)
    found = reply.responses[-1]["output_log_probs"]
    assert found.shape == (1, 3)
    assert found[0].tolist() == pytest.approx([value for value, _ in expected.logprobs or ()])
    times = ("arrival", "first_scheduled", "first_token", "last_token")
    in_order = [reply.one(f"{name}_time_ns") for name in times]
    assert in_order == sorted(in_order)
    assert in_order[0] > 0
    assert 0 <= reply.one("kv_cache_hit_rate") <= 1


def test_a_stop_string_is_the_stop_reason(service: TritonService) -> None:
    text = offline(service, max_tokens=8, temperature=0.0)
    stop = text[2]
    reply = ask(service, p_stop=[stop], p_temperature=0.0, return_stop_reason=True).wait()
    assert reply.texts() == [text[: text.index(stop)]]
    assert reply.one("stop_reason") == stop.encode()


def test_a_client_that_left_ends_its_request(service: TritonService) -> None:
    for streaming in (True, False):
        reply = ask(service, streaming=streaming, **LONG)
        if streaming:
            assert reply.begun.wait(60)
        reply.is_gone = True
        assert isinstance(reply.wait().error, CancelledError)
    assert not service.llm.engine.thread.core.has_work
    assert service.num_open == 0


def test_a_client_that_left_while_it_waited_is_never_computed(service: TritonService) -> None:
    running = [ask(service, **LONG) for _ in range(4)]
    waiting = ask(service, **LONG)
    waiting.is_gone = True
    assert isinstance(waiting.wait().error, CancelledError)
    assert not waiting.responses
    for each in running:
        each.is_gone = True
        each.wait()


def test_stop_ends_the_requests_of_its_id_and_no_others(service: TritonService) -> None:
    first, second, other = (ask(service, name, **LONG) for name in ("a", "a", "b"))
    stop = Collected()
    service.ask(inputs(stop=True), "a", stop)
    for each in (stop, first, second):
        assert isinstance(each.wait().error, CancelledError)
    assert not other.ended.is_set()
    other.is_gone = True
    other.wait()


def test_stop_of_what_does_not_run_is_answered_alike(service: TritonService) -> None:
    for request_id in ("never", "a"):
        stop = Collected()
        service.ask(inputs(text_input="", stop=True), request_id, stop)
        assert isinstance(stop.wait().error, CancelledError)
    nameless = Collected()
    service.ask(inputs(stop=True), "", nameless)
    assert isinstance(nameless.wait().error, RequestError)


def test_a_bad_request_fails_alone(service: TritonService) -> None:
    good = ask(service, **HOT_TENSORS)
    bad = ask(service, p_temperature=-1.0)
    long = ask(service, text_input="x" * 5000)
    assert good.wait().texts() == [offline(service, **HOT_PARAMS)]
    assert "temperature is -1.0" in str(bad.wait().error)
    assert "the prompt has 5001 tokens" in str(long.wait().error)


def test_a_reply_that_cannot_be_sent_ends_its_request_alone(service: TritonService) -> None:
    class Broken(Collected):
        def send(self, outputs: Any, *, last: bool) -> None:
            raise OSError("gone")

    broken = Broken()
    service.ask(inputs(text_input=PROMPT, streaming=True, **LONG), "", broken)
    good = ask(service, **HOT_TENSORS)
    assert good.wait().texts() == [offline(service, **HOT_PARAMS)]
    assert broken.wait().error is not None


def test_a_chat_and_a_hole_are_those_of_the_library(service: TritonService) -> None:
    talk = [{"role": "user", "content": "Hello"}]
    (chat,) = service.llm.chat(talk, max_tokens=6, temperature=0.0)
    reply = Collected()
    given = {"messages": json.dumps(talk), "p_max_tokens": 6, "p_temperature": 0.0}
    service.ask(inputs(**given), "", reply)
    assert reply.wait().texts() == [chat.outputs[0].text]
    (hole,) = service.llm.fill(("a = ", "\n"), max_tokens=6, temperature=0.0)
    found = ask(service, text_input="a = ", suffix="\n", p_max_tokens=6, p_temperature=0.0)
    assert found.wait().texts() == [hole.outputs[0].text]


def test_a_model_that_is_not_decoupled_refuses_streams(folder: Path) -> None:
    service = start(folder, decoupled=False)
    try:
        assert "answers in one response" in str(ask(service, streaming=True).wait().error)
        assert ask(service, **HOT_TENSORS).wait().texts() == [offline(service, **HOT_PARAMS)]
    finally:
        service.close()


def test_it_is_ready_while_the_engines_thread_lives(folder: Path) -> None:
    service = start(folder)
    assert service.is_ready
    running = ask(service, **LONG)
    service.llm.close()
    assert not service.is_ready
    # Nobody is left without an end.
    assert isinstance(running.wait().error, BusyError)
    assert isinstance(ask(service).wait().error, BusyError)
    service.close()
