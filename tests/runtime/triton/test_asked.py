from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.runtime.triton.replies import inputs
from tests.toy_engine import EOS, byte_tokenizer, toy_manifest
from trtcoder.errors import RequestError
from trtcoder.prompting.prompts import Prompts
from trtcoder.prompting.tokenizer import TextTokenizer
from trtcoder.runtime.sampling.params import SamplingParams
from trtcoder.runtime.triton.asked import Asked
from trtcoder.runtime.triton.tensor import Inputs

PROMPTS = Prompts(toy_manifest(), TextTokenizer(byte_tokenizer()))
LIMIT = 40


def read(**values: Any) -> Asked:
    return Asked.read(inputs(**values), PROMPTS, max_tokens=LIMIT)


def params(**values: Any) -> SamplingParams:
    return read(text_input="a", **values).request.params


def test_a_prompt_alone_takes_the_engines_defaults_and_the_models_limit() -> None:
    asked = read(text_input="def f")
    assert asked.request.prompt_ids == tuple(PROMPTS.completion("def f"))
    assert asked.request.params == SamplingParams(max_tokens=LIMIT)
    assert not asked.streaming
    assert asked.before == ""


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"p_temperature": 0.7}, {"temperature": 0.7}),
        ({"p_top_k": 5}, {"top_k": 5}),
        ({"p_top_k": -1}, {"top_k": 0}),
        ({"p_top_p": 0.9}, {"top_p": 0.9}),
        ({"p_min_p": 0.05}, {"min_p": 0.05}),
        ({"p_frequency_penalty": 0.1}, {"frequency_penalty": 0.1}),
        ({"p_presence_penalty": -0.3}, {"presence_penalty": -0.3}),
        ({"p_repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"p_max_tokens": 3}, {"max_tokens": 3}),
        ({"max_tokens": 3}, {"max_tokens": 3}),
        ({"max_tokens": 4, "p_max_tokens": 3}, {"max_tokens": 3}),
        ({"p_min_tokens": 2}, {"min_tokens": 2}),
        ({"p_n": 3}, {"n": 3}),
        ({"p_seed": 2**64 - 1}, {"seed": 2**64 - 1}),
        ({"p_stop": ["\n", "é"]}, {"stop": ("\n", "é")}),
        ({"p_stop": [""]}, {"stop": ()}),
        ({"p_stop_token_ids": [5, 6]}, {"stop_token_ids": (5, 6)}),
        ({"p_ignore_eos": True}, {"ignore_eos": True}),
        ({"end_id": EOS}, {}),
        ({"end_id": 7}, {"stop_token_ids": (7,), "ignore_eos": True}),
        ({"end_id": -1}, {"ignore_eos": True}),
        ({"return_log_probs": True}, {"logprobs": 0}),
        ({"return_cumulative_logprob": True}, {"logprobs": 0}),
        ({"p_best_of": 1}, {}),
        ({"image_url": [""]}, {}),
    ],
)
def test_each_tensor_is_its_parameter(sent: dict[str, Any], expected: dict[str, Any]) -> None:
    # Numbers are the decimals that were written, whatever 32 bits make of them.
    assert params(**sent) == SamplingParams(**{"max_tokens": LIMIT, **expected})


def test_a_suffix_makes_a_hole_and_messages_make_a_chat() -> None:
    hole = read(text_input="a = ", suffix="\n")
    assert hole.request.prompt_ids == tuple(PROMPTS.fim("a = ", "\n"))
    talk = [{"role": "user", "content": "Hello"}]
    for extra in ({}, {"text_input": ""}):
        chat = read(messages=json.dumps(talk), **extra)
        assert chat.request.prompt_ids == tuple(PROMPTS.chat(talk))
        assert chat.request.strip_leading_space == PROMPTS.spaced_answers


def test_the_prompt_goes_before_the_answer_only_where_it_is_asked_for() -> None:
    assert read(text_input="ab", p_exclude_input_from_output=False).before == "ab"
    assert read(text_input="ab", p_exclude_input_from_output=True).before == ""


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({}, "text_input: is missing"),
        ({"text_input": ["a", "b"]}, "text_input: has 2 values; send one"),
        ({"text_input": [b"\xff"]}, "text_input: is not UTF-8"),
        ({"text_input": "a", "image_url": ["http://x"]}, "image_url: this model takes text"),
        ({"text_input": "a", "lora_id": 1}, "lora_id: engines have no adapters"),
        ({"text_input": "a", "lora_name": "x"}, "lora_name: engines have no adapters"),
        ({"text_input": "a", "p_best_of": 2}, "sampling_param_best_of is 2; it must be 1"),
        ({"text_input": "a", "p_temperature": -1.0}, "temperature is -1.0"),
        ({"text_input": "a", "p_top_p": 0.0}, "top_p is 0.0"),
        ({"text_input": "a", "p_max_tokens": 0}, "max_tokens is 0"),
        ({"text_input": "a", "p_logits_post_processor_name": "x"}, "there are none here"),
        ({"text_input": "a", "messages": "[{}]"}, "messages: not together with text_input"),
        ({"messages": "{"}, "messages: not JSON"),
        ({"messages": '"hi"'}, "messages: expected a list, found str"),
        ({"messages": "[3]"}, "messages[0]: expected the keys role and content"),
        ({"text_input": "a", "guided_decoding_guide": "x"}, "needs guided_decoding_guide_type"),
        ({"text_input": "a", "guided_decoding_guide_type": "xml"}, "it must be json, json_schema"),
    ],
)
def test_what_cannot_be_served_is_named(sent: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(**sent)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "guide"),
    [
        ("json", ""),
        ("json_schema", '{"type": "integer"}'),
        ("regex", "a+"),
        ("ebnf_grammar", 'root ::= "a"'),
    ],
)
def test_a_guide_is_the_answers_form(kind: str, guide: str) -> None:
    found = params(guided_decoding_guide_type=kind, guided_decoding_guide=guide)
    assert found.constraint is not None
    assert found.constraint.source == "guided_decoding_guide"


def test_a_batch_of_one_reads_as_no_batch() -> None:
    tensors = {
        "text_input": np.array([[b"a"]], np.object_),
        "sampling_param_max_tokens": np.array([[3]], np.int32),
    }
    asked = Asked.read(Inputs(tensors), PROMPTS, max_tokens=LIMIT)
    assert asked.request.params.max_tokens == 3
